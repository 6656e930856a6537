#!/bin/sh
# Turns a fresh droplet into a Nomad host: packages, accounts, swap, Nomad's binary, the volume, and last the agent.
# cloud-init runs it once. A second run by hand completes a first boot that failed for an unreachable mirror or a missing
# volume. volume.sh decides about the volume, and cloud-init has written the configuration.
set -eu

root=${PDS_ROOT:-}
lib=$root/usr/local/lib/pds
# shellcheck source=/dev/null
. "$root/etc/pds/host.env"

say() {
    echo "pds setup: $*"
}

packages() {
    # Not cloud-init's own `packages:`, which tries once and continues without them.
    for try in 1 2 3 4 5 6; do
        # `update` fails if one of several sources is down, such as DigitalOcean's own for monitoring. Only the packages
        # decide.
        apt-get update || say "packages: not every source could be read"
        # shellcheck disable=SC2086 # a list of names, made by the renderer
        if apt-get install -y --no-install-recommends $PACKAGES; then
            return 0
        fi
        say "packages: try $try of 6 failed"
        sleep 20
    done
    say "packages could not be installed: is the package mirror reachable? Then run $lib/setup again."
    return 1
}

accounts() {
    # The server, Caddy and the metrics store run as uid 1000 to 1002 in their containers. Unless the numbers are
    # reserved here, the first user accounts on the host would be these, and own every repository and key.
    account 1000 pds "owner of the PDS's files"
    account 1001 caddy "owner of Caddy's certificates"
    account 1002 metrics "owner of the metrics store's files"
}

account() {
    getent passwd "$1" >/dev/null ||
        useradd --uid "$1" --no-create-home --shell /usr/sbin/nologin --comment "$3" "$2"
}

swap() {
    file=$root/swapfile
    wanted=$((SWAP_GIB * 1024 * 1024 * 1024))
    has=$(stat -c %s "$file" 2>/dev/null || echo 0)
    if [ "$has" -ne "$wanted" ]; then
        swapoff "$file" 2>/dev/null || true
        rm -f "$file"
        if [ "$wanted" -gt 0 ]; then
            install -m 0600 /dev/null "$file"
            fallocate -l "$wanted" "$file"
            mkswap "$file" >/dev/null
        fi
    fi
    sed -i '\#^/swapfile #d' "$root/etc/fstab"
    if [ "$wanted" -gt 0 ]; then
        echo "/swapfile none swap sw 0 0" >>"$root/etc/fstab"
        swapon --show=NAME --noheadings | grep -qx "$file" || swapon "$file"
    fi
}

settings_of_the_system() {
    sysctl --quiet --load="$root/etc/sysctl.d/90-pds.conf"
    systemctl restart systemd-journald.service
    udevadm control --reload
    # A faulty drop-in must not lock the operators out: sshd then keeps its old configuration.
    if sshd -t; then
        systemctl try-reload-or-restart ssh.service
    else
        say "sshd refuses its configuration; it was not reloaded"
    fi
}

packages
accounts
swap
systemctl daemon-reload
settings_of_the_system
"$lib/install-nomad"

# Docker's package started it, with the former daemon.json. A restart leaves containers running (live-restore) and
# applies that file to a Docker that is older than it.
systemctl enable docker.service
systemctl restart docker.service

# Blocks until the volume is attached, and fails loudly if it is not ours: cloud-init then reports an error. Two steps,
# because systemd waits only 90 s for the disk of a mount, and a volume may be attached later.
systemctl start pds-volume-prepare.service
systemctl start pds-volume-claim.service

systemctl enable nomad.service pds-metadata.service pds-drain.service stunnel@nomad.service pds-grow.timer pds-updates.timer
if [ -e "$root/etc/systemd/system/pds-metrics.socket" ]; then
    systemctl enable --now pds-metrics.socket
fi
# Without waiting: Nomad is ordered after the metadata rules, and these after cloud-init's last stage, which runs this
# script.
systemctl start --no-block nomad.service stunnel@nomad.service pds-grow.timer pds-updates.timer
say "done; Nomad starts as soon as cloud-init has finished"
