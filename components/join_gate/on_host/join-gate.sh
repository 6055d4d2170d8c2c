#!/bin/sh
# Sets up the join gate on the certificate authority's host, renews its certificate, or removes it.
# usage: join-gate.sh install FOLDER   FOLDER: what components/join_gate/installation.py packs
#        join-gate.sh renew            signs anew where due: in the last third of the certificate's
#                                      life, or after the certificate authority changed
#        join-gate.sh remove [keep-registered]   with its state; or not, while nodes are in it
# FOLDER/renewal tells when the graph last had the certificate renewed; another time signs anew.
set -eu
umask 077

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC1091
. "$here/join-gate.env"
# shellcheck disable=SC2154
PATH=$path
export PATH
# shellcheck disable=SC1091
. "$here/authority-host.sh"
# shellcheck disable=SC1091
. "$here/platform.sh"
# Set by join-gate.env and platform.sh:
# shellcheck disable=SC2154
: "$address" "$python" "$cfssl" "$programs" "$configuration" "$authority" "$gate" "$gate_state" \
    "$owner" "$owner_group" "$authority_user" "$gate_user" "$gate_port" "$health_url"

# A third of the year that profile www gives.
renew_seconds=10512000

check_authority() {
    [ -s "$authority/gate.key" ] ||
        fail "$address: the certificate authority is not set up ($authority/gate.key is not there)"
}

check_pair() {
    openssl req -in "$work/request.pem" -noout -pubkey >"$work/request.pub" 2>/dev/null ||
        fail "$address: the join gate's certificate request cannot be read"
    openssl pkey -in "$work/tls-key.pem" -passin pass: -pubout -out "$work/key.pub" 2>/dev/null ||
        fail "$address: the join gate's private key cannot be read"
    cmp -s "$work/request.pub" "$work/key.pub" ||
        fail "$address: the join gate's private key does not belong to its certificate request"
}

# What the certificate was made from: signed anew when one of these changes.
inputs() {
    {
        cat "$gate/request.pem" "$authority/ca.pem"
        [ ! -e "$gate/renewal" ] || cat "$gate/renewal"
        printf '%s\n' "$address"
    } | openssl dgst -sha256 -r
}

certificate_is_good() {
    [ -s "$gate/tls.pem" ] && [ "$(inputs)" = "$(cat "$gate/tls.inputs" 2>/dev/null)" ] &&
        lives_on "$gate/tls.pem" "$authority/ca.pem" "$renew_seconds"
}

# Signed by CFSSL on this host, with a row in the certdb as every other certificate.
sign() {
    certificate_is_good && return
    as_user "$authority_user" "$cfssl" sign -loglevel 3 -ca "$authority/ca.pem" \
        -ca-key "$authority/ca-key.pem" -config "$authority/config.json" \
        -db-config "$authority/db.json" -profile www -hostname "$address" - \
        <"$gate/request.pem" >"$work/signed.json" ||
        fail "$address: CFSSL did not sign the join gate's certificate"
    "$python" -I -c 'import json, sys; print(json.load(sys.stdin)["cert"], end="")' \
        <"$work/signed.json" >"$work/tls.pem"
    place "$work/tls.pem" "$gate/tls.pem" 644 "$owner" "$gate_user"
    inputs >"$gate/tls.inputs"
}

install_gate() {
    check_root
    check_packages
    check_authority
    check_pair
    check_space "$gate_state"
    check_port "$gate_port" join-gate
    user "$gate_user" 'autojoin join gate'
    folder "$programs" 755 "$owner" "$owner_group"
    folder "$gate" 750 "$owner" "$gate_user"
    folder "$gate_state" 700 "$gate_user" "$gate_user"
    place_programs
    place_gate
    run_service join-gate
    check_health
    settled
    job join-gate-renew
}

place_programs() {
    changes "$work/programs-changed"
    for file in join-gate.sh authority-host.sh platform.sh as-user.py probe.py; do
        place "$work/$file" "$programs/$file" 755 "$owner" "$owner_group"
    done
    place "$work/join-gate.env" "$programs/join-gate.env" 600 "$owner" "$owner_group"
}

place_gate() {
    changes "$gate/restart-due"
    place "$work/gate" "$programs/gate" 755 "$owner" "$owner_group"
    place "$work/gate.json" "$gate/gate.json" 640 "$owner" "$gate_user"
    place_authority
    place "$work/tls-key.pem" "$gate/tls-key.pem" 600 "$gate_user" "$gate_user"
    place "$work/request.pem" "$gate/request.pem" 640 "$owner" "$gate_user"
    [ ! -e "$work/renewal" ] || place "$work/renewal" "$gate/renewal" 640 "$owner" "$gate_user"
    sign
    install_service join-gate
}

# What the gate needs of the certificate authority.
place_authority() {
    place "$authority/trust.pem" "$gate/ca.pem" 640 "$owner" "$gate_user"
    place "$authority/trust.signed" "$gate/trust.signed" 640 "$owner" "$gate_user"
    place "$authority/gate.key" "$gate/upstream.key" 640 "$owner" "$gate_user"
}

check_health() {
    "$python" -I "$programs/probe.py" 10 "$health_url" "$gate/ca.pem" >/dev/null ||
        service_failed join-gate
}

# Also after the certificate authority was set up anew beneath a gate that is here already.
renew() {
    check_root
    check_authority
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    changes "$gate/restart-due"
    place_authority
    sign
    run_service join-gate
    check_health
    settled
}

# Whether the gate's state holds nodes.
registered() {
    "$programs/gate" --settings "$gate/gate.json" status 2>/dev/null | grep -q '"node":'
}

# keep-registered: whoever replaces the service finds the registrations, which are not its own. When
# everything is destroyed they have gone before it.
remove_gate() {
    check_root
    no_job join-gate-renew
    no_service join-gate
    services_gone
    kept=''
    if [ "${1-}" = keep-registered ] && registered; then
        kept=yes
        say "$address: nodes are registered; the join gate's state stays in $gate_state"
    fi
    rm -rf "${gate:?}"
    [ -n "$kept" ] || rm -rf "${gate_state:?}"
    rm -f "$programs/gate" "$programs/join-gate.sh" "$programs/join-gate.env"
    if [ ! -e "$programs/certificate-authority.sh" ]; then
        for file in authority-host.sh platform.sh as-user.py probe.py; do
            rm -f "${programs:?}/$file"
        done
    fi
    rmdir "$programs" "$configuration" 2>/dev/null || :
    if [ -z "$kept" ] && id -u "$gate_user" >/dev/null 2>&1; then
        user_remove "$gate_user" >&2
    fi
}

case ${1-} in
install)
    work=$2
    install_gate
    ;;
renew) renew ;;
remove) remove_gate "${2-}" ;;
*) fail "usage: join-gate.sh install FOLDER | renew | remove [keep-registered]" ;;
esac
