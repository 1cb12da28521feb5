#!/bin/sh
# Run a command with a private, empty SoftHSMv2 token directory.
#
#   softhsm/with-softhsm.sh [--dir DIRECTORY] COMMAND [ARGUMENT...]
#
# The command sees SOFTHSM2_CONF (the private configuration) and SOFTHSM2_MODULE (the shared object). Without --dir
# the directory is temporary and removed when the command ends, also after Ctrl-C; with --dir it is created if
# missing and kept, so that a second run finds the tokens of the first.
set -eu

usage() {
    echo "usage: $0 [--dir DIRECTORY] COMMAND [ARGUMENT...]" >&2
    exit 64
}

missing() {
    echo "$0: SoftHSMv2 is not installed ($1 not found)." >&2
    echo "Install it with:  apt-get install softhsm2      (Fedora: dnf install softhsm)" >&2
    exit 69
}

directory=
if [ "${1:-}" = "--dir" ]; then
    [ $# -ge 2 ] || usage
    directory=$2
    shift 2
fi
[ $# -ge 1 ] || usage

command -v softhsm2-util >/dev/null 2>&1 || missing softhsm2-util
module=${SOFTHSM2_MODULE:-}
if [ -z "$module" ]; then
    for candidate in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
        /usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so \
        /opt/homebrew/lib/softhsm/libsofthsm2.so; do
        if [ -f "$candidate" ]; then
            module=$candidate
            break
        fi
    done
fi
[ -n "$module" ] && [ -f "$module" ] || missing libsofthsm2.so

umask 077
if [ -n "$directory" ]; then
    mkdir -p "$directory"
    directory=$(cd "$directory" && pwd)
else
    directory=$(mktemp -d "${TMPDIR:-/tmp}/softhsm.XXXXXXXX")
    trap 'rm -rf "$directory"' EXIT
fi
mkdir -p "$directory/tokens"

cat >"$directory/softhsm2.conf" <<CONF
directories.tokendir = $directory/tokens
objectstore.backend = file
log.level = ERROR
slots.removable = false
CONF

SOFTHSM2_CONF=$directory/softhsm2.conf
SOFTHSM2_MODULE=$module
export SOFTHSM2_CONF SOFTHSM2_MODULE

# The command keeps the terminal; this shell stays only to tidy up, so it lets the command handle the signals first.
trap : INT TERM
status=0
"$@" || status=$?
exit "$status"
