"""When an applied object counts as there, and when a deleted one counts as gone.

A simple, true subset of the release plugin's waiting:

- Namespace: phase Active
- CustomResourceDefinition: condition Established
- Service of type LoadBalancer: an ingress address
- Deployment, StatefulSet, DaemonSet: the rollout of the latest generation is complete
- Pod: condition Ready, or phase Succeeded
- Job: condition Complete; condition Failed is an error
- everything else: at once

Annotation `pulumi.com/waitFor` (`condition=Type`, `condition=Type=Status`, or a JSON list of them)
takes the place of these; its jsonpath form is refused. Annotation `pulumi.com/skipAwait: "true"`
skips all waiting, `pulumi.com/timeoutSeconds` bounds it.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tools.plugins.kubernetes_client import Client, Object, Resource
from tools.plugins.kubernetes_objects import SKIP_AWAIT, TIMEOUT_SECONDS, annotation, is_true

WAIT_FOR = "pulumi.com/waitFor"
CREATE_SECONDS = 600.0
DELETE_SECONDS = 600.0
LONGEST_PAUSE = 2.0


class NotReady(Exception):
    """The object is there but didn't become ready; carries the live object."""

    def __init__(self, message: str, live: Object) -> None:
        super().__init__(message)
        self.live = live


class _Failed(Exception):
    """It will not become ready however long one waits."""


def _status(live: Object) -> Mapping[str, Any]:
    status = live.get("status")
    return status if isinstance(status, Mapping) else {}


def _condition(live: Object, name: str) -> Mapping[str, Any]:
    for condition in _status(live).get("conditions") or []:
        if condition.get("type") == name:
            return dict(condition)
    return {}


def _namespace(live: Object) -> str | None:
    phase = _status(live).get("phase")
    return None if phase == "Active" else f"its phase is {phase or 'not set'}"


def _definition(live: Object) -> str | None:
    names = _condition(live, "NamesAccepted")
    if names.get("status") == "False":
        raise _Failed(f"its names are refused: {names.get('message')}")
    established = _condition(live, "Established")
    if established.get("status") == "True":
        return None
    return f"it is not Established: {established.get('message') or 'no condition yet'}"


def _service(live: Object) -> str | None:
    if live.get("spec", {}).get("type") != "LoadBalancer":
        return None
    if (_status(live).get("loadBalancer") or {}).get("ingress"):
        return None
    return "it has no load balancer address"


def _rollout(live: Object, wanted: int, ready_fields: tuple[str, ...]) -> str | None:
    status = _status(live)
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return "its controller has not seen the change"
    for field in ready_fields:
        if status.get(field, 0) < wanted:
            return f"{field} is {status.get(field, 0)} of {wanted}"
    return None


def _deployment(live: Object) -> str | None:
    progressing = _condition(live, "Progressing")
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        raise _Failed(str(progressing.get("message")))
    fields = ("updatedReplicas", "availableReplicas")
    return _rollout(live, live["spec"].get("replicas", 1), fields)


def _stateful_set(live: Object) -> str | None:
    fields = ("updatedReplicas", "readyReplicas")
    return _rollout(live, live["spec"].get("replicas", 1), fields)


def _daemon_set(live: Object) -> str | None:
    fields = ("updatedNumberScheduled", "numberAvailable")
    return _rollout(live, _status(live).get("desiredNumberScheduled", 0), fields)


def _pod(live: Object) -> str | None:
    phase = _status(live).get("phase")
    if phase == "Failed":
        raise _Failed(f"the pod failed: {_status(live).get('message') or 'no message'}")
    if phase == "Succeeded" or _condition(live, "Ready").get("status") == "True":
        return None
    return f"its phase is {phase or 'not set'} and it is not Ready"


def _job(live: Object) -> str | None:
    failed = _condition(live, "Failed")
    if failed.get("status") == "True":
        raise _Failed(f"the job failed: {failed.get('message')}")
    if _condition(live, "Complete").get("status") == "True":
        return None
    return "the job is not complete"


_CHECKS: dict[tuple[str, str], Callable[[Object], str | None]] = {
    ("", "Namespace"): _namespace,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("", "Service"): _service,
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("", "Pod"): _pod,
    ("batch", "Job"): _job,
}


def check_of(live: Mapping[str, Any]) -> Callable[[Object], str | None] | None:
    group = str(live.get("apiVersion", "")).rpartition("/")[0]
    return _CHECKS.get((group, str(live.get("kind", ""))))


def wanted_conditions(inputs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `pulumi.com/waitFor` asks for, as (type, status). Raises ValueError."""
    text = annotation(inputs, WAIT_FOR)
    if text is None:
        return []
    terms = json.loads(text) if text.lstrip().startswith("[") else [text]
    conditions = []
    for term in terms:
        kind, _, rest = str(term).partition("=")
        if kind != "condition" or not rest:
            raise ValueError(f"{term!r} is not served by this stand-in; use condition=Type")
        name, _, status = rest.partition("=")
        conditions.append((name, status or "True"))
    return conditions


def _check_for(inputs: Mapping[str, Any], live: Object) -> Callable[[Object], str | None] | None:
    conditions = wanted_conditions(inputs)
    if not conditions:
        return check_of(live)

    def check(found: Object) -> str | None:
        for name, status in conditions:
            if _condition(found, name).get("status") != status:
                return f"condition {name} is not {status}"
        return None

    return check


def seconds(inputs: Mapping[str, Any], asked: float, default: float) -> float:
    """How long to wait: the annotation, else the resource option (0: not given), else `default`."""
    text = annotation(inputs, TIMEOUT_SECONDS)
    try:
        return float(text) if text else asked or default
    except ValueError:
        return asked or default


def until_ready(
    client: Client,
    resource: Resource,
    inputs: Object,
    live: Object,
    timeout: float,
    say: Callable[[str], None],
    cancelled: threading.Event,
) -> Object:
    """Wait until `live` is ready and return it as it is then. Raises NotReady."""
    check = _check_for(inputs, live)
    if check is None or is_true(inputs, SKIP_AWAIT):
        return live
    deadline = time.monotonic() + timeout
    pause, said = 0.1, ""
    while True:
        try:
            missing = check(live)
        except _Failed as error:
            raise NotReady(str(error), live) from None
        if missing is None:
            return live
        if time.monotonic() >= deadline:
            raise NotReady(f"not ready after {timeout:.0f} s: {missing}", live)
        if missing != said and pause >= 1.0:
            say(f"waiting: {missing}")
            said = missing
        if cancelled.wait(pause):
            raise NotReady("cancelled while waiting for it", live)
        pause = min(pause * 1.6, LONGEST_PAUSE)
        namespace, name = live["metadata"].get("namespace"), live["metadata"]["name"]
        found = client.get(resource, namespace, name)
        if found is None:
            raise NotReady("it was deleted while we waited for it", live)
        live = found


def until_gone(
    client: Client,
    resource: Resource,
    namespace: str | None,
    name: str,
    uid: str | None,
    timeout: float,
    say: Callable[[str], None],
    cancelled: threading.Event,
) -> None:
    """Wait until the object (not a new one of the same name) is gone. Raises NotReady."""
    deadline = time.monotonic() + timeout
    pause, said = 0.05, False
    while True:
        live = client.get(resource, namespace, name)
        if live is None or (uid and live["metadata"].get("uid") != uid):
            return
        finalizers = ", ".join(live["metadata"].get("finalizers") or []) or "none"
        if time.monotonic() >= deadline:
            raise NotReady(
                f"still there {timeout:.0f} s after its deletion (finalizers: {finalizers})", live
            )
        if pause >= LONGEST_PAUSE and not said:
            say(f"waiting for its deletion (finalizers: {finalizers})")
            said = True
        if cancelled.wait(pause):
            raise NotReady("cancelled while waiting for it", live)
        pause = min(pause * 1.6, LONGEST_PAUSE)
