#!/bin/sh
# Owns the way of a finished snapshot to the bucket: sent by restic, what is too old forgotten, a part read back. Runs in
# restic's image (Alpine: sh and restic) after the snapshot task. Names: RESTIC_*, AWS_* are restic's own.
set -eu

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# Pack files are put together here; the container's /tmp is memory.
export TMPDIR="$NOMAD_ALLOC_DIR/data" RESTIC_CACHE_DIR="$NOMAD_ALLOC_DIR/data/cache"

snapshot=$PDS_DATA_DIRECTORY/.snapshot/current
[ -f "$snapshot/manifest.json" ] || fail "there is no snapshot in $snapshot"

if ! said=$(restic cat config 2>&1 >/dev/null); then
    case $said in
        *"wrong password"*) fail "the bucket holds backups under another password. Give it as 'backup: {password: …}'
(the escrow file has it), or name another bucket." ;;
        *"Is there a repository at the following location"* | *"does not exist"*)
            restic init || fail "$RESTIC_REPOSITORY cannot be written to: is it this stack's bucket and key?" ;;
        *) fail "$RESTIC_REPOSITORY cannot be read: $said" ;;
    esac
fi

# A run that was killed leaves its lock; restic removes those alone that nobody has refreshed for half an hour.
restic unlock --quiet

# The path is the same each time, so that restic finds the backup before this one. Hard links change a file's inode
# time and nothing else.
cd "$snapshot"
restic backup --host "$PDS_HOSTNAME" --tag pds --ignore-ctime .

restic forget --host "$PDS_HOSTNAME" --tag pds --group-by host --prune \
    --keep-last 1 --keep-within 2d --keep-within-daily "${KEEP_DAYS}d"

restic check --read-data-subset=1%
