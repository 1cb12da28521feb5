#!/usr/bin/env bash
# Run a command with a private TPM 2.0 (swtpm) behind tpm2-pkcs11. See test-token.sh for what the command finds.
#
# A TPM has room for a few keys at a time, so a resource manager stands between: tpm2-abrmd, on a D-Bus of its own.
set -euo pipefail
source "$(dirname "$0")/test-token.sh"

need swtpm swtpm
need dbus-daemon dbus
need dbus-send dbus
need tpm2-abrmd tpm2-abrmd
need tpm2_ptool libtpm2-pkcs11-tools
need_module libtpm2-pkcs11-1 /usr/lib/*/libtpm2_pkcs11.so.1 /usr/lib*/pkcs11/libtpm2_pkcs11.so
begin "$@"
mkdir -p "$directory/tpm" "$directory/store"

daemon dbus-daemon --session --nofork --address="unix:path=$directory/bus"
daemon swtpm socket --tpm2 --tpmstate "dir=$directory/tpm" --flags not-need-init,startup-clear \
    --server "type=unixio,path=$directory/swtpm" --ctrl "type=unixio,path=$directory/swtpm.ctrl"
await test -S "$directory/bus" -a -S "$directory/swtpm"
export DBUS_SESSION_BUS_ADDRESS=unix:path=$directory/bus
root=()
[[ "$(id -u)" != 0 ]] || root=(--allow-root)
daemon tpm2-abrmd --session ${root[@]+"${root[@]}"} "--tcti=swtpm:path=$directory/swtpm"
manager_answers() {
    dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
        string:com.intel.tss2.Tabrmd | grep -q true
}
await manager_answers

export TPM2_PKCS11_STORE=$directory/store
export TPM2_PKCS11_TCTI=tabrmd:bus_type=session,bus_name=com.intel.tss2.Tabrmd
export TPM2TOOLS_TCTI=$TPM2_PKCS11_TCTI
if [[ ! -e "$directory/initialised" ]]; then
    {
        tpm2_ptool init
        tpm2_ptool addtoken --pid 1 --label "$HSM_MSL_TOKEN_LABEL" --sopin "$officer_pin" --userpin "$user_pin"
    } >>"$directory/daemons.log" 2>&1
    touch "$directory/initialised"
fi
export HSM_MSL_TOKEN_PROFILE=tpm2
finish
