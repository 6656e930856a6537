#!/bin/sh
# Prints the command of the newest Python on PATH that this project works with: `sh tools/find-python.sh [COMMAND]`.
# COMMAND limits the search to one. If there is none, one sentence on stderr names what to install.
newest=14 oldest=11
probe='import sys
try:
    import ensurepip, venv
    with_venv = 1
except ImportError:
    with_venv = 0
print(*sys.version_info[:2], with_venv)'

suits() { # COMMAND. A shim of pyenv is on PATH and fails, so each one is run.
  answer=$("$1" -c "$probe" 2>/dev/null) || return 1
  # shellcheck disable=SC2086 # three words
  set -- "$1" $answer
  if [ "$2" != 3 ] || [ "$3" -lt "$oldest" ] || [ "$3" -gt "$newest" ]; then
    other="$1 is Python $2.$3"
    return 1
  fi
  [ "$4" = 1 ] && return 0
  bare=${bare:-$1} minor=${minor:-$3}
  return 1
}

other='' bare='' minor=''
names=$1
if [ -z "$names" ]; then
  names=python3 counter=$oldest
  while [ "$counter" -le "$newest" ]; do
    names="python3.$counter $names" counter=$((counter + 1))
  done
fi
for name in $names; do
  if suits "$name"; then
    printf '%s\n' "$name"
    exit 0
  fi
done
if [ -n "$bare" ]; then
  printf '%s cannot make a virtual environment: install its module venv (Debian, Ubuntu: apt install python3.%s-venv).\n' \
    "$bare" "$minor"
elif [ -n "$1" ]; then
  printf "'%s' is not a Python 3.%s to 3.%s%s.\n" "$1" "$oldest" "$newest" "${other:+ ($other)}"
else
  printf 'Python 3.%s to 3.%s is missing%s: install it (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.%s).\n' \
    "$oldest" "$newest" "${other:+ ($other)}" "$newest"
fi >&2
exit 1
