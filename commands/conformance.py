"""Kubernetes' conformance suite against a lab of its own: `python -m commands.conformance [FOCUS]`.

Every spec that the suite labels as conformance is run, by Ginkgo's own runner, several at a time
and the serial ones apart, but those of conformance.yaml, which says what this lab lacks for them.
Ginkgo's report becomes docs/conformance.md. With FOCUS, a regular expression, only specs whose
names match it are run, those of conformance.yaml too, and the result is printed alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import registry
from lab.conformance_images import IMAGES
from tests.e2e.conftest import Lab, own_lab
from tools import install as tools
from tools import pins
from tools.errors import LabError, tell
from tools.pins import CHECKOUT, CILIUM_VERSION, KUBERNETES_VERSION, Layout

LEFT_OUT = Path(__file__).with_suffix(".yaml")
DOCUMENT = CHECKOUT / "docs/conformance.md"
LABEL = "Conformance"
# Specs wait most of the time: more of them at once than there are cores.
PROCESSES_PER_CORE = 3
# Of the parallel ones together and of each serial one; the suite's own limits end a spec earlier.
LIMIT = "12h"


@dataclass(frozen=True)
class Outcome:
    """What became of one spec, and why. `not run` is one that FOCUS leaves aside; of a whole run,
    one that it did not reach before it was ended."""

    spec: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Run:
    """A run of the suite; `specs` are all that it labels as conformance."""

    specs: tuple[Outcome, ...]
    seconds: float

    def of(self, state: str) -> list[Outcome]:
        return [outcome for outcome in self.specs if outcome.state == state]


# --- what Ginkgo's report says --------------------------------------------------------------


def read_report(report: list[dict[str, Any]], left_out: Mapping[str, str], whole: bool) -> Run:
    """The run of a JSON report; of a run that is not `whole` some specs were not wanted."""
    nodes = [node for suite in report for node in suite["SpecReports"] or []]
    for node in nodes:
        if node["LeafNodeType"].endswith("BeforeSuite") and node["State"] != "passed":
            raise LabError(f"the suite did not begin: {said(node)}")
    specs = [
        outcome(node, left_out, whole)
        for node in nodes
        if node["LeafNodeType"] == "It" and LABEL in labels(node)
    ]
    unknown = set(left_out) - {found.spec for found in specs}
    if unknown:
        raise LabError(f"{LEFT_OUT.name} names no conformance spec: {', '.join(sorted(unknown))}")
    seconds = sum(suite["RunTime"] for suite in report) / 1e9
    return Run(tuple(sorted(specs, key=lambda found: found.spec)), seconds)


def labels(spec: dict[str, Any]) -> set[str]:
    above = spec["ContainerHierarchyLabels"] or []
    return {label for each in (*above, spec["LeafNodeLabels"]) for label in each or []}


def said(node: dict[str, Any]) -> str:
    """The first line of why it failed or left itself out; its state where it says nothing."""
    lines = [line.strip() for line in node.get("Failure", {}).get("Message", "").splitlines()]
    return next((line for line in lines if line), str(node["State"]))


def outcome(spec: dict[str, Any], left_out: Mapping[str, str], whole: bool) -> Outcome:
    name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
    if spec["State"] == "passed":
        return Outcome(name, "passed")
    if spec["State"] not in ("skipped", "pending", "interrupted"):
        return Outcome(name, "failed", said(spec))
    if spec["State"] == "skipped" and spec.get(
        "Failure"
    ):  # it looked at the cluster and left itself out
        return Outcome(name, "left out", said(spec))
    if whole and name in left_out:
        return Outcome(name, "left out", left_out[name])
    return Outcome(name, "not run")


# --- what is written ------------------------------------------------------------------------


def document(run: Run, date: str, machine: str) -> str:
    """docs/conformance.md."""
    count = Counter(found.state for found in run.specs)
    return "\n".join(
        [
            "# Conformance",
            "",
            f"Written by `make conformance` on {date}: the conformance specs of Kubernetes"
            f" {KUBERNETES_VERSION}, with Cilium {CILIUM_VERSION}, on a lab made by `make up`.",
            f"It ran on {machine}.",
            "",
            "| specs | passed | failed | left out | not run | minutes |",
            "|---|---|---|---|---|---|",
            f"| {len(run.specs)} | {count['passed']} | {count['failed']} | {count['left out']}"
            f" | {count['not run']} | {run.seconds / 60:.0f} |",
            "",
            "Not run: FOCUS leaves them aside, or the run was ended before it reached them.",
            "",
            "The images of the specs are made here too, of Debian's packages and of Go modules"
            " (`lab/conformance_images.py`). What the lab stands in for is told in"
            " [stand-ins](stand-ins.md).",
            *table("Failed", "what it said", run.of("failed")),
            *table("Left out", "why", run.of("left out")),
            "",
        ]
    )


def table(title: str, reason: str, found: list[Outcome]) -> list[str]:
    if not found:
        return ["", f"## {title}", "None."]
    rows = [f"| {cell(each.spec)} | {cell(each.reason)} |" for each in found]
    return ["", f"## {title}", f"| spec | {reason} |", "|---|---|", *rows]


def cell(text: str) -> str:
    return re.sub(r"([|<>*_])", r"\\\1", text)


def machine(processes: int) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release = ".".join(os.uname().release.split(".")[:2])
    return (
        f"one machine with {os.cpu_count()} cores, {memory:.0f} GiB and Linux {release},"
        f" {processes} specs at a time and the serial ones apart"
    )


# --- the run --------------------------------------------------------------------------------


def known_reasons() -> dict[str, str]:
    """Spec to what this lab lacks for it."""
    return dict(yaml.safe_load(LEFT_OUT.read_text()) or {})


def ginkgo(folder: Path, focus: str, processes: int, environment: Mapping[str, str]) -> Path:
    """Run the suite on the cluster of `environment`; where Ginkgo's report is, if it made one."""
    skipped = "" if focus else "|".join(f"{re.escape(name)}$" for name in known_reasons())
    command = [
        *("ginkgo", f"--procs={processes}", f"--timeout={LIMIT}", "--no-color", "--silence-skips"),
        *(f"--label-filter={LABEL}", f"--output-dir={folder}", "--json-report=report.json"),
        *([f"--focus={focus}"] if focus else []),
        *([f"--skip={skipped}"] if skipped else []),
        *("e2e.test", "--", "--provider=skeleton", "--node-os-distro=debian"),
        *(f"--kubeconfig={environment['KUBECONFIG']}", "--disable-log-dump"),
    ]
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    program = folder / "e2e.test"
    program.unlink(missing_ok=True)
    program.symlink_to(Layout().tool(pins.E2E))  # Ginkgo runs it where it lies
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            process.wait()
        except KeyboardInterrupt:  # Ginkgo has it too, and reports as far as it came
            process.wait()
    return report


def conformance(focus: str, processes: int) -> bool:
    """Run the suite, write what came of it; whether nothing failed."""
    folder = pins.cache() / "conformance"
    folder.mkdir(exist_ok=True)
    os.environ[registry.OTHER_FOLDER] = str(IMAGES.folder())
    started = time.monotonic()
    try:
        with own_lab() as lab:
            print(f"conformance: a lab is up ({time.monotonic() - started:.0f} s)", flush=True)
            print(f"conformance: the suite writes to {folder}/output", flush=True)
            run = run_on(lab, folder, focus, processes)
    except AssertionError as error:  # a command of the lab's checkout failed
        raise LabError(str(error)) from None
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = document(run, date, machine(processes))
    if focus:
        print(text)
    else:
        DOCUMENT.write_text(text)
        print(f"conformance: {DOCUMENT.relative_to(CHECKOUT)} is written", flush=True)
    return not run.of("failed") and (bool(focus) or not run.of("not run"))


def run_on(lab: Lab, folder: Path, focus: str, processes: int) -> Run:
    report = ginkgo(folder, focus, processes, lab.environment)
    if not report.exists():
        end = "\n".join((folder / "output").read_text().splitlines()[-15:])
        raise LabError(f"the suite made no report; the end of {folder}/output:\n{end}")
    return read_report(json.loads(report.read_text()), known_reasons(), whole=not focus)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("focus", nargs="?", default="", help="a regular expression of specs' names")
    usual = PROCESSES_PER_CORE * (os.cpu_count() or 1)
    parser.add_argument("--processes", type=int, default=usual, help="specs at a time")
    given = parser.parse_args()
    os.environ["PATH"] = tools.search_path(Layout())
    try:
        return 0 if conformance(given.focus, given.processes) else 1
    except LabError as error:
        tell(error)
        return 1
    except KeyboardInterrupt:
        print("autojoin: interrupted; its lab is removed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
