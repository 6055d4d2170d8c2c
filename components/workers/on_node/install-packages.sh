#!/bin/sh
# Installs container runtime and kubelet on a plain Debian or Ubuntu image; the join runs it first.
#
# What is there in the wanted version is left alone, so that it may be run again at any point. The
# repository's signing key is fetched over TLS and believed only with the pinned fingerprint.
# On failure the last line says why.
set -eu
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

ROOT=${AUTOJOIN_ROOT:-} # tests run it in a folder of their own
KEYRING=$ROOT/etc/apt/keyrings/kubernetes.asc
SOURCES=$ROOT/etc/apt/sources.list.d/kubernetes.list
CONTAINERD=$ROOT/etc/containerd/config.toml
# shellcheck source=/dev/null
. "$ROOT/etc/autojoin/install-packages.env"

fail() {
    printf '%s\n' "$*"
    exit 1
}

# Unattended upgrades of the first boot may hold the lock for minutes.
apt() {
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o DPkg::Options::=--force-confold "$@" ||
        fail "apt-get $1 failed; the lines above say why"
}

# installed PACKAGE [VERSION]
installed() {
    found=$(dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null) || return 1
    case $found in
        "installed ${2:-}"*) return 0 ;;
        *) return 1 ;;
    esac
}

# The version, its Debian revision and nothing longer: 1.34.2 is not 1.34.20.
at_version() {
    installed "$1" "$KUBERNETES_VERSION-"
}

everything_there() {
    at_version kubelet && at_version kubectl || return 1
    for package in $PACKAGES; do installed "$package" || return 1; done
}

install_key() {
    mkdir -p "${KEYRING%/*}"
    curl --fail --silent --show-error --location --max-time 60 --output "$KEYRING.new" "${REPOSITORY}Release.key" ||
        fail "the signing key of $REPOSITORY can't be fetched; check the node's DNS and route"
    found=$(gpg --batch --with-colons --show-keys "$KEYRING.new" 2>/dev/null | sed -n 's/^fpr:*\([0-9A-F]*\):*$/\1/p' | head -n 1)
    [ "$found" = "$KEY_FINGERPRINT" ] ||
        fail "the signing key of $REPOSITORY is ${found:-unreadable}, not $KEY_FINGERPRINT; nothing of it is installed"
    chmod 644 "$KEYRING.new"
    mv "$KEYRING.new" "$KEYRING"
}

install_all() {
    apt update
    if ! command -v curl || ! command -v gpg; then
        apt install --no-install-recommends ca-certificates curl gpg
    fi
    install_key
    printf 'deb [signed-by=%s] %s /\n' "${KEYRING#"$ROOT"}" "$REPOSITORY" >"$SOURCES.new"
    mv "$SOURCES.new" "$SOURCES"
    apt update
    # shellcheck disable=SC2086 # a list of words
    apt install --no-install-recommends --allow-change-held-packages $PACKAGES "kubelet=$KUBERNETES_VERSION-*" "kubectl=$KUBERNETES_VERSION-*"
}

# Whether containerd's configuration is the package's own as it came: nobody's wish.
is_as_packaged() {
    sum=$(md5sum <"$CONTAINERD")
    dpkg-query -W -f '${Conffiles}' containerd | grep -q "${CONTAINERD#"$ROOT"} ${sum%% *}"
}

# systemd is the one that keeps control groups; two keepers make a node unstable. By containerd's
# defaults plugins are in /opt/cni/bin, where Cilium and the Kubernetes packages put theirs; Debian's
# file looks elsewhere. The names are those of containerd 1 and 2.
configure_containerd() {
    [ ! -s "$CONTAINERD" ] || is_as_packaged || return 0
    mkdir -p "${CONTAINERD%/*}"
    containerd config default | sed \
        -e 's/SystemdCgroup = false/SystemdCgroup = true/' \
        -e "s#config_path = [\"'][\"']#config_path = \"/etc/containerd/certs.d\"#" \
        -e "s#^\\( *sandbox_image =\\) .*#\\1 \"$SANDBOX_IMAGE\"#" \
        -e "s#^\\( *sandbox =\\) .*#\\1 \"$SANDBOX_IMAGE\"#" >"$CONTAINERD.new"
    mv "$CONTAINERD.new" "$CONTAINERD"
    systemctl restart containerd.service || fail "containerd does not start: journalctl -u containerd"
}

everything_there || install_all
apt-mark hold kubelet kubectl >/dev/null || fail "apt-mark hold failed"
configure_containerd
