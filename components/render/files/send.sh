#!/bin/sh
# Owns the way of a finished snapshot to the bucket: sent by restic, what is too old forgotten, a part read back. Runs in
# restic's image (Alpine: sh and restic) after the snapshot task.
set -eu
# shellcheck source=/dev/null
. "$(dirname "$0")/open.sh"

snapshot=$PDS_DATA_DIRECTORY/.snapshot/current
[ -f "$snapshot/manifest.json" ] || fail "there is no snapshot in $snapshot"

if [ "$REPOSITORY" = absent ]; then
    restic init || fail "$RESTIC_REPOSITORY cannot be written to: is it this stack's bucket and key?"
fi

# A run that was killed leaves its lock. restic removes those of this host's name whose process is gone, and each run
# has the same host name, in a container of its own; others, once nobody has refreshed them for half an hour.
restic unlock --quiet

# Who left is no part of a snapshot: a restore of an old one has to know of it, too (departures.cjs).
cd "$PDS_DATA_DIRECTORY"
if [ -f .departures.jsonl ]; then
    restic backup --quiet --host "$PDS_HOSTNAME" --tag departures --ignore-ctime .departures.jsonl
fi

# The path is the same each time, so that restic finds the backup before this one. Hard links change a file's inode
# time and nothing else.
cd "$snapshot"
restic backup --host "$PDS_HOSTNAME" --tag pds --ignore-ctime .

: >"$NOMAD_ALLOC_DIR/data/sent" # the task after this one notes the time

restic forget --quiet --host "$PDS_HOSTNAME" --tag departures --group-by host --keep-last 3
restic forget --host "$PDS_HOSTNAME" --tag pds --group-by host --prune \
    --keep-last 1 --keep-within 2d --keep-within-daily "${KEEP_DAYS}d"

restic check --read-data-subset=1%

: >"$NOMAD_ALLOC_DIR/data/checked"
