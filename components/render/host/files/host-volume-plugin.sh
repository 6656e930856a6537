#!/bin/sh
# Manages /srv/nomad/clubs: the directories of the PDSes that share this host. Nomad runs it as its host-volume plugin
# 'pds-dir' (an executable in client.host_volume_plugin_dir; interface: client/hostvolumemanager/host_volume_plugin.go
# in hashicorp/nomad): the operation is the first argument, DHV_* variables have the rest, the answer is JSON on stdout.
# Nomad gives it no other environment, not even PATH, runs 'create' again at every start of the agent, and may run
# several at once for different volumes.
#
# A directory has its volume's name, not its ID: a Nomad that lost its state assigns new IDs, and finds the same data.
#
# 'delete' renames and never erases: a typing error in a stack file can delete a volume, and it holds a club's
# repositories. Only a person removes the content of .trash.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
if [ -n "${PDS_PATH:-}" ]; then
    PATH=$PDS_PATH:$PATH # tests put stand-ins for chattr and setquota here
fi

home=${PDS_ROOT:-}/srv/nomad
clubs=$home/clubs
trash=$home/.trash
owner=1000:1000

fail() {
    # Nomad shows the field 'error' of a failed plugin's output. The text has no quotes or backslashes of its own.
    printf '{"error": "%s"}\n' "$*"
    exit 1
}

give_up() {
    # Nomad does not know a volume whose creation failed. rmdir removes the directory only if it is empty.
    rmdir "$directory" 2>/dev/null || true
    fail "$*"
}

volume_name() {
    # The program's volume names, pds-STACK. Nothing else becomes part of a path.
    case ${DHV_VOLUME_NAME:-} in
        pds-*[!a-z0-9-]* | pds-) fail "the volume's name is not one of this program" ;;
        pds-*) echo "$DHV_VOLUME_NAME" ;;
        *) fail "the volume's name is not one of this program" ;;
    esac
}

bytes() {
    # The upper bound of the requested capacity, else the lower one, else 0: no limit.
    for wish in "${DHV_CAPACITY_MAX_BYTES:-0}" "${DHV_CAPACITY_MIN_BYTES:-0}"; do
        case $wish in
            '' | *[!0-9]*) fail "the capacity is not a number" ;;
        esac
        if [ "$wish" -gt 0 ]; then
            echo "$wish"
            return 0
        fi
    done
    echo 0
}

create() {
    name=$(volume_name) || fail "the volume's name is not one of this program"
    limit=$(bytes) || fail "the capacity is not a number"
    directory=$clubs/$name
    [ -d "$clubs" ] || fail "$clubs is missing: is the volume mounted?"
    if [ ! -d "$directory" ]; then
        mkdir -m 0700 "$directory" || fail "could not make $directory"
    fi
    chown "$owner" "$directory" || give_up "could not give $directory to $owner"
    # A project's number must be stable, and unique per directory. The directory's inode is both, as long as it exists.
    # +P: new files inside belong to the project too.
    project=$(stat -c %i "$directory")
    chattr -p "$project" +P "$directory" >&2 || give_up "could not give $directory a project"
    # In KiB, rounded up; 0 removes an earlier limit.
    setquota -P "$project" 0 $(((limit + 1023) / 1024)) 0 0 "$home" >&2 || give_up "could not set the quota of $directory"
    printf '{"path": "%s", "bytes": %s}\n' "$directory" "$limit"
}

delete() {
    name=$(volume_name) || fail "the volume's name is not one of this program"
    if [ -d "$clubs/$name" ]; then
        mkdir -p "$trash"
        chmod 0700 "$trash"
        kept=$trash/$(date -u +%Y%m%dT%H%M%SZ)-$name
        mv -T "$clubs/$name" "$kept" || fail "could not move $clubs/$name to $trash"
        echo "kept as $kept" >&2
    fi
    echo '{}'
}

case ${1:-} in
    fingerprint) echo '{"version": "1.0.0"}' ;;
    create | delete) "$1" ;;
    *) fail "unknown operation" ;;
esac
