#!/bin/sh
# Opens restic's repository for the other scripts, and explains why if it does not open. The names
# RESTIC_* and AWS_* are restic's own. SECTION is that of the stack file, `backup` by default. Sets REPOSITORY to "there" or "absent",
# and REPOSITORY_ID to the ID that restic gave it.
set -eu

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# restic assembles pack files here; the container's /tmp is memory.
export TMPDIR="$NOMAD_ALLOC_DIR/data" RESTIC_CACHE_DIR="$NOMAD_ALLOC_DIR/data/cache"

export REPOSITORY=there
# Without a lock: the lock of a killed run must not block a restore.
code=0
said=$(restic cat config --no-lock 2>&1) || code=$?
export REPOSITORY_ID
REPOSITORY_ID=$(echo "$said" | sed -n 's/.*"id": *"\([0-9a-f]*\)".*/\1/p')
if [ "$code" -ne 0 ]; then
    # restic asks "Is there a repository at the following location?" after every fault, including a wrong region. The
    # code 10 (restic 0.17 and newer) or the first line means that the service has no such object.
    case "$code:$said" in
        *"wrong password"*) fail "the bucket holds backups under another password. Give it as '${SECTION:-backup}: {password: …}'
(the escrow file has it), or name another bucket." ;;
        # restic also suggests then that there may be none.
        *"Access Denied"* | *AccessDenied*) fail "$RESTIC_REPOSITORY is not open to this stack's key: $said
The bucket may belong to another account, or the key to another bucket." ;;
        10:* | *"specified key does not exist"* | *"no such file or directory"*) REPOSITORY=absent ;;
        *) fail "$RESTIC_REPOSITORY cannot be read: $said
Nothing is known of what it holds. Check 'endpoint', 'region' and 'bucket' of '${SECTION:-backup}'." ;;
    esac
fi
