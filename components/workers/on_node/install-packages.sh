#!/bin/sh
# Installs container runtime and kubelet on a plain Debian or Ubuntu image; the join runs it first.
#
# What is there in the wanted version is left alone, so that it may be run again at any point. The
# repository's signing key came with the seed, or it is fetched and believed only with the pinned
# fingerprint. All is fetched by apt, and so by the proxy that apt is told of.
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

# attempt WHAT COMMAND...: fails with what apt says is wrong, and then with what it said before: an
# index that can't be had is a warning, until a package is wanted that stands in it.
earlier=''
attempt() {
    what=$1 && shift
    if said=$("$@" 2>&1); then status=0; else status=$?; fi
    printf '%s\n' "$said"
    earlier="$said
$earlier"
    [ "$status" -eq 0 ] || fail "$what: $(printf '%s' "$earlier" | sed -n 's/^[EW]: //p' | head -n 4 | paste -s -d ' ' -)"
}

# Unattended upgrades of the first boot may hold the lock for minutes.
apt() {
    attempt "apt-get $1 failed" apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o DPkg::Options::=--force-confold "$@"
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

# apt believes every key of the file, so no other one may be in it.
fetch_key() {
    mkdir -p "${KEYRING%/*}"
    rm -f "$KEYRING.new"
    attempt "the signing key of $REPOSITORY can't be fetched; check its URL, and the node's DNS and route" \
        "$ROOT/usr/lib/apt/apt-helper" download-file "${REPOSITORY}Release.key" "$KEYRING.new"
    found=$(gpg --batch --with-colons --show-keys "$KEYRING.new" 2>/dev/null | sed -n '/^pub:/{n;s/^fpr:*\([0-9A-F]*\):*$/\1/p;}' | paste -s -d ' ' -)
    [ "$found" = "$KEY_FINGERPRINT" ] ||
        fail "the signing key of $REPOSITORY is ${found:-unreadable}, not $KEY_FINGERPRINT; nothing of it is installed"
    chmod 644 "$KEYRING.new"
    mv "$KEYRING.new" "$KEYRING"
}

# An index that can't be had is an error here, as it is the one that matters.
add_repository() {
    printf 'deb [signed-by=%s] %s %s\n' "${KEYRING#"$ROOT"}" "$REPOSITORY" "$SUITE" >"$SOURCES.new"
    mv "$SOURCES.new" "$SOURCES"
    apt update -o Dir::Etc::SourceList="$SOURCES" -o Dir::Etc::SourceParts=- \
        -o APT::Get::List-Cleanup=false -o APT::Update::Error-Mode=any
}

# A power cut while dpkg ran leaves what apt refuses to go on from. apt is asked first, since it waits
# for others who install.
mend() {
    apt-get -q -y -o DPkg::Lock::Timeout=300 install || dpkg --configure -a || true
}

install_all() {
    mend
    apt update
    apt install --no-install-recommends ca-certificates ${KEY_FINGERPRINT:+gpg}
    [ -z "$KEY_FINGERPRINT" ] || fetch_key
    add_repository
    # shellcheck disable=SC2086 # a list of words
    apt install --no-install-recommends --allow-change-held-packages $PACKAGES "kubelet=$KUBERNETES_VERSION-*" "kubectl=$KUBERNETES_VERSION-*"
}

# Whether containerd's configuration is the package's own as it came: nobody's wish.
is_as_packaged() {
    sum=$(md5sum <"$CONTAINERD")
    dpkg-query -W -f '${Conffiles}' containerd | grep -q "${CONTAINERD#"$ROOT"} ${sum%% *}"
}

# Control groups are kept by systemd where the kubelet has it so, as two keepers make a node unstable,
# and a container that is named for one way can't be started in the other. Plugins are in
# /opt/cni/bin, where Cilium and the Kubernetes packages put theirs: Debian 12 has another place in
# its file, Debian 13 in its defaults too. The names are those of containerd 1 and 2.
configure_containerd() {
    [ ! -s "$CONTAINERD" ] || is_as_packaged || return 0
    mkdir -p "${CONTAINERD%/*}"
    containerd config default | sed \
        -e 's#/usr/lib/cni#/opt/cni/bin#' \
        -e 's/SystemdCgroup = false/SystemdCgroup = '"$SYSTEMD_CGROUP"'/' \
        -e "s#config_path = [\"'][\"']#config_path = \"/etc/containerd/certs.d\"#" \
        -e "s#^\\( *sandbox_image =\\) .*#\\1 \"$SANDBOX_IMAGE\"#" \
        -e "s#^\\( *sandbox =\\) .*#\\1 \"$SANDBOX_IMAGE\"#" >"$CONTAINERD.new"
    mv "$CONTAINERD.new" "$CONTAINERD"
    systemctl restart containerd.service || fail "containerd does not start: journalctl -u containerd"
}

everything_there || install_all
apt-mark hold kubelet kubectl >/dev/null || fail "apt-mark hold failed"
configure_containerd
