#!/usr/bin/env bash
# Run a command with a SoftHSMv2 token that another process holds: p11-kit serves it on a socket, and the command's
# process has the socket and nothing else of it. See test-token.sh for what the command finds.
set -euo pipefail
source "$(dirname "$0")/test-token.sh"

need p11-kit p11-kit
need softhsm2-util softhsm2
need_module softhsm2 /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so
softhsm=$HSM_MSL_TOKEN_MODULE
need_module p11-kit-modules /usr/lib/*/pkcs11/p11-kit-client.so /usr/lib64/pkcs11/p11-kit-client.so
begin "$@"
softhsm_token
daemon p11-kit server --foreground --provider "$softhsm" --name "$directory/socket" \
    "pkcs11:token=$HSM_MSL_TOKEN_LABEL"
await test -S "$directory/socket"
unset SOFTHSM2_CONF
export P11_KIT_SERVER_ADDRESS=unix:path=$directory/socket
export HSM_MSL_TOKEN_PROFILE=p11kit
finish
