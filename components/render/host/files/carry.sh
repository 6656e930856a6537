#!/bin/sh
# Turns a blank worker into the host whose volume was attached to it. udev runs it for each disk that appears
# (carry.rules), and setup at its end. This machine does not know or decide which worker runs which host.
#
# A worker runs one host, and no other until its next boot: a second volume is left alone, and so is any
# volume after the host's own was taken away (volume-lost.sh).
#
# Two locks. Under `carry.lock` a start or an end runs to its last step, which takes minutes. Under `state.lock`, which
# is never held for long, a start notes its host and an end notes the loss. So a loss is noted during a start, which
# then ends before its next step.
set -eu

root=${PDS_ROOT:-}
# shellcheck source=/dev/null
. "$root/etc/pds/host.env"

state=$root/run/pds
carried=$state/carried.env
volume=${1#0DO_Volume_}
device=$root/dev/disk/by-id/scsi-0DO_Volume_$volume

say() {
    echo "pds carry: $*"
}

refuse_after_a_loss() {
    [ -e "$state/volume-lost" ] || return 0
    say "REFUSED: this worker lost the volume of its host ($(grep VOLUME= "$carried")), and gets no host again before it
is rebooted. $volume is left alone."
    exit 1
}

host_of_volume() {
    # The volume itself names its owner. One that came from a host of its own keeps its name at DigitalOcean, and the
    # owner before wrote the next one (`volume handover`). A new volume is empty.
    for file in .pds-handover .pds-volume; do
        owner=$(debugfs -R "cat /$file" "$device" 2>/dev/null | head -n 1)
        case $owner in
            "$FLEET-"?*)
                echo "${owner#"$FLEET-"}"
                return 0
                ;;
        esac
    done
    case $volume in
        "$VOLUME_PREFIX"?*) echo "${volume#"$VOLUME_PREFIX"}" ;;
    esac
}

case ${1:-} in
    0DO_Volume_?*) ;;
    *) exit 0 ;; # another disk
esac
if [ ! -e "$root/var/lib/pds/setup-done" ]; then
    say "$volume is here before the setup is over, which looks for it at its end"
    exit 0
fi
# Two disks can be there at boot. One of the two is the host, as a whole.
mkdir -p "$state"
exec 9>"$state/carry.lock"
flock 9
host=$(host_of_volume)
# A host's name has no hyphen (settings, HostName). So this is a volume of a stack whose name begins like this one's.
case $host in
    '' | *[!a-z0-9]*)
        say "$volume is not a host of cluster $FLEET, and is left alone"
        exit 0
        ;;
esac
exec 8>"$state/state.lock"
flock 8
refuse_after_a_loss
if [ -e "$carried" ] && ! grep -qx "VOLUME=$volume" "$carried"; then
    say "REFUSED: this worker is a host already ($(grep VOLUME= "$carried")). $volume is left alone."
    exit 1
fi
if [ ! -e "$device" ]; then
    say "$volume was taken away again; nothing is started"
    exit 0
fi
printf 'VOLUME=%s\nSTACK=%s\n' "$volume" "$FLEET-$host" >"$carried"
flock --unlock 8
# DigitalOcean's number of this droplet, as cloud-init knows it (DataSourceDigitalOcean.py).
droplet=$(cat "$root/var/lib/cloud/data/instance-id" 2>/dev/null || true)
mkdir -p "$root/run/systemd/system" "$root/etc/nomad.d"
sed -e "s/@HOST@/$host/g" -e "s/@DROPLET@/$droplet/g" "$root/etc/pds/agent.hcl" >"$root/etc/nomad.d/agent.hcl"
sed -e "s/@VOLUME@/$volume/g" "$root/etc/pds/srv-nomad.mount" >"$root/run/systemd/system/srv-nomad.mount"

systemctl daemon-reload
systemctl start pds-volume-prepare.service
refuse_after_a_loss
systemctl start pds-volume-claim.service
refuse_after_a_loss
systemctl start --no-block nomad.service pds-drain.service pds-grow.timer
say "this worker carries host $host"
