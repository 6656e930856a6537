#!/bin/sh
# Owns the order in which a fresh host becomes a Nomad host: packages, accounts, swap, Nomad's binary, the volume, and
# only then the agent. cloud-init runs it once; run again by hand it changes nothing that is already right, so it is
# also the way to finish a first boot that a dead mirror or a missing volume cut short. It deliberately decides
# nothing about the volume (volume.sh does) and writes no configuration (cloud-init did).
set -eu

root=${PDS_ROOT:-}
lib=$root/usr/local/lib/pds
# shellcheck source=/dev/null
. "$root/etc/pds/host.env"

say() {
    echo "pds setup: $*"
}

packages() {
    # Not cloud-init's own `packages:`, because that tries once and goes on without them; a mirror that is away for a
    # minute would leave a host without Docker.
    for try in 1 2 3 4 5 6; do
        # Of several sources one may be away, such as DigitalOcean's own for monitoring, and then `update` fails. Whether
        # the packages are there decides, not that.
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
    # The server and Caddy run as uid 1000 and 1001 in their containers. Unless the numbers are taken here, the first
    # people who get an account on the host would be 1000 and 1001 too, and own every repository and key.
    account 1000 pds "owner of the PDS's files"
    account 1001 caddy "owner of Caddy's certificates"
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
    # A faulty drop-in must not lock the operators out: sshd goes on with its old configuration then.
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

# Docker was started by its package, with the daemon.json that was already there. A restart leaves containers alone
# (live-restore); it makes a host on which Docker was older than that file agree with it.
systemctl enable docker.service
systemctl restart docker.service

# Blocks until the volume is here, and fails loudly where it is not ours: cloud-init then reports an error. Two steps,
# because systemd gives up on a disk after 90 s when it is asked for the mount, and a volume may be attached later.
systemctl start pds-volume-prepare.service
systemctl start pds-volume-claim.service

systemctl enable nomad.service pds-metadata.service pds-drain.service stunnel@nomad.service pds-grow.timer pds-updates.timer
# Without waiting: Nomad is ordered after the metadata rules, these after cloud-init's last stage, and that stage is
# what runs this script.
systemctl start --no-block nomad.service stunnel@nomad.service pds-grow.timer pds-updates.timer
say "done; Nomad starts as soon as cloud-init has finished"
