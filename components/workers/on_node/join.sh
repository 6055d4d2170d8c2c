#!/bin/sh
# Makes this machine a node of its cluster: a key made here, a certificate from the join gate, the kubelet.
# usage: join                 join, where that is still to be done
#        join renew [--now]   another key and certificate for a node that has joined, where due
#
# Every run goes through the same phases and keeps what an earlier one finished, so that a power cut
# at any line, and then a boot, still ends in a joined node. /etc/autojoin/join-key is there until the
# node is Ready. Needs openssl and curl. No secret is ever an argument of a process: what `printf`
# and `read` get stays in this shell.
set -eu
umask 077
export LC_ALL=C

ROOT=${AUTOJOIN_ROOT:-} # tests run it in a folder of their own
ETC=$ROOT/etc/autojoin
AUTHORITY=$ETC/ca.pem # of every CA that is trusted, the one that signs first
AUTHORITIES=$ETC/authorities.pem
JOIN_KEY=$ETC/join-key
STATE=$ROOT/var/lib/autojoin
PKI=$ROOT/var/lib/kubelet/pki
KEY=$PKI/kubelet.key
CERTIFICATE=$PKI/kubelet.crt
CLIENT_PAIR=$PKI/kubelet-client-autojoin.pem
SHOWN=$CLIENT_PAIR
RUN=$ROOT/run/autojoin
UNITS=$ROOT/etc/systemd/system
KUBELET=$ROOT/etc/kubernetes/kubelet.yaml
RESOLVED=/run/systemd/resolve/resolv.conf
INSTALL_PACKAGES=$ROOT/usr/local/lib/autojoin/install-packages
MODULES=$ROOT/etc/modules-load.d/autojoin.conf
SYSCTLS=$ROOT/etc/sysctl.d/90-autojoin.conf
REGISTRIES=/etc/containerd/certs.d
CONTAINERD=/etc/containerd/config.toml
TAB=$(printf '\t')
REFUSED=3 # the exit status that the unit does not retry
PHASE=clock told='' tell=finish_reports
ACTION=${1:-join} WHEN=${2:-due}

# --- telling the gate -------------------------------------------------------------------------------

# A seed that was written to be read has no key in it, and no retry will put one there.
check_join_key() {
    read -r word <"$JOIN_KEY" || [ -n "$word" ]
    case $word in
        *[!0-9a-f]*) ;;
        *) [ "${#word}" -ne 64 ] || return 0 ;;
    esac
    printf '%s: the seed holds no join key (%.8s); take one of make render with SECRETS=show, or of pulumi up\n' "$NODE" "$word"
    exit "$REFUSED"
}

# Makes the two padded keys of HMAC (RFC 2104) as octal escapes for `printf %b`.
prepare_hmac() {
    rest='' inner_pad='' outer_pad='' count=0
    read -r rest <"$JOIN_KEY" || [ -n "$rest" ]
    while [ "$count" -lt 64 ]; do
        byte=${rest%"${rest#??}"}
        rest=${rest#??}
        byte=$((0x${byte:-0}))
        value=$((byte ^ 0x36))
        inner_pad=$inner_pad\\0$((value / 64))$((value / 8 % 8))$((value % 8))
        value=$((byte ^ 0x5c))
        outer_pad=$outer_pad\\0$((value / 64))$((value / 8 % 8))$((value % 8))
        count=$((count + 1))
    done
}

# Hexadecimal digits to octal escapes, in `escapes`.
to_escapes() {
    hexadecimal=$1 escapes=''
    while [ -n "$hexadecimal" ]; do
        value=$((0x${hexadecimal%"${hexadecimal#??}"}))
        hexadecimal=${hexadecimal#??}
        escapes=$escapes\\0$((value / 64))$((value / 8 % 8))$((value % 8))
    done
}

# hmac TEXT: base64 of HMAC-SHA256 with the join key.
hmac() {
    digest=$({ printf '%b' "$inner_pad"; printf '%s' "$1"; } | sha256sum)
    to_escapes "${digest%% *}"
    digest=$(printf '%b%b' "$outer_pad" "$escapes" | sha256sum)
    to_escapes "${digest%% *}"
    printf '%b' "$escapes" | base64 -w 0
}

# Sets `uptime`, a clock that nobody sets, in hundredths of a second.
look_at_clock() {
    read -r uptime rest </proc/uptime
    uptime=$((${uptime%.*} * 100 + 1${uptime#*.} - 100))
}

# The end of what is read, its lines set apart, as text that may stand in JSON.
one_line() {
    tr '"\\\t' "'/ " | tr -cd '\12\40-\176' | tail -c 1500 |
        awk 'NF { printf "%s%s", separator, $0; separator = " | " }'
}

# report PHASE STATE [MESSAGE]: queue one event; it goes out with the next `flush`.
report() {
    message=''
    [ -z "${3:-}" ] || message=$(printf '%s' "$3" | one_line)
    printf '%s %s %s%s\n' "$NODE" "$1" "$2" "${message:+: $message}"
    look_at_clock
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$uptime" "$message" >&4
}

flush() {
    printf 'flush\n' >&4
}

finished() {
    report "$1" 'done' "${2:-}"
}

# One process sends what was queued, in order, while the join goes on. `age` is in seconds.
send_reports() {
    queued=''
    while IFS=$TAB read -r event_phase event_state event_time event_message; do
        if [ "$event_phase" != flush ]; then
            queued="$queued$event_phase$TAB$event_state$TAB$event_time$TAB$event_message
"
            continue
        fi
        [ -n "$queued" ] || continue
        look_at_clock
        events=''
        while IFS=$TAB read -r event_phase event_state event_time event_message; do
            [ -n "$event_phase" ] || continue
            age=$((uptime - event_time))
            age=$((age / 100)).$((age / 10 % 10))$((age % 10))
            events="$events${events:+,}{\"phase\":\"$event_phase\",\"state\":\"$event_state\",\"age\":$age,\"message\":\"$event_message\"}"
        done <<QUEUED
$queued
QUEUED
        queued=''
        request="{\"node\":\"$NODE\",\"events\":[$events]}"
        printf '{"token":"%s","request":"%s"}' "$(hmac "$request")" "$(printf '%s' "$request" | base64 -w 0)" |
            curl --silent --max-time 10 --cacert "$AUTHORITY" --header 'Content-Type: application/json' \
                --data-binary @- "$GATE_URL/v1/progress" >/dev/null 2>&1 || true
    done
}

start_reports() {
    trap '' PIPE # a reporter that died must not take the join with it
    rm -f "$RUN/reports"
    mkfifo "$RUN/reports"
    send_reports <"$RUN/reports" 9>&- &
    reporter=$!
    exec 4>"$RUN/reports"
}

# Sends what is left and waits for it; each request of the reporter is bounded.
finish_reports() {
    flush
    exec 4>&-
    wait "$reporter" || true
}

# fail STATUS MESSAGE: the phase's failure is the join's, or the renewal's.
fail() {
    told=yes
    report "$PHASE" failed "$2"
    "$tell" "$2"
    exit "$1"
}

# Whatever else ended the script: a command that failed with nothing to say but its error.
on_exit() {
    status=$?
    [ "$status" -ne 0 ] && [ -z "$told" ] || return 0
    set +e
    cause="a command failed (status $status); the line before this one in the journal says which"
    for folder in "$STATE" "$PKI"; do
        free=$(df -Pk "$folder" 2>/dev/null | awk 'NR == 2 { print $4 }')
        [ "${free:-65}" -gt 64 ] || cause="the disk is full: $free KiB are free at $folder"
    done
    fail "$status" "$cause"
}

# --- waiting ----------------------------------------------------------------------------------------

# begin PHASE SECONDS: the phase that is worked on, and when it counts as failed.
begin() {
    PHASE=$1
    limit=${WAIT_SECONDS:-$2}
    pause=0.05 deadline='' announced=''
}

# wait_more REASON: sleep a moment, or fail with REASON when the phase took too long.
wait_more() {
    now=$(date +%s)
    deadline=${deadline:-$((now + limit))}
    [ "$now" -lt "$deadline" ] || fail 1 "$1 (waited $limit s)"
    if [ -z "$announced" ]; then
        announced=yes
        report "$PHASE" started "$1"
        flush
    fi
    sleep "$pause"
}

# As wait_more, with longer and longer pauses: for what is across the network.
back_off() {
    wait_more "$1"
    case $pause in
        0.05) pause=0.2 ;;
        0.2) pause=0.5 ;;
        0.5) pause=1 ;;
        *) pause=3 ;;
    esac
}

# What cloud-init wrote less than half a minute ago is in the memory alone; a power cut leaves empty
# files, which it does not write again. Where this mark is missing, the next boot has it begin anew.
keep_seed() {
    [ -e "$STATE/kept" ] && return
    sync -f "$ETC" "$STATE"
    : >"$STATE/kept"
    sync "$STATE"
}

# --- the phases -------------------------------------------------------------------------------------

# A clock behind the authority's certificate would make every certificate look not yet valid.
check_clock() {
    begin clock 300
    until [ "$(date +%s)" -ge "$NOT_BEFORE" ]; do
        wait_more "the clock says $(date -u +%Y-%m-%dT%H:%M:%SZ), before the authority's certificate; waiting for time"
    done
    finished clock
}

# On a plain image: container runtime and kubelet from their repository. Its output is the node's log.
install_packages() {
    [ -f "$INSTALL_PACKAGES" ] || return 0
    begin packages 900
    report packages started
    flush
    until "$INSTALL_PACKAGES" >"$RUN/packages.log" 2>&1; do
        cat "$RUN/packages.log"
        pause=3
        wait_more "$(tail -n 3 "$RUN/packages.log")"
    done
    finished packages
}

# Modules and settings that pods' networks need. A kernel that has them built in, or a machine that
# shares its host's, may refuse; what is really missing shows in the runtime's and the kubelet's own
# words.
prepare_kernel() {
    [ -f "$MODULES" ] && [ -f "$SYSCTLS" ] || return 0
    while read -r module; do
        modprobe "$module" 2>/dev/null || true
    done <"$MODULES"
    sysctl -q -e -p "$SYSCTLS" >/dev/null 2>&1 || true
}

# has_certificate: a certificate of this identity, key and authority that is still valid.
has_certificate() {
    [ -s "$CERTIFICATE" ] && [ -s "$KEY" ] && [ -s "$CLIENT_PAIR" ] || return 1
    openssl verify -partial_chain -CAfile "$AUTHORITY" "$CERTIFICATE" >/dev/null 2>&1 || return 1
    [ "$(openssl x509 -in "$CERTIFICATE" -noout -pubkey)" = "$(openssl pkey -in "$KEY" -pubout 2>/dev/null)" ]
}

# What another generation of this machine left is of no use: its certificate is revoked.
forget_other_identity() {
    kept='' action=start
    [ ! -f "$STATE/identity" ] || read -r kept <"$STATE/identity" || true
    [ "$kept" != "$IDENTITY" ] || return 0
    [ -z "$kept" ] || action=restart # its kubelet may be running
    rm -f "$PKI"/kubelet-client-*.pem "$CERTIFICATE" "$KEY"
    printf '%s\n' "$IDENTITY" >"$STATE/identity.new"
    sync "$STATE/identity.new"
    mv "$STATE/identity.new" "$STATE/identity"
}

# Sets `public_key` and `request`; with a new key, `keeping` is the process that puts it on the disk.
# An unreadable key (a cut while it was written, so never used) is made anew.
make_request() {
    names="DNS:$NODE"
    for address in $ADDRESSES; do names=$names,IP:$address; done
    made='' keeping=''
    if [ -s "$KEY" ]; then
        made=$(signing_request -key "$KEY" 2>/dev/null) || made=''
    fi
    if [ -z "$made" ]; then
        case $NODE_KEY in
            rsa-2048) set -- -newkey rsa:2048 ;;
            *) set -- -newkey ec -pkeyopt ec_paramgen_curve:P-256 ;;
        esac
        made=$(signing_request "$@" -nodes -keyout "$KEY.new") ||
            fail 1 "openssl could not make a key and a request: $made"
        keep_key &
        keeping=$!
    fi
    public_key=-----BEGIN\ PUBLIC\ KEY-----${made#*-----BEGIN PUBLIC KEY-----}
    public_key=${public_key%%-----BEGIN CERTIFICATE REQUEST-----*}
    request=-----BEGIN\ CERTIFICATE\ REQUEST-----${made#*-----BEGIN CERTIFICATE REQUEST-----}
}

# OpenSSL's `req` says nothing of a disk that is full: only a key with an end is one.
keep_key() {
    sync "$KEY.new"
    grep -q '^-----END .*PRIVATE KEY-----' "$KEY.new"
    mv "$KEY.new" "$KEY"
    sync "$PKI"
}

signing_request() {
    openssl req -new -config /dev/stdin -pubkey "$@" 2>&1 <<CONFIGURATION
[req]
prompt = no
distinguished_name = subject
req_extensions = extensions
[subject]
O = system:nodes
CN = system:node:$NODE
[extensions]
subjectAltName = $names
CONFIGURATION
}

# What the gate is asked to sign, as JSON, in `request`.
describe_request() {
    escaped=''
    while IFS= read -r line; do
        escaped=$escaped$line\\n
    done <<REQUEST
$request
REQUEST
    hosts="\"$NODE\""
    for address in $ADDRESSES; do hosts="$hosts,\"$address\""; done
    request="{\"certificate_request\":\"$escaped\",\"hosts\":[$hosts],\"profile\":\"kubelet\"}"
}

# The body for authsign, in `body`: the request's JSON, its HMAC, both in base64.
seal_request() {
    body="{\"token\":\"$(hmac "$request")\",\"request\":\"$(printf '%s' "$request" | base64 -w 0)\"}"
}

# ask_gate PATH [OPTION...]: post `body`; what is answered, and its status on a line of its own.
ask_gate() {
    path=$1
    shift
    printf '%s' "$body" | curl --silent --show-error --max-time 30 --cacert "$AUTHORITY" "$@" \
        --header 'Content-Type: application/json' --data-binary @- --write-out '\n%{http_code}' \
        "$GATE_URL$path" 2>&1
}

# Parts `answer` into `status` and what was answered.
part_answer() {
    status=${answer##*"
"}
    answer=${answer%"
"*}
}

# The first error's message of a CFSSL answer.
gate_message() {
    found=$(printf '%s' "$answer" | sed -n 's/.*"message": *"\(\([^"\\]\|\\.\)*\)".*/\1/p' | head -n 1)
    [ -n "$found" ] || found=$(printf '%s' "$answer" | head -n 1)
    printf '%s' "$found" | sed 's/\\"/"/g; s/\\n/ /g'
}

# Asks until the gate answers with a certificate (in `answer`) or refuses. That it answered over
# verified TLS is what `authority` stands for, so no request of its own is spent on that.
obtain_certificate() {
    begin authority 300
    while :; do
        if answer=$(ask_gate /api/v1/cfssl/authsign); then
            if [ "$PHASE" = authority ]; then
                finished authority
                begin certificate 120
            fi
            part_answer
            case $status in
                200) return 0 ;;
                408 | 429 | 5*) back_off "the join gate answered $status: $(gate_message)" ;;
                *) fail "$REFUSED" "the join gate refused ($status): $(gate_message)" ;;
            esac
        else
            back_off "the join gate at $GATE_URL: ${answer%%"
"*}"
        fi
    done
}

# Leaves of `answer` the certificate.
take_certificate() {
    answer=${answer#*'"certificate":'}
    answer=${answer#*'"'}
    answer=${answer%%'"'*}
}

# Nothing is believed about the answer: it must be ours, and from the pinned authority. A node that has
# one goes on with it where it is only a clock that speaks against another one, and the API server does
# not: then it is this machine's clock (`doubted`).
install_certificate() {
    take_certificate
    printf '%b\n' "$answer" >"$CERTIFICATE.new"
    about=$(openssl x509 -in "$CERTIFICATE.new" -noout -pubkey -subject -nameopt RFC2253 2>&1) ||
        fail "$REFUSED" "the join gate's answer holds no certificate: ${about%%"
"*}"
    [ "$about" = "${public_key}subject=CN=system:node:$NODE,O=system:nodes" ] ||
        fail "$REFUSED" "the join gate's certificate is not for this key and name: ${about##*"
"}"
    set --
    until verified=$(openssl verify "$@" -partial_chain -CAfile "$AUTHORITY" "$CERTIFICATE.new" 2>&1); do
        case $ACTION:$verified in
            renew:*'has expired'* | renew:*'not yet valid'*) doubted=yes && set -- -no_check_time ;;
            *'has expired'*) wait_more "the clock says $(date -u +%Y-%m-%d), after the new certificate's end; waiting for time" ;;
            *'not yet valid'*) wait_more "the clock is behind the new certificate; waiting for time" ;;
            *) fail "$REFUSED" "the join gate's certificate is not from the authority: $(printf '%s' "$verified" | tail -n 2 | head -n 1)" ;;
        esac
    done
    mv "$CERTIFICATE.new" "$CERTIFICATE"
}

# One file for all that the kubelet does with it, so that it never sees a key beside the certificate
# of another one. It looks at what is behind the link, and takes up what takes its place.
install_client_pair() {
    cat "$CERTIFICATE" "$KEY" >"$CLIENT_PAIR.new"
    [ "$ACTION" = join ] || sync "$CLIENT_PAIR.new"
    mv "$CLIENT_PAIR.new" "$CLIENT_PAIR"
    ln -sf "${CLIENT_PAIR##*/}" "$PKI/kubelet-client-current.pem"
}

get_certificate() {
    PHASE=certificate
    forget_other_identity
    if has_certificate; then
        finished authority "not needed"
        finished certificate kept
        return
    fi
    make_request
    describe_request
    seal_request
    # The key must be on the disk before the gate binds the join key to it.
    [ -z "$keeping" ] || wait "$keeping"
    obtain_certificate
    install_certificate
    install_client_pair
    finished certificate
}

# Any answer will do: the runtime speaks HTTP/2, and 7 and 28 are "nobody there" and "no answer".
runtime_answers() {
    [ -S "$ROOT$RUNTIME_SOCKET" ] || return 1
    answered=0
    curl --silent --max-time 1 --unix-socket "$ROOT$RUNTIME_SOCKET" http://localhost/ >/dev/null 2>&1 ||
        answered=$?
    [ "$answered" -ne 7 ] && [ "$answered" -ne 28 ]
}

# Where images are to come from, as the stack says, is of use to a containerd that looks there.
registries_heeded() {
    [ ! -d "$ROOT$REGISTRIES" ] ||
        grep -q "^ *config_path *= *[\"']$REGISTRIES" "$ROOT$CONTAINERD" 2>/dev/null
}

# The first look was in the background, beside the certificate.
check_runtime() {
    begin runtime 120
    answers=''
    ! wait "$preparing" || answers=yes
    until [ -n "$answers" ] || runtime_answers; do
        wait_more "the container runtime does not answer at $RUNTIME_SOCKET"
    done
    until registries_heeded; do
        wait_more "containerd does not look into $REGISTRIES: set config_path to it in $CONTAINERD"
    done
    finished runtime
}

# Its own last lines: those of systemd about one that ends say nothing of why.
kubelet_says() {
    for of in _SYSTEMD_UNIT=kubelet.service --unit=kubelet.service; do
        said=$(journalctl --quiet --boot "$of" --lines 3 --output cat --no-pager 2>/dev/null) || said=''
        [ -z "$said" ] || break
    done
    printf '%s\n' "$said"
}

# Where systemd-resolved runs, /etc/resolv.conf names the node itself, which a pod would ask in vain.
set_resolvers() {
    [ -e "$ROOT$RESOLVED" ] && [ -f "$KUBELET" ] && ! grep -q '^resolvConf:' "$KUBELET" || return 0
    # Of an append a power cut leaves the length without the content.
    cp -p "$KUBELET" "$KUBELET.new"
    printf 'resolvConf: %s\n' "$RESOLVED" >>"$KUBELET.new"
    sync "$KUBELET.new"
    mv "$KUBELET.new" "$KUBELET"
}

start_kubelet() {
    begin kubelet 120
    set_resolvers
    [ -x "$ROOT/usr/bin/kubelet" ] || fail 1 "there is no /usr/bin/kubelet; use an image that has it, or imageKind: plain"
    # A package's own unit may be loaded already; ours is read without a reload otherwise.
    for unit in "$ROOT/usr/lib/systemd/system/kubelet.service" "$ROOT/lib/systemd/system/kubelet.service"; do
        [ ! -f "$unit" ] || { systemctl daemon-reload && break; }
    done
    started=$(systemctl "$action" --no-block kubelet.service 2>&1) || fail 1 "systemd cannot start the kubelet: $started"
    # No kubelet is healthy sooner, and looking takes from its time.
    sleep 0.25
    looks=0
    until curl --silent --fail --max-time 2 "$KUBELET_HEALTH" >/dev/null 2>&1; do
        looks=$((looks + 1))
        # Only a kubelet that takes much longer than it should is worth a word to the gate.
        if [ "$looks" -lt 30 ]; then sleep 0.1; else wait_more "the kubelet is not healthy: $(kubelet_says)"; fi
    done
    finished kubelet
    flush
}

# watch_node: the API server's events about our own Node, one JSON object a line.
watch_node() {
    seconds=$limit
    [ "$seconds" -le 10 ] || seconds=10
    curl --silent --show-error --no-buffer --max-time $((seconds + 5)) \
        --cacert "$ROOT${API_SERVER_AUTHORITY:-/etc/autojoin/ca.pem}" \
        --cert "$CLIENT_PAIR" --key "$CLIENT_PAIR" \
        "$API_SERVER/api/v1/nodes?watch=true&pretty=false&timeoutSeconds=$seconds&fieldSelector=metadata.name%3D$NODE" 2>&1
}

# api_message JSON: the first "message" in it, or all of it.
api_message() {
    case $1 in
        *'"message":"'*) said=${1#*'"message":"'} && printf '%s' "${said%%'"'[,\}]*}" ;;
        *) printf '%s' "$1" ;;
    esac
}

# One watch; ends 0 when the Node is Ready. A Node of an earlier boot or generation has another bootID.
follow_node() {
    rm -f "$RUN/node"
    mkfifo "$RUN/node"
    watch_node >"$RUN/node" 4>&- 9>&- &
    watcher=$!
    exec 5<"$RUN/node"
    result=1
    while IFS= read -r line <&5; do
        case $line in
            *"\"bootID\":\"$boot_id\""*) ;;
            '{"type":"ADDED"'* | '{"type":"MODIFIED"'* | '{"type":"DELETED"'*) continue ;;
            *)
                trouble=$(api_message "$line")
                continue
                ;;
        esac
        if [ "$PHASE" = node ]; then
            finished node
            begin ready 300
            trouble='the node is not Ready'
        fi
        case $line in
            *'"type":"Ready","status":"True"'*)
                result=0
                break
                ;;
            *'"type":"Ready","status":"False"'*)
                trouble="the node is not Ready: $(api_message "${line#*'"type":"Ready","status":"False"'}")"
                flush
                ;;
        esac
    done
    exec 5<&-
    kill "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    return "$result"
}

await_node() {
    begin node 120
    read -r boot_id <"$ROOT/proc/sys/kernel/random/boot_id"
    trouble='the API server has no Node of this machine yet'
    until follow_node; do
        back_off "$trouble"
    done
    finished ready
}

# start_at_boot UNIT: what `systemctl enable` does, without its reload of all units.
start_at_boot() {
    mkdir -p "$UNITS/multi-user.target.wants"
    ln -sf "/etc/systemd/system/$1" "$UNITS/multi-user.target.wants/$1"
}

# What needs no certificate. Ends 0 where the container runtime answers already.
prepare() {
    start_at_boot autojoin-join.service
    prepare_kernel
    runtime_answers
}

# --- renewal ----------------------------------------------------------------------------------------

# Seconds since the epoch of a date as OpenSSL writes it, `Nov 29 07:14:53 2026 GMT`; not every `date`
# can read it.
to_seconds() {
    printf '%s\n' "$1" | tr ':' ' ' | awk '{
        month = (index("JanFebMarAprMayJunJulAugSepOctNovDec", $1) + 2) / 3
        year = $6
        if (month < 3) { month += 12; year -= 1 }
        days = 365 * year + int(year / 4) - int(year / 100) + int(year / 400)
        days += int((153 * (month - 3) + 2) / 5) + $2 - 719469
        printf "%.0f", ((days * 24 + $3) * 60 + $4) * 60 + $5
    }'
}

# field NAME: the rest of that line of what openssl said, `about`.
field() {
    found=${about#*"$1"=}
    printf '%s' "${found%%"
"*}"
}

# Whether two thirds of the certificate's life are over, less up to a twelfth: nodes that joined at
# once ask one after the other. One that has ended is shown all the same: the gate's clock counts.
is_due() {
    about=$(openssl x509 -in "$CLIENT_PAIR" -noout -serial -startdate -enddate 2>&1) ||
        fail "$REFUSED" "$CLIENT_PAIR cannot be read; raise the generation of $NODE to join it anew"
    begins=$(to_seconds "$(field notBefore)") ends=$(to_seconds "$(field notAfter)")
    compare_clocks
    if [ "$now" -ge "$ends" ]; then
        advice=": the certificate ended on $(field notAfter), and the join gate renews none that has ended:"
        advice="$advice set the clock, which says $(date -u), if it is wrong, else raise the generation of $NODE in the stack file and run pulumi up"
    fi
    is_of_signer "$CLIENT_PAIR" || return 0
    spread=$(field serial | cksum)
    [ "$now" -ge $((begins + (ends - begins) * 2 / 3 - ${spread%% *} % ((ends - begins) / 12 + 1))) ]
}

# Sets `now`: what the join gate's clock says where it was heard since the start of this machine, else
# this one's, and `advice` where that is wrong.
compare_clocks() {
    now=$(date +%s) ahead=0 advice=''
    [ "$now" -ge "$begins" ] ||
        advice=": the clock says $(date -u), and the node's own certificate begins on $(field notBefore): set the clock"
    [ -s "$RUN/gate-clock" ] && read -r started <"$RUN/gate-clock" || return 0
    look_at_clock
    ahead=$((now - started - uptime / 100)) now=$((started + uptime / 100)) advice=''
    [ "$ahead" -le 300 ] || advice=": the clock is $ahead s ahead of the join gate's, set the one that is wrong"
    [ "$ahead" -ge -300 ] || advice=": the clock is $((-ahead)) s behind the join gate's, set the one that is wrong"
}

# Keeps when this machine was started by the gate's clock; how long ago that was nobody sets.
hear_clock() {
    heard=$(tr -d '\r' <"$RUN/headers" |
        sed -n 's/^[Dd]ate: [A-Z][a-z]*, \([0-9]*\) \([A-Z][a-z]*\) \([0-9]*\) \([0-9:]*\) GMT$/\2 \1 \4 \3/p')
    [ -n "$heard" ] || return 0
    look_at_clock
    printf '%s\n' $(($(to_seconds "$heard") - uptime / 100)) >"$RUN/gate-clock"
}

# As the node that it is, by the certificate that the gate knows as its present one.
ask_as_node() {
    ask_gate "$1" --cert "$SHOWN" --key "${SHOWN_KEY:-$SHOWN}" --dump-header "$RUN/headers" || return
    hear_clock
}

# The gate has it shown where people look.
tell_trouble() {
    body="{\"message\":\"$(printf '%s' "$1" | one_line)\"}"
    ask_as_node /v1/trouble >/dev/null || true
}

# A key that is in use already: the cut came before it was put away.
forget_used_key() {
    [ -s "$KEY" ] || return 0
    [ "$(openssl pkey -in "$KEY" -pubout 2>/dev/null)" != "$(openssl x509 -in "$CLIENT_PAIR" -noout -pubkey)" ] ||
        rm -f "$KEY"
}

# Kubelets before 1.36 serve whoever asks by address, as most API servers do, with the pair that they
# started with (kubernetes#133001). Others take up the new one in a moment, and a kubelet that does not
# answer will start with it.
have_it_served() {
    port=$(sed -n 's/^port: *//p' "$KUBELET" 2>/dev/null) wanted=$(openssl x509 -in "$CLIENT_PAIR" -noout -serial)
    looks=0
    while served=$(served_serial "${ADDRESSES%% *}" "${port:-10250}") && [ "$served" != "$wanted" ]; do
        looks=$((looks + 1))
        if [ "$looks" -gt 20 ]; then
            printf '%s: the kubelet goes on serving with the certificate before; it is restarted\n' "$NODE"
            systemctl try-restart --no-block kubelet.service
            break
        fi
        sleep 0.25
    done
    rm -f "$STATE/renewed"
}

# served_serial ADDRESS PORT: of the certificate that is served there to who does not ask by name.
served_serial() {
    case $1 in *:*) set -- "[$1]" "$2" ;; esac
    timeout 5 openssl s_client -noservername -connect "$1:$2" </dev/null 2>/dev/null |
        openssl x509 -noout -serial 2>/dev/null
}

# --- whom to trust ----------------------------------------------------------------------------------

# part_certificates PREFIX: a file for each certificate of what is read, PREFIX1 and so on.
part_certificates() {
    awk -v prefix="$1" '/^-----BEGIN CERTIFICATE-----/ { number++ } number { print >(prefix number) }'
}

# is_of_signer CERTIFICATE: whether it is of the CA that signs, the first of those that are trusted.
is_of_signer() {
    awk '/^-----BEGIN CERTIFICATE-----/ { number++ } number == 1' "$AUTHORITY" >"$RUN/signer.pem"
    openssl verify -partial_chain -no_check_time -CAfile "$RUN/signer.pem" "$1" >/dev/null 2>&1
}

# By a clock that nobody sets.
asked_lately() {
    [ -s "$RUN/trust-asked" ] && read -r before <"$RUN/trust-asked" && [ $((uptime - before)) -lt 360000 ]
}

# Asks the gate, at most once an hour, whom it trusts, and tells it whom this node does. Where that
# can't be, a renewal will say so when it is due.
take_trust() {
    answered='' answer=''
    look_at_clock
    [ "$WHEN" = --now ] || ! asked_lately || return 0
    asked=''
    while digest=$(sha256sum <"$AUTHORITY") && body="{\"trusts\":\"${digest%% *}\"}" &&
        answer=$(ask_as_node /v1/trust); do
        part_answer
        answered=yes
        printf '%s\n' "$uptime" >"$RUN/trust-asked"
        [ "$status" = 200 ] && [ -z "$asked" ] && believe_trust && install_trust || return 0
        asked=yes
    done
    case $answer in *'curl: (60)'*) is_due || : && not_heard ;; esac
}

# Who is not heard by the gate, or does not believe it, can't tell it why.
not_heard() {
    tell=:
    case $answer in
        *'alert certificate expired'* | *'alert bad certificate'*)
            advice=${advice:-": the clock here says $(date -u), and the node's certificate is good until $(field notAfter): look at the clock of the CA host"}
            ;;
        *'not yet valid'* | *'has expired'*) advice=${advice:-": the clock here says $(date -u): set it if it is wrong"} ;;
    esac
    fail 1 "the join gate at $GATE_URL: ${answer%%"
"*}$advice"
}

# What goes wrong with it keeps no renewal from being made.
doubt() {
    report renewal failed "$1"
    tell_trouble "$1"
    return 1
}

# Only a CA that is trusted already can say whom else to trust: who has the gate's key has none of its.
believe_trust() {
    rm -rf "$RUN/trust"
    mkdir "$RUN/trust"
    printf '%s' "-----BEGIN${answer#*-----BEGIN}" >"$RUN/trust/bundle"
    part_certificates "$RUN/trust/known." <"$AUTHORITY"
    part_certificates "$RUN/trust/new." <"$RUN/trust/bundle"
    for certificate in "$RUN"/trust/new.*; do
        openssl x509 -in "$certificate" -noout 2>/dev/null || doubt "the join gate names a CA without a certificate" || return 1
    done
    for certificate in "$RUN"/trust/known.*; do
        openssl x509 -in "$certificate" -noout -pubkey >"$RUN/trust/key"
        while read -r word signature; do
            [ "$word" = signature ] || continue
            printf '%s' "$signature" | base64 -d >"$RUN/trust/signature" 2>/dev/null || continue
            ! openssl dgst -sha256 -verify "$RUN/trust/key" -signature "$RUN/trust/signature" "$RUN/trust/bundle" >/dev/null 2>&1 ||
                return 0
        done <<SIGNATURES
${answer%%-----BEGIN*}
SIGNATURES
    done
    doubt "the join gate names CAs to trust, and none that is trusted has signed that"
}

# A kubelet reads whom it trusts when it starts, most of them.
install_trust() {
    sets_differ=''
    [ "$(trusted_set known)" = "$(trusted_set new)" ] || sets_differ=yes
    api_server_stays || return 1
    [ -z "$sets_differ" ] || : >"$STATE/trust-changed"
    # Asked in a condition, so the shell goes on where a command fails.
    cp "$RUN/trust/bundle" "$AUTHORITY.new" && chmod 644 "$AUTHORITY.new" && sync "$AUTHORITY.new" &&
        mv "$AUTHORITY.new" "$AUTHORITY" || doubt "$AUTHORITY cannot be written" || return 1
    report renewal 'done' "trusts $(trusted_set new | wc -l) CA(s)"
    have_it_trusted
}

# trusted_set known|new
trusted_set() {
    for certificate in "$RUN/trust/$1".*; do openssl x509 -in "$certificate" -noout -fingerprint -sha256; done | sort
}

# Where the API server's CA is one of them, it must not be the one that goes. One that does not answer
# is asked again with the next look.
api_server_stays() {
    [ -z "${API_SERVER_AUTHORITY:-}" ] || return 0
    trusted_set known | grep -qvxF "$(trusted_set new)" || return 0
    said=0
    curl --silent --max-time 10 --cacert "$RUN/trust/bundle" --output /dev/null "$API_SERVER/version" || said=$?
    case $said in
        0) ;;
        60) doubt "the API server's certificate is of the CA that is to go: give it one of the CA that stays" ;;
        *) ! rm -f "$RUN/trust-asked" ;;
    esac
}

# Its second half, and again where a cut came between.
have_it_trusted() {
    [ -e "$STATE/trust-changed" ] || return 0
    if [ -n "${API_SERVER_AUTHORITY:-}" ]; then
        cat "$AUTHORITY" "$ROOT$API_SERVER_AUTHORITY" >"$AUTHORITIES.new"
        chmod 644 "$AUTHORITIES.new"
        mv "$AUTHORITIES.new" "$AUTHORITIES"
    fi
    systemctl try-restart --no-block kubelet.service
    rm -f "$STATE/trust-changed"
}

# A certificate that the API server does not take is of no use: of another CA than before, which it may
# not trust, or of a life that this machine's clock is not in.
api_server_takes_it() {
    [ -n "$doubted" ] || ! is_of_signer "$CLIENT_PAIR" || return 0
    said=$(curl --silent --show-error --max-time 10 --cacert "$ROOT${API_SERVER_AUTHORITY:-/etc/autojoin/ca.pem}" --output /dev/null \
        --write-out '%{http_code}' --cert "$CERTIFICATE" --key "$KEY" "$API_SERVER/api/v1/nodes/$NODE" 2>&1) ||
        said="none: $said"
    case $doubted$said in
        401) fail 1 "the API server does not take certificates of the CA that signs now: put its certificate into the file of --client-ca-file" ;;
        yes401) fail 1 "the new certificate is not in its life, by this clock ($(date -u)) and by the API server's: set the clock of the CA host" ;;
        yesnone*) fail 1 "the new certificate is not in its life by this clock, which says $(date -u): set it if it is wrong; the API server can't be asked ($said)" ;;
    esac
}

# The timer comes again in a minute, so everything is tried once. The key is on the disk before the
# gate hears of it and stays there until its certificate is in use: whatever breaks off in between,
# the gate is asked for the same one again, and answers the same.
renew() {
    if [ -e "$JOIN_KEY" ] || [ ! -s "$CLIENT_PAIR" ]; then
        [ "$WHEN" = --now ] || return 0
        printf '%s has not joined yet, there is nothing to renew: journalctl -u autojoin-join\n' "$NODE" >&2
        return 1
    fi
    PHASE=renewal tell=tell_trouble KEY=$PKI/renewal.key CERTIFICATE=$PKI/renewal.crt doubted=''
    exec 4>/dev/null
    trap on_exit EXIT
    [ ! -e "$STATE/renewed" ] || have_it_served
    have_it_trusted
    take_trust
    if ! is_due && [ "$WHEN" != --now ]; then
        [ -z "$answered" ] || [ -z "$advice" ] || printf '%s%s\n' "$NODE" "$advice"
        return 0
    fi
    forget_used_key
    make_request
    describe_request
    body=$request
    [ -z "$keeping" ] || wait "$keeping"
    answer=$(ask_as_node /v1/renewal) || not_heard
    part_answer
    case $status in
        200) ;;
        408 | 429 | 5*) fail 1 "the join gate answered $status: $(gate_message)" ;;
        *) fail "$REFUSED" "the join gate refused ($status): $(gate_message)" ;;
    esac
    # Whatever fails from here on, the gate hears it from who has this one.
    take_certificate
    printf '%b\n' "$answer" >"$RUN/renewal.pem"
    SHOWN=$RUN/renewal.pem SHOWN_KEY=$KEY
    install_certificate
    api_server_takes_it
    : >"$STATE/renewed"
    install_client_pair
    SHOWN=$CLIENT_PAIR SHOWN_KEY=''
    mv "$CERTIFICATE" "$PKI/kubelet.crt"
    mv "$KEY" "$PKI/kubelet.key"
    about=$(openssl x509 -in "$CLIENT_PAIR" -noout -enddate)
    compare_clocks
    finished renewal "until $(field notAfter)$advice"
    have_it_served
    rm -f "$RUN/trust-asked"
    take_trust
}

renew_by_timer() {
    start_at_boot autojoin-renew.timer
    systemctl start --no-block autojoin-renew.timer
}

join() {
    keep_seed 9>&- &
    [ -s "$JOIN_KEY" ] || exit 0
    check_join_key
    prepare_hmac
    start_reports
    trap on_exit EXIT
    check_clock
    install_packages
    prepare 4>&- 9>&- &
    preparing=$!
    get_certificate
    check_runtime
    start_kubelet
    await_node
    start_at_boot kubelet.service
    renew_by_timer
    finish_reports
    rm -f "$JOIN_KEY" "$RUN/node" "$RUN/reports" "$RUN/packages.log"
}

# What comes by itself comes again; a person waits for whoever is at it.
take_turn() {
    if [ "$WHEN" = --now ]; then flock 9; else flock -n 9 || exit 0; fi
}

main() {
    mkdir -p "$STATE" "$PKI" "$RUN"
    exec 9>"$RUN/lock"
    take_turn
    # shellcheck source=/dev/null
    . "$ETC/join.env"
    case $ACTION in
        join) join ;;
        renew) renew ;;
        *) printf 'usage: join | join renew [--now]\n' >&2 && exit 2 ;;
    esac
}

main
