"""Helm releases by the real `helm`: look up, repair, install, upgrade, uninstall.

Plain data in and out; imports no Pulumi. Nothing secret on a command line or on a disk: the
kubeconfig and repository credentials are files in memory, the values go by standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.plugins.kubernetes_access import ClusterAccess, to_kubeconfig

DEFAULT_SECONDS = 300
LOOK_UP_SECONDS = 60
# Beyond helm's own --timeout: hooks and the removal of what failed come on top.
GRACE_SECONDS = 600

Start = Callable[..., contextlib.AbstractContextManager["subprocess.Popen[Any]"]]

# What helm says when it got no chart because of the network, rather than because of the chart.
_NETWORK_SIGNS = re.compile(
    r"dial tcp|no such host|cannot be reached|timeout|connection re|tls: |x509: |proxyconnect|EOF"
    r"|\b(403|407|50\d) [A-Z]"
)


class HelmError(Exception):
    """helm refused or failed; the message is what it said, without its usage text."""


class ChartUnreachable(HelmError):
    """The chart's repository can't be reached at the moment."""


@dataclass(frozen=True)
class Found:
    """A release as helm's storage has it. `revision` counts from 1."""

    name: str
    namespace: str
    revision: int
    status: str
    chart: str
    version: str
    app_version: str
    values: dict[str, Any]
    manifest: str
    description: str

    def status_output(self) -> dict[str, Any]:
        """The `status` output of the release plugin's helm.sh/v3 Release."""
        fields = {
            "appVersion": self.app_version,
            "chart": self.chart,
            "name": self.name,
            "namespace": self.namespace,
            "revision": self.revision,
            "status": self.status,
            "version": self.version,
        }
        return {key: value for key, value in fields.items() if value not in ("", None)}

    def resource_names(self) -> dict[str, list[str]]:
        return resource_names(self.manifest)


class Workplace:
    """What one helm command reads besides its arguments. Secrets are in files in memory, which no
    kill can leave behind."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.environment: dict[str, str] = {}
        self.descriptors: list[int] = []

    def add(self, variable: str, text: str) -> None:
        """Make `text` readable for helm as the file that the environment variable names."""
        descriptor = os.memfd_create(variable)
        self._stack.callback(os.close, descriptor)
        os.fchmod(descriptor, 0o600)
        content = memoryview(text.encode())
        while content:
            content = content[os.write(descriptor, content) :]
        self.environment[variable] = f"/proc/self/fd/{descriptor}"
        self.descriptors.append(descriptor)

    def add_folder(self, variable: str) -> None:
        """An empty folder that the environment variable names."""
        folder = tempfile.TemporaryDirectory(prefix="helm-")
        self.environment[variable] = self._stack.enter_context(folder)


class Helm:
    """One cluster's helm. `settings` is the provider's helmReleaseSettings; `start` runs a child
    that a cancel of the update ends (helm then marks its release as failed)."""

    def __init__(
        self, access: ClusterAccess | None, settings: Mapping[str, Any], start: Start
    ) -> None:
        self._access = access
        self._settings = settings
        self._start = start
        self._lock = threading.Lock()
        self._charts: dict[str, dict[str, Any]] = {}

    # -- charts -----------------------------------------------------------------------------

    def chart(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The chart's Chart.yaml. Needs no cluster. Raises HelmError, ChartUnreachable."""
        key = json.dumps(
            [inputs.get(k) for k in ("chart", "version", "repositoryOpts", "devel")], sort_keys=True
        )
        with self._lock:
            known = self._charts.get(key)
        if known is not None:
            return known
        with self._workplace(None) as place:
            arguments = ["show", "chart", *self._chart_arguments(place, inputs)]
            try:
                text = self._run(place, arguments, LOOK_UP_SECONDS)
            except HelmError as error:
                if not _is_local(inputs) and _NETWORK_SIGNS.search(str(error)):
                    raise ChartUnreachable(str(error)) from None
                raise
        found = yaml.safe_load(text)
        if not isinstance(found, dict) or "version" not in found:
            raise HelmError(f"chart {inputs.get('chart')!r} has no version in its Chart.yaml")
        if found.get("type") not in (None, "", "application"):
            raise HelmError(f"{found['type']} charts are not installable")
        with self._lock:
            self._charts[key] = found
        return found

    # -- releases ---------------------------------------------------------------------------

    def find(self, namespace: str, name: str) -> Found | None:
        """The release's newest revision, or None."""
        with self._workplace(namespace) as place:
            target = [name, "--namespace", namespace, "--output", "json"]
            try:
                status = json.loads(self._run(place, ["status", *target], LOOK_UP_SECONDS))
                about = json.loads(self._run(place, ["get", "metadata", *target], LOOK_UP_SECONDS))
            except HelmError as error:
                if "release: not found" in str(error):
                    return None
                raise
        information = status.get("info") or {}
        return Found(
            name=status["name"],
            namespace=status.get("namespace") or namespace,
            revision=int(status.get("version") or 0),
            status=str(information.get("status") or "unknown"),
            chart=str(about.get("chart") or ""),
            version=str(about.get("version") or ""),
            app_version=str(about.get("appVersion") or ""),
            values=status.get("config") or {},
            manifest=str(status.get("manifest") or ""),
            description=str(information.get("description") or ""),
        )

    def install(self, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        flags = _common_flags(inputs)
        flags += _switches(
            inputs,
            {
                "createNamespace": "--create-namespace",
                "replace": "--replace",
                "disableWebhooks": "--no-hooks",
            },
        )
        self._change("install", inputs, values, flags)

    def upgrade(self, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        flags = _common_flags(inputs)
        flags += _switches(
            inputs,
            {
                "cleanupOnFail": "--cleanup-on-fail",
                "forceUpdate": "--force",
                "resetValues": "--reset-values",
                "reuseValues": "--reuse-values",
                "disableCRDHooks": "--no-hooks",
            },
        )
        if inputs.get("maxHistory") is not None:
            flags += ["--history-max", str(int(inputs["maxHistory"]))]
        self._change("upgrade", inputs, values, flags)

    def uninstall(self, namespace: str, name: str, *, wait: bool, seconds: int) -> None:
        """Remove the release; one that is not there is no error."""
        arguments = ["uninstall", name, "--namespace", namespace, "--ignore-not-found"]
        if wait:
            arguments += ["--wait", "--timeout", f"{seconds}s"]
        with self._workplace(namespace) as place:
            self._run(place, arguments, seconds + GRACE_SECONDS)

    # -- running helm -----------------------------------------------------------------------

    def _change(
        self,
        verb: str,
        inputs: Mapping[str, Any],
        values: Mapping[str, Any],
        flags: list[str],
    ) -> None:
        namespace, name = str(inputs["namespace"]), str(inputs["name"])
        seconds = int(inputs.get("timeout") or DEFAULT_SECONDS)
        with self._workplace(namespace) as place:
            chart = self._chart_arguments(place, inputs)
            arguments = [verb, name, *chart, "--namespace", namespace, "--values", "-", *flags]
            self._run(place, arguments, seconds + GRACE_SECONDS, json.dumps(values))

    @contextlib.contextmanager
    def _workplace(self, namespace: str | None) -> Iterator[Workplace]:
        """What one command needs, the kubeconfig for `namespace` included; gone when it is over."""
        with contextlib.ExitStack() as stack:
            place = Workplace(stack)
            if namespace is not None:
                if self._access is None:
                    raise HelmError("no cluster to talk to")
                place.add("KUBECONFIG", to_kubeconfig(self._access, namespace))
            yield place

    def _chart_arguments(self, place: Workplace, inputs: Mapping[str, Any]) -> list[str]:
        options = inputs.get("repositoryOpts") or {}
        chart = str(inputs["chart"])
        arguments = []
        if inputs.get("version"):
            arguments += ["--version", str(inputs["version"])]
        if inputs.get("devel") and not inputs.get("version"):
            arguments.append("--devel")
        if inputs.get("verify"):
            arguments.append("--verify")
            if inputs.get("keyring"):
                arguments += ["--keyring", str(inputs["keyring"])]
        if options.get("username") or options.get("password"):
            return [self._private_repository(place, chart, options), *arguments]
        for field, flag in (
            ("repo", "--repo"),
            ("caFile", "--ca-file"),
            ("certFile", "--cert-file"),
            ("keyFile", "--key-file"),
        ):
            if options.get(field):
                arguments += [flag, str(options[field])]
        return [chart, *arguments]

    def _private_repository(self, place: Workplace, chart: str, options: Mapping[str, Any]) -> str:
        """Make a repository with credentials known to helm by file, as they have no place on a
        command line. Returns the chart's name in it."""
        if chart.startswith("oci://"):
            raise HelmError(
                f"chart {chart}: repositoryOpts.username for OCI registries is not served by this "
                "stand-in plugin; sign in with `helm registry login`"
            )
        entry = {
            "name": "private",
            "url": str(options.get("repo") or ""),
            "username": options.get("username") or "",
            "password": options.get("password") or "",
            "caFile": options.get("caFile") or "",
            "certFile": options.get("certFile") or "",
            "keyFile": options.get("keyFile") or "",
        }
        document = {"apiVersion": "", "repositories": [entry]}
        place.add("HELM_REPOSITORY_CONFIG", yaml.safe_dump(document))
        place.add_folder("HELM_REPOSITORY_CACHE")
        update = ["repo", "update", "private", "--fail-on-repo-update-fail"]
        try:
            self._run(place, update, LOOK_UP_SECONDS)
        except HelmError as error:
            raise ChartUnreachable(f"repository {entry['url']}: {error}") from None
        return f"private/{chart}"

    def _run(
        self, place: Workplace, arguments: list[str], seconds: float, stdin: str | None = None
    ) -> str:
        """Run helm and return its standard output. Raises HelmError."""
        helm = shutil.which("helm")
        if helm is None:
            raise HelmError("`helm` is not on PATH; helm.sh/v3 Release needs it")
        with self._start(
            [*_dying_with_us(), helm, *arguments],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(place),
            pass_fds=place.descriptors,
        ) as process:
            try:
                output, errors = process.communicate(stdin, timeout=seconds)
            except subprocess.TimeoutExpired:
                raise HelmError(f"helm {arguments[0]} gave no answer in {seconds:.0f} s") from None
        if process.returncode != 0:
            # `repo update` says on standard output why.
            said = _what_helm_said(errors + (output if arguments[0] == "repo" else ""))
            raise HelmError(said or f"helm {arguments[0]} failed")
        return str(output)

    def _environment(self, place: Workplace) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HELM_KUBE")}
        # Without a cluster helm must not come upon a person's own.
        environment["KUBECONFIG"] = os.devnull
        for setting, variable in (
            ("driver", "HELM_DRIVER"),
            ("pluginsPath", "HELM_PLUGINS"),
            ("registryConfigPath", "HELM_REGISTRY_CONFIG"),
            ("repositoryConfigPath", "HELM_REPOSITORY_CONFIG"),
            ("repositoryCache", "HELM_REPOSITORY_CACHE"),
        ):
            if self._settings.get(setting):
                environment[variable] = str(self._settings[setting])
        return environment | place.environment


# -- repair ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repair:
    """What to do before a release of this name can be installed or upgraded."""

    uninstall: bool = False
    drop_revision: bool = False
    install: bool = False
    refuse: str | None = None
    note: str | None = None


def repair(found: Found | None, chart: str, *, ours: bool) -> Repair:
    """Decide how to come from what helm's storage holds to a state that takes the change.

    `chart` is the wanted chart's name; `ours` says that Pulumi's state holds the release.
    """
    if found is None:
        return Repair(install=True)
    label = f"release {found.namespace}/{found.name}"
    if not ours and found.chart and found.chart != chart:
        return Repair(
            refuse=f"{label} exists already with chart {found.chart} (status {found.status}), not "
            f"{chart}: choose another name, or remove it with `helm uninstall "
            f"--namespace {found.namespace} {found.name}`"
        )
    if found.status in ("pending-install", "uninstalling", "uninstalled"):
        return Repair(
            uninstall=True,
            install=True,
            note=f"{label} was left {found.status} by an interrupted run: removed and installed "
            "again",
        )
    if found.status in ("pending-upgrade", "pending-rollback"):
        return Repair(
            drop_revision=True,
            note=f"{label} was left {found.status} by an interrupted run: its revision "
            f"{found.revision} is dropped and the upgrade repeated",
        )
    if not ours:
        return Repair(
            note=f"{label} is in the cluster (revision {found.revision}, {found.status}) but not "
            "in the state: taken over and upgraded"
        )
    return Repair()


def storage_record(found: Found, driver: str) -> tuple[str, str]:
    """The kind and name of the object in which helm keeps this revision."""
    kind = "ConfigMap" if driver in ("configmap", "configmaps") else "Secret"
    return kind, f"sh.helm.release.v1.{found.name}.v{found.revision}"


# -- values ----------------------------------------------------------------------------------


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Maps merged deeply, `over` wins; everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            result[key] = merged(before, value)
        else:
            result[key] = value
    return result


def without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value if item is not None]
    return value


def combined_values(inputs: Mapping[str, Any], files: list[str]) -> dict[str, Any]:
    """`valueYamlFiles` (their texts) in order, then `values`. Raises HelmError."""
    result: dict[str, Any] = {}
    for number, text in enumerate(files):
        try:
            document = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise HelmError(f"valueYamlFiles[{number}] is not YAML: {error}") from None
        if not isinstance(document, dict):
            raise HelmError(f"valueYamlFiles[{number}] is not a map")
        result = merged(result, document)
    result = merged(result, inputs.get("values") or {})
    cleaned = result if inputs.get("allowNullValues") else without_nulls(result)
    return dict(cleaned)


def resource_names(manifest: str) -> dict[str, list[str]]:
    """`Kind.group/apiVersion` → sorted names (`namespace/name`) of what the manifest holds."""
    names: dict[str, set[str]] = {}
    for document in yaml.load_all(manifest, Loader=_loader()):
        if not isinstance(document, dict) or not document.get("kind"):
            continue
        api_version, kind = str(document.get("apiVersion", "")), str(document["kind"])
        group = api_version.rpartition("/")[0]
        key = f"{kind}.{group}/{api_version}" if group else f"{kind}/{api_version}"
        about = document.get("metadata") or {}
        name = str(about.get("name", ""))
        if about.get("namespace"):
            name = f"{about['namespace']}/{name}"
        names.setdefault(key, set()).add(name)
    return {key: sorted(found) for key, found in sorted(names.items())}


def _loader() -> type:
    # The C parser where there is one: a big chart's manifest takes seconds with the other.
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


# -- details ---------------------------------------------------------------------------------


def _common_flags(inputs: Mapping[str, Any]) -> list[str]:
    seconds = int(inputs.get("timeout") or DEFAULT_SECONDS)
    flags = ["--timeout", f"{seconds}s"]
    if not inputs.get("skipAwait"):
        flags.append("--wait")
        if inputs.get("waitForJobs"):
            flags.append("--wait-for-jobs")
    for field, flag in (("description", "--description"), ("postrender", "--post-renderer")):
        if inputs.get(field):
            flags += [flag, str(inputs[field])]
    return flags + _switches(
        inputs,
        {
            "atomic": "--atomic",
            "skipCrds": "--skip-crds",
            "dependencyUpdate": "--dependency-update",
            "disableOpenapiValidation": "--disable-openapi-validation",
            "renderSubchartNotes": "--render-subchart-notes",
            "takeOwnership": "--take-ownership",
        },
    )


def _switches(inputs: Mapping[str, Any], flags: Mapping[str, str]) -> list[str]:
    return [flag for field, flag in flags.items() if inputs.get(field)]


def _dying_with_us() -> list[str]:
    """What makes helm end when the plugin is killed: a helm that goes on in the background would
    change the release under the hands of the next run."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _is_local(inputs: Mapping[str, Any]) -> bool:
    options = inputs.get("repositoryOpts") or {}
    chart = str(inputs.get("chart", ""))
    return not options.get("repo") and not chart.startswith("oci://") and Path(chart).exists()


def _what_helm_said(errors: str) -> str:
    lines = [line for line in errors.strip().splitlines() if not line.startswith("WARNING:")]
    text = "\n".join(lines).strip()
    return text.removeprefix("Error: ")[:4000]
