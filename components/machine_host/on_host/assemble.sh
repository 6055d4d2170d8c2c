#!/bin/sh
# Files from a recipe, on a provisioning host. What many nodes' files have in common lies there once,
# as books, each under the digest of its content.
#
#   assemble unpack BOOKS     stdin: a recipe; writes its files into the current folder
#   assemble install FROM TO  programs and books in FROM replace those in TO
#
# A recipe is text, a line for each step:
#   book DIGEST           excerpts are from BOOKS/DIGEST from here on
#   file MODE SUM PATH    begins a file; SUM is the start of its SHA-256
#   +TEXT                 TEXT is its next line
#   =FIRST,LAST           the next lines are those of the book
#   0COUNT                COUNT zero bytes follow
#   <PATH                 the content of an earlier file follows
#   @BASE64               the bytes that this stands for follow
#   end                   nothing was cut off
set -eu
umask 022

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

decoded() {
    if command -v base64 >/dev/null 2>&1; then base64 -d; else openssl base64 -A -d; fi
}

sum() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else openssl dgst -sha256 -r; fi |
        cut -c 1-16
}

# What a recipe names is inside the current folder.
check_path() {
    case /$1/ in
        // | *//* | */./* | */../*) die "the input names a file '$1'; nothing was changed" ;;
    esac
}

begin() {
    MODE=${1%% *} FILE=${1#* * }
    SUM=${1#* }
    SUM=${SUM%% *}
    check_path "$FILE"
    case $FILE in */*) mkdir -p "${FILE%/*}" ;; esac
    # A file may be a secret: readable for nobody else from its first moment on.
    (umask 077 && : >"$FILE")
    exec 3>"$FILE"
}

finish() {
    exec 3>&-
    [ -n "$FILE" ] || return 0
    [ "$(sum <"$FILE")" = "$SUM" ] || die "$FILE did not arrive as it was sent; nothing was changed"
    chmod "$MODE" "$FILE"
}

open_book() {
    case $1 in '' | *[!0-9a-f]*) die "the input names a book '$1'; nothing was changed" ;; esac
    BOOK=$BOOKS/$1
    [ -f "$BOOK" ] || die "what the nodes' files have in common is not on this host: $BOOK is missing. Its own step (NAME-machines) brings it: run \`pulumi up\` without --target, or with --replace for that step"
}

excerpt() {
    case $1 in *[!0-9,]*) die "the input asks for the lines '$1'; nothing was changed" ;; esac
    sed -n "$1p;${1#*,}q" "$BOOK"
}

unpack() {
    BOOKS=$1 BOOK='' FILE=''
    exec 3>/dev/null
    while IFS= read -r line; do
        rest=${line#?}
        case $line in
            +*) printf '%s\n' "$rest" >&3 ;;
            =*) excerpt "$rest" >&3 ;;
            0*) dd if=/dev/zero bs="$rest" count=1 2>/dev/null >&3 ;;
            '<'*)
                check_path "$rest"
                cat "$rest" >&3
                ;;
            @*) printf '%s\n' "$rest" | decoded >&3 ;;
            'file '*)
                finish
                begin "${line#file }"
                ;;
            'book '*) open_book "${line#book }" ;;
            end)
                finish
                return 0
                ;;
            *) die "the input is not a recipe; nothing was changed" ;;
        esac
    done
    die "the input ends too early; nothing was changed"
}

# Each file whole or not at all. Books that no node is made from any more go; all, where FROM has none.
install() {
    [ -d "$1" ] || {
        rm -rf "$2/books"
        return 0
    }
    mkdir -p "$2/books"
    for file in "$1"/* "$1"/books/*; do
        [ -f "$file" ] || continue
        name=${file#"$1"/}
        cp -p "$file" "$2/$name.new"
        mv -f "$2/$name.new" "$2/$name"
    done
    for book in "$2"/books/*; do
        [ -f "$1/books/${book##*/}" ] || rm -f "$book"
    done
}

case ${1:-}/$# in
    unpack/2) unpack "$2" ;;
    install/3) install "$2" "$3" ;;
    *) die "usage: assemble unpack BOOKS | install FROM TO" ;;
esac
