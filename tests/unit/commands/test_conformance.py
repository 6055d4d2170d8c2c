"""What `make conformance` makes of a report that Ginkgo wrote of Kubernetes' own suite.

conformance_report.json is such a report, of an API server without nodes, cut down to a few specs;
the one that left itself out is none of conformance but by the label that was added.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from commands import conformance
from commands.conformance import Outcome
from tools.errors import LabError

REPORT = json.loads(Path(__file__).with_name("conformance_report.json").read_text())
FAILED = (
    "[sig-apps] ControllerRevision [Serial] should manage the lifecycle of a ControllerRevision"
    " [Conformance]"
)
ITSELF = (
    "[sig-cloud-provider-gcp] GKE node pools [Feature:GKENodePool] should create a cluster with"
    " multiple node pools [Feature:GKENodePool]"
)


def not_run() -> str:
    (found,) = conformance.read_report(REPORT, {}, whole=False).of("not run")
    return found.spec


def test_every_spec_of_a_whole_run_passed_failed_or_was_left_out_for_a_reason() -> None:
    run = conformance.read_report(REPORT, {not_run(): "a second machine"}, whole=True)
    assert len(run.specs) == 5
    assert [found.reason for found in run.of("passed")] == ["", ""]
    (failed,) = run.of("failed")
    assert (failed.spec, failed.reason[:36]) == (FAILED, "client rate limiter Wait returned an")
    assert {found.spec: found.reason for found in run.of("left out")} == {
        ITSELF: "Only supported for providers [gce] (not skeleton)",
        not_run(): "a second machine",
    }


def test_a_spec_that_was_not_reached_is_counted() -> None:
    run = conformance.read_report(REPORT, {}, whole=True)
    assert run.of("not run") == [Outcome(not_run(), "not run")]
    assert "| 5 | 2 | 1 | 1 | 1 | 6 |" in conformance.document(run, "2026-11-29", "one machine")


def test_what_was_cut_short_was_not_run() -> None:
    report = edited(
        "passed", {"State": "interrupted", "Failure": {"Message": "Interrupted by User"}}
    )
    run = conformance.read_report(report, {}, whole=True)
    assert (len(run.of("not run")), len(run.of("failed"))) == (2, 1)


@pytest.mark.parametrize("state", ["timedout", "panicked", "aborted"])
def test_whatever_ended_otherwise_failed(state: str) -> None:
    report = edited("passed", {"State": state})
    run = conformance.read_report(report, {}, whole=False)
    assert [found.reason for found in run.of("failed")].count(state) == 1
    assert len(run.of("failed")) == 2


def test_a_table_that_names_no_spec_is_refused() -> None:
    with pytest.raises(LabError, match=r"conformance\.yaml names no conformance spec: gone"):
        conformance.read_report(REPORT, {"gone": "nothing"}, whole=True)


def test_a_suite_that_could_not_begin_is_told() -> None:
    report = copy.deepcopy(REPORT)
    report[0]["SpecReports"][0] |= {"State": "failed", "Failure": {"Message": "no nodes\nat x.go"}}
    with pytest.raises(LabError, match=r"the suite did not begin: no nodes$"):
        conformance.read_report(report, {}, whole=True)


def test_the_document_counts_and_names_them() -> None:
    run = conformance.read_report(REPORT, {not_run(): "a second machine"}, whole=True)
    text = conformance.document(run, "2026-11-29", "one machine")
    assert "| 5 | 2 | 1 | 2 | 0 | 6 |" in text
    failed, left_out = text.split("## Failed")[1].split("## Left out")
    assert failed.count("\n| [sig-") == 1 and "ControllerRevision" in failed
    assert left_out.count("\n| [sig-") == 2 and "| a second machine |" in left_out


def test_what_is_left_out_says_why() -> None:
    assert all(reason.strip() for reason in conformance.known_reasons().values())


def edited(state: str, change: dict[str, Any]) -> list[dict[str, Any]]:
    """The report with one spec of that state changed."""
    report: list[dict[str, Any]] = copy.deepcopy(REPORT)
    specs = [spec for spec in report[0]["SpecReports"] if spec["LeafNodeType"] == "It"]
    next(spec for spec in specs if spec["State"] == state).update(change)
    return report
