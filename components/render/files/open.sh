#!/bin/sh
# Owns how restic's repository is opened, for the scripts beside this one, and the words for why it does not open.
# Names: RESTIC_*, AWS_* are restic's own. Sets REPOSITORY to "there" or "absent".
set -eu

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# Pack files are put together here; the container's /tmp is memory.
export TMPDIR="$NOMAD_ALLOC_DIR/data" RESTIC_CACHE_DIR="$NOMAD_ALLOC_DIR/data/cache"

export REPOSITORY=there
# Without a lock: one that a killed run left must keep nobody from a restore.
code=0
said=$(restic cat config --no-lock 2>&1 >/dev/null) || code=$?
if [ "$code" -ne 0 ]; then
    # restic asks "Is there a repository at the following location?" after every fault, one of the region among them. That
    # the service has no such object is said by the code 10 (restic 0.17 and newer) or by the first line.
    case "$code:$said" in
        *"wrong password"*) fail "the bucket holds backups under another password. Give it as 'backup: {password: …}'
(the escrow file has it), or name another bucket." ;;
        # restic then says that there may be none, too.
        *"Access Denied"* | *AccessDenied*) fail "$RESTIC_REPOSITORY is not open to this stack's key: $said
Is the bucket somebody else's, or the key of another one?" ;;
        10:* | *"specified key does not exist"* | *"no such file or directory"*) REPOSITORY=absent ;;
        *) fail "$RESTIC_REPOSITORY cannot be read: $said
Nothing is known of what it holds. Check 'endpoint', 'region' and 'bucket' of 'backup'." ;;
    esac
fi
