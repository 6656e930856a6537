#!/bin/sh
# Installs /usr/local/bin/nomad: the release whose SHA-256 the stack names. Nothing is unpacked before the sum matches,
# so neither the mirror nor the connection has to be trusted. A second run does nothing. With another version or sum in
# host.env it replaces the binary in one rename, and the agent runs the old one until it is restarted.
set -eu

root=${PDS_ROOT:-}
# shellcheck source=/dev/null
. "$root/etc/pds/host.env"

binary=$root/usr/local/bin/nomad
installed=$root/var/lib/pds/nomad.sha256
url=$NOMAD_MIRROR/$NOMAD_VERSION/nomad_${NOMAD_VERSION}_linux_amd64.zip

if [ -x "$binary" ] && [ "$(cat "$installed" 2>/dev/null)" = "$NOMAD_SHA256" ]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

curl --fail --silent --show-error --location --retry 6 --retry-delay 5 --retry-all-errors \
    --output "$work/nomad.zip" "$url"
if ! echo "$NOMAD_SHA256  $work/nomad.zip" | sha256sum --check --status; then
    echo "pds: $url has SHA-256 $(sha256sum "$work/nomad.zip" | cut -d ' ' -f 1), the stack says $NOMAD_SHA256." >&2
    echo "pds: nothing was installed. 'nomad.version' and 'nomad.sha256' go together: see the release's SHA256SUMS." >&2
    exit 1
fi
unzip -q -o "$work/nomad.zip" nomad -d "$work"

mkdir -p "$(dirname "$binary")" "$(dirname "$installed")"
install -m 0755 "$work/nomad" "$binary.new"
mv "$binary.new" "$binary"
echo "$NOMAD_SHA256" >"$installed"
