"""Put a backup of the certificate authority onto a fresh host: the same CA, with its whole certdb.

Nothing that is on the host is replaced. From a backup with keys everything runs at the end, the
join gate included; from one without, the CA's pair must be there, and `pulumi up` does the rest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from commands import backup_file
from commands.stack_lab import open_lab
from components import from_lab
from components.certificate_authority import cfssl_program
from components.certificate_authority import installation as certificate_authority
from components.join_gate import installation as join_gate
from components.shell import ssh
from components.shell.ssh import SshError
from stack.models import Lab
from stack.problem import ConfigError
from tools.errors import LabError, tell

SECONDS = 600


def restore(lab: Lab, source: Path, passphrase: str) -> str:
    """Restore `source` onto the CA's host; what was restored, as lines for a person."""
    content = backup_file.Backup.of(backup_file.decrypted(source, passphrase))
    settings = lab.certificate_authority
    host = from_lab.authority_host(settings, lab.join_gate)
    cfssl_program.settle(
        settings.host, host, lambda line: print(f"autojoin: {line}", file=sys.stderr)
    )
    stdin = certificate_authority.restore_input(host, content.files, join_gate.files(host))
    command = certificate_authority.restore_command(host)
    ssh.run(settings.host, command, stdin=stdin.encode(), seconds=SECONDS)
    rest = "it runs" if content.has_keys else "`pulumi up` sets up the services"
    return f"{settings.host.address}: {content.summary()}; {rest}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="commands.ca_restore", description=__doc__)
    parser.add_argument("file", type=Path, help="a Pulumi stack file, such as Pulumi.dev.yaml")
    parser.add_argument("backup", type=Path, help="a file that `make ca-backup` wrote")
    parser.add_argument("--passphrase-file", type=Path, help="its first line is the pass phrase")
    given = parser.parse_args(arguments)
    try:
        passphrase = backup_file.passphrase(given.passphrase_file, twice=False)
        print(f"autojoin: {restore(open_lab(given.file), given.backup, passphrase)}")
    except (ConfigError, LabError, SshError) as error:
        tell(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
