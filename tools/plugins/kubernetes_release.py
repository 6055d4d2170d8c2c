"""`kubernetes:helm.sh/v3:Release` by the real helm."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tools.plugins import kubernetes_helm as helm_
from tools.plugins import values
from tools.plugins.base import (
    CheckFailures,
    Created,
    Difference,
    Failure,
    Handler,
    InitializationFailed,
    Request,
    State,
    top_level,
)
from tools.plugins.kubernetes_client import ApiError, KindMissing, Unreachable
from tools.plugins.kubernetes_cluster import Cluster, Configuration, unique_suffix
from tools.plugins.kubernetes_helm import ChartUnreachable, Found, Helm, HelmError
from tools.plugins.kubernetes_objects import parse_id
from tools.plugins.values import UNKNOWN, Asset, Properties, Secret, contains_unknown

_REFUSED = {
    "lint": "run `helm lint` yourself",
    "recreatePods": "helm 3 has it no more",
}
_CHART_INPUTS = ("chart", "version", "repositoryOpts", "devel", "verify")
# Never inputs, though the SDK's arguments have them.
_COMPUTED = ("compat", "manifest", "resourceNames", "status", "checksum")


class ReleaseHandler(Handler):
    """Inputs as the release plugin keeps them after Check: `valueYamlFiles` merged into `values`,
    `version` resolved. Outputs: the inputs, `status` and `resourceNames`; `values` and `version`
    as the cluster has them."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    @property
    def _cluster(self) -> Cluster:
        return self._configuration.cluster

    @property
    def _helm(self) -> Helm:
        return self._configuration.cluster.helm

    # -- check ------------------------------------------------------------------------------

    def check(self, request: Request) -> Properties:
        given = {k: v for k, v in request.inputs.items() if k not in _COMPUTED and v is not None}
        inputs = copy.deepcopy(given)
        failures = [
            (name, f"is not served by this stand-in for Pulumi's kubernetes plugin: {advice}")
            for name, advice in _REFUSED.items()
            if inputs.get(name)
        ]
        if not inputs.get("chart"):
            failures.append(("chart", "is missing"))
        if failures:
            raise CheckFailures(*failures)
        if not inputs.get("name"):
            inputs["name"] = request.old_inputs.get("name") or (
                f"{request.name}-{unique_suffix(request)}"
            )
        inputs["namespace"] = inputs.get("namespace") or self._cluster.namespace
        if not inputs.get("skipAwait"):
            inputs.setdefault("timeout", helm_.DEFAULT_SECONDS)
        if inputs.get("verify") is True and not inputs.get("keyring"):
            inputs["keyring"] = str(Path("~/.gnupg/pubring.gpg").expanduser())
        self._merge_values(request, inputs)
        self._resolve_version(request, inputs)
        return inputs

    def _merge_values(self, request: Request, inputs: Properties) -> None:
        files, given = inputs.get("valueYamlFiles"), inputs.get("values")
        if files is UNKNOWN or given is UNKNOWN or contains_unknown(files):
            return
        try:
            texts = [_text(asset) for asset in files or []]
            merged = helm_.combined_values(inputs, texts)
        except HelmError as error:
            raise CheckFailures(("valueYamlFiles", str(error))) from None
        inputs.pop("valueYamlFiles", None)
        if "valueYamlFiles" in request.secrets:
            inputs["values"] = Secret(merged)
        elif merged or given is not None:
            inputs["values"] = merged

    def _resolve_version(self, request: Request, inputs: Properties) -> None:
        asked = {name: inputs.get(name) for name in _CHART_INPUTS}
        if contains_unknown(asked):
            return
        try:
            inputs["version"] = str(self._helm.chart(inputs)["version"])
        except ChartUnreachable as error:
            request.log(f"chart {inputs['chart']} can't be looked up now: {error}", "warning")
            old = request.old_inputs
            if not inputs.get("version") and old.get("chart") == inputs["chart"]:
                inputs["version"] = old.get("version")
        except HelmError as error:
            reason = f"{error}; check the chart name and repository configuration."
            raise CheckFailures(("chart", reason)) from None

    # -- diff -------------------------------------------------------------------------------

    def diff(self, request: Request) -> Difference:
        """Old against new inputs; and what the cluster has, where the inputs say otherwise."""
        new = request.inputs
        paths = values.differences(request.old_inputs, new)
        live = {
            k: request.old_outputs[k] for k in ("values", "version") if k in request.old_outputs
        }
        wanted = {k: new.get(k) for k in live}
        drift = values.differences(live, wanted)
        paths |= {path: kind for path, kind in drift.items() if kind != values.DELETE}
        replaces = [path for path in paths if top_level(path) in ("name", "namespace")]
        return Difference(paths, replaces)

    # -- create and update ------------------------------------------------------------------

    def create(self, request: Request) -> Created:
        if request.preview:
            return Created("", _foretold(request.inputs))
        identifier = f"{request.inputs['namespace']}/{request.inputs['name']}"
        found = self._changed(request, identifier, ours=False)
        return Created(identifier, _outputs(request.inputs, found))

    def update(self, request: Request) -> Properties:
        if request.preview:
            return _foretold(request.inputs)
        found = self._changed(request, request.identifier, ours=True)
        return _outputs(request.inputs, found)

    def _changed(self, request: Request, identifier: str, *, ours: bool) -> Found:
        """Install or upgrade, from whatever an earlier run left."""
        self._cluster.need(f"Helm release {identifier}")
        inputs = request.inputs
        namespace, name = str(inputs["namespace"]), str(inputs["name"])
        try:
            chart = self._helm.chart(inputs)
            found = self._helm.find(namespace, name)
            repair = helm_.repair(found, str(chart.get("name")), ours=ours)
            if repair.refuse is not None:
                raise Failure(repair.refuse)
            if found is not None:
                self._repaired(request, found, repair)
            wanted = inputs.get("values") or {}
            if repair.install:
                self._helm.install(inputs, wanted)
            else:
                self._helm.upgrade(inputs, wanted)
            done = self._helm.find(namespace, name)
        except HelmError as error:
            raise self._failed(request, identifier, error) from None
        if done is None:
            raise Failure(f"Helm release {identifier} is gone right after helm finished")
        return done

    def _repaired(self, request: Request, found: Found, repair: helm_.Repair) -> None:
        if repair.note:
            request.log(repair.note, "warning")
        if repair.uninstall:
            seconds = int(request.inputs.get("timeout") or helm_.DEFAULT_SECONDS)
            self._helm.uninstall(found.namespace, found.name, wait=True, seconds=seconds)
        if repair.drop_revision:
            kind, name = helm_.storage_record(found, self._cluster.helm_driver)
            client = self._cluster.need(f"repair of {found.namespace}/{found.name}")
            try:
                client.delete(client.resource("v1", kind), found.namespace, name, "Background")
            except (ApiError, KindMissing, Unreachable) as error:
                raise Failure(
                    f"{kind} {found.namespace}/{name} can't be deleted: {error}"
                ) from None

    def _failed(self, request: Request, identifier: str, error: HelmError) -> Failure:
        """A release that is in the cluster, however broken, belongs into the state."""
        namespace, name = parse_id(identifier)
        reason = f"Helm release {identifier}: {error}"
        try:
            found = self._helm.find(namespace or "default", name)
        except HelmError:
            found = None
        if found is None:
            return Failure(reason)
        outputs = _outputs(request.inputs, found)
        if found.status != "failed":
            # The upgrade never began: the state keeps what is deployed.
            return Failure(reason) if request.identifier else InitializationFailed(
                identifier, outputs, [reason]
            )  # fmt: skip
        return InitializationFailed(identifier, outputs, [f"{reason} (release status: failed)"])

    # -- read and delete --------------------------------------------------------------------

    def read(self, request: Request) -> State | None:
        namespace, name = parse_id(request.identifier)
        namespace = namespace or self._cluster.namespace
        if self._cluster.lost(f"read Helm release {request.identifier}", request):
            return None
        try:
            found = self._helm.find(namespace, name)
        except HelmError as error:
            raise Failure(f"Helm release {request.identifier}: {error}") from None
        if found is None or found.status == "uninstalled":
            return None
        inputs = request.inputs or {
            "chart": found.chart,
            "name": found.name,
            "namespace": found.namespace,
            "timeout": helm_.DEFAULT_SECONDS,
            "values": found.values,
            "version": found.version,
        }
        return State(f"{namespace}/{name}", _outputs(inputs, found), inputs)

    def delete(self, request: Request) -> None:
        if self._cluster.lost(f"delete Helm release {request.identifier}", request):
            return
        known = request.old_inputs or request.old_outputs
        namespace, name = parse_id(request.identifier)
        wait = bool(known.get("atomic")) or not known.get("skipAwait")
        seconds = int(known.get("timeout") or helm_.DEFAULT_SECONDS)
        try:
            self._helm.uninstall(namespace or "default", name, wait=wait, seconds=seconds)
        except HelmError as error:
            raise Failure(f"Helm release {request.identifier}: {error}") from None


def _foretold(inputs: Properties) -> Properties:
    return {**inputs, "resourceNames": UNKNOWN, "status": UNKNOWN}


def _outputs(inputs: Properties, found: Found) -> Properties:
    return {
        **inputs,
        "values": found.values,
        "version": found.version,
        "resourceNames": found.resource_names(),
        "status": found.status_output(),
    }


def _text(asset: Any) -> str:
    """The contents of one of `valueYamlFiles`. Raises HelmError."""
    if not isinstance(asset, Asset) or asset.is_archive:
        raise HelmError("an entry is not a file or string asset")
    if asset.text is not None:
        return asset.text
    if asset.path is None:
        raise HelmError(f"remote asset {asset.uri} is not served by this stand-in plugin")
    try:
        return Path(asset.path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HelmError(f"{asset.path} can't be read: {error}") from None
