"""Run the benchmark: `python -m bench [--full] [PART …]`. See `make bench`.

Without --full: fewer and smaller repetitions, under 5 minutes. With it every row, under 40, and
what came out is written to bench/results.md, with plots beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import engine, gate, join, plots, render, setup, table
from bench.measure import BenchError
from tools import install as tools
from tools import pins

RESULTS = Path(__file__).parent / "results.md"
PARTS: dict[str, Callable[[bool], list[table.Row]]] = {
    "render": render.rows,
    "join": join.rows,
    "engine": engine.rows,
    "gate": gate.rows,
    "up": setup.rows,
    "setup": setup.cold_rows,
}


def machine() -> str:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux "
        f"{platform.release()}, Python {platform.python_version()}, Pulumi {pins.PULUMI_VERSION}, "
        f"Kubernetes {pins.KUBERNETES_VERSION}, Cilium {pins.CILIUM_VERSION}"
    )


def write_results(rows: list[table.Row], without: dict[str, str], seconds: float) -> None:
    """`without`: the parts that there are no rows of, and why."""
    reasons = "; ".join(f"{part} ({why})" for part, why in without.items())
    missing = f"**Not measured: {reasons}.**\n\n" if without else ""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    pictures = "".join(
        f"![{path.stem}]({path.name})\n" for path in plots.write(RESULTS.parent, machine())
    )
    RESULTS.write_text(
        "# The last full run of `make bench`\n\n"
        f"{date}, {machine()}; {seconds:.0f} s. Written by `make bench FULL=1`, never by hand.\n"
        "Medians, with the smallest and largest value where there were several repetitions.\n\n"
        f"{missing}{table.markdown(rows)}\n\n{pictures}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every row, up to 1000 workers")
    parser.add_argument("--write", action="store_true", help="results.md, of some parts too")
    parser.add_argument("parts", nargs="*", help=f"of: {', '.join(PARTS)}; all by default")
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    os.environ["PATH"] = tools.search_path(pins.Layout())
    started = time.monotonic()
    rows: list[table.Row] = []
    wanted = given.parts or list(PARTS)
    without = dict.fromkeys(PARTS, "not run")
    failed = False
    for part in wanted:
        print(f"bench: {part}", file=sys.stderr, flush=True)
        try:
            rows += PARTS[part](given.full)
            without.pop(part, None)
        except BenchError as error:
            print(f"bench: {part}: {error}", file=sys.stderr)
            without[part] = "it failed"
            failed = True
        # After each part, so that none is lost where a later one is cut off.
        if given.write or (given.full and not given.parts):
            write_results(rows, without, time.monotonic() - started)
    if rows:
        print(table.text(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
