#!/bin/sh
# Writes the host's figures for the metrics store: the volume, the disks of clubs, and the ages of backups and drills.
# pds-metrics.socket starts it for each request on 127.0.0.1:9101. It reads one HTTP request and writes the figures as
# text (prometheus.io/docs/instrumenting/exposition_formats). It may read all files and write none.
#
# A club writes its status files itself, so only regular files of a limited size are read, and only numbers leave them.
# Few processes for any number of clubs: this runs every 30 seconds.
set -eu

root=${PDS_ROOT:-}
# shellcheck source=/dev/null
. "$root/etc/pds/host.env"
home=$root/srv/nomad

request() {
    # A response before the end of the request could be lost with the connection.
    end=$(printf '\r')
    while IFS= read -r line; do
        case $line in '' | "$end") return 0 ;; esac
    done
}

# With a quota `df` counts only the directory, and its size is the quota. Without one the figures are the volume's.
disks() {
    timeout 10 df -B1 --output=size,used,avail,file -- "$home" "$home"/clubs/pds-*/ 2>/dev/null | awk -v home="$home" '
        $4 == home {
            size = $1
            print "pds_volume_size_bytes " $1 "\npds_volume_used_bytes " $2 "\npds_volume_available_bytes " $3
        }
        $4 ~ /\/clubs\/pds-[a-z0-9-]+\/$/ && $1 != size {
            sub(/\/$/, "", $4)
            sub(/.*\/pds-/, "", $4)
            print "pds_club_size_bytes{club=\"" $4 "\"} " $1 "\npds_club_used_bytes{club=\"" $4 "\"} " $2
        }'
}

# When each backup and drill last succeeded and failed (run_status.cjs), and how many accounts have findings.
runs() {
    # shellcheck disable=SC2016 # the program is awk's
    find "$home/pds/.run-status" "$home"/clubs/pds-*/.run-status -maxdepth 1 -type f -name '*.json' -size -256k \
        -print0 2>/dev/null | TZ=UTC timeout 10 xargs -0 -r awk -v stack="$STACK" '
        function told(name,   text) {
            if (match($0, "\"" name "\":\"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]")) {
                text = substr($0, RSTART + length(name) + 4, 19)
                gsub(/[-T:]/, " ", text)
                print "pds_run_" name "_timestamp_seconds" labels mktime(text)
            }
        }
        FNR == 1 {
            run = pds = club = FILENAME
            sub(/.*\//, "", run)
            sub(/\.json$/, "", run)
            sub(/\/.run-status\/[^\/]*$/, "", club)
            club = club ~ /\/clubs\/pds-[a-z0-9-]+$/ ? substr(club, match(club, /\/clubs\/pds-[a-z0-9-]+$/) + 11) : ""
            if (run !~ /^(backup|drill|unreferenced-blobs)$/) next
            labels = "{pds=\"" (club == "" ? stack : club) "\",club=\"" club "\",run=\"" run "\"} "
            told("good")
            told("failed")
            print "pds_run_findings" labels gsub(/"state":/, "")
        }'
}

request
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n\r\n'
if mountpoint -q "$home"; then
    disks
    runs
fi
