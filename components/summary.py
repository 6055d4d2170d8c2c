"""What a preview would change, for a person: `python -m components.summary EVENTS`.

A pure function of what the engine foretells (the event log of `pulumi preview --event-log`, or the
output of `pulumi preview --json --show-sames`): nodes, certificates, BGP and pools, the rest. Every
step of the engine is told of; secrets are never shown, only that they change, and the hashes that
the stack's outputs hold anyway.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.cilium import versions as cilium_versions
from components.workers.effects import ANEW, DRAINED, EFFECTS, OVER, effect, identity
from components.workers.hardware_types import HARDWARE
from stack import wording

_WORKERS = "autojoin:workers:"
_MACHINE_HOST = "autojoin:machineHost:MachineHost"
_REGISTRATION = "-registration"
_STACK = "pulumi:pulumi:Stack"
_QUIET = {"same", "refresh", "read", "read-replacement", "discard", "discard-replaced"}
_MARKS = {"create": "+", "delete": "-", "update": "~", "replace": "±"}
_WORDS = {"create": "new", "delete": "removed", "update": "changed", "replace": "replaced"}
# Follow each change of the workers, and say nothing that their own lines don't.
FOLLOWERS = {"admission-revoked", "admission-bars", "joins-ready"}
_MOST_DETAILS = 8
_LONGEST_VALUE = 160
_INPUTS = {
    "create": "the command that is run",
    "delete": "the command for its removal",
    "connection": "how its host is reached",
    "stdin": "what it is given",
}
# What the engine writes for what it can't know yet (pulumi's UnknownStringValue).
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


class SummaryError(Exception):
    """Why there is no summary, as a line for a person."""


@dataclass(frozen=True)
class Step:
    """One resource as the engine foretells it. `old`, `new`: its inputs; `diffs`: changed ones."""

    op: str
    urn: str
    old: dict[str, Any] = field(default_factory=dict)
    new: dict[str, Any] = field(default_factory=dict)
    diffs: tuple[str, ...] = ()
    parent: str = ""

    @property
    def name(self) -> str:
        return self.urn.rpartition("::")[2]

    @property
    def type(self) -> str:
        return self.urn.split("::")[2].rpartition("$")[2]

    @property
    def changes(self) -> bool:
        return self.op not in _QUIET


@dataclass(frozen=True)
class Preview:
    """What the engine foretells: its steps, and the stack's outputs before and after."""

    steps: list[Step]
    old: dict[str, Any] = field(default_factory=dict)
    new: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """One line: `op` as the engine has it, what it is about, details."""

    op: str
    what: str
    details: list[str] = field(default_factory=list)


@dataclass
class Summary:
    """What changes. A node is in exactly one of the lists of `nodes`."""

    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    issued: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    sections: dict[str, list[Change]] = field(default_factory=dict)
    turns: str = ""

    @property
    def nothing(self) -> bool:
        changed = [kind for kind in self.nodes if kind != "untouched"]
        return not changed and not self.sections


# --- what the engine says ----------------------------------------------------------------------


def read(text: str) -> Preview:
    """A preview from its event log, or from `pulumi preview --json`. SummaryError otherwise."""
    try:
        if '"steps"' in text and text.lstrip().startswith("{\n"):
            return _from_digest(json.loads(text))
        return _from_events(
            json.loads(line)
            for line in text.splitlines()
            # The log is mostly debug messages, which are not worth parsing.
            if '"resourcePreEvent"' in line or '"resOutputsEvent"' in line
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SummaryError(f"what the engine said can't be read ({error!r})") from None


def _from_events(events: Iterable[dict[str, Any]]) -> Preview:
    steps: list[Step] = []
    outputs: list[dict[str, Any]] = [{}, {}]
    for event in events:
        kind = "resourcePreEvent" if "resourcePreEvent" in event else "resOutputsEvent"
        about = event[kind]["metadata"]
        states = [about.get("old") or {}, about.get("new") or {}]
        if about["type"] == _STACK:
            outputs = [
                state.get("outputs") or known for state, known in zip(states, outputs, strict=True)
            ]
        elif kind == "resourcePreEvent":
            old, new = (state.get("inputs") or {} for state in states)
            diffs = tuple(about.get("detailedDiff") or about.get("diffs") or ())
            parent = (states[1] or states[0]).get("parent", "")
            steps.append(Step(about["op"], about["urn"], old, new, diffs, parent))
    return Preview(_logical(steps), *outputs)


def _from_digest(digest: dict[str, Any]) -> Preview:
    steps: list[Step] = []
    old_outputs: dict[str, Any] = {}
    for step in digest["steps"]:
        old, new = step.get("oldState") or {}, step.get("newState") or {}
        diffs = tuple(step.get("detailedDiff") or step.get("diffReasons") or ())
        parent = (new or old).get("parent", "")
        made = Step(
            step["op"], step["urn"], old.get("inputs") or {}, new.get("inputs") or {}, diffs, parent
        )
        if made.type == _STACK:
            old_outputs = old.get("outputs") or {}
        else:
            steps.append(made)
    return Preview(_logical(steps), old_outputs, {})


def _logical(steps: list[Step]) -> list[Step]:
    """One step a resource: a replacement is told as several."""
    found: dict[str, Step] = {}
    for step in steps:
        op = "replace" if "replace" in step.op and step.op not in _QUIET else step.op
        before = found.get(step.urn)
        # The step `replace` itself is the one that knows both what was and what will be.
        if before is None or not before.changes or step.op == "replace":
            found[step.urn] = Step(op, step.urn, step.old, step.new, step.diffs, step.parent)
    # What does not depend on each other is deleted in any order.
    return sorted(found.values(), key=lambda step: step.urn if step.op == "delete" else "")


# --- what it means --------------------------------------------------------------------------------


def summarise(preview: Preview) -> Summary:
    """What the steps mean for nodes, certificates, BGP and the rest."""
    summary = Summary()
    nodes = _nodes(preview)
    for name, (kind, why) in nodes.items():
        summary.nodes.setdefault(kind, {})[name] = why
        if kind == "added" or kind in ANEW:
            summary.issued.append(name)
        if kind == "removed" or kind in ANEW:
            summary.revoked.append(name)
    if any(kind in summary.nodes for kind in DRAINED):
        summary.turns = _turns(preview.new.get("rollout") or {})
    # The engine deletes side by side, in an order of its own each time.
    for step in sorted(preview.steps, key=lambda it: (it.op == "delete") * it.urn):
        if step.changes and not of_worker(step):
            section, change = _other(step, bool(nodes_changed(nodes)))
            if change is not None:
                if step.name == "ca-pair":
                    change.details[:0] = _authorities(preview)
                summary.sections.setdefault(section, []).append(change)
    return summary


def _authorities(preview: Preview) -> list[str]:
    """Which CA signs, and which are trusted, by their certificates' paths on the CA host."""
    old, new = (it.get("certificateAuthority") or {} for it in (preview.old, preview.new))
    return [
        line
        for key in ("signs", "trusts")
        if key in old and key in new
        for line in _compared(key, old[key], new[key])
    ]


def _turns(rollout: dict[str, Any]) -> str:
    """How many nodes go down at a time, and how long their pods have; as the program says it."""
    if not rollout:
        return ""
    seconds = rollout["drainTimeout"]
    drained = f"each drained within {seconds} s" if seconds else "not drained"
    return f"{rollout['maxUnavailable']} at a time, {drained} (autojoin:rollout)"


def nodes_changed(nodes: dict[str, tuple[str, str]]) -> list[str]:
    return [name for name, (kind, _) in nodes.items() if kind != "untouched"]


def _is_worker(type_: str) -> bool:
    return type_.startswith(_WORKERS)


def of_worker(step: Step) -> bool:
    """Whether a step is a worker's component, what is directly in one, or its registration."""
    return bool(_worker(step))


def _worker(step: Step) -> str:
    """The worker that a step belongs to; empty where it is none's."""
    *above, own = step.urn.split("::")[2].split("$")
    if _is_worker(own):
        return step.name
    if any(_is_worker(kind) for kind in above):
        return step.parent.rpartition("::")[2]
    return step.name.removesuffix(_REGISTRATION) if step.name.endswith(_REGISTRATION) else ""


def _nodes(preview: Preview) -> dict[str, tuple[str, str]]:
    """Each node's kind of change, and why."""
    steps: dict[str, list[Step]] = {}
    for step in preview.steps:
        if _is_worker(step.type):
            steps.setdefault(step.name, [])
    for step in preview.steps:
        if name := _worker(step):
            steps.setdefault(name, []).append(step)
    old, new = preview.old.get("nodes") or {}, preview.new.get("nodes") or {}
    return {
        name: _node(found, old.get(name) or {}, new.get(name) or {})
        for name, found in sorted(steps.items())
    }


def _node(steps: list[Step], old: dict[str, Any], new: dict[str, Any]) -> tuple[str, str]:
    components = [step for step in steps if _is_worker(step.type)]
    ops = {step.op for step in components}
    started, follows_seed = _is_started(new or old), _follows_seed(new or old)
    over = OVER if started and not follows_seed else {}
    if "create" in ops:
        return over.get("added", "added"), _described(new)
    if "delete" in ops:
        return over.get("removed", "removed"), _described(old)
    changed = {step.name: step for step in steps if step.changes}
    registration = next(
        (step for name, step in changed.items() if name.endswith(_REGISTRATION)), None
    )
    rest = [step for step in changed.values() if step is not registration]
    anew = any(_is_anew(step) for step in changed.values())
    if new.get("userDataSha256") == _UNKNOWN and not anew:
        why = "the authority's certificate is asked for anew"
        return "known only after the CA host ran", why
    kind = effect(
        started,
        follows_seed,
        anew,
        _top(registration) if registration is not None else set(),
        {name for step in rest for name in _inputs(step)},
    )
    if kind in ANEW or kind == "made anew without a key":
        return kind, _different(old, new) or "what it is made from changed"
    if kind == "seed delivered anew":
        return _delivered(_seed(old, new))
    if registration is not None:
        return "registered again", _named([registration])
    if rest:
        return "settings changed", _named(rest) or "outputs"
    if new and old.get("userDataSha256") != new.get("userDataSha256"):
        why = f"{_seed(old, new)}; carry it there, or raise its generation"
        return "seed changed, not delivered", why
    versions = [str(node.get("kubernetesVersion")) for node in (old, new)]
    if "kubernetesVersion" in old and versions[0] != versions[1]:
        return "kubelet not changed", f"Kubernetes {' → '.join(versions)}"
    return "untouched", ""


def _is_anew(step: Step) -> bool:
    """Whether a command of a worker is of another identity than before."""
    old, new = identity(step.old), identity(step.new)
    return None not in (old, new) and old != new


def _is_started(node: dict[str, Any]) -> bool:
    """Whether the graph itself starts the machine of a node."""
    kind = HARDWARE.get(str(node.get("hardware")))
    # Outputs of before guests were started say nothing of it.
    return bool(node.get("startedByUp", kind is not None and kind.is_started(None, None)))


def _follows_seed(node: dict[str, Any]) -> bool:
    kind = HARDWARE.get(str(node.get("hardware")))
    return kind is None or kind.follows_seed


def _inputs(step: Step) -> set[str]:
    """The inputs of a command that change; one that is replaced runs again, as by its triggers."""
    return _top(step) | ({"triggers"} if step.op == "replace" else set())


def _delivered(seed: str) -> tuple[str, str]:
    """Files of a machine that a person starts: cloud-init reads a seed once, so a node that has
    joined keeps what it has."""
    if seed:
        return "seed delivered anew", f"{seed}; raise its generation for a joined node"
    return "files delivered anew", "not its seed"


def _top(step: Step) -> set[str]:
    return {path.split(".")[0].split("[")[0] for path in step.diffs}


def _named(steps: list[Step]) -> str:
    """The changed inputs of commands, in words."""
    names = {name for step in steps for name in _top(step)}
    return ", ".join(sorted(_INPUTS.get(name, name) for name in names))


def _described(node: dict[str, Any]) -> str:
    words = [str(node["hardware"])] if node.get("hardware") else []
    return ", ".join([*words, *([_address(node)] if node.get("address") else [])])


def _different(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What the outputs say of a node's change; the seed's hash stands for the secrets in it."""
    old, new = ({**it, "address": _address(it)} if "address" in it else it for it in (old, new))
    words = [
        f"{key} {old[key]} → {new[key]}"
        for key in ("hardware", "address", "generation")
        if key in old and key in new and old[key] != new[key]
    ]
    return ", ".join([*words, *([seed] if (seed := _seed(old, new)) else [])])


def _address(node: dict[str, Any]) -> str:
    return " and ".join(node.get("addresses") or [str(node["address"])])


def _seed(old: dict[str, Any], new: dict[str, Any]) -> str:
    hashes = [node.get("userDataSha256") for node in (old, new)]
    if None in hashes or _UNKNOWN in hashes or hashes[0] == hashes[1]:
        return ""
    return f"seed {str(hashes[0])[:8]} → {str(hashes[1])[:8]}"


# --- what is not a node -------------------------------------------------------------------------


def _other(step: Step, workers_change: bool) -> tuple[str, Change | None]:
    """The section of a step that is no worker's, and its line; None where it says nothing."""
    if step.name in FOLLOWERS and step.op == "update" and workers_change:
        return "", None
    if step.type.startswith("kubernetes:cilium.io/"):
        return "BGP and pools", _custom_resource(step)
    if step.type == "kubernetes:helm.sh/v3:Release":
        return "Cilium", Change(
            step.op,
            f"release {step.new.get('name', step.name)}",
            [*_skipped_releases(step), *_lost_pods(step), *_values(step), *_own_pods(step)],
        )
    if step.type.startswith("autojoin:"):
        return "", None  # A component is told by what is in it.
    if _MACHINE_HOST in step.urn:
        host = step.parent.rpartition("::")[2]
        values = [it for it in _values(step) if not it.startswith(_INPUTS["stdin"])]
        return "Provisioning hosts", Change(step.op, host, [*values, *_shared(step)])
    if step.type.startswith("pulumi:providers:"):
        if step.type == "pulumi:providers:kubernetes":
            return "Cluster", Change(step.op, "how the API server is reached", _values(step))
        return "Plugins", Change(step.op, step.type.rpartition(":")[2], _values(step))
    return _SECTIONS.get(step.name.partition("-")[0], "Other"), _plain(step)


_SECTIONS = {
    "ca": "Certificate authority",
    "gate": "Join gate",
    "admission": "Admission",
    "joins": "Join gate",
    "cilium": "Cilium",
    "bgp": "BGP and pools",
    "dns": "Cluster DNS",
}
_WHAT = {
    "ca-pair": "certificate of the authority",
    "ca-cfssl": "CFSSL and its services on the CA host",
    "gate-service": "the gate's service on the CA host",
    "gate-key": "key of the gate's listener",
    "gate-renewal": "certificate of the gate's listener, due for renewal (its key stays)",
    "gate-request": "request for the certificate of the gate's listener",
    "gate-join-secret": "the secret from which join keys derive",
    "admission-revoked": "what is revoked, read from the gate",
    "admission-bars": "the admission policy and its list of the barred",
    "joins-ready": "wait until the workers are Ready",
    "bgp-crd-gate": "wait for Cilium's custom resource definitions",
}


def _skipped_releases(step: Step) -> list[str]:
    """Cilium's makers test an upgrade from each minor release to the next, and no further."""
    old, new = str(step.old.get("version", "")), str(step.new.get("version", ""))
    between = cilium_versions.between(old, new)
    if step.op not in ("update", "replace") or not between:
        return []
    return [f"skips {', '.join(between)}: go from one minor release to the next, up by up"]


def _lost_pods(step: Step) -> list[str]:
    """Networks of pods that go away: Cilium takes further ones only (cilium#28266)."""
    found = []
    for key in ("clusterPoolIPv4PodCIDRList", "clusterPoolIPv6PodCIDRList"):
        old, new = (_pods(inputs, key) for inputs in (step.old, step.new))
        gone = [cidr for cidr in old if cidr not in new]
        if step.op in ("update", "replace") and gone:
            found.append(
                f"podCidrs lose {', '.join(gone)}: nodes and pods keep addresses of it, and lose "
                "their way; append networks instead, and replace none"
            )
    return found


def _own_pods(step: Step) -> list[str]:
    changed = step.op == "update" and any(
        step.old.get(key) != step.new.get(key) for key in ("values", "version")
    )
    return ["Cilium's pods that read it restart; other pods run on"] if changed else []


def _pods(inputs: dict[str, Any], key: str) -> list[str]:
    found: Any = inputs.get("values")
    for name in ("ipam", "operator", key):
        found = found.get(name) if isinstance(found, dict) else None
    return [str(cidr) for cidr in found] if isinstance(found, list) else []


def _plain(step: Step) -> Change:
    what = _WHAT.get(step.name, f"{step.name} ({step.type.rpartition(':')[2]})")
    return Change(step.op, what, [*_values(step), *_rolled(step)])


def _rolled(step: Step) -> list[str]:
    """A Deployment makes its pods anew wherever their template changes."""
    if step.op != "update" or not step.type.endswith(":Deployment"):
        return []
    changes = _compared("spec", step.old.get("spec"), step.new.get("spec"))
    changed = any(it.startswith("spec.template") for it in changes)
    return ["its pods restart one after another; other pods run on"] if changed else []


def _shared(step: Step) -> list[str]:
    """The changed lines of what a provisioning host gets for all its nodes; it holds no secret."""
    old, new = (state.get("stdin") for state in (step.old, step.new))
    if new == _UNKNOWN:
        return ["known only after the CA host ran: the authority's certificate is asked for anew"]
    if step.op != "update" or not (isinstance(old, str) and isinstance(new, str)):
        return []
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    # Text of the files begins with + in it; the rest is how they are put together.
    changed = [_shortened(f"{it[0]} {it[2:]}") for it in lines if it[:2] in ("-+", "++")][1:]
    more = len(changed) - _MOST_DETAILS
    return [*changed[:_MOST_DETAILS], *([f"and {more} lines more"] if more > 0 else [])]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _custom_resource(step: Step) -> Change:
    kind = step.type.rpartition(":")[2]
    body = step.new or step.old
    name = body.get("metadata", {}).get("name", step.name)
    details = _values(step)
    if kind == "CiliumLoadBalancerIPPool":
        blocks = body.get("spec", {}).get("blocks", [])
        cidrs = [
            block.get("cidr") or f"{block.get('start')}-{block.get('stop')}" for block in blocks
        ]
        return Change(step.op, f"pool {name} ({', '.join(cidrs)})", details)
    return Change(step.op, f"{kind} {name}", details)


def _values(step: Step) -> list[str]:
    """The changed inputs of an update, a path and two values each; secrets and bulk not shown."""
    if step.op not in ("update", "replace"):
        return []
    found: list[str] = []
    # By what the plugin says changes: where it reaches no API server it puts a namespace into the
    # inputs of what may have none, and says that this changes nothing.
    for key in sorted(_top(step) or {*step.old, *step.new}):
        found += _compared(key, step.old.get(key), step.new.get(key))
    shown_keys = {line.split(":")[0].split(".")[0].split("[")[0] for line in found}
    shown_keys |= {key for key, words in _INPUTS.items() if words in shown_keys}
    found += [
        f"{_INPUTS.get(key, key)}: changes (not shown)" for key in sorted(_top(step) - shown_keys)
    ]
    more = len(found) - _MOST_DETAILS
    return [*found[:_MOST_DETAILS], f"and {more} more"] if more > 0 else found


def _compared(path: str, old: Any, new: Any) -> Iterator[str]:
    if old == new or path.startswith("__"):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _compared(f"{path}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _compared_lists(path, old, new)
    elif _is_bulk(old) or _is_bulk(new):
        yield f"{_INPUTS.get(path, path)}: changes (not shown)"
    else:
        yield f"{path}: {_shown(old)} → {_shown(new)}"


def _is_bulk(value: Any) -> bool:
    return isinstance(value, str) and ("\n" in value or len(value) > _LONGEST_VALUE)


def _compared_lists(path: str, old: list[Any], new: list[Any]) -> Iterator[str]:
    """By name where the entries have one, so that a new first entry is one new entry."""
    keys = ["name" if isinstance(item, dict) and "name" in item else "" for item in [*old, *new]]
    if keys and all(keys):
        before, after = ({item["name"]: item for item in items} for items in (old, new))
        for name in sorted({*before, *after}):
            yield from _compared(f"{path}[{name}]", before.get(name), after.get(name))
    elif all(isinstance(item, (str, int)) for item in [*old, *new]):
        yield f"{path}: {_shown(old)} → {_shown(new)}"
    else:
        for index in range(max(len(old), len(new))):
            pair = [items[index] if index < len(items) else None for items in (old, new)]
            yield from _compared(f"{path}[{index}]", *pair)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = wording.dotted_example(value)
    return _shortened(text)


# --- for a person, and for a program --------------------------------------------------------------

_COLOURS = {"+": "\033[32m", "-": "\033[31m", "~": "\033[33m", "±": "\033[35m"}


def text(summary: Summary, *, colours: bool = False) -> str:
    """The summary as lines."""
    if summary.nothing:
        count = len(summary.nodes.get("untouched", {}))
        return f"Nothing changes ({count} nodes untouched)."
    lines = ["Nodes", *_node_lines(summary)]
    if summary.issued or summary.revoked:
        lines.append("Certificates")
        for word, names in (("issued to", summary.issued), ("revoked of", summary.revoked)):
            if names:
                lines.append(f"    {word} {_listed(names)}")
    for section, changes in summary.sections.items():
        lines.append(section)
        for change in changes:
            lines.append(f"  {_MARKS.get(change.op, '?')} {change.what}: {_word(change.op)}")
            lines += [f"      {detail}" for detail in change.details]
    return "\n".join(_coloured(line) if colours else line for line in lines)


def _node_lines(summary: Summary) -> list[str]:
    lines = []
    for kind, (op, meaning) in EFFECTS.items():
        for name, why in summary.nodes.get(kind, {}).items():
            lines.append(f"  {_MARKS[op]} {name}: {kind} ({why}): {meaning}")
    if summary.turns:
        lines.append(f"    {summary.turns}")
    untouched = list(summary.nodes.get("untouched", {}))
    if untouched:
        lines.append(f"  = {len(untouched)} untouched: {_listed(untouched)}")
    return lines or ["    none"]


def _word(op: str) -> str:
    return _WORDS.get(op, op)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


def _coloured(line: str) -> str:
    mark = line[2:3]
    if line[:2] == "  " and mark in _COLOURS:
        return f"  {_COLOURS[mark]}{mark}\033[0m{line[3:]}"
    return line if line.startswith(" ") else f"\033[1m{line}\033[0m"


def as_data(summary: Summary) -> dict[str, Any]:
    """The summary for a program."""
    return {
        "nodes": {kind: summary.nodes.get(kind, {}) for kind in [*EFFECTS, "untouched"]},
        "certificates": {"issued": summary.issued, "revoked": summary.revoked},
        "sections": {
            name: [asdict(change) for change in changes]
            for name, changes in summary.sections.items()
        },
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m components.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "events", help="the event log or the JSON of a preview; - is standard input"
    )
    parser.add_argument("--json", action="store_true", help="for a program")
    given = parser.parse_args(arguments)
    try:
        source = sys.stdin.read() if given.events == "-" else Path(given.events).read_text()
        summary = summarise(read(source))
    except (OSError, SummaryError) as error:
        print(f"autojoin: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(as_data(summary), indent=2, ensure_ascii=False))
    else:
        print(text(summary, colours=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return 0


if __name__ == "__main__":
    sys.exit(main())
