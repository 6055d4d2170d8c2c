#!/bin/sh
# Sets up CFSSL and the OCSP and CRL responder on the certificate authority's host, or removes them.
# usage: certificate-authority.sh install FOLDER   FOLDER: what components/certificate_authority/installation.py packs
#        certificate-authority.sh choose FOLDER    the CFSSL to run, tried; prints what machine this is
#                                                  where one must be brought
#        certificate-authority.sh take FOLDER      takes FOLDER/brought-cfssl, tried
#        certificate-authority.sh pair FOLDER      checks the CA's pair; makes it, once, with generate
#        certificate-authority.sh refresh          a new CRL; the OCSP signer's certificate where due
#        certificate-authority.sh backup [keys]    a tar of certdb, configuration and public parts on
#                                                  standard output; every private key too with `keys`
#        certificate-authority.sh restore FOLDER   from FOLDER/backup, onto a host without a certdb
#        certificate-authority.sh remove           keeps the certdb and the CA's own pair
# Standard output of install and pair: exactly the CA's certificate in PEM.
set -eu
umask 077

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC1091
. "$here/certificate-authority.env"
# shellcheck disable=SC2154
PATH=$path
export PATH
# shellcheck disable=SC1091
. "$here/authority-host.sh"
# shellcheck disable=SC1091
. "$here/platform.sh"
# Set by certificate-authority.env and platform.sh:
# shellcheck disable=SC2154
: "$address" "$python" "$cfssl" "$cfssl_choice" "$own_cfssl" "$cfssl_version" "$cfssl_release" "$disabled" "$programs" "$authority_user" "$configuration" "$authority" "$authority_state" \
    "$gate" "$gate_state" "$gate_user" "$certdb" "$owner" "$owner_group" "$source" "$source_certificate" "$source_key" "$also_certificate" "$also_key" "$info_url" "$info_port" "$responder_url" \
    "$responder_port"

# A third of the three years that profile ocsp gives.
renew_seconds=31536000

# --- what must be right before anything on the host changes ---------------------------------------

where="$address: certificateAuthority"

# What is trusted is $work/trust.pem: the certificate of the CA that signs, and after it the other one's.
check_pair() {
    check_one ca "$where" "$source_certificate" "$source_key"
    signer=$identifier also=
    cp "$work/ca.pem" "$work/trust.pem"
    if [ -n "$also_certificate" ]; then
        check_one also "$where.also" "$also_certificate" "$also_key"
        also=$identifier
        [ "$also" != "$signer" ] || fail "$where.also: $also_certificate is of the CA that signs; give another one's"
        cat "$work/also.pem" >>"$work/trust.pem"
    fi
    if [ -s "$work/known-ca.pem" ]; then
        cmp -s "$work/known-ca.pem" "$work/trust.pem" ||
            fail "$where.certificate: $source_certificate is another one than nodes were given; \
where that is meant: pulumi up --replace '**::ca-pair'"
    fi
    check_replacement
}

# check_one NAME SETTING CERTIFICATE KEY: the pair is good; its certificate becomes $work/NAME.pem.
check_one() {
    [ -f "$3" ] || fail "$2.certificate: $3 is not there; put the CA's certificate there"
    [ -f "$4" ] || fail "$2.key: $4 is not there; put the CA's key there"
    openssl x509 -in "$3" -out "$work/$1.pem" 2>/dev/null || fail "$2.certificate: $3 is no certificate in PEM"
    # An empty pass phrase, rather than a question that nobody answers.
    openssl pkey -in "$4" -passin pass: -pubout -out "$work/key.pub" 2>/dev/null ||
        fail "$2.key: $4 is no private key in PEM, or has a pass phrase; give it plain"
    openssl x509 -in "$work/$1.pem" -noout -pubkey >"$work/ca.pub"
    cmp -s "$work/ca.pub" "$work/key.pub" || fail "$2.key: $4 does not belong to $3"
    check_authority "$work/$1.pem" "$2.certificate: $3"
}

# check_authority CERTIFICATE WHICH
check_authority() {
    openssl x509 -in "$1" -noout -text | grep -q 'CA:TRUE' || fail "$2 is no CA (basicConstraints lacks CA:TRUE)"
    may_sign Certificate "$1" || fail "$2 may not sign (keyUsage lacks Certificate Sign)"
    # Without it certificates have no authority key identifier, by which CFSSL revokes.
    identifier=$(identifier_of "$1")
    [ -n "$identifier" ] || fail "$2 has no subjectKeyIdentifier: CFSSL could not revoke"
    openssl x509 -in "$1" -noout -checkend 0 >/dev/null ||
        fail "$2 has expired ($(openssl x509 -in "$1" -noout -enddate))"
}

# As the certdb names a CA.
identifier_of() {
    openssl x509 -in "$1" -noout -text | sed -n '/Subject Key Identifier/{n;s/[: ]//g;p;}' | tr 'A-F' 'a-f'
}

# Where other CAs are to be trusted than before, or another one is to sign, the gate knows which nodes
# could not follow.
check_replacement() {
    [ -x "$programs/gate" ] && [ -s "$gate/ca.pem" ] && ! cmp -s "$work/trust.pem" "$gate/ca.pem" || return 0
    "$programs/gate" --settings "$gate/gate.json" replace <"$work/trust.pem" 2>"$work/replace.log" && return
    ! grep -q '^usage:' "$work/replace.log" ||
        fail "$where: the join gate here is an older one; run pulumi up without another CA first; nothing was changed"
    fail "$where: $(sed 's/^gate replace: //' "$work/replace.log")
nothing was changed; wait until they have followed (make status), raise their generation, or remove them"
}

# may_sign KIND CERTIFICATE: whether its keyUsage, where it has one, lets it sign certificates or CRLs.
# kubeadm's CA may not sign a CRL: there is none then, and OCSP, with its own signer, tells all.
may_sign() {
    usages=$(openssl x509 -in "$2" -noout -text | sed -n '/X509v3 Key Usage/{n;p;}')
    case $usages in '' | *"$1 Sign"*) return 0 ;; esac
    return 1
}

# Whether the CA's own key can be signed with: one that is somewhere else than in its file can't.
check_cfssl() {
    sqlite3 "$work/try.sqlite" <"$work/certdb.sql" >/dev/null
    printf '{"driver": "sqlite3", "data_source": "%s"}\n' "$work/try.sqlite" >"$work/try.json"
    printf '{"signing": {"default": {"expiry": "1h", "usages": ["ocsp signing"]}}}\n' >"$work/try-config.json"
    "$cfssl" sign -loglevel 3 -db-config "$work/try.json" -ca "$work/ca.pem" -ca-key "$source_key" \
        -config "$work/try-config.json" - <"$work/ocsp-request.pem" \
        >"$work/tried.json" 2>"$work/try.log" || :
    field cert <"$work/tried.json" 2>/dev/null | openssl x509 -noout 2>/dev/null ||
        fail "$address: $cfssl cannot sign with $source_key: $(tail -n 1 "$work/try.log")"
}

# CFSSL's 13 columns in their order; the last five but one came with its second migration.
base_columns="serial_number authority_key_identifier ca_label status reason expiry revoked_at pem"
later_columns="issued_at not_before metadata sans common_name"

check_certdb() {
    [ -s "$certdb" ] || return 0
    columns=$(ask_certdb "SELECT name FROM pragma_table_info('certificates')") || certdb_failed
    missing=
    for column in $base_columns $later_columns; do
        printf '%s\n' "$columns" | grep -qx "$column" || missing="$missing $column"
    done
    for column in $base_columns; do
        case " $missing " in *" $column "*)
            fail "$address: $certdb: is no certdb of CFSSL, its table certificates lacks:$missing; move it away" ;;
        esac
    done
    others=$(ask_certdb "SELECT count(*) FROM certificates WHERE authority_key_identifier NOT IN ($(own_authorities))") ||
        certdb_failed
    [ "$others" = 0 ] ||
        fail "$address: $certdb holds $others certificates of another CA, not of $source_certificate; \
give that CA's pair, or move the certdb away"
    ask_certdb "BEGIN IMMEDIATE; ROLLBACK" >/dev/null || certdb_failed
}

# The CAs whose certificates may be in the certdb, for SQL: those that are trusted, and those that were
# until they had been replaced.
own_authorities() {
    printf "'%s', '%s'" "$signer" "$also"
    if followed; then installed_authorities; fi | cat - "$authority_state/former-authorities" 2>/dev/null |
        while read -r each; do printf ", '%s'" "$each"; done
}

installed_authorities() {
    for file in "$authority/ca.pem" "$authority/also.pem"; do
        [ ! -s "$file" ] || identifier_of "$file"
    done
}

# Whether the CA that is to sign was trusted before.
followed() {
    installed_authorities | grep -qx "$signer"
}

# As its owner, so that the database's own files stay his.
ask_certdb() {
    asker=root
    if id -u "$authority_user" >/dev/null 2>&1; then asker=$authority_user; fi
    as_user "$asker" sqlite3 -bail -cmd '.timeout 10000' "$certdb" "$1" 2>"$work/certdb.log"
}

certdb_failed() {
    if grep -q 'locked' "$work/certdb.log"; then
        fail "$address: $certdb is locked by another program; end that one (fuser $certdb names it)"
    fi
    fail "$address: $certdb cannot be read: $(tail -n 1 "$work/certdb.log"); move it away, or restore it from a backup"
}

check_everything() {
    check_root
    check_packages
    check_space "$authority_state"
    check_space "$authority"
    check_pair
    check_cfssl
    check_certdb
    check_port "$info_port" cfssl
    check_port "$responder_port" ocsp-responder
}

# --- the CFSSL that is run ------------------------------------------------------------------------

# fits PROGRAM: it does all that is asked of it; what it lacks, behind its version, is in $unfit.
fits() {
    unfit=$("$python" -I "$work/try-cfssl.py" "$1" "$work" "$disabled")
}

# The host's own where it fits, one that was brought before, or a line that asks for one.
choose_cfssl() {
    check_root
    check_packages
    case $cfssl_choice in
    /*)
        fits "$cfssl" || fail "$where.cfssl: $cfssl does not do, version $unfit; \
give another path, or auto to have one brought"
        return
        ;;
    auto)
        if [ -x "$own_cfssl" ]; then
            if fits "$own_cfssl"; then
                use_own
                return
            fi
            say "$address: $own_cfssl does not do, version $unfit; CFSSL $cfssl_version is brought"
        fi
        ;;
    esac
    if [ ! -x "$cfssl" ] || [ -h "$cfssl" ] || [ "$(cat "$cfssl.release" 2>/dev/null)" != "$cfssl_release" ] ||
        ! fits "$cfssl"; then
        uname -m
    fi
}

use_own() {
    [ "$(readlink "$cfssl" 2>/dev/null)" != "$own_cfssl" ] || return 0
    folder "$programs" 755 "$owner" "$owner_group"
    rm -f "$cfssl.new"
    ln -s "$own_cfssl" "$cfssl.new"
    mv -f "$cfssl.new" "$cfssl"
    rm -f "$cfssl.release"
}

take_cfssl() {
    check_root
    chmod 755 "$work/brought-cfssl"
    fits "$work/brought-cfssl" ||
        fail "$address: the CFSSL that was brought does not do here, version $unfit; install one there, \
and give its path as certificateAuthority.cfssl"
    check_space "$programs"
    folder "$programs" 755 "$owner" "$owner_group"
    rm -f "$cfssl.new"
    cp "$work/brought-cfssl" "$cfssl.new"
    chown "$owner:$owner_group" "$cfssl.new"
    chmod 755 "$cfssl.new" # its service runs it as another user
    mv -f "$cfssl.new" "$cfssl"
    printf '%s\n' "$cfssl_release" >"$cfssl.release"
    say "$address: CFSSL $cfssl_version was brought: $cfssl"
}

# --- the CA's pair ----------------------------------------------------------------------------------

pair() {
    check_root
    check_packages
    if [ "$source" = generate ]; then
        [ -e "$source_certificate" ] || check_first
        make_pair "$where" "$source_certificate" "$source_key"
        [ -z "$also_certificate" ] || make_pair "$where.also" "$also_certificate" "$also_key"
    fi
    check_pair
    cat "$work/trust.pem"
}

# make_pair SETTING CERTIFICATE KEY: never replaces anything: what is there is checked and told.
make_pair() {
    if [ -e "$2" ]; then
        [ -e "$3" ] || fail "$1.key: $3 is not there, but its certificate $2 is; \
put the key back, or move the certificate away for a new CA"
    else
        check_space "$2"
        sign_itself "$2" "$3"
    fi
}

# One that signs is made for a certdb that holds nothing yet.
check_first() {
    [ ! -s "$certdb" ] || [ "$(ask_certdb 'SELECT count(*) FROM certificates')" = 0 ] ||
        fail "$where.certificate: $source_certificate is not there, but $certdb holds certificates of an earlier CA; \
put its pair back (make ca-restore), or move the certdb away for a new CA; for another CA in its place name it as also"
}

# sign_itself CERTIFICATE KEY. A key without a certificate is one that an interrupted run left: it is used.
sign_itself() {
    for path in "$2" "$1"; do
        [ -d "$(dirname "$path")" ] || folder "$(dirname "$path")" 755 "$owner" "$owner_group"
    done
    if [ ! -e "$2" ]; then
        openssl ecparam -name prime256v1 -genkey -noout -out "$2.new"
        chmod 600 "$2.new"
        mv "$2.new" "$2"
    fi
    name_apart "$1" <"$work/authority.json" >"$work/request.json"
    "$cfssl" gencert -loglevel 3 -initca -ca-key "$2" "$work/request.json" >"$work/made.json" ||
        fail "$address: CFSSL did not make the CA's certificate"
    field cert <"$work/made.json" >"$1.new"
    chmod 644 "$1.new"
    mv "$1.new" "$1"
    say "$address: a new certificate authority: $1, $2"
}

# A CA beside another one has another name: OpenSSL tells two of one name apart only by an identifier,
# which not every certificate has.
name_apart() {
    "$python" -I -c '
import json, os, sys
request, name = json.load(sys.stdin), os.path.splitext(os.path.basename(sys.argv[1]))[0]
request["CN"] += "" if name == "ca" else f" {name}"
json.dump(request, sys.stdout)
' "$1"
}

# --- the certdb -----------------------------------------------------------------------------------

make_certdb() {
    if [ -s "$certdb" ]; then
        [ -z "$missing" ] || migrate_certdb
        return
    fi
    # Made beside and moved: an interrupted run leaves none rather than half of one.
    rm -f "$certdb.new" "$certdb.new-wal" "$certdb.new-shm"
    as_authority sqlite3 -bail "$certdb.new" <"$work/certdb.sql" >/dev/null
    mv "$certdb.new" "$certdb"
}

# An older CFSSL's: what it lacks is added in one transaction, after a copy.
migrate_certdb() {
    say "$address: $certdb: an older schema; added:$missing (a copy: $certdb.before-migration)"
    [ -s "$certdb.before-migration" ] || ask_certdb ".backup '$certdb.before-migration'" || certdb_failed
    statements=
    for column in $missing; do
        case $column in
        issued_at | not_before) kind=timestamp ;;
        *) kind=blob ;;
        esac
        statements="$statements ALTER TABLE certificates ADD COLUMN $column $kind;"
    done
    index="CREATE INDEX IF NOT EXISTS certificates_common_name ON certificates (common_name);"
    ask_certdb "BEGIN IMMEDIATE; $statements $index COMMIT" >/dev/null || certdb_failed
    note certdb.sqlite
}

as_authority() {
    as_user "$authority_user" "$@"
}

# --- revocation status: the OCSP signer's certificate, and the CRL ----------------------------------

# Run by the host's own job as the authority's user; root becomes that one.
refresh() {
    [ "$(id -u)" != 0 ] || watch_services
    if [ "$(id -u)" = 0 ] && [ "$(id -u "$authority_user")" != 0 ]; then
        as_authority "$programs/certificate-authority.sh" refresh
        return
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    refresh_for ca ocsp
    [ ! -s "$authority/also.pem" ] || refresh_for also also-ocsp
}

# refresh_for AUTHORITY SIGNER: by their files' names.
refresh_for() {
    [ ! -s "$authority/ocsp-request.pem" ] || signer_is_good "$@" || sign_signer "$@"
    may_sign CRL "$authority/$1.pem" || {
        rm -f "$authority_state/$1.crl"
        return 0
    }
    "$cfssl" crl -loglevel 3 -db-config "$authority/db.json" -ca "$authority/$1.pem" \
        -ca-key "$authority/$1-key.pem" -expiry 24h >"$work/crl" || fail "$address: CFSSL made no CRL"
    deliver "$1.crl" decoded <"$work/crl"
}

signer_is_good() {
    [ -s "$authority_state/$2.pem" ] &&
        [ "$(signer_inputs "$1")" = "$(cat "$authority_state/$2.inputs" 2>/dev/null)" ] &&
        lives_on "$authority_state/$2.pem" "$authority/$1.pem" "$renew_seconds"
}

# What the certificate was made from: signed anew when one of these changes.
signer_inputs() {
    cat "$authority/ocsp-request.pem" "$authority/$1.pem" | openssl dgst -sha256 -r
}

sign_signer() {
    "$cfssl" sign -loglevel 3 -ca "$authority/$1.pem" -ca-key "$authority/$1-key.pem" \
        -config "$authority/config.json" -db-config "$authority/db.json" -profile ocsp - \
        <"$authority/ocsp-request.pem" >"$work/signed.json" ||
        fail "$address: CFSSL did not sign the OCSP signer's certificate"
    deliver "$2.pem" field cert <"$work/signed.json"
    signer_inputs "$1" | deliver "$2.inputs" cat
}

# deliver NAME COMMAND...: what the command makes becomes the file NAME, whole or not at all.
deliver() {
    delivery=$(mktemp "$authority_state/delivery.XXXXXX")
    name=$1
    shift
    "$@" >"$delivery" || {
        rm -f "$delivery"
        fail "$address: $name could not be made"
    }
    mv -f "$delivery" "$authority_state/$name"
}

field() {
    "$python" -I -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]], end="")' "$1"
}

decoded() {
    "$python" -I -c 'import base64, sys; sys.stdout.buffer.write(base64.b64decode(sys.stdin.read()))'
}

# --- install --------------------------------------------------------------------------------------

install_authority() {
    check_everything
    user "$authority_user" 'CFSSL certificate authority'
    folder "$programs" 755 "$owner" "$owner_group"
    folder "$configuration" 755 "$owner" "$owner_group"
    folder "$authority" 750 "$owner" "$authority_user"
    folder "$authority_state" 700 "$authority_user" "$authority_user"
    place_programs
    install_cfssl
    install_responder
    job revocation-refresh
    update_gate
    cat "$work/trust.pem"
}

place_programs() {
    changes "$work/programs-changed"
    for file in certificate-authority.sh authority-host.sh platform.sh as-user.py probe.py; do
        place "$work/$file" "$programs/$file" 755 "$owner" "$owner_group"
    done
    place "$work/certificate-authority.env" "$programs/certificate-authority.env" 644 "$owner" "$owner_group"
}

install_cfssl() {
    note_former
    changes "$authority/restart-due"
    make_certdb
    secret "$authority/gate.key" "$authority_user"
    secret "$authority/operator.key" "$authority_user"
    place "$work/ca.pem" "$authority/ca.pem" 640 "$owner" "$authority_user"
    place "$source_key" "$authority/ca-key.pem" 600 "$authority_user" "$authority_user"
    fit_configuration
    place "$work/config.json" "$authority/config.json" 640 "$owner" "$authority_user"
    place "$work/db.json" "$authority/db.json" 640 "$owner" "$authority_user"
    openssl dgst -sha256 -r "$cfssl" >"$work/cfssl.sha256"
    place "$work/cfssl.sha256" "$authority/cfssl.sha256" 640 "$owner" "$authority_user"
    install_service cfssl
    run_service cfssl
    check_health
    settled
}

# What of CFSSL's configuration the CA decides: no certificate outlives it, for openssl and Go refuse
# it and all of its certificates on one day; and none names a CRL that it may not sign.
fit_configuration() {
    crl=yes
    may_sign CRL "$work/ca.pem" || crl=
    end=$(openssl x509 -in "$work/ca.pem" -noout -enddate)
    "$python" -I -c '
import datetime, json, ssl, sys
path, end, crl = sys.argv[1:]
end = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(end), datetime.timezone.utc)
left = (end - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 3600
data = json.load(open(path))
signing = data["signing"]
for profile in (signing["default"], *signing["profiles"].values()):
    if int(profile["expiry"][:-1]) >= left:
        profile["not_after"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    if not crl:
        profile.pop("crl_url", None)
json.dump(data, open(path, "w"), indent=2)
sys.exit(3 if "not_after" in signing["profiles"]["kubelet"] else 0)
' "$work/config.json" "${end#*=}" "$crl" || {
        [ "$?" = 3 ] || fail "$address: CFSSL's configuration cannot be made"
        say "$where.certificate: $source_certificate ends on ${end#*=}, before nodes' certificates would: theirs end with it"
    }
}

# CFSSL stays up without its key and only warns: what it answers counts.
check_health() {
    "$python" -I "$work/probe.py" 10 "$info_url" >"$work/answered.pem" || service_failed cfssl
    openssl x509 -in "$work/answered.pem" -out "$work/answered.pem" 2>/dev/null || :
    cmp -s "$work/answered.pem" "$work/ca.pem" ||
        fail "$address: port $info_port answers with another CA; look there: $(port_owner "$info_port")"
}

install_responder() {
    changes "$authority/responder-restart-due"
    place "$work/responder.py" "$programs/responder.py" 755 "$owner" "$owner_group"
    place "$work/responder.json" "$authority/responder.json" 640 "$owner" "$authority_user"
    place "$work/ocsp-key.pem" "$authority/ocsp-key.pem" 600 "$authority_user" "$authority_user"
    place "$work/ocsp-request.pem" "$authority/ocsp-request.pem" 640 "$owner" "$authority_user"
    # Its own copy, so that another certificate restarts it too.
    place "$work/ca.pem" "$authority/responder-ca.pem" 640 "$owner" "$authority_user"
    install_trust
    as_authority "$programs/certificate-authority.sh" refresh
    install_service ocsp-responder
    run_service ocsp-responder
    check_responder
    settled
}

# What nodes are told to trust, the other CA beside the one that signs, and who vouches for both.
install_trust() {
    if [ -n "$also" ]; then
        place "$work/also.pem" "$authority/also.pem" 640 "$owner" "$authority_user"
        place "$also_key" "$authority/also-key.pem" 600 "$authority_user" "$authority_user"
    else
        for file in "$authority/also.pem" "$authority/also-key.pem" "$authority_state/also.crl" \
            "$authority_state/also-ocsp.pem" "$authority_state/also-ocsp.inputs"; do
            remember "$file"
            rm -f "$file"
        done
    fi
    if ! cmp -s "$work/trust.pem" "$authority/trust.pem" || [ ! -s "$authority/trust.signed" ]; then sign_trust; fi
    place "$work/trust.pem" "$authority/trust.pem" 640 "$owner" "$authority_user"
}

# By each CA, since a node may trust one of them alone. A signature is another one each time.
sign_trust() {
    for key in "$source_key" ${also:+"$also_key"}; do
        openssl dgst -sha256 -sign "$key" -passin pass: -out "$work/trust.sha256" "$work/trust.pem" 2>"$work/sign.log" || {
            [ -z "$also" ] || fail "$address: openssl cannot sign with $key: $(tail -n 1 "$work/sign.log")"
            continue
        }
        printf 'signature %s\n' "$(openssl base64 -A -in "$work/trust.sha256")"
    done >"$work/trust.signatures"
    { cat "$work/trust.signatures"; printf '\n'; cat "$work/trust.pem"; } >"$work/trust.signed"
    place "$work/trust.signed" "$authority/trust.signed" 640 "$owner" "$authority_user"
}

# A CA that is trusted no more has certificates in the certdb, which is no fault.
note_former() {
    if ! followed; then return 0; fi
    installed_authorities | while read -r each; do
        case $each in "$signer" | "$also") continue ;; esac
        grep -qx "$each" "$authority_state/former-authorities" 2>/dev/null ||
            printf '%s\n' "$each" >>"$authority_state/former-authorities"
    done
}

# check_crl AUTHORITY
check_crl() {
    "$python" -I "$work/probe.py" 10 "$responder_url/$1.crl" >"$work/answered.crl" || service_failed ocsp-responder
    openssl crl -inform DER -in "$work/answered.crl" -noout -CAfile "$work/$1.pem" 2>"$work/answered.log" ||
        service_failed ocsp-responder
}

# As a relying party asks: the answer about the signer's own certificate, and the CRL. The CA may be
# an intermediate one: what is pinned is trusted, without a chain above it.
check_responder() {
    tries=200 # of a twentieth of a second or more
    until "$python" -I "$work/probe.py" taken "$responder_port" || [ "$tries" = 0 ]; do
        tries=$((tries - 1))
    done
    check_answers ca ocsp
    [ -z "$also" ] || check_answers also also-ocsp
}

# check_answers AUTHORITY SIGNER
check_answers() {
    if may_sign CRL "$work/$1.pem"; then check_crl "$1"; fi
    openssl ocsp -issuer "$work/$1.pem" -CAfile "$work/$1.pem" -partial_chain -cert "$authority_state/$2.pem" \
        -url "$responder_url" >"$work/answered.ocsp" 2>"$work/answered.log" || service_failed ocsp-responder
    grep -q ': good' "$work/answered.ocsp" || {
        cat "$work/answered.ocsp" "$work/answered.log" >&2
        service_failed ocsp-responder
    }
}

# A join gate that is here already must know this key and this certificate.
update_gate() {
    [ ! -x "$programs/join-gate.sh" ] || "$programs/join-gate.sh" renew >&2
}

# --- backup and restore ---------------------------------------------------------------------------

backup() {
    check_root
    [ -s "$certdb" ] || fail "$address: there is no certificate authority here: $certdb is not there"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/backup"
    copy_database "$authority_user" "$certdb" "$authority_state" certdb.sqlite
    for file in ca.pem also.pem config.json db.json ocsp-request.pem; do
        if [ -e "$authority/$file" ]; then cp "$authority/$file" "$work/backup/$file"; fi
    done
    for file in ocsp.pem ocsp.inputs ca.crl former-authorities; do
        if [ -e "$authority_state/$file" ]; then cp "$authority_state/$file" "$work/backup/$file"; fi
    done
    [ "$1" != keys ] || backup_keys
    (cd "$work/backup" && openssl dgst -sha256 -r ./* >"$work/MANIFEST")
    mv "$work/MANIFEST" "$work/backup/MANIFEST"
    (cd "$work/backup" && tar -cf - ./*)
}

# With the keys, and what the join gate knows, a host can be made that nothing tells from this one.
backup_keys() {
    for file in ca-key.pem also-key.pem ocsp-key.pem gate.key operator.key; do
        if [ -e "$authority/$file" ]; then cp "$authority/$file" "$work/backup/$file"; fi
    done
    [ -s "$gate_state/gate.sqlite" ] || return 0
    for file in tls-key.pem request.pem tls.pem tls.inputs renewal; do
        [ ! -e "$gate/$file" ] || cp "$gate/$file" "$work/backup/$file"
    done
    copy_database "$gate_user" "$gate_state/gate.sqlite" "$gate_state" gate.sqlite
}

# copy_database USER DATABASE FOLDER NAME: sqlite's own backup, whole whoever writes meanwhile.
copy_database() {
    rm -f "$3/backup.sqlite"
    as_user "$1" sqlite3 -bail -cmd '.timeout 10000' "$2" ".backup '$3/backup.sqlite'" 2>"$work/certdb.log" ||
        certdb_failed
    [ "$(as_user "$1" sqlite3 "$3/backup.sqlite" 'PRAGMA quick_check; PRAGMA journal_mode=DELETE')" = "ok
delete" ] || fail "$address: $2: its copy is damaged; nothing was saved"
    mv "$3/backup.sqlite" "$work/backup/$4"
}

# Nothing that is there is replaced: a certdb is kept, a pair must be the same.
restore() {
    check_root
    check_packages
    check_space "$authority_state"
    saved=$work/backup
    [ ! -s "$certdb" ] || fail "$address: $certdb is here already; nothing was restored; \
move it away, where what is in the backup is to replace it"
    restored_pair ca.pem "$source_certificate" 644 certificate
    restored_pair ca-key.pem "$source_key" 600 key
    if [ -n "$also_certificate" ]; then
        restored_pair also.pem "$also_certificate" 644 also.certificate
        restored_pair also-key.pem "$also_key" 600 also.key
    fi
    check_pair
    user "$authority_user" 'CFSSL certificate authority'
    folder "$configuration" 755 "$owner" "$owner_group"
    folder "$authority" 750 "$owner" "$authority_user"
    folder "$authority_state" 700 "$authority_user" "$authority_user"
    changes "$work/restore-changed"
    for file in gate.key operator.key; do
        [ ! -s "$saved/$file" ] || place "$saved/$file" "$authority/$file" 640 "$owner" "$authority_user"
    done
    place "$saved/certdb.sqlite" "$certdb" 600 "$authority_user" "$authority_user"
    as_authority sqlite3 "$certdb" 'PRAGMA journal_mode=WAL' >/dev/null
    for file in ocsp.pem ocsp.inputs former-authorities; do
        [ ! -s "$saved/$file" ] ||
            place "$saved/$file" "$authority_state/$file" 600 "$authority_user" "$authority_user"
    done
    say "$address: restored: $certdb, $source_certificate"
    if [ -s "$saved/ocsp-key.pem" ]; then
        cp "$saved/ocsp-key.pem" "$saved/ocsp-request.pem" "$work"
        install_authority >/dev/null
        restore_gate
    fi
}

# restored_pair NAME PATH MODE SETTING: the backup's file in its place, or the same one there already.
restored_pair() {
    if [ ! -s "$saved/$1" ]; then
        [ -e "$2" ] || fail "$where.$4: the backup was made without keys, and $2 is not there; put it there first"
    elif [ -e "$2" ]; then
        cmp -s "$saved/$1" "$2" ||
            fail "$where.$4: $2 is there already, and is not the one of the backup; nothing was restored"
    else
        [ -d "$(dirname "$2")" ] || folder "$(dirname "$2")" 755 "$owner" "$owner_group"
        cp "$saved/$1" "$2.new"
        chmod "$3" "$2.new"
        mv "$2.new" "$2"
    fi
}

restore_gate() {
    [ -s "$saved/gate.sqlite" ] || return 0
    cp "$saved/tls-key.pem" "$saved/request.pem" "$work"
    # Backups of before there was such a file have none.
    [ ! -e "$saved/renewal" ] || cp "$saved/renewal" "$work"
    user "$gate_user" 'autojoin join gate'
    folder "$gate" 750 "$owner" "$gate_user"
    folder "$gate_state" 700 "$gate_user" "$gate_user"
    changes "$work/restore-changed"
    place "$saved/tls.pem" "$gate/tls.pem" 644 "$owner" "$gate_user"
    place "$saved/tls.inputs" "$gate/tls.inputs" 600 "$owner" "$owner_group"
    [ -s "$gate_state/gate.sqlite" ] ||
        place "$saved/gate.sqlite" "$gate_state/gate.sqlite" 600 "$gate_user" "$gate_user"
    sh "$work/join-gate.sh" install "$work"
}

# --- remove ---------------------------------------------------------------------------------------

remove_authority() {
    check_root
    no_job revocation-refresh
    no_service ocsp-responder
    no_service cfssl
    services_gone
    rm -rf "${authority:?}"
    for file in ocsp.pem ocsp.inputs ca.crl also-ocsp.pem also-ocsp.inputs also.crl; do
        rm -f "${authority_state:?}/$file"
    done
    rm -f "$programs/certificate-authority.sh" "$programs/certificate-authority.env" "$programs/responder.py"
    rm -f "$programs/cfssl" "$programs/cfssl.release"
    tidy
    say "$address: CFSSL removed; kept: $certdb (and user $authority_user, who owns it), $source_certificate, $source_key"
}

# What the join gate still needs stays.
tidy() {
    if [ ! -e "$programs/join-gate.sh" ]; then
        for file in authority-host.sh platform.sh as-user.py probe.py; do
            rm -f "${programs:?}/$file"
        done
    fi
    rmdir "$programs" "$configuration" 2>/dev/null || :
}

case ${1-} in
install)
    work=$2
    install_authority
    ;;
choose)
    work=$2
    choose_cfssl
    ;;
take)
    work=$2
    take_cfssl
    ;;
pair)
    work=$2
    pair
    ;;
refresh) refresh ;;
backup) backup "${2-}" ;;
restore)
    work=$2
    restore
    ;;
remove) remove_authority ;;
*) fail "usage: certificate-authority.sh install FOLDER | choose FOLDER | take FOLDER | pair FOLDER | refresh | backup [keys] | restore FOLDER | remove" ;;
esac
