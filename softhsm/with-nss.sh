#!/usr/bin/env bash
# Run a command with a private NSS softokn key database. See test-token.sh for what the command finds.
set -euo pipefail
source "$(dirname "$0")/test-token.sh"

need certutil libnss3-tools
need_module "nss" /usr/lib/*/libsoftokn3.so /usr/lib/*/nss/libsoftokn3.so /usr/lib64/libsoftokn3.so
begin "$@"
certutil -N -d "sql:$directory" -f "$HSM_MSL_TOKEN_PIN_FILE"
export HSM_MSL_TOKEN_PROFILE=nss HSM_MSL_TOKEN_LABEL="NSS Certificate DB"
export HSM_MSL_TOKEN_RESERVED="configdir='sql:$directory' certPrefix='' keyPrefix='' secmod='secmod.db'"
finish
