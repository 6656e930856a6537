#!/bin/sh
# Fetches older backups for a restore, which itself has no key of the bucket. Runs in restic's image alongside
# the task that restores, and ends with it. They communicate by files in TARGET/older: a `request` is "list", answered
# with list.json, "manifest ID", or "get ID FOLDER DID", answered with that account's files in ID, for a restore of one account
# also with that backup's account database; `answer` is "ok" or "failed". If the bucket is damaged, parts of the files may be
# missing: the other task checks them.
set -eu
umask 077

exchange=$TARGET/older

# This task never ends by itself: Nomad counts a sidecar that may not start again as failed, also after an exit with 0
# (client/allocrunner/taskrunner/restarts), and then kills the restore. So the bucket is opened for each request, in a shell
# of its own: one that is away is an answer. What an earlier run left on the exchange is removed before both (fetch.sh).
list() (
    # shellcheck source=/dev/null
    . "$(dirname "$0")/restic_open.sh"
    [ "$REPOSITORY" = there ] || { echo "[]" >"$exchange/list.json" && exit 0; }
    restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --json >"$exchange/list.json"
)

get() (
    # shellcheck source=/dev/null
    . "$(dirname "$0")/restic_open.sh"
    id=$1
    set -- --include /manifest.json --include "/$2" --include "/blocks/$3" --include "/blocks/quarantine/$3"
    [ "${NOMAD_META_only:-}" = "" ] || set -- "$@" --include /account.sqlite
    restore "$@"
)

manifest() (
    # shellcheck source=/dev/null
    . "$(dirname "$0")/restic_open.sh"
    id=$1
    restore --include /manifest.json
)

# A second attempt finds packs that a backup has moved meanwhile, and a bucket that failed for a moment. In a repository that
# lacks packs it takes minutes, and gives the same: after one such answer there is one attempt.
restore() {
    rm -f "$exchange/$id/manifest.json"
    for _attempt in 1 2; do
        restic restore "$id" --no-lock --quiet --host "$PDS_HOSTNAME" --tag pds --target "$exchange/$id" "$@" && return 0
        if [ -f "$exchange/damaged" ] && has_manifest; then return 0; fi
    done
    has_manifest && : >"$exchange/damaged"
}

# A part that is lost is zeros. Without a whole manifest nothing can be checked.
has_manifest() {
    [ -f "$exchange/$id/manifest.json" ] &&
        [ "$(tr -d '\000' <"$exchange/$id/manifest.json" | wc -c)" -eq "$(wc -c <"$exchange/$id/manifest.json")" ]
}

trap 'exit 0' TERM
while :; do
    if [ -f "$exchange/request" ]; then
        # shellcheck disable=SC2046 # its words
        set -- $(cat "$exchange/request")
        rm -f "$exchange/request"
        said=failed
        "$@" && said=ok
        { echo $said >"$exchange/answer.part" && mv "$exchange/answer.part" "$exchange/answer"; } || true
    fi
    sleep 1
done
