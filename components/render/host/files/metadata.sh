#!/bin/sh
# Sets the packet filter rules that keep containers away from DigitalOcean's metadata service. 169.254.169.254 returns
# this host's user_data, which contains the private key of the Nomad endpoint, to any process.
#
#   metadata bridged   containers behind a bridge: rejected in DOCKER-USER. After every start of Docker.
#   metadata host      processes in the host's own network: rejected in OUTPUT, except DigitalOcean's monitoring agent.
#                      Before Nomad at every boot.
#   metadata again     the same at a start of that agent, but only if the rules exist already.
#
# Rules match the control group, not the user: the ingress runs in the host's network, may be uid 0 there and so here,
# and cannot enter the control group of a service. The monitoring agent sends its measurements through this address. A
# rule for a group applies to one life of that group, so a restarted agent is rejected until its unit runs this again.
# At each boot the rules are absent until cloud-init has finished, and Nomad waits for that.
set -eu

address=169.254.169.254/32
agent=system.slice/do-agent.service
cgroups=${PDS_ROOT:-}/sys/fs/cgroup

# Inserts a rule at the head of a chain, once.
first() {
    chain=$1
    shift
    if ! iptables -w -C "$chain" "$@" 2>/dev/null; then
        iptables -w -I "$chain" 1 "$@"
    fi
}

bridged() {
    # Docker creates the chain. If it does not exist yet, creating it first is allowed and Docker keeps it.
    iptables -w -n -L DOCKER-USER >/dev/null 2>&1 || iptables -w -N DOCKER-USER
    first DOCKER-USER -d "$address" -j REJECT
}

host() {
    iptables -w -n -L PDS-METADATA >/dev/null 2>&1 || iptables -w -N PDS-METADATA
    # The chain is replaced atomically, so there is no moment without a rule.
    {
        echo "*filter"
        echo ":PDS-METADATA - [0:0]"
        if [ -d "$cgroups/$agent" ]; then
            echo "-A PDS-METADATA -m cgroup --path $agent -j RETURN"
        fi
        echo "-A PDS-METADATA -j REJECT"
        echo "COMMIT"
    } | iptables-restore -w --noflush
    first OUTPUT -d "$address" -j PDS-METADATA
}

again() {
    # Before cloud-init has finished there are no rules; adding them early would cut it off.
    if systemctl is-active --quiet pds-metadata.service; then
        host
    fi
}

case ${1:-} in
    bridged | host | again) "$1" ;;
    *)
        echo "usage: metadata bridged|host|again" >&2
        exit 2
        ;;
esac
