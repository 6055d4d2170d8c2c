"""Run the benchmark: `python -m bench [--full] [PART …]`. See `make bench`.

Without --full: fewer and smaller repetitions, under 5 minutes. With it every row, under 40, and
what came out is written to bench/results.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import engine, gate, join, render, setup, table
from bench.measure import BenchError
from lab import pins, tools

RESULTS = Path(__file__).parent / "results.md"
PARTS: dict[str, Callable[[bool], list[table.Row]]] = {
    "render": render.rows,
    "join": join.rows,
    "engine": engine.rows,
    "gate": gate.rows,
    "setup": setup.rows,
}


def machine() -> str:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux "
        f"{platform.release()}, Python {platform.python_version()}, Pulumi {pins.PULUMI_VERSION}, "
        f"Kubernetes {pins.KUBERNETES_VERSION}, Cilium {pins.CILIUM_VERSION}"
    )


def write_results(rows: list[table.Row], seconds: float) -> None:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    RESULTS.write_text(
        "# The last full run of `make bench`\n\n"
        f"{date}, {machine()}; {seconds:.0f} s. Written by `make bench FULL=1`, never by hand.\n"
        "Medians, with the smallest and largest value where there were several repetitions.\n\n"
        f"{table.markdown(rows)}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every row, up to 1000 workers")
    parser.add_argument("parts", nargs="*", help=f"of: {', '.join(PARTS)}; all by default")
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    os.environ["PATH"] = tools.search_path(pins.Layout())
    started = time.monotonic()
    rows: list[table.Row] = []
    try:
        for part in given.parts or PARTS:
            print(f"bench: {part}", file=sys.stderr, flush=True)
            rows += PARTS[part](given.full)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table.text(rows))
    if given.full and not given.parts:
        write_results(rows, time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
