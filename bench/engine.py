"""What the engine's time grows with: autojoin's program beside the same resources written down.

Workers are emitted but not booted: one sshd plays every host (bench/hosts.py). The API server is
real, the Release is installed by the real helm. Both programs run on the same engine with the same
plugins and settings, in turn.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench import hosts, labs
from bench.measure import Run, timed
from bench.table import Row
from lab import stack
from lab.pins import Layout
from tests.unit.plugins.kubernetes_server import ApiServer, running

_SECRET = "4dabf18193072939515e22adb298388d"  # the engine's mark on a secret in the state
_PROGRAM = "pulumi-language-python-exec"
_STACK = "bench"
_GOAL = 1.10
_MOST_RESOURCES = 3


@dataclass(frozen=True)
class Bed:
    """What both sides run against."""

    folder: Path
    host: dict[str, Any]
    api: ApiServer

    def config(self, count: int) -> dict[str, Any]:
        found = labs.config(
            count,
            host=self.host,
            api_server=self.api.url,
            kubeconfig=str(self.api.kubeconfig),
            chart=Layout().chart,
        )
        del found["autojoin:bgp"]  # no operator runs here that would register its CRDs
        return found


@contextmanager
def bed() -> Iterator[Bed]:
    with (
        tempfile.TemporaryDirectory(prefix="autojoin-bench-") as folder,
        running(Path(folder)) as api,
    ):
        server = hosts.start(Path(folder) / "host")
        try:
            yield Bed(Path(folder), hosts.described(server), api)
        finally:
            server.stop()


@dataclass
class Side:
    """One program on a stack of its own. `program` is the folder that holds it."""

    folder: Path
    program: Path
    figures: dict[str, list[Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        shutil.copy(labs.CHECKOUT / "Pulumi.yaml", self.folder)
        self.configure({})
        self.run("stack", "init", _STACK, folder=self.folder)

    @property
    def file(self) -> Path:
        return self.folder / f"Pulumi.{_STACK}.yaml"

    def configure(self, config: dict[str, Any]) -> None:
        salt = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(yaml.safe_dump({**(salt or {}), "config": config}))

    def run(self, *words: str, folder: Path | None = None) -> Run:
        environment = {
            **stack.engine_environment(),
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "bench",
            "PULUMI_STACK": _STACK,
        }
        command = ["pulumi", *words, "--non-interactive"]
        place = folder or self.program
        return timed(command, folder=place, environment=environment, watch=_PROGRAM)

    def measure(self, name: str, *words: str) -> None:
        run = self.run(*words, "--config-file", str(self.file))
        self.figures.setdefault(name, []).append(run)

    def preview(self) -> None:
        self.measure("preview", "preview")

    def up(self, name: str) -> None:
        self.measure(name, "up", "--yes", "--skip-preview", "--suppress-outputs")

    def seconds(self, name: str) -> list[float]:
        return [run.seconds for run in self.figures[name]]

    def state(self) -> list[dict[str, Any]]:
        output = self.run("stack", "export", "--show-secrets").output
        return list(json.loads(output)["deployment"].get("resources", []))

    def state_bytes(self) -> int:
        return (self.folder / f"state/.pulumi/stacks/autojoin/{_STACK}.json").stat().st_size


@dataclass(frozen=True)
class Result:
    """Both sides at one count of workers; `state` is what both had before ours got one more."""

    count: int
    ours: Side
    bare: Side
    state: list[dict[str, Any]]
    state_bytes: int

    @property
    def resources_per_worker(self) -> float:
        first = labs.worker_name(0).partition("0")[0]
        names: list[str] = [each["urn"].rpartition("::")[2] for each in self.state]
        return sum(name.startswith(first) for name in names) / self.count


def measure(bed: Bed, count: int, repetitions: int) -> Result:
    """Preview, up and unchanged up of both sides in turn, then ours with one worker more."""
    place = bed.folder / str(count)
    ours = Side(place / "ours", labs.CHECKOUT)
    ours.configure(bed.config(count))
    bare = Side(place / "bare", place / "bare")
    shutil.copy(Path(__file__).parent / "bare.py", bare.folder / "__main__.py")
    # Commands of this machine are named relative to the program.
    (bare.folder / "render").symlink_to(labs.CHECKOUT / "render")
    ours.preview()
    ours.up("up")
    state = ours.state()
    (bare.folder / "resources.json").write_text(json.dumps(written_down(state)))
    bare.preview()
    bare.up("up")
    for _ in range(repetitions):
        for side in (ours, bare):
            side.up("unchanged")
    found = Result(count, ours, bare, state, ours.state_bytes())
    ours.configure(bed.config(count + 1))
    ours.up("one more")
    return found


def written_down(state: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The resources of a state as bench/bare.py takes them, but for the default providers."""
    return [
        {
            "type": each["type"],
            "name": each["urn"].rpartition("::")[2],
            "custom": each["custom"],
            "inputs": plain(each.get("inputs", {})),
        }
        for each in state
        if each["type"] != "pulumi:pulumi:Stack"
        and not each["urn"].rpartition("::")[2].startswith("default")
    ]


def plain(value: Any) -> Any:
    """A stored value, its secrets as `{"secret": …}` and without what the engine adds."""
    if isinstance(value, dict) and _SECRET in value:
        return {"secret": json.loads(value["plaintext"])}
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if not name.startswith("__")}
        return {name: plain(item) for name, item in kept.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def operations(run: Run) -> int:
    """How many resources an `up` touched."""
    found = re.findall(r"[+~-]+ (\d+) (?:created|updated|deleted|replaced)", run.output)
    return sum(int(number) for number in found)


def exponent(values: Sequence[tuple[int, float]]) -> float:
    """The power of N that a figure grows with, from the smallest to the largest N."""
    (low, first), (high, last) = min(values), max(values)
    growth: float = math.log(last / first) / math.log(high / low)
    return growth


def rows(full: bool) -> list[Row]:
    return compared((10, 100, 1000) if full else (10, 50))


def compared(counts: Sequence[int]) -> list[Row]:
    with bed() as place:
        results = [measure(place, count, 3 if count < 1000 else 1) for count in counts]
        return [*ratios(results), *growth(results)]


def ratios(results: Sequence[Result]) -> list[Row]:
    return [
        Row(
            f"{name}, {result.count} workers",
            result.ours.seconds(name),
            "s",
            "the same resources, bare",
            result.bare.seconds(name),
            _GOAL,
        )
        for result in results
        for name in ("preview", "up", "unchanged")
    ]


def growth(results: Sequence[Result]) -> list[Row]:
    first, last = results[0], results[-1]
    between = f"{first.count} to {last.count} workers"
    exponents = [
        Row(
            f"{name}: exponent of time in N",
            [exponent([(each.count, each.ours.seconds(name)[-1]) for each in results])],
            "",
            "bare",
            [exponent([(each.count, each.bare.seconds(name)[-1]) for each in results])],
            note=between,
        )
        for name in ("preview", "up", "unchanged")
    ]
    added = [operations(each.ours.figures["one more"][0]) for each in (last, first)]
    state = (last.state_bytes - first.state_bytes) / (last.count - first.count)
    peaks = [side.figures["unchanged"][-1].peak_mib for side in (last.ours, last.bare)]
    return [
        *exponents,
        Row("resources per worker", [last.resources_per_worker], "", goal=_MOST_RESOURCES),
        Row(
            f"adding one worker to {last.count}: operations",
            [added[0]],
            "",
            f"adding one to {first.count}",
            [added[1]],
            1.0,
        ),
        Row(
            f"adding one worker to {last.count}: time",
            last.ours.seconds("one more"),
            "s",
            "an unchanged up",
            last.ours.seconds("unchanged"),
        ),
        Row("state per worker", [state / 1024], "KiB"),
        Row(
            f"peak memory of the program, {last.count} workers",
            [peaks[0]],
            "MiB",
            "bare",
            [peaks[1]],
        ),
    ]
