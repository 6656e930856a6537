# Prints memory, disk usage and uploads without a record of a PDS, in the server's container: `sh -c … usage LIMIT`, the
# limit of its data in KiB, 0 if unknown. The output is one line of JSON, in bytes, the uploads' size in KiB.
#
# A shell, and not Node, which would use 40 MiB of the server's own limit.
#
# Memory is Docker's figure: the container's, without the reclaimable page cache. Nomad would have it, if its agents
# published metrics, which they do not by default.
#
# With a quota `df` counts only this directory, and its size is the quota. For a host's own PDS it is the volume's. A file
# system larger than the limit is shared with others, so the files are counted.
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

# The last success, if the job records it.
good() {
    time=$(sed -n 's/.*"good":"\([0-9TZ:.-]*\)".*/"\1"/p' "$data/.run-status/$1.json" 2>/dev/null)
    echo "${time:-null}"
}

# A number of the last success of the weekly run (unreferenced_in_bucket.cjs).
counted() {
    number=$(sed -n "s/.*\"$1\":\([0-9][0-9]*\).*/\1/p" "$data/.run-status/unreferenced-blobs.json" 2>/dev/null)
    echo "${number:-0}"
}

# The number of accounts with a finding of the last backup (run_status.cjs).
findings=$(grep -o '"state":' "$data/.run-status/backup.json" 2>/dev/null | wc -l)

# Until a record names it, the server keeps an upload here. Those in a bucket were counted by the last weekly run.
uploads=0 uploads_kib=0
if [ -z "${PDS_BLOBSTORE_DISK_TMP_LOCATION:-}" ]; then
    uploads=$(counted uploads)
    uploads_kib=$(counted uploads_kib)
elif [ -d "${PDS_BLOBSTORE_DISK_TMP_LOCATION:-}" ]; then
    uploads=$(timeout 8 find "$PDS_BLOBSTORE_DISK_TMP_LOCATION" -type f 2>/dev/null | wc -l)
    uploads_kib=$(timeout 8 du -sk "$PDS_BLOBSTORE_DISK_TMP_LOCATION" 2>/dev/null | cut -f 1)
fi

printf '{"memory": %s, "memory_limit": %s, "disk": %s, "backup": %s, "drill": %s, "findings": %s, ' \
    "${memory:-null}" "${most:-null}" "${disk:-null}" "$(good backup)" "$(good drill)" "$findings"
printf '"uploads": %s, "uploads_kib": %s}\n' "$uploads" "${uploads_kib:-0}"
