#!/usr/bin/env bash
# Run a command with a private openCryptoki soft token. See test-token.sh for what the command finds.
#
# openCryptoki has one daemon, one configuration and one state directory per machine, all at fixed paths. So this runs
# in mount and IPC namespaces of its own, where those paths lead into the private directory. Who is not root becomes
# root of a user namespace, which Debian lets everybody make.
set -euo pipefail

if [[ -z "${HSM_MSL_PRIVATE_NAMESPACE:-}" ]]; then
    export HSM_MSL_PRIVATE_NAMESPACE=yes
    user=()
    [[ "$(id -u)" == 0 ]] || user=(--user --map-root-user)
    exec unshare ${user[@]+"${user[@]}"} --mount --ipc -- "$0" "$@"
fi
unset HSM_MSL_PRIVATE_NAMESPACE
source "$(dirname "$0")/test-token.sh"

need pkcsslotd opencryptoki
need pkcsconf opencryptoki
need_module opencryptoki /usr/lib/*/pkcs11/libopencryptoki.so /usr/lib*/opencryptoki/libopencryptoki.so
begin "$@"
system=$directory/system
mkdir -p "$system"/{etc,log,lib/swtok/TOK_OBJ,lock/swtok}
printf 'version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n' >"$system/etc/opencryptoki.conf"
mount --make-rprivate /
# In a user namespace there is one group, so there it has to be the one whose members may use the token.
printf 'pkcs11:x:0:root\nroot:x:0:\n' >"$system/group"
mount --bind "$system/group" /etc/group
chown -R root:pkcs11 "$system"/{etc,log,lib,lock}
chmod -R 0770 "$system"/{etc,log,lib,lock}
mount --bind "$system/etc" /etc/opencryptoki
mount --bind "$system/lib" /var/lib/opencryptoki
mount --bind "$system/log" /var/log/opencryptoki
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p -m 1777 /run/lock
cp -a "$system/lock" /run/lock/opencryptoki

daemon pkcsslotd -f
await test -S /run/pkcsslotd.socket
if [[ ! -e "$system/initialised" ]]; then
    {
        printf '%s\n' "$HSM_MSL_TOKEN_LABEL" | pkcsconf -c 0 -I -S 87654321 # the PIN every new token has
        pkcsconf -c 0 -P -S 87654321 -n "$officer_pin"
        pkcsconf -c 0 -u -S "$officer_pin" -n 00000000
        pkcsconf -c 0 -p -U 00000000 -n "$user_pin" # a PIN the officer chose has to be changed
    } >>"$directory/daemons.log" 2>&1
    touch "$system/initialised"
fi
export HSM_MSL_TOKEN_PROFILE=opencryptoki
finish
