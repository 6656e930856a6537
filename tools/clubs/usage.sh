# What a PDS takes of memory and disk, asked in the server's container: `sh -c … usage LIMIT`, the most that its data may
# take in KiB, 0 where that is not known. The answer is one line of JSON, in bytes.
#
# A shell, and no Node: that would take 40 MiB of the server's own limit.
#
# Memory is what Docker counts: the container's, without what was read from files and could be given back. Nomad would
# know it, if its agents published metrics, which they do not by default.
#
# With a quota the file system counts for this directory alone, and its size is the quota; of a host's own PDS it is the
# volume's. One that is larger than the limit is somebody else's too: then the files are counted.
limit=$1
data=$PDS_DATA_DIRECTORY

groups=${CGROUPS:-/sys/fs/cgroup} # tests have their own
current=memory.current most=memory.max inactive=inactive_file
if [ ! -e "$groups/$current" ]; then
    groups=$groups/memory current=memory.usage_in_bytes most=memory.limit_in_bytes inactive=total_inactive_file
fi
memory=$(cat "$groups/$current" 2>/dev/null)
[ -z "$memory" ] || memory=$((memory - $(sed -n "s/^$inactive //p" "$groups/memory.stat")))
most=$(cat "$groups/$most" 2>/dev/null)
case $most in *[!0-9]*) most= ;; esac # "max"

# shellcheck disable=SC2046 # its columns
set -- $(df -P -k "$data" | tail -n 1)
disk=$3
if [ "$limit" -eq 0 ] || [ "$2" -gt "$limit" ]; then
    disk=$(timeout 20 du -sk "$data" 2>/dev/null | cut -f 1)
fi
[ -z "$disk" ] || disk=$((disk * 1024))

# When it last went well, where the job leaves that.
good() {
    time=$(sed -n 's/.*"good":"\([0-9TZ:.-]*\)".*/"\1"/p' "$data/.stamps/$1.json" 2>/dev/null)
    echo "${time:-null}"
}

# How many accounts the last backup found something wrong with (stamp.cjs).
findings=$(grep -o '"state":' "$data/.stamps/backup.json" 2>/dev/null | wc -l)

printf '{"memory": %s, "memory_limit": %s, "disk": %s, "backup": %s, "drill": %s, "findings": %s}\n' \
    "${memory:-null}" "${most:-null}" "${disk:-null}" "$(good backup)" "$(good drill)" "$findings"
