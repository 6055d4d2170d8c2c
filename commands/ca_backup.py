"""Fetch an encrypted copy of the certificate authority: certdb, configuration, the public parts.

With --keys every private key too, the CA's own included: with that file and its pass phrase,
anybody is the CA. The pass phrase is asked for, or read from --passphrase-file.
Without this program: openssl enc -d -aes-256-cbc -pbkdf2 -iter 600000 -md sha256 -in FILE | tar -x
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from commands import backup_file
from commands.stack_lab import open_lab
from components import from_lab
from components.certificate_authority import installation as certificate_authority
from components.shell import ssh
from components.shell.ssh import SshError
from stack.models import Lab
from stack.problem import ConfigError
from tools.errors import LabError, tell

SECONDS = 600


def backup(lab: Lab, target: Path, passphrase: str, keys: bool) -> str:
    """Write the backup to `target`; what is in it, as a line for a person. LabError otherwise."""
    if target.exists():
        raise LabError(f"OUT: {target} is there already; give another name")
    settings = lab.certificate_authority
    host = from_lab.authority_host(settings)
    command = certificate_authority.backup_command(host, keys=keys)
    data = ssh.run(settings.host, command, seconds=SECONDS)
    content = backup_file.Backup.of(data)
    backup_file.write(target, backup_file.encrypted(data, passphrase))
    return f"{target}: {content.summary()}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="commands.ca_backup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a Pulumi stack file, such as Pulumi.dev.yaml")
    parser.add_argument("--out", type=Path, help="the file to write; ca-DATE.backup by default")
    parser.add_argument("--keys", action="store_true", help="every private key too")
    parser.add_argument("--passphrase-file", type=Path, help="its first line is the pass phrase")
    given = parser.parse_args(arguments)
    now = datetime.datetime.now(datetime.UTC)
    target = given.out or Path(f"ca-{now:%Y%m%d-%H%M%S}.backup")
    try:
        passphrase = backup_file.passphrase(given.passphrase_file, twice=True)
        print(f"autojoin: {backup(open_lab(given.file), target, passphrase, given.keys)}")
    except (ConfigError, LabError, SshError) as error:
        tell(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
