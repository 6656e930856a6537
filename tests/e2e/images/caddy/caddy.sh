#!/bin/sh
# Caddy on a droplet that shares this machine with others. If the volume has the droplet's own address, Caddy listens there instead of
# on every address, and its question about a certificate is asked there instead of on loopback. `build.py` fills in @ASK@.
#
#   caddy VERB --config FILE --adapter caddyfile
set -eu
if [ -f /data/droplet-address ]; then
    own=$(cat /data/droplet-address)
    sed -e "1s/^{\$/{\n\tdefault_bind $own/" -e "s/^\(\t*bind\) 127\.0\.0\.1\$/\1 $own/" \
        -e "s/127\.0\.0\.1:@ASK@/$own:@ASK@/" "$3" >"$3.mapped"
    set -- "$1" "$2" "$3.mapped" "$4" "$5"
fi
exec caddy.real "$@"
