#!/bin/sh
# Owns the clean stop of everything that runs in containers, before a shutdown, a reboot or a rebuild takes the
# machine away. Needed because nobody else does it: the agent's unit leaves tasks alone when it stops, Docker leaves
# containers alone when it stops (live-restore), and what is left then is systemd's last sweep, which does not wait
# for SQLite.
set -eu

agent_alive() {
    pid=$(systemctl show --property=MainPID --value nomad.service)
    [ "${pid:-0}" -gt 0 ]
}

# The agent goes first, or it would start again what is stopped here. Its stop is queued and not waited for: systemd
# holds it back until this script has ended, since the agent's unit is ordered before this one. What the queued stop
# does is forbid systemd to restart the agent; the signal ends it now.
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
# What the agent leaves behind for its next start, collectors of logs, holds files on the volume open, which then could
# not be unmounted.
systemctl kill --kill-whom=all --signal=SIGTERM nomad.service || true
sync
