#!/usr/bin/env bash
# Make sure that the system packages of packages.txt are there: install them where that is allowed, else say how.
set -euo pipefail
cd "$(dirname "$0")"

present() {
    [[ "$1" != /* ]] || { compgen -G "$1" >/dev/null; return; }
    command -v "$1" >/dev/null 2>&1 || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

missing=()
while read -r program package; do
    [[ -z "$program" || "$program" == "#"* ]] || present "$program" || missing+=("$package")
done <packages.txt
[[ ${#missing[@]} -gt 0 ]] || exit 0

if [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
        exit 0
    fi
    echo "Could not install: ${missing[*]}" >&2
fi
echo "Missing system packages. Install them with:  sudo apt-get install ${missing[*]}" >&2
exit 69
