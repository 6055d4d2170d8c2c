#!/bin/sh
# Sets up CFSSL on the certificate authority's host, or removes it.
# usage: certificate-authority.sh install FOLDER   FOLDER: what render/certificate_authority.py packs
#        certificate-authority.sh remove           keeps the certdb and the CA's own pair
# Standard output of install: exactly the CA's certificate in PEM.
set -eu
umask 077

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC1091
. "$here/certificate-authority.env"
# shellcheck disable=SC1091
. "$here/authority-host.sh"
# Set by certificate-authority.env:
# shellcheck disable=SC2154
: "$address" "$cfssl" "$programs" "$authority_user" "$configuration" "$authority" "$authority_state" "$certdb" \
    "$units" "$source_certificate" "$source_key" "$info_url"

# The pair must be good before anything on the host changes.
check_pair() {
    where="$address: certificateAuthority"
    [ -f "$source_certificate" ] ||
        fail "$where.certificate: $source_certificate is not there; put the CA's certificate there"
    [ -f "$source_key" ] || fail "$where.key: $source_key is not there; put the CA's key there"
    openssl x509 -in "$source_certificate" -out "$work/ca.pem" 2>/dev/null ||
        fail "$where.certificate: $source_certificate is no certificate in PEM"
    # An empty pass phrase, rather than a question that nobody answers.
    openssl pkey -in "$source_key" -passin pass: -pubout -out "$work/ca-key.pub" 2>/dev/null ||
        fail "$where.key: $source_key is no private key in PEM, or has a pass phrase; give it plain"
    openssl x509 -in "$work/ca.pem" -noout -pubkey >"$work/ca.pub"
    cmp -s "$work/ca.pub" "$work/ca-key.pub" ||
        fail "$where.key: $source_key does not belong to $source_certificate"
    check_authority
}

check_authority() {
    openssl x509 -in "$work/ca.pem" -noout -text >"$work/ca.txt"
    grep -q 'CA:TRUE' "$work/ca.txt" ||
        fail "$where.certificate: $source_certificate is no CA (basicConstraints lacks CA:TRUE)"
    if grep -q 'X509v3 Key Usage' "$work/ca.txt"; then
        grep -q 'Certificate Sign' "$work/ca.txt" ||
            fail "$where.certificate: $source_certificate may not sign (keyUsage lacks keyCertSign)"
    fi
    # Without it certificates have no authority key identifier, by which CFSSL revokes.
    grep -q 'Subject Key Identifier' "$work/ca.txt" ||
        fail "$where.certificate: $source_certificate has no subjectKeyIdentifier: CFSSL could not revoke"
    openssl x509 -in "$work/ca.pem" -noout -checkend 0 >/dev/null ||
        fail "$where.certificate: $source_certificate has expired ($(openssl x509 -in "$work/ca.pem" -noout -enddate))"
}

make_certdb() {
    if [ -s "$certdb" ]; then
        columns=$(as_authority sqlite3 "$certdb" 'SELECT count(*) FROM pragma_table_info("certificates")')
        [ "$columns" = 13 ] ||
            fail "$address: $certdb: table certificates must have 13 columns, found $columns; move it away"
        return
    fi
    # Made beside and moved: an interrupted run leaves none rather than half of one.
    rm -f "$certdb.new" "$certdb.new-wal" "$certdb.new-shm"
    as_authority sqlite3 "$certdb.new" <"$work/certdb.sql" >/dev/null
    mv "$certdb.new" "$certdb"
}

as_authority() {
    runuser -u "$authority_user" -- "$@"
}

install_authority() {
    check_root
    check_packages
    check_pair
    user "$authority_user" 'CFSSL certificate authority'
    folder "$programs" 755 root root
    folder "$configuration" 755 root root
    folder "$authority" 750 root "$authority_user"
    folder "$authority_state" 700 "$authority_user" "$authority_user"
    changes "$work/programs-changed"
    for file in certificate-authority.sh authority-host.sh probe.py; do
        place "$work/$file" "$programs/$file" 755 root root
    done
    place "$work/certificate-authority.env" "$programs/certificate-authority.env" 600 root root
    changes "$authority/restart-due"
    make_certdb
    secret "$authority/gate.key" "$authority_user"
    secret "$authority/operator.key" "$authority_user"
    place "$work/ca.pem" "$authority/ca.pem" 640 root "$authority_user"
    place "$source_key" "$authority/ca-key.pem" 600 "$authority_user" "$authority_user"
    place "$work/config.json" "$authority/config.json" 640 root "$authority_user"
    place "$work/db.json" "$authority/db.json" 640 root "$authority_user"
    place "$work/cfssl.service" "$units/cfssl.service" 644 root root
    service cfssl.service
    check_health
    update_gate
    cat "$work/ca.pem"
}

# A join gate that is here already must know this key and this certificate.
update_gate() {
    [ ! -x "$programs/join-gate.sh" ] || "$programs/join-gate.sh" renew >&2
}

# CFSSL stays up without its key and only warns: what it answers counts.
check_health() {
    /usr/bin/python3 -I "$work/probe.py" 10 "$info_url" >"$work/answered.pem" ||
        service_failed cfssl.service
    openssl x509 -in "$work/answered.pem" -out "$work/answered.pem" 2>/dev/null || :
    cmp -s "$work/answered.pem" "$work/ca.pem" ||
        fail "$address: port 8888 answers with another CA; look there: ss -ltnp 'sport = :8888'"
}

remove_authority() {
    check_root
    no_service cfssl.service
    systemctl daemon-reload
    rm -rf "${authority:?}"
    rm -f "$programs/certificate-authority.sh" "$programs/certificate-authority.env"
    tidy
    say "$address: CFSSL removed; kept: $certdb (and user $authority_user, who owns it), $source_certificate, $source_key"
}

# What the join gate still needs stays.
tidy() {
    if [ ! -e "$programs/join-gate.sh" ]; then
        rm -f "$programs/authority-host.sh" "$programs/probe.py"
    fi
    rmdir "$programs" "$configuration" 2>/dev/null || :
}

case ${1-} in
install)
    work=$2
    install_authority
    ;;
remove) remove_authority ;;
*) fail "usage: certificate-authority.sh install FOLDER | remove" ;;
esac
