"""What the engine's time grows with: autojoin's program beside the same resources written down.

Workers are emitted but not booted: one sshd plays every host (bench/hosts.py). The API server is
real. Both programs run on the same engine with the same
plugins and settings, in turn.
"""

from __future__ import annotations

import ast
import json
import math
import re
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bench import hosts, labs, plots
from bench.measure import Run, timed
from bench.table import Row
from lab import stack
from tests.unit.tools.plugins.kubernetes_server import ApiServer, running
from tools.pins import Layout

_SECRET = "4dabf18193072939515e22adb298388d"  # the engine's mark on a secret in the state
_BARE = Path(__file__).parent / "bare.py"
_PROGRAM = "pulumi-language-python-exec"
_STACK = "bench"
_GOAL = 1.10
_MOST_RESOURCES = 3
# Once, as Python does where nobody forbids it.
_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
# Loaded by both sides when the first resource of it is declared.
_LATER_IMPORT = "import pulumi_kubernetes.helm.v3"
_IMPORT_REPETITIONS = 5


@dataclass(frozen=True)
class Bed:
    """What both sides run against."""

    folder: Path
    host: dict[str, Any]
    api: ApiServer
    # Of the engine, beside what it always needs.
    environment: dict[str, str] = field(default_factory=dict)
    # What is not as a user has it.
    note: str = ""

    def of_many(self) -> Bed:
        """For more workers than these hosts could log in, and than checkpoints are written for."""
        home = hosts.answering_plugins(self.folder)
        environment = {"PULUMI_HOME": str(home), "PULUMI_SKIP_CHECKPOINTS": "true"}
        return replace(
            self, environment=environment, note="no logins, state written once (docs/day-two.md); "
        )

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
    environment: dict[str, str] = field(default_factory=dict)
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
            **self.environment,
            **_COMPILED,
            **stack.lab_stack(self.folder / "state", _STACK),
            "PULUMI_CONFIG_PASSPHRASE": "bench",
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

    def processor_seconds(self, name: str) -> list[float]:
        return [run.processor_seconds for run in self.figures[name]]

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
    note: str = ""

    @property
    def resources_per_worker(self) -> float:
        first = labs.worker_name(0).partition("0")[0]
        names: list[str] = [each["urn"].rpartition("::")[2] for each in self.state]
        return sum(name.startswith(first) for name in names) / self.count


def measure(bed: Bed, count: int, repetitions: int) -> Result:
    """Up and unchanged up of both sides in turn, previews of both, then ours with one more."""
    place = bed.folder / str(count)
    ours, bare = sides(bed, place, count)
    ours.up("up")
    state = ours.state()
    resources = written_down(state)
    write_down(bare, resources)
    # Both sides make the same objects; Helm alone refuses a release that is there already.
    releases = ("--namespace=kube-system", "--selector=owner=helm")
    bed.api.kubectl("delete", "secrets", *releases)
    bare.up("up")
    for _ in range(repetitions):
        for side in (ours, bare):
            side.up("unchanged")
    found = Result(count, ours, bare, state, ours.state_bytes(), bed.note)
    for before, side in zip(
        (ours, bare), previewed(bed, count, resources, repetitions), strict=True
    ):
        before.figures["preview"] = side.figures["preview"]
    ours.configure(bed.config(count + 1))
    ours.up("one more")
    return found


def sides(bed: Bed, place: Path, count: int) -> tuple[Side, Side]:
    """Both programs on empty stacks, ours configured with `count` workers."""
    ours = Side(place / "ours", labs.CHECKOUT, bed.environment)
    ours.configure(bed.config(count))
    bare = Side(place / "bare", place / "bare", bed.environment)
    shutil.copy(_BARE, bare.folder / "__main__.py")
    # Commands of this machine are named relative to the program.
    (bare.folder / "components").symlink_to(labs.CHECKOUT / "components")
    return ours, bare


def previewed(
    bed: Bed, count: int, resources: list[dict[str, Any]], repetitions: int
) -> tuple[Side, Side]:
    """Both sides after previews in turn of a stack that is empty yet."""
    ours, bare = sides(bed, bed.folder / f"preview-{count}", count)
    write_down(bare, resources)
    for _ in range(repetitions):
        for side in (ours, bare):
            side.preview()
    return ours, bare


def write_down(bare: Side, resources: list[dict[str, Any]]) -> None:
    (bare.folder / "resources.json").write_text(json.dumps(resources))


def written_down(state: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The resources of a state as bench/bare.py takes them, but for the default providers."""
    kept = [
        each
        for each in state
        if each["type"] != "pulumi:pulumi:Stack"
        and not each["urn"].rpartition("::")[2].startswith("default")
    ]
    urns = {each["urn"] for each in kept}
    return [
        {
            "urn": each["urn"],
            "type": each["type"],
            "name": each["urn"].rpartition("::")[2],
            "custom": each["custom"],
            "inputs": plain(each.get("inputs", {})),
            "parent": each.get("parent", ""),
            "dependencies": [urn for urn in each.get("dependencies") or [] if urn in urns],
        }
        for each in kept
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
    return compared((10, 100), 1000) if full else compared((10, 50))


def compared(counts: Sequence[int], most: int | None = None) -> list[Row]:
    """At `counts` as a user has it; at `most` without logins and with the state written once."""
    with bed() as place:
        results = [measure(place, count, 3) for count in counts]
        if most is not None:
            results.append(measure(place.of_many(), most, 1))
    draw(results)
    return [*ratios(results), importing(), *growth(results)]


def draw(results: Sequence[Result]) -> None:
    plots.draw(
        "engine",
        "Seconds by the number of workers",
        {
            f"{name}, {side}": [
                (each.count, statistics.median(getattr(each, side).seconds(name)))
                for each in results
                if not each.note or name != "up"
            ]
            for name in ("preview", "up", "unchanged")
            for side in ("ours", "bare")
        },
    )
    plots.draw(
        "state",
        "State (MiB), and the program's peak memory (MiB), by the number of workers",
        {
            "state": [(each.count, each.state_bytes / 2**20) for each in results],
            "memory, ours": [(each.count, _peak(each.ours)) for each in results],
            "memory, bare": [(each.count, _peak(each.bare)) for each in results],
        },
    )


def _peak(side: Side) -> float:
    return max(run.peak_mib for run in side.figures["unchanged"])


def _ratio(name: str, result: Result) -> Row:
    count, ours, bare = result.count, result.ours, result.bare
    pair = (statistics.median(side.processor_seconds(name)) for side in (ours, bare))
    return Row(
        f"{name}, {count} workers",
        ours.seconds(name),
        "s",
        "the same resources, bare",
        bare.seconds(name),
        _GOAL,
        note=result.note + "processor time {:.3g} s against {:.3g} s".format(*pair),
    )


def ratios(results: Sequence[Result]) -> list[Row]:
    return [_ratio(name, result) for result in results for name in ("preview", "up", "unchanged")]


def importing() -> Row:
    """What the program costs beside the bare one before it declares anything."""
    programs = [imports(path) for path in (labs.CHECKOUT / "__main__.py", _BARE)]
    pairs = [[imported(words) for words in programs] for _ in range(_IMPORT_REPETITIONS)]
    ours, bare = (list(side) for side in zip(*pairs, strict=True))
    note = "in every preview and up, however many workers"
    return Row("imports of the program", ours, "s", "bare", bare, note=note)


def imports(program: Path) -> str:
    """What a program imports, as a program that does nothing else."""
    lines = ast.parse(program.read_text()).body
    found = [ast.unparse(it) for it in lines if isinstance(it, (ast.Import, ast.ImportFrom))]
    return "\n".join([*found, _LATER_IMPORT])


def imported(words: str) -> float:
    environment = stack.engine_environment() | _COMPILED
    command = ["python", "-c", words]
    return timed(command, folder=labs.CHECKOUT, environment=environment).seconds


def growth(results: Sequence[Result]) -> list[Row]:
    first, last = results[0], results[-1]
    exponents = [
        _exponent(name, [each for each in results if not each.note or name != "up"])
        for name in ("preview", "up", "unchanged")
    ]
    added = [operations(each.ours.figures["one more"][0]) for each in (last, first)]
    state = (last.state_bytes - first.state_bytes) / (last.count - first.count)
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
        Row(f"state of {last.count} workers", [last.state_bytes / 2**20], "MiB"),
        Row(
            f"peak memory of the program, {last.count} workers",
            [_peak(last.ours)],
            "MiB",
            "bare",
            [_peak(last.bare)],
        ),
    ]


def _exponent(name: str, results: Sequence[Result]) -> Row:
    def of(sides: Sequence[Side]) -> list[float]:
        values = [statistics.median(side.seconds(name)) for side in sides]
        return [exponent([(each.count, it) for each, it in zip(results, values, strict=True)])]

    return Row(
        f"{name}: exponent of time in N",
        of([each.ours for each in results]),
        "",
        "bare",
        of([each.bare for each in results]),
        note=f"{results[0].count} to {results[-1].count} workers",
    )
