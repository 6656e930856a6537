#!/bin/sh
# Restarts Docker, containerd and stunnel after a security update: Debian restarts neither of the first two,
# so a daemon would run the old file until the next reboot. Containers survive: Docker leaves them running
# (live-restore), and nomad.service, which requires Docker, is stopped before it and started after it. With its agent
# running, Nomad takes the lost connection for the end of its tasks, and kills them (drivers/docker/handle.go).
set -eu

root=${PDS_ROOT:-}

# replaced UNIT: whether its process runs a program or a library whose file has been replaced.
replaced() {
    pid=$(systemctl show --property=MainPID --value "$1")
    [ "${pid:-0}" -gt 0 ] || return 1
    case $(readlink "$root/proc/$pid/exe") in
        *" (deleted)") return 0 ;;
    esac
    grep -q ' r-xp .* /usr/.* (deleted)$' "$root/proc/$pid/maps"
}

restart() {
    echo "pds updates: $* runs a file that was replaced; restarted"
    systemctl restart "$@"
}

# One transaction: systemd orders Nomad, Docker and containerd in it.
if replaced containerd.service; then
    restart containerd.service docker.service
elif replaced docker.service; then
    restart docker.service
fi
if replaced stunnel@nomad.service; then
    restart stunnel@nomad.service
fi
