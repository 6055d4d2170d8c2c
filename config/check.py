"""Check a stack file: `python -m config.check FILE`. Prints every problem; exit 1 on any."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from config.checks import unbuilt
from config.load import ConfigError, from_stack_file


def report(path: Path) -> None:
    """Print the warnings about a stack file and that it is fine; ConfigError where it is not."""
    lab = from_stack_file(path)
    for warning in unbuilt(lab):
        print(f"warning: {warning}")
    print(f"{path}: fine ({len(lab.workers)} workers)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a Pulumi stack file, such as Pulumi.dev.yaml")
    try:
        report(parser.parse_args().file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
