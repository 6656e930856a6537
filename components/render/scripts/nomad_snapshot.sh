#!/bin/sh
# Makes one snapshot of Nomad's state: saves it, sends it to the bucket, and removes expired ones. Runs on a server of a
# cluster, without a container.
#
# The snapshot is a secret: Raft has Nomad's keyring in it. It lies on this server's disk for some seconds, which has the
# same data in /var/lib/nomad, and leaves the server encrypted only.
set -eu
umask 077
# shellcheck source=/dev/null
. "$(dirname "$0")/restic_open.sh"

folder=$NOMAD_ALLOC_DIR/data
trap 'rm -f "$folder/nomad.snap"' EXIT

# It checks the archive's sums. The token is in the environment.
nomad operator snapshot save "$folder/nomad.snap"

# The repository of the last snapshot is recorded in Nomad: a Nomad without state has no record. Another one at the same
# address, or none, has lost all earlier snapshots (send.sh).
known=$(nomad var get -item=repository "$RECORD" 2>"$folder/error") || case $(cat "$folder/error") in
    *"ariable not found"*) ;;
    *) fail "the variable $RECORD cannot be read: $(cat "$folder/error")" ;;
esac
case $known in
    "$RESTIC_REPOSITORY ${REPOSITORY_ID:-none}") ;;
    "$RESTIC_REPOSITORY "*)
        fail "$RESTIC_REPOSITORY no longer holds the snapshots that this cluster sent there. Nothing was sent.
Find out whether the bucket was emptied or replaced. If the earlier snapshots are lost for good, begin again without
them: \`./pds nomad STACK -- var purge $RECORD\`."
        ;;
esac

if [ "$REPOSITORY" = absent ]; then
    restic init || fail "$RESTIC_REPOSITORY cannot be written to: is it this stack's bucket and key?"
    # shellcheck source=/dev/null
    . "$(dirname "$0")/restic_open.sh"
fi
# Removes the lock of a killed run once it is half an hour old. Nomad starts no second run beside one.
restic unlock --quiet

cd "$folder"
restic backup --quiet --host "$CLUSTER" --tag nomad nomad.snap
nomad var put -force -out=none "$RECORD" "repository=$RESTIC_REPOSITORY $REPOSITORY_ID" >/dev/null
# By the age, and by the count of days with a snapshot: after a pause as long as KEEP_DAYS all snapshots are too old.
restic forget --quiet --host "$CLUSTER" --tag nomad --group-by host --prune \
    --keep-last 1 --keep-within 2d --keep-within-daily "${KEEP_DAYS}d" --keep-daily "$KEEP_DAYS"
restic check --quiet
echo "saved: $(restic snapshots --latest 1 --host "$CLUSTER" --tag nomad --compact | sed -n 3p)"

if [ -n "${PING_URL:-}" ]; then
    # On standard input, because other users of the machine see command lines. The last line of the answer is its status.
    # Neither the answer nor curl's own words are shown: both may contain the URL, which is a secret.
    code=0
    answer=$(printf 'url = "%s"\n' "$PING_URL" |
        curl --silent --fail --max-time 30 --write-out '\n%{http_code}' --config - 2>/dev/null) || code=$?
    status=$(printf '%s' "$answer" | tail -n 1)
    case $code:$answer in
        # hc-ping.com answers 200 for a deleted check, and above its limit of pings.
        0:*"not found"*) why="it does not know this URL" ;;
        0:*"rate limited"*) why="it takes no more pings of this URL for now" ;;
        0:*) why= ;;
        22:*) why=$status ;;
        *) why="no answer, curl's code $code" ;;
    esac
    if [ -n "$why" ]; then
        # The run succeeded, or Nomad would repeat it. `./pds check` reads the variable, and the next run writes it anew.
        echo "the dead man's switch could not be pinged ($why)"
        nomad var put -force -out=none "$RECORD" "repository=$RESTIC_REPOSITORY $REPOSITORY_ID" "ping_failed=$why" >/dev/null
    fi
fi
