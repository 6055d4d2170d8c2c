"""Any single Kubernetes object as a Pulumi resource, by server-side apply."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tools.plugins import kubernetes_await as await_
from tools.plugins import kubernetes_objects as objects
from tools.plugins.base import (
    CheckFailures,
    Created,
    Difference,
    Failure,
    Handler,
    InitializationFailed,
    Request,
    State,
)
from tools.plugins.kubernetes_client import (
    ApiError,
    Client,
    KindMissing,
    Object,
    Resource,
    Unreachable,
)
from tools.plugins.kubernetes_cluster import Cluster, Configuration, unique_suffix
from tools.plugins.values import UNKNOWN, Properties, Secret, contains_unknown

Result = TypeVar("Result")

MANAGER = "__fieldManager"
INITIAL_VERSION = "__initialApiVersion"
# As long as the release plugin tries: 1 + 2 + 4 + 8 + 16 s.
MISSING_SECONDS = 31.0

# Kinds that live outside namespaces, for when the API server can't be asked.
_CLUSTER_KINDS = frozenset(
    [
        "APIService",
        "CertificateSigningRequest",
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterTrustBundle",
        "ComponentStatus",
        "CSIDriver",
        "CSINode",
        "CustomResourceDefinition",
        "DeviceClass",
        "FlowSchema",
        "IngressClass",
        "IPAddress",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "PriorityLevelConfiguration",
        "ResourceSlice",
        "RuntimeClass",
        "SelfSubjectAccessReview",
        "ServiceCIDR",
        "StorageClass",
        "StorageVersion",
        "SubjectAccessReview",
        "TokenReview",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
        "VolumeAttachment",
        "VolumeAttributesClass",
    ]
)


class ObjectHandler(Handler):
    """Every kind but Release. State: the live object, plus two internal fields."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    @property
    def _cluster(self) -> Cluster:
        return self._configuration.cluster

    # -- check ------------------------------------------------------------------------------

    def check(self, request: Request) -> Properties:
        inputs = copy.deepcopy(request.inputs)
        try:
            objects.check_kind(request.type, inputs)
        except objects.TokenError as error:
            raise Failure(str(error)) from None
        api_version, kind = objects.parse_token(request.type)
        inputs.setdefault("apiVersion", api_version)
        inputs.setdefault("kind", kind)
        if inputs.get("metadata") is UNKNOWN:
            return inputs
        if inputs.get("metadata") is None:
            inputs["metadata"] = {}
        if not isinstance(inputs["metadata"], dict):
            raise CheckFailures(("metadata", "is not a map"))
        _check_wait_for(inputs)
        self._name(request, inputs)
        self._place(request, inputs)
        return inputs

    def _name(self, request: Request, inputs: Object) -> None:
        about = inputs["metadata"]
        if about.get("generateName"):
            reason = "is not served by this stand-in; leave the name out to have one made"
            raise CheckFailures(("metadata.generateName", reason))
        if about.get("name"):
            return
        if isinstance(about.get("annotations", {}) or {}, dict):
            about["annotations"] = about.get("annotations") or {}
            if objects.metadata(request.old_inputs).get("name"):
                objects.adopt_automatic_name(inputs, request.old_inputs)
            else:
                objects.name_automatically(inputs, request.name, unique_suffix(request))

    def _place(self, request: Request, inputs: Object) -> None:
        about = inputs["metadata"]
        namespaced = self._namespaced(inputs)
        if namespaced is False:
            about.pop("namespace", None)
        elif not about.get("namespace"):
            old = objects.metadata(request.old_inputs).get("namespace")
            # A kind that can't be looked up now stays where it was.
            place = self._cluster.namespace if namespaced else old
            if place:
                about["namespace"] = place

    def _namespaced(self, inputs: Object) -> bool | None:
        """None: nobody knows at the moment."""
        api_version, kind = str(inputs.get("apiVersion")), str(inputs.get("kind"))
        if kind in _CLUSTER_KINDS and _is_builtin(api_version):
            return False
        if _is_builtin(api_version):
            return True
        client = self._cluster.client
        if client is None or self._cluster.unreachable() is not None:
            return None
        try:
            return client.resource(api_version, kind).namespaced
        except (KindMissing, ApiError, Unreachable):
            return None

    # -- diff -------------------------------------------------------------------------------

    def diff(self, request: Request) -> Difference:
        old, new = request.old_inputs, request.inputs
        found = objects.differences(old, new)
        fields = objects.replacing_fields(
            new,
            config_map_mutable="enableConfigMapMutable" in self._cluster.flags,
            secret_mutable="enableSecretMutable" in self._cluster.flags,
        )
        paths = {each.property_path: each.kind.value.upper() for each in found}
        replaces = [each.property_path for each in found if objects.must_replace(each, fields)]
        fixed_name = not objects.is_true(new, objects.AUTONAMED)
        same_place = objects.identity_of(old)[2:] == objects.identity_of(new)[2:]
        return Difference(paths, replaces, bool(replaces) and fixed_name and same_place)

    # -- create and update ------------------------------------------------------------------

    def create(self, request: Request) -> Created:
        inputs = request.inputs
        if request.preview:
            return self._foretold_creation(request)
        client = self._cluster.need(f"create {_label(inputs)}")
        manager = objects.field_manager(inputs, request.urn)
        with _explained(f"create {_label(inputs)}"):
            resource = self._found_kind(client, inputs, request)
            self._refuse_foreign(client, resource, inputs, manager, request)
            live = self._applied_when_possible(client, resource, request, manager)
            identifier = objects.object_id(live, resource.namespaced)
            live = self._ready(client, resource, request, live, manager, identifier)
        return Created(identifier, _outputs(live, manager, inputs))

    def _foretold_creation(self, request: Request) -> Created:
        manager = objects.field_manager(request.inputs, request.urn)
        live, resource = self._dry_run(request, manager)
        if live is None or resource is None:
            return Created("", dict(request.inputs))
        identifier = objects.object_id(live, resource.namespaced)
        return Created(identifier, _outputs(live, manager, request.inputs))

    def update(self, request: Request) -> Properties:
        inputs = request.inputs
        manager = _manager_of(request)
        if request.preview:
            live, _ = self._dry_run(request, manager)
            return dict(inputs) if live is None else _outputs(live, manager, inputs)
        reason = self._cluster.unreachable()
        if reason is not None and "skipUpdateUnreachable" in self._cluster.flags:
            request.log(f"not updated: the cluster is unreachable: {reason}", "warning")
            return request.old_outputs
        client = self._cluster.need(f"update {_label(inputs)}")
        with _explained(f"update {_label(inputs)}"):
            resource = self._found_kind(client, inputs, request)
            live = self._applied_when_possible(client, resource, request, manager)
            live = self._ready(client, resource, request, live, manager, request.identifier)
        return _outputs(live, manager, inputs, request.old_outputs)

    def _dry_run(
        self, request: Request, manager: str
    ) -> tuple[Object, Resource] | tuple[None, None]:
        """What the API server would make of the inputs; None where it can't tell yet."""
        inputs, client = request.inputs, self._cluster.client
        if contains_unknown(inputs) or client is None or self._cluster.unreachable() is not None:
            return None, None
        taken = False
        with _explained(f"preview of {_label(inputs)}"):
            try:
                resource = client.resource(inputs["apiVersion"], inputs["kind"])
                if not request.identifier:
                    taken = self._refuse_foreign(client, resource, inputs, manager, request)
                live = client.apply(
                    resource,
                    inputs,
                    field_manager=manager,
                    force=self._forced(inputs),
                    dry_run=True,
                    warn=self._warner(request),
                )
            except KindMissing:
                return None, None
            except ApiError as error:
                # 404: its namespace comes with this same update. 409 and 422 at a creation: the
                # old object stands in the way of the new one, and goes before it.
                in_the_way = not request.identifier and taken and error.code in (409, 422)
                if error.code == 404 or in_the_way:
                    return None, None
                raise
        return live, resource

    def _found_kind(self, client: Client, inputs: Object, request: Request) -> Resource:
        """The kind, given some time to appear: an operator may be registering it right now."""
        return _patiently(
            lambda: client.resource(inputs["apiVersion"], inputs["kind"]),
            lambda error: isinstance(error, KindMissing),
            request,
        )

    def _applied_when_possible(
        self, client: Client, resource: Resource, request: Request, manager: str
    ) -> Object:
        inputs = request.inputs

        def apply() -> Object:
            return client.apply(
                resource,
                inputs,
                field_manager=manager,
                force=self._forced(inputs),
                warn=self._warner(request),
            )

        def not_yet(error: Exception) -> bool:
            return isinstance(error, ApiError) and error.code == 404

        live = _patiently(apply, not_yet, request)
        if inputs["kind"] == "CustomResourceDefinition":
            group = inputs.get("spec", {}).get("group")
            for version in inputs.get("spec", {}).get("versions") or []:
                client.forget(f"{group}/{version.get('name')}")
        return live

    def _refuse_foreign(
        self, client: Client, resource: Resource, inputs: Object, manager: str, request: Request
    ) -> bool:
        """An object that is there already is somebody's: only ours, of a lost state, goes on.

        Returns whether there is one.
        """
        about = inputs["metadata"]
        namespace, name = about.get("namespace"), about["name"]
        live = client.get(resource, namespace, name)
        if live is None:
            return False
        if live["metadata"].get("deletionTimestamp"):
            if not request.preview:
                self._await_gone(client, resource, live, inputs, request)
            return True
        if objects.managed_by(live, manager):
            if not request.preview:
                request.log("it is in the cluster from an interrupted run; taken up again")
            return True
        if "upsertExistingObjects" in self._cluster.flags:
            return True
        raise Failure(
            f"{_label(inputs)} already exists in the cluster and is not in the state of this "
            "stack: import it (option `import_`), delete it, or set upsertExistingObjects on the "
            "provider"
        )

    def _await_gone(
        self, client: Client, resource: Resource, live: Object, inputs: Object, request: Request
    ) -> None:
        about = live["metadata"]
        timeout = await_.seconds(inputs, request.timeout, await_.DELETE_SECONDS)
        await_.until_gone(
            client,
            resource,
            about.get("namespace"),
            about["name"],
            about.get("uid"),
            timeout,
            _say(request),
            request.cancelled,
        )

    def _ready(
        self,
        client: Client,
        resource: Resource,
        request: Request,
        live: Object,
        manager: str,
        identifier: str,
    ) -> Object:
        timeout = await_.seconds(request.inputs, request.timeout, await_.CREATE_SECONDS)
        try:
            return await_.until_ready(
                client, resource, request.inputs, live, timeout, _say(request), request.cancelled
            )
        except await_.NotReady as error:
            outputs = _outputs(error.live, manager, request.inputs)
            reason = f"{_label(request.inputs)} was applied, but {error}"
            raise InitializationFailed(identifier, outputs, [reason]) from None

    def _forced(self, inputs: Object) -> bool:
        text = objects.annotation(inputs, objects.PATCH_FORCE)
        if text is not None:
            return text.lower() == "true"
        return "enablePatchForce" in self._cluster.flags

    def _warner(self, request: Request) -> Callable[[str], None]:
        quiet = "suppressDeprecationWarnings" in self._cluster.flags

        def warn(text: str) -> None:
            if not (quiet and "deprecated" in text):
                request.log(text, "warning")

        return warn

    # -- read -------------------------------------------------------------------------------

    def read(self, request: Request) -> State | None:
        known = request.old_outputs or request.inputs
        api_version, kind = objects.parse_token(request.type)
        api_version = str(known.get("apiVersion") or api_version)
        label = f"{kind} {request.identifier} ({api_version})"
        if self._cluster.lost(f"read {label}", request):
            return None
        client = self._cluster.need(f"read {label}")
        with _explained(f"read {label}"):
            try:
                resource = client.resource(api_version, kind)
            except KindMissing:
                return None
            namespace, name = objects.parse_id(request.identifier)
            if resource.namespaced and namespace is None:
                namespace = self._cluster.namespace
            live = client.get(resource, namespace, name)
            if live is None:
                return None
            manager = _manager_of(request)
            inputs = self._live_inputs(client, resource, request, live, manager)
        identifier = objects.object_id(live, resource.namespaced)
        outputs = _outputs(live, manager, inputs, request.old_outputs)
        return State(identifier, outputs, self._marked_inputs(inputs))

    def _live_inputs(
        self, client: Client, resource: Resource, request: Request, live: Object, manager: str
    ) -> Object:
        if not request.inputs:
            return objects.inputs_from_live(live)
        try:
            applied = client.apply(
                resource, request.inputs, field_manager=manager, force=True, dry_run=True
            )
        except ApiError as error:
            request.log(f"its drift can't be told: {error.message}", "warning")
            return request.inputs
        return objects.drifted_inputs(request.inputs, live, applied)

    def _marked_inputs(self, inputs: Object) -> Object:
        return inputs

    # -- delete -----------------------------------------------------------------------------

    def delete(self, request: Request) -> None:
        known = request.old_inputs or request.old_outputs
        label = _label(known)
        if self._cluster.lost(f"delete {label}", request):
            return
        client = self._cluster.need(f"delete {label}")
        with _explained(f"delete {label}"):
            try:
                resource = client.resource(known["apiVersion"], known["kind"])
            except KindMissing:
                return
            namespace, name = objects.parse_id(request.identifier)
            self._delete(client, resource, namespace, name, request)

    def _delete(
        self,
        client: Client,
        resource: Resource,
        namespace: str | None,
        name: str,
        request: Request,
    ) -> None:
        known = request.old_inputs or request.old_outputs
        live = client.get(resource, namespace, name)
        if live is None:
            return
        policy = (objects.annotation(known, objects.PROPAGATION) or "foreground").lower()
        try:
            client.delete(resource, namespace, name, policy.capitalize())
        except ApiError as error:
            if error.code != 403 or not request.old_outputs.get(MANAGER):
                raise
            self._relinquish(client, resource, live, request)
            return
        if objects.is_true(known, objects.SKIP_AWAIT):
            return
        self._await_gone(client, resource, live, known, request)

    def _relinquish(
        self, client: Client, resource: Resource, live: Object, request: Request
    ) -> None:
        """Give back the fields of an object that nobody may delete (namespace `default`)."""
        identity = {
            k: live["metadata"][k] for k in ("name", "namespace") if live["metadata"].get(k)
        }
        body = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": identity}
        client.apply(resource, body, field_manager=_manager_of(request), force=True)
        request.log("it may not be deleted: left in the cluster, without our fields", "warning")


class SecretHandler(ObjectHandler):
    """core/v1 Secret: its data is secret wherever it came from."""

    secret_outputs = frozenset({"data", "stringData"})

    def _marked_inputs(self, inputs: Object) -> Object:
        return {
            key: Secret(value) if key in self.secret_outputs and value is not None else value
            for key, value in inputs.items()
        }


# -- details ---------------------------------------------------------------------------------


def _is_builtin(api_version: str) -> bool:
    group = api_version.rpartition("/")[0]
    # gateway.networking.k8s.io and the like are custom resources, *.k8s.io groups with one label
    # in front are Kubernetes' own.
    return "." not in group or group in _BUILTIN_GROUPS


_BUILTIN_GROUPS = frozenset(
    f"{name}.k8s.io"
    for name in (
        "admissionregistration",
        "apiextensions",
        "apiregistration",
        "authentication",
        "authorization",
        "certificates",
        "coordination",
        "discovery",
        "events",
        "flowcontrol.apiserver",
        "networking",
        "node",
        "rbac.authorization",
        "resource",
        "scheduling",
        "storage",
    )
)


def _check_wait_for(inputs: Object) -> None:
    try:
        await_.wanted_conditions(inputs)
    except ValueError as error:
        raise CheckFailures(("metadata.annotations", f"{await_.WAIT_FOR}: {error}")) from None


def _manager_of(request: Request) -> str:
    stored = request.old_outputs.get(MANAGER)
    return str(stored) if stored else objects.field_manager(request.inputs, request.urn)


def _label(body: Object) -> str:
    about = objects.metadata(body)
    name = about.get("name")
    place = f"{about['namespace']}/" if isinstance(about.get("namespace"), str) else ""
    named = f" {place}{name}" if isinstance(name, str) else ""
    return f"{body.get('kind')}{named} ({body.get('apiVersion')})"


def _outputs(
    live: Object, manager: str, inputs: Object, old_outputs: Object | None = None
) -> Properties:
    outputs: Properties = copy.deepcopy(live)
    if live.get("kind") == "Secret":
        annotations = outputs["metadata"].get("annotations") or {}
        # kubectl keeps the data there in the clear.
        annotations.pop(objects.LAST_APPLIED, None)
    outputs[MANAGER] = manager
    outputs[INITIAL_VERSION] = (old_outputs or {}).get(INITIAL_VERSION) or inputs.get("apiVersion")
    return outputs


def _say(request: Request) -> Callable[[str], None]:
    return lambda text: request.log(text, ephemeral=True)


def _patiently(
    attempt: Callable[[], Result], is_early: Callable[[Exception], bool], request: Request
) -> Result:
    """Repeat `attempt` while what it needs may still appear."""
    deadline = time.monotonic() + MISSING_SECONDS
    pause, said = 0.25, False
    while True:
        try:
            return attempt()
        except (ApiError, KindMissing) as error:
            if not is_early(error) or time.monotonic() + pause > deadline:
                raise
            if pause >= 1.0 and not said:
                request.log(f"waiting: {error}", ephemeral=True)
                said = True
        if request.cancelled.wait(pause):
            raise Failure("cancelled while waiting for what it needs")
        pause = min(pause * 1.5, 4.0)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn every error of the back end into one clear message."""
    try:
        yield
    except KindMissing as error:
        raise Failure(
            f"{what}: no matches for kind {error.kind!r} in version {error.api_version!r} after "
            f"{MISSING_SECONDS:.0f} s: its CustomResourceDefinition is not in the cluster; install "
            "what defines it first (depends_on), or check apiVersion and kind"
        ) from None
    except Unreachable as error:
        raise Failure(
            f"{what}: configured Kubernetes cluster is unreachable: {error}; check the kubeconfig "
            "and that the API server runs"
        ) from None
    except await_.NotReady as error:
        raise Failure(f"{what}: {error}") from None
    except ApiError as error:
        raise Failure(f"{what}: {_refusal(error)}") from None


def _refusal(error: ApiError) -> str:
    if error.reason == "Conflict" and error.causes:
        conflicts = "; ".join(
            f"{cause.get('field')}: {cause.get('message')}" for cause in error.causes
        )
        return (
            f"Server-Side Apply field conflict: {conflicts}. Drop these fields here, or take them "
            f'over with annotation {objects.PATCH_FORCE}: "true"'
        )
    return f"the API server refused ({error.code} {error.reason}): {error.message}"
