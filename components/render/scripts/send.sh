#!/bin/sh
# Uploads a finished snapshot to the bucket: restic sends it, removes expired ones, and reads a part back.
# Runs in restic's image (Alpine: sh and restic) after the snapshot task.
set -eu
# shellcheck source=/dev/null
. "$(dirname "$0")/restic_open.sh"

snapshot=$PDS_DATA_DIRECTORY/.snapshot/current
[ -f "$snapshot/manifest.json" ] || fail "there is no snapshot in $snapshot"

# The repository of the last good backup is recorded on the volume (run_status.cjs): a volume without data has none. Another one
# at the same address, or none, has lost all earlier backups. An empty folder is what a disk leaves that is not mounted.
store="$RESTIC_REPOSITORY${BACKUP_VOLUME:+ on $BACKUP_VOLUME}"
known=$(cat "$PDS_DATA_DIRECTORY/.run-status/repository" 2>/dev/null || true)
remedy="Nothing was sent. Find out whether the bucket was emptied or replaced, or whether the disk is not mounted. If the
earlier backups are lost for good, begin again without them: \`./pds backup STACK --new-repository\`."
case $known in
    "$store "*)
        [ "$REPOSITORY" = there ] || fail "$store holds no backups any more. The last good one was sent there. $remedy"
        [ "$known" = "$store $REPOSITORY_ID" ] || fail "$store holds other backups than the last good one. $remedy"
        ;;
esac

if [ "$REPOSITORY" = absent ]; then
    restic init || fail "$RESTIC_REPOSITORY cannot be written to: is it this stack's bucket and key?"
    # shellcheck source=/dev/null
    . "$(dirname "$0")/restic_open.sh"
fi

# A killed run leaves its lock in the bucket. restic would check whether its process exists, but process numbers of one
# container mean nothing in another. Each run has the same host name, and only the run that locks this folder sends: so
# any other lock of that name is stale. Of foreign locks, restic removes those that are half an hour old.
exec 9<"$PDS_DATA_DIRECTORY/.snapshot"
flock -n 9 || fail "another run is sending; the next one sends what is new"
here=$(cat /proc/sys/kernel/hostname) all=--remove-all
for lock in $(restic list locks --no-lock --quiet); do
    case $(restic cat lock "$lock" --no-lock 2>&1) in
        *"\"hostname\": \"$here\""*) ;;
        *) all= ;;
    esac
done
restic unlock --quiet $all

# Departures are not part of a snapshot: a restore of an old one needs them, too (account_events.cjs).
cd "$PDS_DATA_DIRECTORY"
if [ -f .departures.jsonl ]; then
    restic backup --quiet --host "$PDS_HOSTNAME" --tag departures --ignore-ctime .departures.jsonl
fi

# The accounts that only an older backup can have whole (snapshot_accounts.cjs).
missing=$(awk '
    /^ "/ { section = $1 }
    /^  "/ { did = $1; gsub(/[":]+$|^"/, "", did) }
    section == "\"findings\":" && /^   "older": true/ { print did }
' "$snapshot/manifest.json")

# By the age, and by the count of days with a backup: after a pause as long as KEEP_DAYS all backups are too old, and the
# newest may be of damaged data. While an older backup may have the only whole copy of an account, one of each day stays: with
# all of them a disk would be full after some weeks.
thin_out() {
    within="${KEEP_DAYS}d"
    [ "$missing" = "" ] || within=100y
    restic forget --host "$PDS_HOSTNAME" --tag pds --group-by host --prune \
        --keep-last 1 --keep-within 2d --keep-within-daily "$within" --keep-daily "$KEEP_DAYS" "$@"
}

# The path is the same each time, so that restic finds the previous backup. Hard links change only a file's inode time.
cd "$snapshot"
send() {
    restic backup --host "$PDS_HOSTNAME" --tag pds --ignore-ctime .
}
# A full disk has room again once it is thinned out, which itself needs none if no pack is written again.
send || {
    [ "${BACKUP_VOLUME:-}" != "" ] || exit 1
    thin_out --max-repack-size 0
    send
}

echo "$store $REPOSITORY_ID" >"$NOMAD_ALLOC_DIR/data/sent" # the next task records it, and the time

restic forget --quiet --host "$PDS_HOSTNAME" --tag departures --group-by host --keep-last 3

if [ "$missing" != "" ]; then
    # shellcheck disable=SC2086 # one line
    echo "note: no backup expires, because an older one may have the only whole copy of" $missing
fi
thin_out

restic check --read-data-subset=1%

: >"$NOMAD_ALLOC_DIR/data/checked"
