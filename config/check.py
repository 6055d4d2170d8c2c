"""Check a stack file: `python -m config.check FILE`. Prints every problem; exit 1 on any."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from config.load import ConfigError, from_stack_file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a Pulumi stack file, such as Pulumi.dev.yaml")
    path = parser.parse_args().file
    try:
        lab = from_stack_file(path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: fine ({len(lab.workers)} workers)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
