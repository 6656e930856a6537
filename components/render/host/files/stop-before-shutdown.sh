#!/bin/sh
# Stops all containers cleanly before a shutdown, a reboot or a rebuild of the droplet. The agent's unit and Docker
# (live-restore) leave them running when they stop, and systemd's final kill does not wait for SQLite.
set -eu

agent_alive() {
    pid=$(systemctl show --property=MainPID --value nomad.service)
    [ "${pid:-0}" -gt 0 ]
}

# The agent goes first, or it would restart the containers. Its stop is queued without waiting: systemd holds it back
# until this script has ended, because the agent's unit is ordered before this one. The queued stop keeps systemd from
# restarting the agent; the signal ends it now.
systemctl stop --no-block nomad.service || true
systemctl kill --kill-whom=main --signal=SIGINT nomad.service || true
waited=0
while agent_alive && [ "$waited" -lt 15 ]; do
    sleep 1
    waited=$((waited + 1))
done

containers=$(docker ps --quiet --filter label=com.hashicorp.nomad.alloc_id)
if [ -n "$containers" ]; then
    # 60 s is the job's kill_timeout. Docker stops several at the same time.
    # shellcheck disable=SC2086 # a list of ids
    docker stop --time 60 $containers
fi
# Log collectors that the agent leaves running for its next start hold files on the volume open, which would then not
# unmount.
systemctl kill --kill-whom=all --signal=SIGTERM nomad.service || true
sync
