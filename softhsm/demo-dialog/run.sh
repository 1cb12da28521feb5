#!/usr/bin/env bash
# Two services hold a dialog: a shift on each side, a restart in the middle, a policy that fails the dialog.
# Runs inside with-softhsm.sh, whose private directory holds all it makes.
set -euo pipefail
demo=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$demo/../.." && pwd)
work=$(dirname "${SOFTHSM2_CONF:?run this through softhsm/with-softhsm.sh}")
bin=${HSM_MSL_BIN:-$root/.venv/bin}
declare -A port process url

dialog() { "$bin/hsm-msl" dialog "$@"; }
orders() { local verb=$1; shift; dialog "$verb" "$work/orders.toml" "$@"; }
stock() { local verb=$1; shift; dialog "$verb" "$work/stock.toml" "$@"; }

stop() {
    for name in "${!process[@]}"; do
        kill -TERM "${process[$name]}" 2>/dev/null || true
        wait "${process[$name]}" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT TERM

step() {
    printf '\n== %s\n' "$1"
}

start() {
    rm -f "$work/$1.out"
    mkfifo "$work/$1.out"
    "$bin/hsm-msl" dialog serve "$work/$1.toml" >"$work/$1.out" 2>>"$work/$1.log" &
    process[$1]=$!
    local line=
    while read -r line; do
        echo "$line"
        if [[ "$line" == *"listening on "* ]]; then
            url[$1]=${line##*listening on }
            port[$1]=${url[$1]##*:}
            port[$1]=${port[$1]%%/*}
            return 0
        fi
    done <"$work/$1.out"
    cat "$work/$1.log" >&2
    return 1
}

expect() { # TEXT COMMAND...
    local text=$1 output
    shift
    output=$("$@")
    echo "$output"
    [[ "$output" == *"$text"* ]] || { echo "expected to see: $text" >&2; exit 1; }
}

step "1. A token with the keys of both services"
"$bin/hsm-provision" apply "$demo/ceremony.toml" -C "$work" >"$work/apply.txt" 2>&1 || { cat "$work/apply.txt" >&2; exit 1; }
grep -E '^(orders|stock)\.' "$work/apply.txt"
for name in orders stock; do
    for use in signing kek; do
        "$bin/hsm-provision" certificate "$demo/ceremony.toml" "$name.$use.v1" -C "$work" --subject "CN=$name $use" \
            --issuer "$name.signing.v1" --issuer-subject "CN=$name signing" --uri "urn:demo:$name" \
            --out "$work/$name.$use.pem" >/dev/null
    done
done

step "2. Two services"
configure() { # SELF OTHER
    sed -e "s|@SELF@|$1|g; s|@OTHER@|$2|g; s|@PORT@|${port[$1]:-0}|; s|@URL@|${url[$2]:-}|" \
        "$demo/service.toml" >"$work/$1.toml"
}
configure orders stock
configure stock orders
start orders
start stock
configure orders stock
configure stock orders
expect "${url[stock]}" orders bindings
expect "${url[orders]}" stock bindings

step "3. A message each way; each side chose the key of what it sends"
id=$(orders open urn:demo:stock)
orders send "$id" order "three red chairs"
expect "three red chairs" stock receive --wait 20
stock send "$id" answer "reserved"
expect "reserved" orders receive --wait 20
stock show "$id"

step "4. Each side shifts its own key; nobody is asked"
orders shift "$id"
orders send "$id" order "two blue tables"
expect "two blue tables" stock receive --wait 20
stock shift "$id"
stock send "$id" answer "reserved too"
expect "reserved too" orders receive --wait 20

step "5. A service is killed in the middle (kill -9); what is sent meanwhile waits"
kill -KILL "${process[stock]}"
wait "${process[stock]}" 2>/dev/null || true
orders send "$id" order "one lamp"
start stock
expect "one lamp" stock receive --wait 30

step "6. Too many shifts: the policy of stock allows three within a minute"
for number in 2 3 4; do
    orders shift "$id"
    orders send "$id" order "shift $number"
    sleep 1.2 # own shifts keep a second's distance
done
expect "dialog failed: policy-shift-rate" stock receive "$id" --count 4 --wait 20
expect "dialog failed: policy-shift-rate" orders receive "$id" --wait 20
orders show
