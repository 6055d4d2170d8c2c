"""A lab with its nodes as they really are, and what must be so after every edit."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.summary import Summary, read, summarise
from tests.e2e.conftest import Lab

HERE = Path(__file__).parent
# Where provisioning hosts have the files of machines that the graph does not start.
FOLDER = "/var/lib/autojoin/nodes"
BARS = (
    "configmaps",
    "--field-selector=metadata.name=autojoin-barred-nodes",
    "--namespace=kube-system",
)
# The pods that the stack itself puts into the cluster: section, label and its value.
_PARTS = {
    "Cilium": ("app.kubernetes.io/part-of", "cilium"),
    "Cluster DNS": ("k8s-app", "kube-dns"),
}
READY_SECONDS = 60
# What each kind of change that a summary tells of does to a machine that the graph starts:
# whether it is started anew, and whether it has another certificate afterwards.
EFFECTS = {
    "added": (True, True),
    "re-provisioned": (True, True),
    "registered again": (False, False),
    "settings changed": (False, False),
    "kubelet not changed": (False, False),
    "untouched": (False, False),
}


State = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Machine:
    """One node: `boot` is another after each start, `serial` its certificate's, `uid` its Node's.

    `pods` are the containers that run on it, by their identifiers: of what the stack itself puts
    into the cluster by the section of the summary that tells of it, all others by "".
    """

    boot: str
    serial: str
    uid: str
    pods: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass
class Seen:
    """All that was found at one moment."""

    hypervisor: dict[str, Any]
    authority: dict[str, Any]
    nodes: dict[str, Any]
    barred: set[str]
    machines: dict[str, Machine]


@dataclass
class Cluster:
    """The lab, and what the stack says that there has to be.

    `good` is what there was when all was well last; None where nobody knows that it still is.
    """

    lab: Lab
    good: Seen | None = None

    def __post_init__(self) -> None:
        self._hands_off()
        self.good = first = self.look()
        # Before any edit: the stack's programs and the lab's own, what differs by edits left out.
        self.authority_files = set(first.authority["files"])
        self.programs = {
            path for path in first.hypervisor["programs"] if not path.startswith("books/")
        }
        config = self.lab.config
        host = config["autojoin:provisioning"]["hypervisor"]
        self.names = {
            "SUBNET": self.subnet,
            "POOL": config["autojoin:bgp"]["loadBalancerPools"][0]["cidrs"][0],
            "HOST-KEY": host["hostKey"],
            "KEY-FILE": host["privateKeyFile"],
        }

    @property
    def subnet(self) -> str:
        """The first three parts of the lab's addresses."""
        network: str = self.lab.config["autojoin:cluster"]["nodeCidrs"][0]
        return network.rpartition(".")[0]

    # --- what a person does -------------------------------------------------------------

    def summary(self, *further: str) -> Summary:
        """What `make preview` says, of one preview by the engine with `further` words."""
        events = self.lab.checkout / "events"
        events.unlink(missing_ok=True)
        # The flag is one of the engine's for developers.
        self.lab.environment["PULUMI_DEBUG_COMMANDS"] = "true"
        words = ("preview", "--event-log", str(events), "--non-interactive")
        self.lab.run("pulumi", *words, *further)
        return summarise(read(events.read_text()))

    def up(self, *further: str, fails: bool = False) -> str:
        """`pulumi up` with `further` words; what it printed."""
        words = ["up", "--yes", "--skip-preview", "--suppress-outputs", "--parallel", "64"]
        answer = subprocess.run(
            ["pulumi", *words, *further, "--non-interactive"],
            cwd=self.lab.checkout,
            env=self.lab.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lab.output.append(answer.stdout)
        assert (answer.returncode != 0) == fails, answer.stdout
        assert "Traceback" not in answer.stdout, answer.stdout
        return answer.stdout

    def urn(self, name: str) -> str:
        """Of the resource `name`, as the engine knows it."""
        state = json.loads(self.lab.run("pulumi", "stack", "export"))["deployment"]["resources"]
        return next(str(it["urn"]) for it in state if it["urn"].endswith(f"::{name}"))

    def kubectl(self, words: str) -> None:
        """An administrator's command; an API server that is just starting is waited for."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.lab.run("kubectl", "--request-timeout=10s", *words.split())
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def known_good(self) -> Seen:
        """What there is where the test before ended well; after a failure, in a new lab.

        Nobody knows it as good again before `check` has found it so.
        """
        if self.good is None:
            # From the stack file as it is: nothing of what went wrong before is in it.
            self.lab.make("down")
            # It fails where a worker is not Ready that a person would have to start.
            self.lab.run("make", "up", check=False)
            vars(self.lab).pop("_environment", None)
            self._hands_off()
            self.settle()
            return self.look()
        good, self.good = self.good, None
        return good

    def _hands_off(self) -> None:
        """Nobody starts what a person would have to, at a moment that no edit knows."""
        self.lab.on_hypervisor("systemctl stop autojoin-rack")

    # --- what there is ------------------------------------------------------------------

    def look(self) -> Seen:
        config = self.lab.config
        hypervisor = self._probe("hypervisor", config["autojoin:cluster"]["name"], FOLDER)
        authority = self._probe("authority")
        found = self.lab.kubectl("get", "nodes")["items"]
        nodes = {each["metadata"]["name"]: each for each in found}
        bars = self.lab.kubectl("get", *BARS)["items"]
        pods = self.lab.kubectl("get", "pods", "--all-namespaces")["items"]
        machines = {
            name: Machine(
                machine["boot"],
                machine["serial"],
                nodes[name]["metadata"]["uid"] if name in nodes else "",
                _containers(pods, name),
            )
            for name, machine in hypervisor["machines"].items()
        }
        barred = {key for each in bars for key in each.get("data") or {}}
        return Seen(hypervisor, authority, nodes, barred, machines)

    def _probe(self, host: str, *words: str) -> dict[str, Any]:
        script = (HERE / f"{host}_probe.py").read_text()
        run = self.lab.on_hypervisor if host == "hypervisor" else self.lab.on_authority
        marker = "END-OF-PROBE"
        return dict(
            json.loads(run(f"python3 - {' '.join(words)} <<'{marker}'\n{script}\n{marker}"))
        )

    def state(self) -> State:
        """Inputs and outputs of each command of the state by its name, secrets in the clear."""
        text = self.lab.run("pulumi", "stack", "export", "--show-secrets")
        self.lab.output.pop(-2)
        return {
            each["urn"].rpartition("::")[2]: {
                **_clear(each.get("inputs", {})),
                "stdout": _clear(each.get("outputs", {})).get("stdout"),
            }
            for each in json.loads(text)["deployment"]["resources"]
            if each["type"].startswith("command:")
        }

    # --- what must be so ----------------------------------------------------------------

    def settle(self) -> None:
        """Every node that the graph starts is Ready; one that was started needs a moment."""
        deadline = time.monotonic() + READY_SECONDS
        while (late := self._not_ready()) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not late, f"not Ready after {READY_SECONDS} s: {late}"

    def _not_ready(self) -> list[str]:
        conditions = {
            node["metadata"]["name"]: {
                each["type"]: each["status"] for each in node["status"].get("conditions", [])
            }
            for node in self.lab.kubectl("get", "nodes")["items"]
        }
        return [name for name in self.started() if conditions.get(name, {}).get("Ready") != "True"]

    def started(self) -> list[str]:
        """The workers that the graph starts, and waits for."""
        workers = self.lab.config["autojoin:workers"]
        return [name for name, worker in workers.items() if worker["hardware"] == "nspawn"]

    def check(self, before: Seen, summary: Summary, restarts: Iterable[str] = ()) -> Seen:
        """The invariants, and that what was foretold is what happened. What there is now.

        `restarts` are sections whose own pods something else than the edit has started anew.
        """
        self.settle()
        self.lab.run("pulumi", "preview", "--expect-no-changes", "--non-interactive")
        now, state = self.look(), self.state()
        problems = [
            *self._of_the_gate(now, state),
            *self._of_the_machines(now, state),
            *self._of_the_files(now, state),
            *self._of_the_bars(now, state),
            *_foretold(summary, before, now, {*summary.sections, *restarts}),
        ]
        assert not problems, "\n".join(problems)
        self.good = now
        return now

    def _of_the_gate(self, now: Seen, state: State) -> list[str]:
        """The gate knows the configured workers and no other, each as the stack has it."""
        workers = self.lab.config["autojoin:workers"]
        problems = _differ("registered at the gate", set(now.authority["nodes"]), set(workers))
        for name in workers.keys() & now.authority["nodes"].keys():
            told, wanted = now.authority["nodes"][name], workers[name]
            pairs = {
                "identity": identities(state)[name],
                "generation": wanted.get("generation", 1),
                "addresses": [wanted["address"]],
            }
            problems += [
                f"{name}: the gate has {key} {told[key]}, the stack {value}"
                for key, value in pairs.items()
                if told[key] != value
            ]
        return problems

    def _of_the_machines(self, now: Seen, state: State) -> list[str]:
        """Machines are those of the stack, each with a certificate of its current identity."""
        found, started = now.hypervisor, set(self.started())
        workers = self.lab.config["autojoin:workers"]
        problems = []
        for what in ("machines", "units", "enabled", "mounts"):
            problems += _differ(what, set(found[what]), started)
        problems += [f"half done: {name}" for name in found["halfDone"]]
        problems += _differ("Nodes", set(now.nodes), started)
        wanted = identities(state)
        issued = {row[0]: row for row in now.authority["issued"]}
        status = {row[0]: row for row in now.authority["certificates"]}
        for name in started & found["machines"].keys():
            machine = found["machines"][name]
            _, node, identity, revoke = issued.get(machine["serial"], [None] * 4)
            _, subject, state = status.get(machine["serial"], [None] * 3)
            facts = {
                "active": (machine["active"], True),
                "seed's identity": (machine["identity"], wanted[name]),
                "join key on disk": (machine["joinKey"], False),
                "certificate issued to": (node, name),
                "certificate's identity": (identity, wanted[name]),
                "to be revoked": (revoke, 0),
                "certificate's name": (subject, f"system:node:{name}"),
                "certificate's status": (state, "good"),
            }
            problems += [
                f"{name}: {what}: {is_} and not {should}"
                for what, (is_, should) in facts.items()
                if is_ != should
            ]
        for name in started & now.nodes.keys():
            problems += _as_configured(name, workers[name], now.nodes[name])
        return problems + _good_certificates(now, started)

    def _of_the_files(self, now: Seen, state: State) -> list[str]:
        """What lies on the hosts is what the stack put there."""
        programs = now.hypervisor["programs"]
        sent = books(state)
        problems = _differ("programs on the hypervisor", set(programs), {*self.programs, *sent})
        problems += [
            f"{path} on the hypervisor is not what was sent"
            for path, digest in sent.items()
            if programs.get(path, digest) != digest
        ]
        workers = self.lab.config["autojoin:workers"]
        carried = set(workers) - set(self.started())
        # A machine that boots over the network finds its seed by its MAC address.
        delivered = carried | {
            workers[name]["mac"] for name in carried if workers[name]["hardware"] == "bare-metal"
        }
        for folder, files in now.hypervisor["delivered"].items():
            nodes = {path.partition("/")[0] for path in files} - {".autojoin"}
            problems += _differ(f"folders in {folder}", nodes, delivered)
        there = now.authority["files"]
        return problems + _differ("files on the CA host", set(there), self.authority_files)

    def _of_the_bars(self, now: Seen, state: State) -> list[str]:
        """Barred are the removed by name, and every revoked certificate of who is still there."""
        removed = set(json.loads(state["admission-bars"]["stdout"])["barred"])
        revoked = now.authority["revoked"]
        names = {f"node.{name}" for name in removed}
        needed = {f"certificate.{sum}" for sum, node in revoked.items() if node not in removed}
        # Of the removed some are listed, since they were revoked before their removal.
        allowed = {f"certificate.{sum}" for sum in revoked}
        workers = set(self.lab.config["autojoin:workers"])
        names |= {f"worker.{name}" for name in workers}  # who may ask no other signer
        problems = [f"{name} is a worker and barred" for name in sorted(workers & removed)]
        problems += _differ(
            "the list of the barred", now.barred - (allowed - needed), names | needed
        )
        return problems


def _containers(pods: list[dict[str, Any]], node: str) -> dict[str, frozenset[str]]:
    """Those of `pods` that run on `node`, by whose they are."""
    found: dict[str, set[str]] = {section: set() for section in ("", *_PARTS)}
    for pod in pods:
        if pod["spec"].get("nodeName") == node:
            found[_part_of(pod)] |= {
                status["containerID"]
                for status in pod["status"].get("containerStatuses", [])
                if "running" in status["state"]
            }
    return {section: frozenset(containers) for section, containers in found.items()}


def _part_of(pod: dict[str, Any]) -> str:
    """The section of the summary that tells of a pod; "" where it is not the stack's own."""
    labels = pod["metadata"].get("labels", {})
    own = (section for section, (label, value) in _PARTS.items() if labels.get(label) == value)
    return next(own, "")


def _clear(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: json.loads(value["plaintext"])
        if isinstance(value, dict) and "plaintext" in value
        else value
        for key, value in values.items()
    }


def identities(state: State) -> dict[str, str]:
    """Each worker's identity, as the state has it for its registration."""
    given = [
        json.loads(it["stdin"]) for name, it in state.items() if name.endswith("-registration")
    ]
    return {each["node"]: each["identity"] for each in given}


def books(state: State) -> dict[str, str]:
    """What a provisioning host has to have, path to the start of its digest."""
    given = [it["stdin"] for name, it in state.items() if name.endswith("-machines")]
    found = re.findall(r"^file \d+ (\w+) machine/(\S+)$", "\n".join(given), re.MULTILINE)
    return {path: digest for digest, path in found}


def _differ(what: str, found: set[str], wanted: set[str]) -> list[str]:
    problems = [f"{what}: {name} too much" for name in sorted(found - wanted)]
    return problems + [f"{what}: {name} is missing" for name in sorted(wanted - found)]


def _as_configured(name: str, worker: dict[str, Any], node: dict[str, Any]) -> list[str]:
    """Labels and taints reach the Node."""
    labels = worker.get("labels", {"bgp": "worker"})
    found = node["metadata"]["labels"]
    problems = [
        f"{name}: label {key} is {found.get(key)} and not {value}"
        for key, value in labels.items()
        if found.get(key) != value
    ]
    taints = {
        f"{it['key']}={it.get('value', '')}:{it['effect']}" for it in node["spec"].get("taints", [])
    }
    missing = sorted(set(worker.get("taints", [])) - taints)
    return problems + [f"{name}: taint {taint} is missing" for taint in missing]


def _good_certificates(now: Seen, workers: set[str]) -> list[str]:
    """Of nodes, the certificates that the gate knows for a machine are good and no others."""
    kept = {machine.serial for machine in now.machines.values()}
    return [
        f"certificate {serial} of {subject} is {status}, but no machine of the stack has it"
        for serial, subject, status in now.authority["certificates"]
        if subject.startswith("system:node:") and status == "good" and serial not in kept
    ]


def _foretold(summary: Summary, before: Seen, now: Seen, restarts: set[str]) -> list[str]:
    """What the summary said of each node that the graph starts, by starts and serial numbers."""
    problems = []
    issued, revoked = set(summary.issued), set(summary.revoked)
    for kind, names in summary.nodes.items():
        for name in names:
            was, is_ = before.machines.get(name), now.machines.get(name)
            if kind == "removed":
                problems += [f"{name} was to be removed"] if is_ else []
            elif is_ is not None:
                problems += _one_foretold(name, kind, was, is_, restarts)
            new = is_ is not None and (was is None or was.serial != is_.serial)
            gone = was is not None and (is_ is None or was.serial != is_.serial)
            if new != (name in issued) and is_ is not None:
                problems.append(f"{name}: issued a certificate: {new}; the summary says otherwise")
            if gone != (name in revoked) and was is not None:
                problems.append(f"{name}: certificate revoked: {gone}; the summary says otherwise")
    return problems


def _one_foretold(
    name: str, kind: str, was: Machine | None, is_: Machine, restarts: set[str]
) -> list[str]:
    if was is None:
        return [] if kind == "added" else [f"{name} is new, and was foretold as {kind}"]
    starts, renews = EFFECTS[kind]
    problems = []
    if (was.boot != is_.boot) != starts:
        problems.append(f"{name}: {kind}, but started anew: {was.boot != is_.boot}")
    if (was.serial != is_.serial) != renews:
        problems.append(f"{name}: {kind}, but another certificate: {was.serial != is_.serial}")
    if not starts and was.uid != is_.uid:
        problems.append(f"{name}: {kind}, but its Node is another")
    stay = was.pods.keys() - restarts
    ended = [it for section in stay for it in was.pods[section] - is_.pods[section]]
    if not starts and ended:
        problems.append(f"{name}: {kind}, but containers ended: {sorted(ended)}")
    return problems
