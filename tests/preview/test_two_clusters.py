"""Our components in somebody else's program, twice, by the real engine."""

from __future__ import annotations

from pathlib import Path

from tests.preview.test_preview import Engine, names, steps
from tools.pins import CHECKOUT, Layout

PROGRAM = Path(__file__).with_name("two_clusters.py")
TYPES = ("BareMetal", "Bhyve", "Nspawn", "TuringCm4", "TuringRk1")


def test_two_clusters_in_one_program(tmp_path: Path) -> None:
    project = tmp_path / "program"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: two\nruntime: python\n")
    (project / "__main__.py").write_text(PROGRAM.read_text())
    engine = Engine(tmp_path, {"PYTHONPATH": str(CHECKOUT)})
    created = engine.run("stack", "init", "off", folder=project)
    assert created.returncode == 0, created.stderr
    chart = f"two:chart={Layout().chart}"
    found = steps(engine.run("preview", "--json", "--config", chart, folder=project))
    assert {step["op"] for step in found} == {"create"}
    urns = [step["urn"] for step in found]
    assert len(urns) == len(set(urns))
    for cluster in ("first", "second"):
        workers = [urn for urn in urns if f"::{cluster}-node-" in urn]
        assert len(workers) == 3 * len(TYPES)
        made = sorted(urn.split("::")[2] for urn in workers if "$" not in urn.split("::")[2])
        assert made == [f"autojoin:workers:{name}Worker" for name in TYPES]
        assert {f"{cluster}-host-machines", f"{cluster}-cilium-release"} <= names(found)
    providers = {
        step["newState"]["provider"].split("::")[-2]
        for step in found
        if step["urn"].endswith("-cilium-release")
    }
    assert providers == {"first-api", "second-api"}
