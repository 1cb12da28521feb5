#!/usr/bin/env bash
# From nothing to an answered message. Runs inside with-softhsm.sh, whose private directory holds all it makes.
set -euo pipefail
demo=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$demo/../.." && pwd)
work=$(dirname "${SOFTHSM2_CONF:?run this through softhsm/with-softhsm.sh}")
bin=${HSM_MSL_BIN:-$root/.venv/bin}
message="Hello from a client whose keys the server never saw."
server=

stop() {
    if [[ -n "$server" ]]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
}
trap stop EXIT
trap 'exit 130' INT TERM

step() {
    printf '\n== %s\n' "$1"
}

step "1. A token with keys: hsm-provision apply development.toml"
"$bin/hsm-provision" apply "$root/provisioning/ceremonies/development.toml" -C "$work" >"$work/apply.txt" 2>&1 \
    || { cat "$work/apply.txt" >&2; exit 1; }
grep -E '^(Token|key|msl\.token|identity\.rsa|psk\.|service\.)|change\(s\) made' "$work/apply.txt"

step "2. A server that may use those keys: hsm-msl serve server.toml"
cp "$demo/server.toml" "$demo/client.toml" "$work/"
"$bin/hsm-msl" public-key "$work/server.toml" --output "$work/server.pem"
mkfifo "$work/server.out"
"$bin/hsm-msl" serve "$work/server.toml" >"$work/server.out" &
server=$!
url=
while [[ -z "$url" ]] && read -r line; do
    echo "$line"
    [[ "$line" != *"listening on "* ]] || url=${line##*listening on }
done <"$work/server.out"
[[ -n "$url" ]] || { echo "the server did not start" >&2; exit 1; }

step "3. A client sends two messages: hsm-msl send client.toml $url"
echo "sent:     $message"
reply=$("$bin/hsm-msl" send --explain --repeat 2 "$work/client.toml" "$url" "$message" 2>"$work/explain.txt") \
    || { cat "$work/explain.txt" >&2; exit 1; }
echo "answered: $reply"
[[ "$reply" == "$message" ]] || { echo "the answer is not the message" >&2; exit 1; }

step "4. What was exchanged"
cat "$work/explain.txt"
