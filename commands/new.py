"""Write the stack file of a new lab: `python -m commands.new STACK [flags]`.

What no flag says is asked on a terminal. What kubeconfig, API server and the CA's host tell, of its
own network too, is proposed there and taken elsewhere; the rest are examples (the file marks those
lines).
The file is commented, is checked before it is written, and never replaces another.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml

from commands import found, stack_text
from components.load import examine_content, examine_values
from components.shell import ssh
from stack.models import Hardware
from stack.wording import field_at
from tools import install as tools
from tools.errors import tell
from tools.pins import CHECKOUT, Layout

EXAMPLE_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExam"
WORKER_FORM = "NAME HARDWARE ADDRESS [KEY=VALUE …]"
HOST_FORM = "NAME ADDRESS [HOSTKEY]"
OWN_KEY = "~/.ssh/id_ed25519"
EXAMPLE_WORKERS = ["worker-1 bhyve 192.168.10.21 mac=02:08:20:00:00:21"]


class NewError(Exception):
    """Why nothing was written, as lines for a person."""


@dataclass(frozen=True)
class Question:
    """One value of the new file: its flag, its place in the configuration, an example of it."""

    flag: str
    place: tuple[str, ...]
    ask: str
    example: Any
    # Asked only where this says so of the answers so far.
    when: Callable[[dict[str, Any]], bool] = lambda values: True
    choices: tuple[str, ...] = ()
    # What the cluster or a host says; None where they say nothing.
    find: Callable[[Answers], Any] = lambda answers: None

    @property
    def is_list(self) -> bool:
        return isinstance(self.example, list)

    @property
    def help(self) -> str:
        several = "; several with commas between" if self.is_list else ""
        example = f" (example: {shown(self.example)})" if self.example else ""
        return f"{self.ask}{several}{example}"


def existing(values: dict[str, Any]) -> bool:
    return bool(values["certificateAuthority"]["source"] == "existing")


def of_cluster(key: str) -> Callable[[Answers], Any]:
    return lambda answers: found.cluster(answers.values["cluster"]["kubeconfig"]).get(key)


def of_authority_host(key: str) -> Callable[[Answers], Any]:
    def find(answers: Answers) -> Any:
        host = answers.values[_CA]["host"]
        if {f"{_CA}.host.address", f"{_CA}.host.hostKey"} & answers.examples:
            return None
        return found.host(json.dumps(host)).get(key)

    return find


def shown_key(answers: Answers) -> str | None:
    if f"{_CA}.host.address" in answers.examples:
        return None
    return ssh.offered(answers.values[_CA]["host"]["address"]) or None


def own_key(answers: Answers) -> str | None:
    is_needed = "SSH_AUTH_SOCK" not in os.environ and Path(OWN_KEY).expanduser().is_file()
    return OWN_KEY if is_needed else None


_CA = "certificateAuthority"
_SOURCES = ("existing", "generate")
QUESTIONS = [
    Question("name", ("cluster", "name"), "Name of the cluster", "home"),
    Question("kubeconfig", ("cluster", "kubeconfig"), "Kubeconfig of an admin", "~/.kube/config"),
    Question(
        "api-server",
        ("cluster", "apiServer"),
        "URL of the API server",
        "https://192.168.10.5:6443",
        find=of_cluster("apiServer"),
    ),
    Question(
        "kubernetes-version",
        ("cluster", "kubernetesVersion"),
        "Version of Kubernetes",
        "1.34.2",
        find=of_cluster("kubernetesVersion"),
    ),
    Question(
        "pod-cidrs",
        ("cluster", "podCidrs"),
        "Networks for pods",
        ["10.20.0.0/16"],
        find=of_cluster("podCidrs"),
    ),
    Question(
        "service-cidrs",
        ("cluster", "serviceCidrs"),
        "Networks of Services",
        ["10.30.0.0/16"],
        find=of_cluster("serviceCidrs"),
    ),
    Question("ca-address", (_CA, "host", "address"), "Address of the CA host", "192.168.10.2"),
    Question(
        "ca-host-key",
        (_CA, "host", "hostKey"),
        "Its public host key (`ssh-keyscan -t ed25519 ADDRESS`, without the address)",
        EXAMPLE_HOST_KEY,
        find=shown_key,
    ),
    Question(
        "user",
        (_CA, "host", "user"),
        "User to log in on hosts as, who becomes root by sudo or doas (empty: root)",
        "",
    ),
    Question(
        "key-file",
        (_CA, "host", "privateKeyFile"),
        "Private SSH key to log in on hosts with (empty: the SSH agent)",
        "",
        find=own_key,
    ),
    Question(
        "ca-platform",
        (_CA, "platform"),
        "What the CA host runs",
        "linux",
        choices=("illumos", "linux", "freebsd", "openbsd", "netbsd"),
        find=of_authority_host("platform"),
    ),
    Question(
        "ca-source",
        (_CA, "source"),
        "existing: certificate and key are on the host; generate: make them there",
        "existing",
        choices=_SOURCES,
    ),
    Question(
        "ca-certificate",
        (_CA, "certificate"),
        "Path of the CA's certificate on the host",
        "/etc/kubernetes-ca/ca.pem",
        when=existing,
        find=of_authority_host("certificate"),
    ),
    Question(
        "ca-key",
        (_CA, "key"),
        "Path of the CA's key on the host",
        "/etc/kubernetes-ca/ca-key.pem",
        when=existing,
        find=of_authority_host("key"),
    ),
    Question(
        "node-cidrs",
        ("cluster", "nodeCidrs"),
        "Networks of the nodes",
        ["192.168.10.0/24"],
        find=of_authority_host("nodeCidrs"),
    ),
    Question(
        "gateway",
        ("cluster", "gateway"),
        "Default route of the nodes",
        "192.168.10.1",
        find=of_authority_host("gateway"),
    ),
    Question(
        "dns-servers",
        ("cluster", "dnsServers"),
        "Resolvers of the nodes",
        ["192.168.10.1"],
        find=of_authority_host("dnsServers"),
    ),
]

BGP_QUESTIONS = [
    Question("asn", ("bgp", "localAsn"), "Autonomous system of the nodes", 65010),
    Question("router-asn", ("bgp", "routerAsn"), "That of the router", 65001),
    Question(
        "pool-cidrs", ("bgp", "poolCidrs"), "Networks for load balancers", ["192.168.50.0/24"]
    ),
]


@dataclass
class Answers:
    """What is known of the new file, and which of it are examples."""

    values: dict[str, Any] = field(default_factory=dict)
    examples: set[str] = field(default_factory=set)
    found: set[str] = field(default_factory=set)

    def put(self, place: Iterable[str], value: Any) -> None:
        *above, last = place
        target = self.values
        for name in above:
            target = target.setdefault(name, {})
        target[last] = value


def shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


# --- answers ----------------------------------------------------------------------------------


def gather(given: argparse.Namespace, interactive: bool) -> Answers:
    """Every answer: from flags, else from the terminal, else what is found, else the example."""
    answers = Answers()
    for question in QUESTIONS:
        if question.when(answers.values):
            proposal = proposed(question, given, answers)
            value, is_default = answer(question, given, interactive, proposal)
            if value == "":
                continue
            answers.put(question.place, value)
            if proposal is not None and value == proposal:
                answers.found.add(".".join(question.place))
            elif is_default:
                answers.examples.add(".".join(question.place))
    _gather_bgp(given, interactive, answers)
    _gather_hosts(given, interactive, answers)
    answers.values["workers"] = _gather_workers(given, interactive, answers)
    return answers


def proposed(question: Question, given: argparse.Namespace, answers: Answers) -> Any:
    """What is found where no flag says it; None where nothing is, or it would not do."""
    if flag(question, given) is not None:
        return None
    value = question.find(answers)
    return None if value is None or wrong(question, shown(value)) else value


def flag(question: Question, given: argparse.Namespace) -> str | None:
    text: str | None = getattr(given, question.flag.replace("-", "_"))
    return text


def answer(
    question: Question, given: argparse.Namespace, interactive: bool, proposal: Any = None
) -> tuple[Any, bool]:
    """One answer, and whether nobody gave it: it is the proposal, or the example."""
    text, default = flag(question, given), question.example if proposal is None else proposal
    if text is None and interactive:
        text = prompt(question, shown(default))
    return (parsed(question, text), False) if text else (default, True)


def prompt(question: Question, default: str) -> str:
    """What a person answers; asked again while it is wrong."""
    while True:
        text = input(f"{question.ask} [{default}]: ").strip()
        problem = wrong(question, text) if text else ""
        if not problem:
            return text or default
        print(f"  {problem}")


def wrong(question: Question, text: str) -> str:
    """What is wrong with an answer by itself; "" where nothing is."""
    values: dict[str, Any] = {}
    value = parsed(question, text)
    target = values
    for name in question.place[:-1]:
        target = target.setdefault(name, {})
    target[question.place[-1]] = value
    if field_at(question.place) is None:
        return ""
    path = "autojoin:" + ".".join(question.place)
    for problem in examine_values(values).problems:
        if problem.key.startswith(path):
            return str(problem).removeprefix(f"{problem.key}: ")
    return ""


def parsed(question: Question, text: str) -> Any:
    """The text of a flag or an answer as a value."""
    if question.is_list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(question.example, int):
        return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else text
    return text


def _gather_bgp(given: argparse.Namespace, interactive: bool, answers: Answers) -> None:
    router = given.router
    if router is None and interactive:
        router = input("Address of the BGP router (empty: no BGP): ").strip()
    if not router:
        return
    asn, router_asn, pool_cidrs = (
        answer(question, given, interactive)[0] for question in BGP_QUESTIONS
    )
    answers.values["bgp"] = {
        "localAsn": asn,
        "peers": [{"name": "router", "address": router, "asn": router_asn}],
        "loadBalancerPools": [{"name": "pool", "cidrs": pool_cidrs}],
    }


def _gather_hosts(given: argparse.Namespace, interactive: bool, answers: Answers) -> None:
    """The hosts that run or feed machines. NewError where one shows no key and none is given."""
    if given.provisioning is None and interactive:
        _ask_hosts(answers)
    for line in given.provisioning or []:
        put_host(line, answers)


def _ask_hosts(answers: Answers) -> None:
    print(f"Hosts that run machines or feed them, one a line: {HOST_FORM}; an empty line ends")
    while line := input("host: ").strip():
        name = line.split()[0]
        try:
            put_host(line, answers)
        except NewError as error:
            print(f"  {error}")
            continue
        problems = examine_values(answers.values).problems
        of_host = [it for it in problems if f"provisioning.{name}" in it.key]
        for problem in of_host:
            print(f"  {problem}")
        if of_host:
            answers.found.discard(f"provisioning.{name}.hostKey")
            del answers.values["provisioning"][name]
    if not answers.values.get("provisioning", True):
        del answers.values["provisioning"]


def put_host(line: str, answers: Answers) -> None:
    """A host from HOST_FORM."""
    words = line.split(maxsplit=2)
    if len(words) < 2:
        raise NewError(f"a host is written as {HOST_FORM}, not as {line!r}")
    name, address, *key = words
    entry = {"address": address, "hostKey": key[0] if key else ssh.offered(address)}
    if not entry["hostKey"]:
        raise NewError(f"{address} shows no Ed25519 host key; write its key behind it: {HOST_FORM}")
    login = answers.values[_CA]["host"]
    entry |= {key: login[key] for key in ("user", "privateKeyFile") if key in login}
    answers.put(("provisioning", name), entry)
    if not key:
        answers.found.add(f"provisioning.{name}.hostKey")


def _gather_workers(
    given: argparse.Namespace, interactive: bool, answers: Answers
) -> dict[str, Any]:
    lines = given.worker
    if lines is None and interactive:
        return _ask_workers(answers.values)
    if lines is None:
        answers.examples.add("workers")
        lines = EXAMPLE_WORKERS
    return dict(worker(line) for line in lines)


def _ask_workers(values: dict[str, Any]) -> dict[str, Any]:
    print(f"Workers, one a line: {WORKER_FORM}")
    print(f"  hardware is one of {', '.join(get_args(Hardware))}; an empty line ends")
    found: dict[str, Any] = {}
    while line := input("worker: ").strip():
        try:
            name, settings = worker(line)
        except NewError as error:
            print(f"  {error}")
            continue
        trial = examine_values({**values, "workers": {**found, name: settings}})
        problems = [item for item in trial.problems if f"workers.{name}" in item.key]
        for problem in problems:
            print(f"  {problem}")
        if not problems:
            found[name] = settings
    return found


def worker(line: str) -> tuple[str, dict[str, Any]]:
    """A worker from `NAME HARDWARE ADDRESS [KEY=VALUE …]`."""
    words = line.split()
    if len(words) < 3 or not all("=" in word for word in words[3:]):
        raise NewError(f"a worker is written as {WORKER_FORM}, not as {line!r}")
    name, hardware, address, *rest = words
    settings: dict[str, Any] = {"hardware": hardware, "address": address}
    for word in rest:
        key, _, value = word.partition("=")
        known = field_at(("workers", name, key))
        number = known is not None and int in (known.annotation, *get_args(known.annotation))
        settings[key] = int(value) if number and value.isdecimal() else value
    return name, settings


# --- the command --------------------------------------------------------------------------------


def content(stack: str, answers: Answers) -> str:
    """The text of the new stack file. NewError, with every problem, where it would not pass."""
    text = stack_text.render(stack, answers.values, answers.examples)
    problems = examine_content(text.encode(), f"Pulumi.{stack}.yaml").problems
    if problems:
        raise NewError("\n".join(str(problem) for problem in problems))
    written = yaml.safe_load(text)["config"]
    assert written == {f"autojoin:{name}": value for name, value in answers.values.items()}
    return text


def create(stack: str, folder: Path, text: str) -> Path:
    """The new file. NewError where there is one already, or it can't be written."""
    path = folder / f"Pulumi.{stack}.yaml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise NewError(f"{path} is there already and stays as it is; edit it, or move it") from None
    except OSError as error:
        raise NewError(f"{path} can't be written ({error.strerror})") from None
    return path


def stack_name(text: str) -> str:
    if text == "dev":
        raise NewError("dev is the embedded lab; its file is written by `make up`")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", text):
        raise NewError(f"{text!r} is no name of a stack; use letters, digits, - _ .")
    return text


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m commands.new",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("stack", help="name of the stack; the file is Pulumi.STACK.yaml")
    made.add_argument("--folder", type=Path, default=CHECKOUT, help="where (default: here)")
    made.add_argument("--json", action="store_true", help="say as JSON what was written")
    made.add_argument("--no-questions", action="store_true", help="ask nothing, on a terminal too")
    for question in QUESTIONS:
        choices = question.choices or None
        made.add_argument(f"--{question.flag}", help=question.help, choices=choices, metavar="…")
    made.add_argument("--router", metavar="ADDRESS", help="BGP router; without it there is no BGP")
    for question in BGP_QUESTIONS:
        made.add_argument(f"--{question.flag}", help=question.help, metavar="…")
    made.add_argument(
        "--provisioning",
        action="append",
        metavar=f"'{HOST_FORM}'",
        help="a host that runs or feeds machines; may be repeated",
    )
    made.add_argument("--worker", action="append", metavar=f"'{WORKER_FORM}'", help="repeatable")
    return made


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    os.environ["PATH"] = tools.search_path(Layout())
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not given.no_questions
    try:
        stack = stack_name(given.stack)
        if (given.folder / f"Pulumi.{stack}.yaml").exists():
            create(stack, given.folder, "")
        answers = gather(given, interactive and not given.json)
        path = create(stack, given.folder, content(stack, answers))
    except NewError as error:
        tell(error)
        return 1
    except (KeyboardInterrupt, EOFError):
        print("\nautojoin: nothing was written", file=sys.stderr)
        return 130
    if given.json:
        examples, found = sorted(answers.examples), sorted(answers.found)
        print(json.dumps({"file": str(path), "examples": examples, "found": found}, indent=2))
    else:
        print(report(stack, path, answers))
    return 0


def report(stack: str, path: Path, answers: Answers) -> str:
    """What was written, what of it is to be looked at, and what comes next."""
    lines = [f"{path} is written and passes the check."]
    if answers.found:
        lines.append(f"Found by asking: {', '.join(sorted(answers.found))}.")
    hosts = {f"{_CA}.host": answers.values[_CA]["host"]}
    for name, host in answers.values.get("provisioning", {}).items():
        hosts[f"provisioning.{name}"] = host
    for place, host in hosts.items():
        if f"{place}.hostKey" in answers.found:
            mark = ssh.fingerprint(host["hostKey"])
            lines.append(f"{host['address']} shows the host key {mark}. Compare it there:")
            lines.append("    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    if answers.examples:
        lines.append(f"{len(answers.examples)} values in it are examples, marked so: put your own.")
    lines += [
        "Next:",
        f"    $EDITOR {path.name}",
        f"    make check STACK={stack}",
        f"    make render STACK={stack} OUT=rendered",
        f"    make preview STACK={stack}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
