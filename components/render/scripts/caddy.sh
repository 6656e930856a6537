#!/bin/sh
# Assembles the text that Caddy runs with. The texts of all stacks on the host form one file, and Caddy accepts it as a whole
# or not at all. So each stack's text is tried separately; if Caddy refuses one, that stack keeps its previous text.
#
#   caddy.sh start     the container's command: with texts that Caddy has run before, then with the new ones
#   caddy.sh reload    when the texts change: the change script of Nomad's template
#
# PARTS has a line `PATH KEY BASE64` for each stack and key: `text`, and `plain`, the program's own part of it. For a
# text with the SHA-256 SUM, results/SUM contains "loaded" or "refused: " and Caddy's message; Caddy serves that file to
# `up`, which knows the sum. Runs in Caddy's image: busybox or more.
set -eu
umask 077

mode=$1
local=${PDS_LOCAL:-/local}
kept=${PDS_KEPT:-/data/pds-parts} # on the volume: the text of each stack that Caddy ran last
new=$local/new serving=$local/serving results=$local/results
options=$local/options parts=$local/parts

exec 9>"$local/lock"
flock 9
case $mode in
    start) rm -f "$local/admin.sock" ;; # left by a killed Caddy
    *)
        tries=300
        until [ -S "$local/admin.sock" ] || [ "$tries" = 0 ]; do
            tries=$((tries - 1))
            sleep 0.2
        done
        ;;
esac

mkdir -p "$kept" "$serving" "$results"
rm -rf "$new"
mkdir "$new"
while read -r path key coded; do
    name=${path##*/}
    printf %s "$coded" | base64 -d >"$new/$name.$key"
    [ -f "$new/$name.plain" ] || cp "$new/$name.$key" "$new/$name.plain"
done <"$parts"

# Stacks that were removed.
gone=
for file in "$serving"/* "$kept"/*; do
    [ -f "$file" ] && [ ! -f "$new/${file##*/}.text" ] && rm "$file" && gone=1
done

# write FOLDER: writes the whole file from the texts in FOLDER.
write() {
    { cat "$options" && find "$1" -type f | sort | while read -r file; do cat "$file" && echo; done; } >"$local/next"
}

# takes FOLDER: whether Caddy accepts the texts in FOLDER together; if not, `said` has its message. Only a reload proves
# it: for example, no check finds a port that is in use. But a reload that fails half-way leaves Caddy 2.6 without
# certificates until it loads its previous configuration again, so a check comes first.
takes() {
    write "$1"
    said=$(caddy validate --config "$local/next" --adapter caddyfile 2>&1) || return 1
    if [ "$mode" != start ] && ! said=$(caddy reload --config "$local/next" --adapter caddyfile 2>&1); then
        caddy reload --force --config "$local/Caddyfile" --adapter caddyfile >/dev/null 2>&1 || true
        return 1
    fi
    mv "$local/next" "$local/Caddyfile"
}

# first NAME: the text to try first for a stack. A start is unattended.
first() {
    if [ "$mode" != start ]; then
        echo "$new/$1.text"
    elif [ -f "$kept/$1" ]; then
        echo "$kept/$1"
    else
        echo "$new/$1.plain"
    fi
}

# words NAME: Caddy's message for refusing the stack's text, with the lines of that text if they are known.
words() {
    rm -rf "$local/alone"
    mkdir "$local/alone"
    cp "$new/$1.text" "$local/alone/$1"
    write "$local/alone"
    before=$(wc -l <"$options")
    alone=$(caddy adapt --config "$local/next" --adapter caddyfile 2>&1 >/dev/null) || said=$alone
    printf '%s\n' "$said" | grep '^Error: ' | cut -c 1-1000 | awk -v file="$local/next:" -v before="$before" '
        {
            while ((at = index($0, file)) > 0) {
                rest = substr($0, at + length(file))
                match(rest, /^[0-9]+/)
                $0 = substr($0, 1, at - 1) "line " (substr(rest, 1, RLENGTH) - before) substr(rest, RLENGTH + 1)
            }
            print
        }'
}

result() {
    sum=$(sha256sum <"$new/$1.text")
    cat >"$results/.part"
    chmod 0644 "$results/.part"
    mv "$results/.part" "$results/${sum%% *}"
}

# use NAME FILE: serve FILE for the stack, if Caddy accepts it beside the texts that it serves now.
use() {
    rm -rf "$local/trial"
    cp -R "$serving" "$local/trial"
    cp "$2" "$local/trial/$1"
    takes "$local/trial" && cp "$2" "$serving/$1"
}

names() {
    find "$new" -name '*.text' | sed 's|.*/||; s|\.text$||' | sort
}

one_by_one() {
    for name in $(names); do
        wanted=$(first "$name")
        if cmp -s "$wanted" "$serving/$name" || use "$name" "$wanted"; then
            continue
        fi
        if [ "$mode" != start ]; then
            echo "refused: $(words "$name")" | result "$name"
            echo "caddy.sh: the text of $name is refused: $said" >&2
        fi
        [ -f "$serving/$name" ] && continue
        for other in "$kept/$name" "$new/$name.plain"; do
            if [ -f "$other" ] && use "$name" "$other"; then
                break
            fi
        done
    done
}

# All texts at once, the usual case.
rm -rf "$local/all"
mkdir "$local/all"
changed=$gone
for name in $(names); do
    cp "$(first "$name")" "$local/all/$name"
    cmp -s "$local/all/$name" "$serving/$name" || changed=1
done
if [ "$changed" ] || [ "$mode" = start ]; then
    if takes "$local/all"; then
        rm -rf "$serving"
        cp -R "$local/all" "$serving"
    else
        one_by_one
        takes "$serving" || true # a removed stack is the only change
    fi
fi

if [ "$mode" = start ]; then
    [ -f "$local/Caddyfile" ] || cp "$options" "$local/Caddyfile"
    # Loads the new texts as soon as Caddy can reload.
    sh "$0" reload 9>&- &
    exec caddy run --config "$local/Caddyfile" --adapter caddyfile 9>&-
fi

for name in $(names); do
    if cmp -s "$new/$name.text" "$serving/$name"; then
        cp "$serving/$name" "$kept/$name"
        echo loaded | result "$name"
    fi
done
