"""Every edit of day two ends as its preview said: one lab, the entries of edits/ in their order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from components.summary import text
from tests.lifecycle import edits
from tests.lifecycle.cluster import Cluster, Seen
from tests.lifecycle.edits import Edit

KINDS = ("settings", "workers", "accidents", "identity", "few")
EDITS = [edit for kind in KINDS for edit in edits.load(kind)]


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_it_ends_as_its_preview_said(edit: Edit, cluster: Cluster) -> None:
    before = cluster.known_good()
    if not edit.lasts:
        before = happened(cluster, edit, before)
    apply(cluster, edit.edit)
    further = ["--replace", cluster.urn(edit.replace)] if edit.replace else []
    summary = cluster.summary(*further)
    told = {kind: sorted(names) for kind, names in summary.nodes.items() if kind != "untouched"}
    assert told == {kind: sorted(names) for kind, names in edit.nodes.items()}
    if edit.sections is not None:
        assert sorted(summary.sections) == sorted(edit.sections)
    words = text(summary)
    assert [wanted for wanted in edit.words if wanted not in words] == [], words
    if edit.lasts:
        happens(cluster, edit)
    output = cluster.up(*further, fails=bool(edit.fails))
    assert [wanted for wanted in [*edit.up, *edit.fails] if wanted not in output] == [], output
    if edit.lasts:
        mend(cluster, edit)
        apply(cluster, edit.then_edit)
        cluster.up()
    cluster.check(before, summary, edit.restarts)


def happened(cluster: Cluster, edit: Edit, before: Seen) -> Seen:
    """An accident that is over; what there was, with what it changed."""
    if not (edit.on_hypervisor or edit.on_authority or edit.on_cluster):
        return before
    happens(cluster, edit)
    after = cluster.look()
    for name, machine in after.machines.items():
        if name in before.machines and machine.boot != before.machines[name].boot:
            # What the API server knows of its containers is of the time before the accident.
            after.machines[name] = replace(machine, pods={})
    return replace(after, machines={**before.machines, **after.machines})


def happens(cluster: Cluster, edit: Edit) -> None:
    if edit.on_hypervisor:
        cluster.lab.on_hypervisor(edits.named(edit.on_hypervisor, cluster.names))
    if edit.on_authority:
        cluster.lab.on_authority(edit.on_authority)
    if edit.on_cluster:
        cluster.kubectl(edit.on_cluster)


def mend(cluster: Cluster, edit: Edit) -> None:
    if edit.then:
        cluster.lab.on_hypervisor(edit.then)
        cluster.kubectl("get --raw /readyz")
    if edit.then_on_authority:
        cluster.lab.on_authority(edit.then_on_authority)


def apply(cluster: Cluster, patch: edits.Config) -> None:
    file = cluster.lab.file
    data = yaml.safe_load(file.read_text())
    data["config"] = edits.patched(data["config"], patch, cluster.names)
    file.write_text(yaml.safe_dump(data, sort_keys=False))
