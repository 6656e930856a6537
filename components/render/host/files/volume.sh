#!/bin/sh
# Manages the one volume that outlives this host: whether it may be formatted, whether it is this stack's, its
# directories, its size.
#
#   volume prepare   before the mount: wait for the disk; format it only if it is proven empty; else check it
#   volume claim     after the mount: refuse another stack's volume, then make the directories that Nomad needs
#   volume handover OWNER [FROM TO [GIB]]   while it runs: OWNER may claim it next; directory FROM becomes TO, of at most GIB
#   volume check     before each start of the agent: the right volume is mounted and has node IDs, or it does not start
#   volume grow      the file system follows the disk; run by udev when the disk grows, and hourly
#
# In doubt this script does nothing: an operator can retry, but cannot recover a formatted volume. The server would take
# an empty directory for a new PDS, and new identities under old names cannot be undone.
set -eu

root=${PDS_ROOT:-}
# shellcheck source=/dev/null
. "$root/etc/pds/host.env"

device=$root/dev/disk/by-id/scsi-0DO_Volume_$VOLUME
home=$root/srv/nomad
sentinel=$home/.pds-volume
handover=$home/.pds-handover
trash=$home/.trash
wait_seconds=${PDS_WAIT_SECONDS:-900}

say() {
    echo "pds volume: $*"
}

refuse() {
    echo "pds volume: REFUSED: $*" >&2
    exit 1
}

wait_for_device() {
    # DigitalOcean attaches it while the droplet boots.
    waited=0
    while [ ! -e "$device" ]; do
        [ "$waited" -lt "$wait_seconds" ] ||
            refuse "$device did not appear in $wait_seconds s. Attach the volume '$VOLUME' to this droplet and reboot."
        sleep 1
        waited=$((waited + 1))
    done
}

prepare() {
    if mountpoint -q "$home"; then
        say "already mounted, left as it is"
        return 0
    fi
    wait_for_device
    # -p: the device itself, not blkid's cache. 0: a signature that it knows; 2: none, or a device that it cannot read,
    # hence the two proofs of `format`.
    answer=0
    blkid -p "$device" >/dev/null 2>&1 || answer=$?
    case $answer in
        0) repair ;;
        2) format ;;
        *) refuse "blkid answered $answer for $device, so what is on it is unknown. Look with 'blkid -p $device'." ;;
    esac
}

format() {
    [ -e "$device" ] || refuse "$device went away while it was looked at."
    # A file system that is damaged, or unknown to blkid, has bytes here. A new volume is all zeros.
    cmp -s -n 1048576 "$device" /dev/zero ||
        refuse "no file system is known on $device, but its first MiB is not zero: it may be a damaged one. Nothing was
written. Restore it, or wipe it yourself if it is worthless: 'blkdiscard $device'."
    seed=$(mktemp -d)
    chmod 0755 "$seed"
    echo "$STACK" >"$seed/.pds-volume"
    # quota and project: for quotas per club; they cannot be added to a mounted file system.
    # -d: the sentinel is part of the new file system, which is never without an owner.
    # -m 1: the last hundredth is root's, so that Nomad can write its state on a full disk.
    mkfs.ext4 -q -m 1 -O quota,project -E quotatype=prjquota -d "$seed" "$device" </dev/null
    rm -rf "$seed"
    say "formatted $device for stack '$STACK'"
}

repair() {
    kind=$(blkid -p -o value -s TYPE "$device" || true)
    [ "$kind" = ext4 ] || refuse "$device holds '${kind:-something without a file system of its own}', not ext4."
    if has quota && has project; then
        checked -p
        return 0
    fi
    # Before anything is written: a volume of another owner keeps even its journal.
    [ "$ADOPT" = 1 ] || refuse "$device was formatted elsewhere, without project quotas. If it is this PDS's, set
'volume.adopt' to the volume's ID in the stack file."
    checked -f -p
    tune2fs -O quota,project -Q prjquota "$device"
    say "added project quotas to the adopted $device"
}

has() {
    dumpe2fs -h "$device" 2>/dev/null | sed -n 's/^Filesystem features: *//p' | tr ' ' '\n' | grep -qx "$1"
}

checked() {
    fixed=0
    e2fsck "$@" "$device" || fixed=$?
    # 1: repaired. 2: repaired, and 'reboot if mounted', which it is not.
    [ "$fixed" -le 2 ] || refuse "e2fsck answered $fixed for $device: repair it by hand, then reboot."
}

owner() {
    # The sentinel's only line: the stack that owns the volume.
    head -n 1 "$sentinel"
}

claim() {
    mountpoint -q "$home" || refuse "nothing is mounted on $home."
    if [ -e "$sentinel" ]; then
        [ "$(owner)" = "$STACK" ] || [ "$(next_owner)" = "$STACK" ] ||
            refuse "this volume belongs to stack '$(owner)', not to '$STACK'. If it moved here for good, remove
$sentinel and set 'volume.adopt' to the volume's ID."
        if [ "$(next_owner)" = "$STACK" ]; then
            [ "$(owner)" = "$STACK" ] || receive
            rm -f "$handover"
        fi
    elif [ "$ADOPT" = 1 ]; then
        # Files that an earlier host wrote as root must be readable to the server, which is uid 1000 here.
        if [ -d "$home/pds" ]; then
            chown -R 1000:1000 "$home/pds"
        fi
        echo "$STACK" >"$sentinel.new"
        mv "$sentinel.new" "$sentinel"
        say "adopted for stack '$STACK'"
    else
        refuse "this volume was not made by stack '$STACK'. If it is this PDS's, set
'volume.adopt' to the volume's ID in the stack file."
    fi
    directory agent 0:0 0700       # Nomad's Raft, keyring and tokens
    directory pds 1000:1000 0700
    directory io 0:0 0700          # IO's own database and keys; its container runs as root
    directory caddy 1001:1001 0700 # Caddy's certificates and keys
    directory metrics 1002:1002 0700 # the metrics store's files
    limit metrics "$METRICS_GIB"
    directory clubs 0:0 0711       # one directory per club, made by the pds-dir plugin
    directory .trash 0:0 0700      # directories that the plugin deleted
}

handover() {
    usage='usage: volume handover OWNER [FROM TO [GIB]]'
    mountpoint -q "$home" || refuse "nothing is mounted on $home."
    case ${1:-} in
        '' | *[!a-z0-9-]*) refuse "$usage" ;;
    esac
    case ${2:-}:${3:-} in
        *..* | *[!a-z0-9/:-]*) refuse "$usage" ;;
        : | pds:clubs/pds-?* | clubs/pds-?*:pds) ;; # a PDS of the host itself, and one of several on it
        *) refuse "$usage" ;;
    esac
    [ "$(owner)" = "$STACK" ] || refuse "this volume belongs to stack '$(owner)', not to '$STACK'."
    if [ "$1" = "$STACK" ]; then
        [ -z "${2:-}" ] || refuse "stack '$1' has this volume already, and '$2' cannot become '$3'."
        rm -f "$handover"
        say "stays with stack '$STACK'"
        return 0
    fi
    case ${4:-} in
        '') ;;
        *[!0-9]*) refuse "$usage" ;;
        *)
            # In GiB, rounded up. Files may go away meanwhile. A PDS over its quota could write nothing.
            used=$({ du -s --block-size=1G "$home/$2" 2>/dev/null || true; } | cut -f 1)
            [ "${used:-$4}" -lt "$4" ] || refuse "$home/$2 has ${used:-an unknown number of} GiB, and its quota will be $4 GiB.
Enlarge the volume first: raise 'volume.size_gib' in the stack file and run 'pulumi up'."
            ;;
    esac
    printf '%s\n%s\n%s\n' "$1" "${2:-}" "${3:-}" >"$handover.new"
    sync "$handover.new"
    mv "$handover.new" "$handover"
    sync "$home"
    settle
    say "stack '$1' may claim this volume next"
}

settle() {
    # After a crash the next owner stands in the journal, which a worker's debugfs does not replay: a freeze writes it
    # back. A directory that is not a mount of its own is never frozen.
    [ "$(stat -c %m "$home")" = "$home" ] || return 0
    trap '' HUP INT TERM
    if fsfreeze -f "$home"; then
        fsfreeze -u "$home" || fsfreeze -u "$home"
    else
        say "$home could not be frozen; after a crash the next owner may be read late"
    fi
    trap - HUP INT TERM
}

next_owner() {
    line 1
}

line() {
    sed -n "${1}p" "$handover" 2>/dev/null || true
}

receive() {
    # The former owner gave the volume to this stack (`volume handover`). The owner changes last: if this is killed, it
    # starts again.
    #
    # Jobs, tokens and allocations of the other Nomad would start beside this one's. A person may still look at them.
    if [ -d "$home/agent" ]; then
        directory .trash 0:0 0700
        mv -T "$home/agent" "$trash/$(date -u +%Y%m%dT%H%M%SZ)-agent-of-$(owner)"
    fi
    from=$(line 2)
    to=$(line 3)
    if [ -n "$from" ] && [ -d "$home/$from" ]; then
        # An empty directory is what a claim makes. Anything else is a PDS, which is never replaced.
        rmdir "$home/$to" 2>/dev/null || true
        [ ! -e "$home/$to" ] || refuse "$home/$from is to become $home/$to, which has a content of its own. Look at both."
        mkdir -p "$(dirname "$home/$to")"
        mv -T "$home/$from" "$home/$to"
        say "$home/$from is $home/$to now"
    fi
    if [ -n "$to" ]; then
        count "$to"
    fi
    echo "$STACK" >"$sentinel.new"
    mv "$sentinel.new" "$sentinel"
    say "received from another host for stack '$STACK'"
}

count() { # DIRECTORY
    # What is in a directory of several belongs to its quota, which the plugin sets (host-volume-plugin.sh); the PDS of a
    # host itself has none. Not fatal, as in `limit`.
    project=$(stat -c %i "$home/$1")
    case $1 in
        pds) setquota -P "$project" 0 0 0 0 "$home" ;;
        *)
            find "$home/$1" -type d -exec chattr -p "$project" +P {} + &&
                find "$home/$1" -type f -exec chattr -p "$project" {} +
            ;;
    esac || say "the quota of $home/$1 could not be changed"
}

directory() {
    mkdir -p "$home/$1"
    chown "$2" "$home/$1"
    chmod "$3" "$home/$1"
}

limit() { # DIRECTORY GIB
    # Not fatal: a PDS must start on a volume whose quotas do not work. The store then has only its own limit.
    project=$(stat -c %i "$home/$1")
    { chattr -p "$project" +P "$home/$1" && setquota -P "$project" 0 $(($2 * 1024 * 1024)) 0 0 "$home"; } ||
        say "the quota of $home/$1 could not be set"
}

check() {
    mountpoint -q "$home" || refuse "nothing is mounted on $home; the agent would start on an empty disk."
    [ -e "$sentinel" ] || refuse "$sentinel is missing."
    [ "$(owner)" = "$STACK" ] || refuse "this volume belongs to stack '$(owner)', not to '$STACK'."
    node_id
}

node_id() {
    # Nomad flushes none (client/client.go, command/agent/agent.go). After a power cut the agent would be another node with
    # the former one's token, or not start.
    umask 077
    mkdir -p "$home/agent/client" "$home/agent/server"
    cd "$home/agent"
    for file in client/client-id client/secret-id server/node-id; do
        [ -s $file ] || printf %s "$(cat /proc/sys/kernel/random/uuid)" >$file
    done
    sync client/*-id server/node-id client server .
}

grow() {
    mountpoint -q "$home" || refuse "nothing is mounted on $home."
    disk=$(basename "$(readlink -f "$device")")
    rescan=$root/sys/class/block/$disk/device/rescan
    if [ -w "$rescan" ]; then
        echo 1 >"$rescan"
    fi
    resize2fs "$device"
}

case ${1:-} in
    prepare | claim | check | grow) "$1" ;;
    handover)
        shift
        handover "$@"
        ;;
    *) refuse "usage: volume prepare|claim|check|grow|handover" ;;
esac
