#!/bin/sh
# Moves the state of Nomad's agent aside, on a host of a cluster, by hand or by `./pds restore`. The agent starts anew, as a node
# without volumes.
#
# Servers that lost their state do not know the node's volumes, and can neither register nor delete them
# (nomad/host_volume_endpoint.go). The agent refuses others with the same names
# (client/hostvolumemanager/host_volumes.go). So it loses its state, and the data of clubs stay where they are.
set -eu

root=${PDS_ROOT:-}
# shellcheck source=/dev/null
. "$root/etc/pds/host.env"

home=$root/srv/nomad
trash=$home/.trash

say() {
    echo "pds volume: $*"
}

refuse() {
    echo "pds volume: REFUSED: $*" >&2
    exit 1
}

[ -n "${FLEET:-}" ] || refuse "this is no host of a cluster: $home/agent has the only state of its Nomad."
mountpoint -q "$home" || refuse "no volume is mounted on $home."
owner=$(cat "$home/.pds-volume")
[ "$owner" = "$STACK" ] || refuse "this volume belongs to stack '$owner', not to '$STACK'."
# No start of this host, and no end of it, meanwhile (carry.sh, volume-lost.sh).
mkdir -p "$root/run/pds"
exec 9>"$root/run/pds/carry.lock"
flock 9
trap '' HUP INT TERM
trap 'systemctl start nomad.service' EXIT
systemctl stop nomad.service
containers=$(docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id)
if [ -n "$containers" ]; then
    # As before a shutdown (stop-before-shutdown.sh).
    # shellcheck disable=SC2086 # a list of ids
    docker stop --time 60 $containers
fi
# Log collectors of the containers.
systemctl kill --kill-whom=all --signal=SIGTERM nomad.service || true
# The tasks' secrets, in memory. The deepest first.
sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .*/\1/p' "$root/proc/self/mountinfo" |
    grep -E '^/(srv/nomad/agent|var/lib/nomad/alloc_mounts)/' | sort -r |
    while read -r place; do
        umount --lazy "$place" || say "$place stays mounted"
    done
mkdir -p "$trash"
chmod 0700 "$trash"
kept=$trash/$(date -u +%Y%m%dT%H%M%SZ)-agent-forgotten
mv -T "$home/agent" "$kept"
mkdir -m 0700 "$home/agent"
say "the agent's state is kept as $kept"
