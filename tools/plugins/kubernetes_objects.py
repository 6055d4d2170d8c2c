"""What a Kubernetes object means to Pulumi: tokens, names, ids, differences, drift.

Pure: plain data in and out; imports no Pulumi and reads no network.
"""

import base64
import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

Object = dict[str, Any]
Path = tuple[str | int, ...]

AUTONAMED = "pulumi.com/autonamed"
SKIP_AWAIT = "pulumi.com/skipAwait"
TIMEOUT_SECONDS = "pulumi.com/timeoutSeconds"
PROPAGATION = "pulumi.com/deletionPropagationPolicy"
PATCH_FORCE = "pulumi.com/patchForce"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
FIELD_MANAGER = "pulumi.com/patchFieldManager"

# What the API server writes into metadata: never a program's input.
SERVER_METADATA = frozenset(
    {
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    }
)

_WORKLOAD = {"spec.selector"}
_STATEFUL_SET = {
    "spec.podManagementPolicy",
    "spec.revisionHistoryLimit",
    "spec.selector",
    "spec.serviceName",
    "spec.volumeClaimTemplates",
}
# Fields that can't change in place, by API group and kind, as the release plugin has them.
_REPLACING: dict[tuple[str, str], set[str]] = {
    ("", "ConfigMap"): {"data", "binaryData"},
    ("", "PersistentVolumeClaim"): {"spec"},
    ("", "PersistentVolume"): {"spec.csi", "spec.hostPath", "spec.local", "spec.nfs"},
    ("", "Pod"): {"spec"},
    ("", "ResourceQuota"): {"spec.scopes"},
    ("", "Secret"): {"type", "stringData", "data"},
    ("", "Service"): {"spec.clusterIP"},
    ("apps", "DaemonSet"): _WORKLOAD,
    ("apps", "Deployment"): _WORKLOAD,
    ("apps", "StatefulSet"): _STATEFUL_SET,
    ("batch", "Job"): {"spec.completions", "spec.parallelism", "spec.selector", "spec.template"},
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): {"roleRef"},
    ("rbac.authorization.k8s.io", "RoleBinding"): {"roleRef"},
    ("storage.k8s.io", "StorageClass"): {"parameters", "provisioner"},
}
_IDENTITY = {"apiVersion", "kind", "metadata.name", "metadata.namespace"}


class TokenError(Exception):
    """A resource type that this plugin doesn't serve; the message names it."""


def parse_token(token: str) -> tuple[str, str]:
    """`kubernetes:core/v1:ConfigMap` → (`v1`, `ConfigMap`). Raises TokenError."""
    parts = token.split(":")
    if len(parts) != 3 or parts[0] != "kubernetes" or not parts[1] or not parts[2]:
        raise TokenError(f"{token!r} is no resource type of the kubernetes plugin")
    group_version, kind = parts[1], parts[2]
    group, _, version = group_version.rpartition("/")
    if group in ("helm.sh", "kustomize", "yaml"):
        raise TokenError(
            f"{token} is not served by this stand-in for Pulumi's kubernetes plugin; "
            "use helm.sh/v3 Release, or single resources"
        )
    return (version if group in ("core", "") else group_version), kind


def check_kind(token: str, inputs: Mapping[str, Any]) -> None:
    """Refuse tokens that stand for something else than one whole object."""
    _, kind = parse_token(token)
    for suffix in ("Patch", "List"):
        if kind.endswith(suffix) and (inputs.get("kind") != kind or "items" in inputs):
            raise TokenError(
                f"{token}: resources of type {suffix} are not served by this stand-in for "
                "Pulumi's kubernetes plugin"
            )


# -- names -----------------------------------------------------------------------------------


def metadata(body: Mapping[str, Any]) -> Object:
    found = body.get("metadata")
    return found if isinstance(found, dict) else {}


def annotation(body: Mapping[str, Any], name: str) -> str | None:
    annotations = metadata(body).get("annotations")
    value = annotations.get(name) if isinstance(annotations, Mapping) else None
    return str(value) if value is not None else None


def is_true(body: Mapping[str, Any], name: str) -> bool:
    return (annotation(body, name) or "").lower() == "true"


def object_id(body: Mapping[str, Any], namespaced: bool) -> str:
    found = metadata(body)
    name = str(found.get("name"))
    return f"{found['namespace']}/{name}" if namespaced and found.get("namespace") else name


def parse_id(identifier: str) -> tuple[str | None, str]:
    """`namespace/name` or `name`."""
    namespace, _, name = identifier.rpartition("/")
    return namespace or None, name


def name_automatically(body: Object, prefix: str, suffix: str) -> None:
    """Give `body` the name `<prefix>-<suffix>` and mark it as ours to rename."""
    found = body.setdefault("metadata", {})
    found["name"] = f"{prefix}-{suffix}"
    found.setdefault("annotations", {})[AUTONAMED] = "true"


def adopt_automatic_name(body: Object, old: Mapping[str, Any]) -> None:
    """Keep the name that an earlier `up` chose."""
    found = body.setdefault("metadata", {})
    found["name"] = metadata(old)["name"]
    found.setdefault("annotations", {})[AUTONAMED] = "true"


def field_manager(body: Mapping[str, Any], urn: str) -> str:
    """The name under which our fields are kept. It derives from the URN, so that an `up` after a
    lost state knows its own objects again."""
    digest = hashlib.sha256(urn.encode()).hexdigest()[:8]
    return annotation(body, FIELD_MANAGER) or f"pulumi-kubernetes-{digest}"


def managed_by(live: Mapping[str, Any], manager: str) -> bool:
    """Whether `manager` has applied this object before."""
    return any(
        entry.get("manager") == manager and entry.get("operation") == "Apply"
        for entry in metadata(live).get("managedFields") or []
    )


# -- differences -----------------------------------------------------------------------------


class Kind(Enum):
    ADD = "add"
    DELETE = "delete"
    UPDATE = "update"


@dataclass(frozen=True)
class Difference:
    path: Path
    kind: Kind

    @property
    def dotted(self) -> str:
        """Field names only, list positions left out: `spec.containers.image`."""
        return ".".join(part for part in self.path if isinstance(part, str))

    @property
    def property_path(self) -> str:
        """As the engine writes it: `spec.ports[0].port`, `metadata.labels["a.b/c"]`."""
        return property_path(self.path)


def property_path(path: Path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and all(c not in part for c in '."[]'):
            text += ("." if text else "") + part
        else:
            text += "[" + json.dumps(part) + "]"
    return text


def same(old: Any, new: Any) -> bool:
    """Equality of JSON values: numbers by value, true is not 1."""
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    return bool(old == new)


def differences(old: Any, new: Any, path: Path = ()) -> list[Difference]:
    """Every leaf that differs. Nulls count as absent. Any object may stand for an unknown value:
    it is equal to nothing."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in dict.fromkeys([*old, *new]):
            before, after = old.get(key), new.get(key)
            if before is None and after is None:
                continue
            if before is None:
                found.append(Difference((*path, key), Kind.ADD))
            elif after is None:
                found.append(Difference((*path, key), Kind.DELETE))
            else:
                found += differences(before, after, (*path, key))
        return found
    if _is_list(old) and _is_list(new):
        found = []
        for index in range(max(len(old), len(new))):
            if index >= len(old):
                found.append(Difference((*path, index), Kind.ADD))
            elif index >= len(new):
                found.append(Difference((*path, index), Kind.DELETE))
            else:
                found += differences(old[index], new[index], (*path, index))
        return found
    return [] if same(old, new) else [Difference(path, Kind.UPDATE)]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def replacing_fields(
    body: Mapping[str, Any], *, config_map_mutable: bool = False, secret_mutable: bool = False
) -> frozenset[str]:
    """The dotted fields whose change needs a new object."""
    group = str(body.get("apiVersion", "")).rpartition("/")[0]
    kind = str(body.get("kind", ""))
    fields = _REPLACING.get((group, kind), set())
    mutable = {"ConfigMap": config_map_mutable, "Secret": secret_mutable}.get(kind, False)
    if mutable and not group and not body.get("immutable"):
        fields = fields & {"type"}
    return frozenset(fields | _IDENTITY)


def must_replace(difference: Difference, fields: frozenset[str]) -> bool:
    dotted = difference.dotted
    return any(
        dotted == field or dotted.startswith(field + ".") or field.startswith(dotted + ".")
        for field in fields
        # A metadata map that comes or goes as a whole is judged by its leaves elsewhere.
        if not (dotted == "metadata" and field.startswith("metadata."))
    )


def identity_of(body: Mapping[str, Any]) -> tuple[str, str, str | None, str | None]:
    found = metadata(body)
    api_version, kind = str(body.get("apiVersion", "")), str(body.get("kind", ""))
    return api_version, kind, found.get("namespace"), found.get("name")


# -- drift -----------------------------------------------------------------------------------

_ABSENT = object()


def at(body: Any, path: Path) -> Any:
    for part in path:
        in_list = isinstance(part, int) and _is_list(body) and part < len(body)
        if not in_list and not (isinstance(body, Mapping) and part in body):
            return _ABSENT
        body = body[part]
    return body


def for_comparison(live: Mapping[str, Any]) -> Object:
    """What a person or a program decides of a live object."""
    body = {key: value for key, value in live.items() if key != "status"}
    body["metadata"] = {k: v for k, v in metadata(live).items() if k not in SERVER_METADATA}
    return body


def drifted_inputs(inputs: Object, live: Object, applied: Object) -> Object:
    """`inputs` as the live object has them now.

    `applied` is what the API server would make of `inputs` on top of `live` (a dry run): where
    the two agree nothing has drifted, however the server writes a value down (quantities,
    defaults, pruned fields). Only where they differ does an input take the live value.
    """
    result = copy.deepcopy(inputs)
    for difference in differences(for_comparison(live), for_comparison(applied)):
        _take_live(result, live, difference.path)
    return result


def _take_live(inputs: Object, live: Object, path: Path) -> None:
    if live.get("kind") == "Secret" and path and path[0] == "data" and len(path) == 2:
        string_path: Path = ("stringData", path[1])
        if at(inputs, string_path) is not _ABSENT:
            _put(inputs, string_path, _decoded(at(live, path)))
            return
    # The deepest ancestor that the inputs hold: a list is one value to a program.
    depth = len(path)
    while depth > 0 and at(inputs, path[:depth]) is _ABSENT:
        depth -= 1
    for position, part in enumerate(path[:depth]):
        if isinstance(part, int):
            depth = position
            break
    if depth > 0:
        _put(inputs, path[:depth], at(live, path[:depth]))


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return _ABSENT
    return base64.b64decode(value).decode(errors="replace")


def _put(body: Object, path: Path, value: Any) -> None:
    parent = at(body, path[:-1])
    if value is _ABSENT:
        parent.pop(path[-1], None)
    else:
        parent[path[-1]] = copy.deepcopy(value)


def inputs_from_live(live: Object) -> Object:
    """Inputs for an object that was not made here (an import)."""
    body = copy.deepcopy(for_comparison(live))
    # kubectl's note of what it applied repeats the whole object, a Secret's data included.
    (metadata(body).get("annotations") or {}).pop(LAST_APPLIED, None)
    return {key: value for key, value in body.items() if value not in ({}, [])}
