#!/bin/sh
# Downloads a snapshot from the bucket to TARGET/fetched, and the list of departures to TARGET/list;
# without a TARGET, to the allocation's own folder. Runs in restic's image before the task that uses them. Nomad's meta
# of the dispatched job has the parameters: `snapshot` is a snapshot's ID in restic, `from` is "volume" if the snapshot
# is on the volume already, `show` lists snapshots, `only` is the DID of the one account to fetch.
set -eu
umask 077

TARGET=${TARGET:-$NOMAD_ALLOC_DIR/data}

# Two runs at once would remove each other's files. `./pds restore` waits for a run that is active; the lock decides
# between two that were started at the same moment. The kernel releases it with the last process of this task.
if [ "${NOMAD_META_show:-}" = "" ]; then
    mkdir -p "$TARGET"
    exec 9>"$TARGET/fetch.lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "FAILED: another restore is fetching a snapshot for this PDS. This one changed nothing. When that one has
ended, check whether the PDS is as it should be (\`./pds check\`) before you run this again." >&2
        exit 1
    fi
    rm -rf "$TARGET/older" # requests of a run that was cut short
fi
[ "${NOMAD_META_forget:-}${NOMAD_META_step:-}" = "" ] || exit 0 # for the next task only

# Always the newest list: it has to cover events after the snapshot. Fails if there is a list that cannot be fetched.
departures() {
    rm -rf "$TARGET/list"
    known=$(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag departures --json) || return 1
    case $known in *short_id*) ;; *) return 0 ;; esac
    for id in latest $(echo "$known" | grep -o '"short_id": *"[0-9a-f]*"' | sed 's/.*"\([0-9a-f]*\)"$/\1/' | tac); do
        restic restore "$id" --no-lock --quiet --host "$PDS_HOSTNAME" --tag departures --target "$TARGET/list" && return 0
        rm -rf "$TARGET/list"
    done
    return 1
}

# A snapshot on the volume needs no bucket: the volume has a list of its own.
if [ "${NOMAD_META_from:-}" = volume ]; then
    # shellcheck source=/dev/null
    (. "$(dirname "$0")/restic_open.sh" && if [ "$REPOSITORY" = there ]; then departures; fi) ||
        echo "note: the bucket does not give its list of departures; the list on the volume is used"
    exit 0
fi
# shellcheck source=/dev/null
. "$(dirname "$0")/restic_open.sh"

fetched=$TARGET/fetched
wanted=${NOMAD_META_snapshot:-latest}
[ "$REPOSITORY" = there ] || fail "$RESTIC_REPOSITORY holds no backups"

# No command here takes a lock: a leftover lock must not block a restore, a read-only key suffices, and a backup that
# prunes meanwhile can continue. Packs that it removes during the download exist under another name at the second
# attempt.
if [ "${NOMAD_META_show:-}" != "" ]; then
    restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --compact
    exit 0
fi

began=$(date +%s)

listed=yes
departures || listed=no

if ! said=$(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --json "$wanted" 2>&1); then
    fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY: $said"
fi
case $said in
    *short_id*) ;;
    *) fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY" ;;
esac

# For one account: its folder and blobs, with the manifest and the account database, which identify its files.
set --
only=${NOMAD_META_only:-}
if [ "$only" != "" ]; then
    shard=$(printf %s "$only" | sha256sum | cut -c 1-2)
    for path in /manifest.json /.pds-identity.json /account.sqlite "/actors/$shard/$only" "/blocks/$only" "/blocks/quarantine/$only"; do
        set -- "$@" --include "$path"
    done
fi

# Checks for free space beside the existing data before it writes. Removes the files of an earlier run first.
rm -rf "$fetched" "$fetched.part"
size=$(restic stats --no-lock --json --mode restore-size --host "$PDS_HOSTNAME" --tag pds "$wanted") || {
    echo "note: the size of the snapshot cannot be read"
    size='"total_size":0'
}
size=$(($(echo "$size" | sed 's/.*"total_size":\([0-9]*\).*/\1/') / 1048576))
free=$(($(df -Pk "$TARGET" | tail -n 1 | awk '{ print $4 }') / 1024))
# The size of a single account is not known in advance.
[ "$only" != "" ] || [ $((free - size)) -ge "${PDS_SNAPSHOT_RESERVE_MIB:-256}" ] ||
    fail "the snapshot takes $size MiB and $free MiB are free. Make the volume larger: raise 'volume.size_gib', or 'disk_gib' of
a club. If the host's volume is full, look for old data in /srv/nomad/.trash on the host."

# What two attempts fetch alike is all that the bucket has: packs of it are lost or damaged. Older snapshots share most of
# them. The next task checks each account, and its hashes: restic leaves a file with a part that is lost at its full size, with
# zeros. A bucket that fails at times gives something else each time.
got=no before=none damaged=no
for _attempt in 1 2 3 4; do
    rm -rf "$fetched.part"
    if restic restore "$wanted" --no-lock --host "$PDS_HOSTNAME" --tag pds --target "$fetched.part" "$@"; then
        got=yes
        break
    fi
    if [ ! -f "$fetched.part/manifest.json" ] || [ ! -f "$fetched.part/account.sqlite" ]; then continue; fi
    now=$(cd "$fetched.part" && find . -type f -exec sha256sum {} + | sort | sha256sum)
    if [ "$now" = "$before" ]; then
        echo "note: $RESTIC_REPOSITORY is damaged: not all of snapshot $wanted could be fetched. Each account is checked."
        got=yes damaged=yes
        break
    fi
    before=$now
done
if [ "$got" = no ]; then
    rm -rf "$fetched.part"
    fail "snapshot $wanted could not be fetched. Restore another one, from \`./pds restore STACK --list\`."
fi

# A bucket that failed for a moment has answered since. Without the list, members who left would be public again. It is not
# needed for one account, for a drill, and for a move, whose snapshot is of a stopped server (`old_data`).
if [ "$listed" = no ] && { [ "$damaged" = yes ] || ! departures; }; then
    about="the list of departures cannot be fetched. An account that was deleted or taken down after the snapshot comes back,
unless the volume has the list, or the stack file has the account under 'delete' or 'takedown'."
    excused=$damaged
    [ "$only${NOMAD_META_old_data:-}${NOMAD_META_without_departures:-}" = "" ] || excused=yes
    [ "$TARGET" != "$NOMAD_ALLOC_DIR/data" ] || excused=yes
    [ ! -f "$TARGET/../.departures.jsonl" ] || excused=yes
    if [ "$excused" = no ]; then
        rm -rf "$fetched.part"
        fail "$about Nothing was changed. Repeat the command. If it fails again, add --without-departures."
    fi
    echo "note: $about"
fi
mv "$fetched.part" "$fetched"
echo "{\"seconds\": $(($(date +%s) - began)), \"damaged\": \"$damaged\"}" >"$TARGET/fetched.json"
