# Owns the leaving of a PDS of upstream's installer from its machine: a snapshot of its data is made and checked while the
# server runs; then the server is stopped for good, and the snapshot that moves is made and checked, in FOLDER/.snapshot.
# Run there as root: `sh move-in.sh [FOLDER [DID …]]`, /pds by default; accounts that cannot be restored are left behind
# only if their DIDs are given. `./pds move-in` writes it, with the project's own snapshot program; the programs run in the
# image that the server ran in, without a network. Nothing in FOLDER is changed but for .snapshot, .stamps,
# .departures.jsonl, .pds-identity.json and .move-in-image, which the old server does not know. It can be run again.
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

# `down` removes the container, so what it ran is remembered.
image=$folder/.move-in-image
if docker container inspect pds >/dev/null 2>&1; then
    docker container inspect --format '{{.Image}}' pds >"$image"
fi
[ -s "$image" ] || fail "there is no container 'pds', so nobody says which image it ran. Write its name into $image."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
@PROGRAMS@
# Docker takes quotes for a part of the value, docker compose does not.
sed -n 's/^\([A-Z][A-Z0-9_]*\)=\(["'\'']\)\(.*\)\2$/\1=\3/p; t; s/^[A-Z][A-Z0-9_]*=.*/&/p' "$folder/pds.env" >"$work/env"

run() {
    docker run --rm --network none --user 0:0 --volume "$folder:/pds" --volume "$work:/move-in:ro" \
        --env-file "$work/env" --env PDS_GUARD_ADOPT=true --entrypoint node "$(cat "$image")" "$@"
}

snapshot() {
    run /move-in/guard.cjs || fail "$1"
    run /move-in/snapshot.cjs || fail "$1"
    # shellcheck disable=SC2086 # DIDs
    run -e '
      const { lines, verify } = require("/move-in/verify.cjs");
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

# No surprise after the server is stopped.
if docker container inspect pds >/dev/null 2>&1; then
    snapshot "The server was not touched."
fi

# Never two writers: not now, not after a reboot, and not by the container that keeps the others up to date.
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
