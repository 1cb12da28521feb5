#!/usr/bin/env bash
# Run a command with a private SoftHSMv2 token, initialised and empty. See test-token.sh for what the command finds.
# (with-softhsm.sh leaves the initialising to the command, as a ceremony wants it.)
set -euo pipefail
source "$(dirname "$0")/test-token.sh"

need softhsm2-util softhsm2
need_module softhsm2 /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so
begin "$@"
softhsm_token
export HSM_MSL_TOKEN_PROFILE=softhsm
finish
