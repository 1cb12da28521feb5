# What the with-*.sh scripts of the test tokens have in common; sourced by them, not run.
#
#   softhsm/with-nss.sh | with-opencryptoki.sh | with-tpm.sh | with-p11kit.sh [--dir DIRECTORY] COMMAND [ARGUMENT...]
#
# The command finds an initialised, empty token:
#
#   HSM_MSL_TOKEN_MODULE    absolute path of the PKCS#11 library
#   HSM_MSL_TOKEN_RESERVED  parameter string for its initialisation, or empty
#   HSM_MSL_TOKEN_LABEL     the token's label
#   HSM_MSL_TOKEN_PIN_FILE  file with the user PIN
#   HSM_MSL_TOKEN_PROFILE   name of its vendor profile
#
# Daemons the token needs are children of the script and end with the command, also after Ctrl-C. Everything lies in
# one private directory, which is removed at the end unless --dir names it. The PINs are those of a throw-away token.

PATH=$PATH:/usr/sbin:/sbin # where the daemons are, also for users whose PATH leaves them out
daemons=()
directory=
keep=

refuse() {
    echo "$0: $1" >&2
    exit 69
}

need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || refuse "$1 is not installed. Install it with:  apt-get install $2"
}

need_module() { # PACKAGE CANDIDATE...
    local package=$1 candidate
    shift
    for candidate in "$@"; do
        if [[ -f "$candidate" ]]; then
            HSM_MSL_TOKEN_MODULE=$candidate
            return
        fi
    done
    refuse "its PKCS#11 library is not installed. Install it with:  apt-get install $package"
}

end() {
    local pid
    for pid in ${daemons[@]+"${daemons[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    [[ -n "$keep" || -z "$directory" ]] || rm -rf "$directory"
}

begin() { # [--dir DIRECTORY] COMMAND...
    umask 077
    if [[ "${1:-}" == "--dir" && $# -ge 2 ]]; then
        mkdir -p "$2"
        directory=$(cd "$2" && pwd)
        keep=yes
        shift 2
    fi
    if [[ $# -eq 0 ]]; then
        echo "usage: $0 [--dir DIRECTORY] COMMAND [ARGUMENT...]" >&2
        exit 64
    fi
    command=("$@")
    [[ -n "$directory" ]] || directory=$(mktemp -d "${TMPDIR:-/tmp}/hsm-msl-token.XXXXXXXX")
    trap end EXIT
    user_pin=55667788 officer_pin=11223344
    printf '%s\n' "$user_pin" >"$directory/user.pin"
    export HSM_MSL_TOKEN_MODULE HSM_MSL_TOKEN_RESERVED= HSM_MSL_TOKEN_LABEL=hsm-msl-test
    export HSM_MSL_TOKEN_PIN_FILE=$directory/user.pin
}

# Out of reach of Ctrl-C, which is for the command, and gone when this shell is killed.
daemon() { # COMMAND... ; its output goes to a log beside the token
    setsid setpriv --pdeathsig TERM -- "$@" >>"$directory/daemons.log" 2>&1 </dev/null &
    daemons+=("$!")
}

await() { # CONDITION... ; a daemon says by a socket or a name that it is ready
    local left=200
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        if [[ $left -eq 0 ]]; then
            cat "$directory/daemons.log" >&2
            refuse "waited 10 s in vain for: $*"
        fi
        sleep 0.05
    done
}

softhsm_token() { # an initialised SoftHSMv2 token in the private directory
    mkdir -p "$directory/tokens"
    printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$directory/tokens" \
        >"$directory/softhsm2.conf"
    export SOFTHSM2_CONF=$directory/softhsm2.conf
    [[ -z "$(ls -A "$directory/tokens")" ]] || return 0
    softhsm2-util --init-token --free --label "$HSM_MSL_TOKEN_LABEL" --so-pin "$officer_pin" --pin "$user_pin" \
        >>"$directory/daemons.log" 2>&1
}

finish() { # the command handles the signals first; this shell stays only to tidy up
    local status=0
    trap : INT TERM
    "${command[@]}" || status=$?
    exit "$status"
}
