# Prepares the move of an upstream installer's PDS from its machine. It makes and checks a snapshot of the data while the
# server runs. Then it stops the server permanently, and makes and checks the final snapshot, in FOLDER/.snapshot.
# Run there as root: `sh import-pds.sh [FOLDER [DID …]]`, /pds by default. Accounts that cannot be restored are left behind
# only if their DIDs are given. `./pds import` writes it, with the project's own snapshot program. The programs run in
# the server's image, without a network. In FOLDER only .snapshot, .run-status, .departures.jsonl, .pds-identity.json and
# .import-pds-image change, which the old server does not use. It can be run again.
set -eu
umask 077

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

folder=$(cd "${1:-/pds}" && pwd)
[ $# -eq 0 ] || shift
without=$*
[ -f "$folder/pds.env" ] || fail "there is no $folder/pds.env: is this the PDS's machine?"
[ -f "$folder/account.sqlite" ] || fail "there is no $folder/account.sqlite: where are its data?"

# `down` removes the container, so its image is recorded.
image=$folder/.import-pds-image
if docker container inspect pds >/dev/null 2>&1; then
    docker container inspect --format '{{.Image}}' pds >"$image"
fi
[ -s "$image" ] || fail "there is no container 'pds', so the image that it ran is unknown. Write its name into $image."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
@PROGRAMS@
# For Docker quotes are part of the value, for docker compose they are not.
sed -n 's/^\([A-Z][A-Z0-9_]*\)=\(["'\'']\)\(.*\)\2$/\1=\3/p; t; s/^[A-Z][A-Z0-9_]*=.*/&/p' "$folder/pds.env" >"$work/env"

run() {
    docker run --rm --network none --user 0:0 --volume "$folder:/pds" --volume "$work:/import-pds:ro" \
        --env-file "$work/env" --env PDS_VOLUME_CHECK_ADOPT=true --entrypoint node "$(cat "$image")" "$@"
}

snapshot() {
    run /import-pds/volume_check.cjs || fail "$1"
    run /import-pds/snapshot.cjs || fail "$1"
    # shellcheck disable=SC2086 # DIDs
    run -e '
      const { lines, verify } = require("/import-pds/verify.cjs");
      verify("/pds/.snapshot/current", {}).then(({ manifest, refusals, verdicts }) => {
        const without = process.argv.slice(1);
        for (const line of [...refusals, ...lines(verdicts)]) console.error(line);
        const broken = (manifest?.accounts ?? []).filter((did) => verdicts.get(did)?.state === "not restorable");
        const left = broken.filter((did) => !without.includes(did));
        if (left.length > 0) console.error("To leave them behind, run it again with FOLDER", left.join(" "));
        if (refusals.length + left.length === 0) console.log("checked; it is of @atproto/pds", manifest.package_version);
        process.exit(refusals.length + left.length === 0 ? 0 : 1);
      });
    ' $without || fail "the snapshot cannot be restored as a whole. $1"
}

# Faults have to be known before the server is stopped.
if docker container inspect pds >/dev/null 2>&1; then
    snapshot "The server was not touched."
fi

# Never two writers: not now, not after a reboot, and not by the container that updates the others.
if command -v systemctl >/dev/null && systemctl cat pds.service >/dev/null 2>&1; then
    systemctl disable --now pds.service
fi
for name in watchtower pds; do
    if docker container inspect "$name" >/dev/null 2>&1; then
        docker update --restart no "$name" >/dev/null
        docker stop --time 60 "$name" >/dev/null
    fi
done
[ "$(docker ps --quiet --filter "volume=$folder")" = "" ] || fail "a container still uses $folder: stop it."

snapshot "The server is stopped. 'systemctl enable --now pds', or 'docker start pds', lets it run again as it was."
