"""Check stack files: `python -m commands.check FILE…`. Prints every problem, one a line, as
`key: what is wrong (what was found); hint`. Needs neither engine nor lab.

Exit status: 0 nothing wrong (there may be warnings), 1 something is, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from components.load import examine
from stack.load import Report
from stack.problem import Problem

_RED, _YELLOW, _GREEN, _PLAIN = "\033[31m", "\033[33m", "\033[32m", "\033[0m"


def show(path: Path, report: Report, *, strict: bool = False) -> bool:
    """Print what was found in a file; whether it passes."""
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for problem in report.problems:
        print(_coloured(str(problem), problem.key, _RED, colours))
    for warning in report.warnings:
        print(_coloured(f"warning: {warning}", "warning", _YELLOW, colours))
    passes = report.lab is not None and not (strict and report.warnings)
    counts = [
        f"{len(found)} {word}{'' if len(found) == 1 else 's'}"
        for found, word in ((report.problems, "problem"), (report.warnings, "warning"))
        if found
    ]
    if report.lab is not None:
        workers = len(report.lab.workers)
        counts.append(f"{workers} worker{'' if workers == 1 else 's'}")
    verdict = "fine" if passes else "not fine"
    line = f"{path}: {verdict} ({', '.join(counts)})"
    print(_coloured(line, str(path), _GREEN if passes else _RED, colours))
    return passes


def _coloured(line: str, start: str, colour: str, colours: bool) -> str:
    if not colours or not line.startswith(start):
        return line
    return f"{colour}{start}{_PLAIN}{line.removeprefix(start)}"


def as_data(path: Path, report: Report, *, strict: bool = False) -> dict[str, Any]:
    """What was found in a file, for a program."""

    def listed(problems: list[Problem]) -> list[dict[str, Any]]:
        return [{**vars(problem), "line": report.line(problem.key) or None} for problem in problems]

    return {
        "file": str(path),
        "fine": report.lab is not None and not (strict and report.warnings),
        "problems": listed(report.problems),
        "warnings": listed(report.warnings),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m commands.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a Pulumi stack file")
    parser.add_argument("--json", action="store_true", help="for a program: one list, files in it")
    parser.add_argument("--strict", action="store_true", help="warnings are problems too")
    given = parser.parse_args(arguments)
    reports = {path: examine(path) for path in given.files}
    if given.json:
        data = [as_data(path, report, strict=given.strict) for path, report in reports.items()]
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return 0 if all(file["fine"] for file in data) else 1
    passed = [show(path, report, strict=given.strict) for path, report in reports.items()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
