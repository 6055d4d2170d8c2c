"""arm64 programs on this machine: qemu-user, called by the kernel (binfmt_misc).

A handler is registered only where the kernel has none that fits. It lives as long as some mount
of binfmt_misc does, so it goes with whoever needed it: the mount is private to that one. Kernels
before 6.7 keep it; `forget` removes it there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.errors import LabError

# Of Debian's qemu-user-static: name, magic, mask, interpreter and flags. F (the interpreter is
# opened now, not looked for in each root) is what makes it work in containers.
RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
HANDLER = "autojoin-arm64"
MAGIC = "7f454c46020101000000000000000000" + "0200b7"
ALONE = ("unshare", "--mount", "--propagation", "private")

# $1 the rule, $2 the handler's name, $3 the magic number; the rest is run once arm64 programs do.
_ENTER = """\
handlers=/proc/sys/fs/binfmt_misc
[ -e "$handlers/register" ] || mount -t binfmt_misc binfmt_misc "$handlers"
found=
for handler in "$handlers"/*; do
    about=$(cat "$handler" 2>/dev/null) || continue
    case $about in enabled*"flags: "*F*"magic $3"*) found=yes ;; esac
done
[ -n "$found" ] || sed -n "s/^:qemu-aarch64:/:$2:/p" "$1" >"$handlers/register"
shift 3
exec "$@"
"""
_FORGET = """\
handlers=/proc/sys/fs/binfmt_misc
[ -e "$handlers/register" ] || mount -t binfmt_misc binfmt_misc "$handlers"
[ ! -e "$handlers/$1" ] || echo -1 >"$handlers/$1"
"""


def entering(command: list[str]) -> list[str]:
    """`command`, begun once this kernel runs arm64 programs; to be called in a mount namespace of
    its own."""
    return ["sh", "-euc", _ENTER, "autojoin-emulation", str(RULE), HANDLER, MAGIC, *command]


@contextmanager
def arm64_programs() -> Iterator[None]:
    """Within it this machine runs arm64 programs; LabError where it can't."""
    command = [*ALONE, *entering(["sh", "-c", "echo ready; exec cat"])]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin and holder.stdout and holder.stderr
        if holder.stdout.readline() != "ready\n":
            raise LabError(f"this kernel can't run arm64 programs: {holder.stderr.read().strip()}")
        try:
            yield
        finally:
            holder.stdin.close()


def forget() -> None:
    """Remove the handler where the kernel has kept it."""
    if RULE.exists():
        command = [*ALONE, "sh", "-euc", _FORGET, "autojoin-emulation", HANDLER]
        subprocess.run(command, capture_output=True)
