#!/bin/sh
# Ends the host on this worker after its volume was taken away. udev runs it for each disk that disappears
# (carry.rules).
#
# The detach protects the data, not this script. But the agent's unit and Docker leave containers running. Their servers
# would stay reachable at the droplet's own address, with I/O errors and stale memory. Without the disk nothing can be
# stopped cleanly, so everything is killed. The worker accepts no host until it has rebooted, which clears this one.
set -eu

root=${PDS_ROOT:-}
state=$root/run/pds
volume=${1#0DO_Volume_}

say() {
    echo "pds volume: $*"
}

running() {
    docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id
}

# Under this lock, because a start that is under way may have seen the disk and not noted its host yet (carry.sh).
mkdir -p "$state"
exec 8>"$state/state.lock"
flock 8
if ! grep -qsx "VOLUME=$volume" "$state/carried.env"; then
    exit 0 # not the volume of this worker's host
fi
# First, so that a start that is under way ends before its next step, and no other begins.
touch "$state/volume-lost"
flock --unlock 8
exec 9>"$state/carry.lock"
flock 9
say "$volume was taken away; ending all that ran from it"

# The agent goes first, or it would restart the containers. The queued stop keeps systemd from restarting the agent.
systemctl stop --no-block nomad.service pds-grow.timer || true
systemctl kill --kill-whom=all --signal=SIGKILL nomad.service || true
tries=0
containers=$(running)
while [ -n "$containers" ]; do
    [ "$tries" -lt 10 ] || {
        echo "pds volume: REFUSED: containers still run without their volume: $containers. Power this droplet off." >&2
        exit 1
    }
    # shellcheck disable=SC2086 # a list of ids
    docker kill $containers || sleep 1
    tries=$((tries + 1))
    containers=$(running)
done

# The deepest first. Lazily: a process that ends late must not keep the others mounted. Among them are the tasks'
# secrets, in memory.
sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \([^ ]*\) .*/\1/p' "$root/proc/self/mountinfo" |
    grep -E '^/(srv/nomad|var/lib/nomad/alloc_mounts)(/|$)' | sort -r |
    while read -r place; do
        umount --lazy "$place" || say "$place stays mounted"
    done
say "ended; this worker is blank, and gets no host again before it is rebooted"
