"""The stand-in under the real engine, on a real API server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.unit.tools.plugins.kubernetes_server import ApiServer, Engine, free_port

MakeEngine = Callable[..., Engine]

# No controller manager runs here, so nothing would ever finish a foreground deletion.
BACKGROUND = '{"pulumi.com/deletionPropagationPolicy": "background"}'
FORCE = '"pulumi.com/patchForce": "true", '

DEFINITION = f"""
definition = k8s.apiextensions.v1.CustomResourceDefinition(
    "definition",
    metadata={{"name": "lamps.test.example", "annotations": {BACKGROUND}}},
    spec={{
        "group": "test.example",
        "names": {{"kind": "Lamp", "plural": "lamps"}},
        "scope": "Cluster",
        "versions": [{{"name": "v1", "served": True, "storage": True, "schema": {{
            "openAPIV3Schema": {{"type": "object", "properties": {{"spec": {{
                "type": "object", "properties": {{
                    "colour": {{"type": "string", "default": "white"}},
                    "watts": {{"type": "integer"}},
                }},
            }}}}}},
        }}}}],
    }},
    opts=here,
)
lamp = k8s.apiextensions.CustomResource(
    "lamp",
    api_version="test.example/v1",
    kind="Lamp",
    metadata={{"name": "lamp", "annotations": {BACKGROUND}}},
    spec={{"watts": WATTS}},
    opts=pulumi.ResourceOptions(provider=provider, depends_on=[definition]),
)
see("id", lamp.id)
see("spec", lamp.spec)
see("metadata", lamp.metadata)
"""


def _chart(folder: Path) -> None:
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: tiny\nversion: 1.2.3\n")


def test_config_map_lives_a_whole_life(engine: MakeEngine, api_server: ApiServer) -> None:
    project = engine()
    program = f"""
config_map = k8s.core.v1.ConfigMap(
    "settings", metadata={{"annotations": {BACKGROUND}}}, data={{"colour": "VALUE"}}, opts=here
)
see("id", config_map.id)
see("name", config_map.metadata.name)
"""
    project.program(program.replace("VALUE", "red"))
    project.up()
    outputs = project.seen()
    assert outputs["id"] == f"default/{outputs['name']}"
    prefix, _, suffix = outputs["name"].rpartition("-")
    assert prefix == "settings" and len(suffix) == 8
    live = api_server.get("v1", "ConfigMap", "default", outputs["name"])
    assert live is not None and live["data"] == {"colour": "red"}

    project.up("--expect-no-changes")
    project.refresh("--expect-no-changes")

    # Data of a ConfigMap can't change in place.
    project.program(program.replace("VALUE", "blue"))
    assert "replaced" in project.up()
    after = project.seen()
    assert after["name"] != outputs["name"]
    assert api_server.get("v1", "ConfigMap", "default", outputs["name"]) is None

    project.run("destroy", "--yes", "--skip-preview")
    assert api_server.get("v1", "ConfigMap", "default", after["name"]) is None


def test_custom_resource_of_a_definition_in_the_same_update(
    engine: MakeEngine, api_server: ApiServer
) -> None:
    project = engine()
    project.program(DEFINITION.replace("WATTS", "40"))
    assert project.preview()["lamp"]["op"] == "create"
    # The kind is not there yet: the bare inputs, and nothing unknown.
    assert project.seen()["spec"] == {"watts": 40}
    assert project.seen()["metadata"]["name"] == "lamp"
    assert "uid" not in project.seen()["metadata"]

    project.up()
    assert project.seen()["id"] == "lamp"
    project.up("--refresh", "--expect-no-changes")

    # A preview of a change is a dry run: the server's defaults are in it.
    project.program(DEFINITION.replace("WATTS", "60"))
    step = project.preview()["lamp"]
    assert step["op"] == "update"
    assert project.seen()["spec"] == {"colour": "white", "watts": 60}
    assert list(step["detailedDiff"]) == ["spec.watts"]

    # A change behind our back is seen. Whoever made it owns the field now, so that undoing it
    # takes a word of the program.
    api_server.merge("test.example/v1", "Lamp", None, "lamp", {"spec": {"watts": 100}})
    assert "updated" in project.refresh()
    assert project.state()["lamp"]["inputs"]["spec"] == {"watts": 100}
    assert 'conflict with "someone"' in project.up(fails=True)
    project.program(
        DEFINITION.replace("WATTS", "60").replace(
            '"name": "lamp", "annotations": {', '"name": "lamp", "annotations": {' + FORCE
        )
    )
    project.up()
    lamp = api_server.get("test.example/v1", "Lamp", None, "lamp")
    assert lamp is not None and lamp["spec"]["watts"] == 60

    # So is a deletion.
    api_server.remove("test.example/v1", "Lamp", None, "lamp")
    assert "+ 1 created" in project.up("--refresh")

    project.run("destroy", "--yes", "--skip-preview")
    gone = api_server.get(
        "apiextensions.k8s.io/v1", "CustomResourceDefinition", None, "lamps.test.example"
    )
    assert gone is None


def test_secret_is_nowhere_in_the_clear(engine: MakeEngine, api_server: ApiServer) -> None:
    project = engine()
    project.program(
        f"""
secret = k8s.core.v1.Secret(
    "secret",
    metadata={{"annotations": {BACKGROUND}}},
    string_data={{"password": "open-sesame"}},
    opts=here,
)
see("name", secret.metadata.name)
"""
    )
    assert "open-sesame" not in project.run("preview", "--diff")
    assert "open-sesame" not in project.up()
    name = project.seen()["name"]
    state = json.dumps(project.state())
    assert "open-sesame" not in state and "b3Blbi1zZXNhbWU" not in state
    live = api_server.get("v1", "Secret", "default", name)
    assert live is not None and live["data"] == {"password": "b3Blbi1zZXNhbWU="}

    changed = {"data": {"password": "b3RoZXI="}}
    api_server.merge("v1", "Secret", "default", name, changed)
    assert "updated" in project.refresh()
    assert "b3RoZXI" not in json.dumps(project.state())
    inputs = project.state(secrets=True)["secret"]["inputs"]
    assert json.loads(inputs["stringData"]["plaintext"]) == {"password": "other"}
    project.run("destroy", "--yes", "--skip-preview")


def test_preview_needs_no_cluster(engine: MakeEngine, api_server: ApiServer) -> None:
    nobody = Path(api_server.folder) / "nobody.yaml"
    nobody.write_text(json.dumps(api_server.kubeconfig_document(free_port())))
    project = engine(nobody)
    project.program(DEFINITION.replace("WATTS", "40"))
    steps = project.preview()
    assert {name: step["op"] for name, step in steps.items()} == {
        "test-test": "create",
        "cluster": "create",
        "definition": "create",
        "lamp": "create",
    }
    assert project.seen()["spec"] == {"watts": 40}

    project.environment["TEST_KUBECONFIG"] = "/nonexistent/kubeconfig"
    assert project.preview()["lamp"]["op"] == "create"
    assert project.seen()["spec"] == {"watts": 40}
    text = project.up(fails=True)
    assert "kubeconfig /nonexistent/kubeconfig can't be read" in text
    assert "Traceback" not in text


def test_unknown_kubeconfig_makes_outputs_unknown(engine: MakeEngine) -> None:
    project = engine()
    _chart(project.folder / "chart")
    project.program(
        """
other = k8s.Provider("other", kubeconfig=unknown())
away = pulumi.ResourceOptions(provider=other)
see("away", k8s.core.v1.Namespace("away", opts=away).metadata)
see("release", k8s.helm.v3.Release("release", chart="./chart", opts=away).name)
see("near", k8s.core.v1.Namespace("near", opts=here).metadata)
"""
    )
    assert set(project.preview()) == {"test-test", "cluster", "other", "away", "release", "near"}
    assert set(project.seen()) == {"near"}
