"""Entry point of the program, both as `python3 -m gate` and as the file on the host."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
