# Prints the container's view of its volume, of uploads without a record, of backups and drills, and of the metadata
# service: one line of JSON. It changes nothing but a file that it writes as a probe and removes.
#
# A shell, and not Node, which would use 40 MiB of the server's own limit. Every file that jobs of the host write to
# DATA/.run-status is printed unchanged (run_status.cjs), under its name.
data=$PDS_DATA_DIRECTORY

# shellcheck disable=SC2046 # its columns: size, used, free; as `df` counts, root's reserve is neither used nor free
set -- $(df -P -k "$data" | tail -n 1)
used=$3 free=$4
# shellcheck disable=SC2046
set -- $(df -P -i "$data" 2>/dev/null | tail -n 1)
files_used=$3 files_free=$4
case "$files_used$files_free" in '' | *[!0-9]*) files_used=null files_free=null ;; esac

# Until a record names it, the server keeps an upload here. Blobs in a bucket are not counted.
uploads=null uploads_kib=null
if [ -n "$PDS_BLOBSTORE_DISK_TMP_LOCATION" ]; then
    uploads=0 uploads_kib=0
    if [ -d "$PDS_BLOBSTORE_DISK_TMP_LOCATION" ]; then
        uploads=$(timeout 8 find "$PDS_BLOBSTORE_DISK_TMP_LOCATION" -type f 2>/dev/null | wc -l)
        uploads_kib=$(timeout 8 du -sk "$PDS_BLOBSTORE_DISK_TMP_LOCATION" 2>/dev/null | cut -f 1)
    fi
fi

# user_data holds the key of Nomad's endpoint: no container may reach the address that serves it. Any response counts.
metadata=null
if command -v wget >/dev/null; then
    metadata=false
    address=${METADATA:-http://169.254.169.254/metadata/v1/id} # tests have their own
    if said=$(timeout 8 wget -T 3 -O - "$address" 2>&1 >/dev/null); then
        metadata=true
    fi
    # BusyBox and GNU print a status in different forms.
    case $said in *HTTP/[0-9]* | *'ERROR '[0-9]*) metadata=true ;; esac
fi

identified=null
if [ -e "$data/.pds-identity.json" ]; then
    identified=$(stat -c %Y "$data/.pds-identity.json" 2>/dev/null || echo null)
fi

# The file system is read-only after an error of its own. `df` shows whether it is full.
writable=null
if [ -d "$data/.run-status" ]; then
    writable=false
    probe=$data/.run-status/.probe
    if (echo probe >"$probe") 2>/dev/null; then writable=true; fi
    rm -f "$probe" 2>/dev/null
fi

printf '{"used": %s, "free": %s, "files_used": %s, "files_free": %s, "metadata": %s, "identified": %s, "writable": %s, ' \
    "${used:-null}" "${free:-null}" "$files_used" "$files_free" "$metadata" "$identified" "$writable"
printf '"uploads": %s, "uploads_kib": %s, "run_status": {' "${uploads:-null}" "${uploads_kib:-null}"
comma=
for file in "$data"/.run-status/*.json; do
    [ -s "$file" ] || continue
    name=${file##*/}
    printf '%s"%s": %s' "$comma" "${name%.json}" "$(tr -d '\n' <"$file")"
    comma=', '
done
printf '}}\n'
