#!/bin/sh
# Writes the key of the servers' gossip. It is derived from the servers' common TLS key, so that user_data holds no second
# secret, and it is the same on each server, also on a rebuilt one.
set -eu

root=${PDS_ROOT:-}
file=$root/etc/nomad.d/gossip.hcl

umask 077
key=$({
    echo "pds gossip"
    cat "$root/etc/stunnel/pds/server.key"
} | openssl dgst -sha256 -binary | base64)
printf 'server {\n  encrypt = "%s"\n}\n' "$key" >"$file.new"
mv "$file.new" "$file"
