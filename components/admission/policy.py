"""Revocation that bites: who may no longer write to the API server, as an admission policy.

kube-apiserver reads neither CRL nor OCSP (kubernetes#18982), so a revoked certificate opens its
door until it expires. A ValidatingAdmissionPolicy closes it for writes: it looks the user up in
one ConfigMap, by node name (a removed worker) and by certificate (one that was superseded; the
API server tells its fingerprint since Kubernetes 1.32). A list of the barred, never of the
admitted: nodes that autojoin did not make are none of its business.

Every certificate of a worker is in the certdb, since workers renew at the join gate. So that it
stays so they may not ask the API server's signer, whose certificates nobody here would know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

NAMESPACE = "kube-system"
NAME = "autojoin-barred-nodes"
NODE_PREFIX = "node."
CERTIFICATE_PREFIX = "certificate."
WORKER_PREFIX = "worker."

_USER_PREFIX = "system:node:"
# Where kube-apiserver puts it: k8s.io/apiserver/pkg/authentication/user, CredentialIDKey.
_CREDENTIAL = "authentication.kubernetes.io/credential-id"
_CREDENTIAL_PREFIX = "X509SHA256="
_SCRIPT = "components/admission/admission.py"


def policy() -> dict[str, Any]:
    """The ValidatingAdmissionPolicy: every write of a barred node is refused."""
    name = f"request.userInfo.username.substring({len(_USER_PREFIX)})"
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": NAME},
        "spec": {
            # A policy that can't be evaluated must not let a removed node in.
            "failurePolicy": "Fail",
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["*"],
                        "apiVersions": ["*"],
                        "operations": ["*"],
                        # Subresources too: node status, tokens of service accounts.
                        "resources": ["*/*"],
                    }
                ]
            },
            "matchConditions": [
                {
                    "name": "a-node",
                    "expression": f"request.userInfo.username.startsWith('{_USER_PREFIX}')",
                }
            ],
            "variables": [
                {"name": "barred", "expression": "has(params.data) ? params.data : {}"},
                {
                    "name": "certificates",
                    "expression": "has(request.userInfo.extra) &&"
                    f" '{_CREDENTIAL}' in request.userInfo.extra ?"
                    f" request.userInfo.extra['{_CREDENTIAL}'] : []",
                },
            ],
            "validations": [
                {
                    "expression": f"!(('{NODE_PREFIX}' + {name}) in variables.barred)",
                    "messageExpression": f"{name} + ' is barred: it was removed from its"
                    " autojoin stack; add it there to let it join anew'",
                    "reason": "Forbidden",
                },
                {
                    "expression": "!variables.certificates.exists(id,"
                    f" ('{CERTIFICATE_PREFIX}' + id.replace('{_CREDENTIAL_PREFIX}', ''))"
                    " in variables.barred)",
                    "messageExpression": f"'this certificate of ' + {name} + ' is barred:"
                    " autojoin revoked it'",
                    "reason": "Forbidden",
                },
                {
                    "expression": "request.resource.resource != 'certificatesigningrequests' ||"
                    f" !(('{WORKER_PREFIX}' + {name}) in variables.barred)",
                    "messageExpression": f"{name} + ' renews its certificate at the join gate:"
                    " no other signer keeps books of it'",
                    "reason": "Forbidden",
                },
            ],
        },
    }


def binding() -> dict[str, Any]:
    """The policy's binding: with the list of the barred, for the whole cluster."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NAME},
        "spec": {
            "policyName": NAME,
            "paramRef": {
                "name": NAME,
                "namespace": NAMESPACE,
                # Deny would refuse every write of everybody, not only of nodes, once the list is
                # lost: the match conditions are looked at after the parameter.
                "parameterNotFoundAction": "Allow",
            },
            "validationActions": ["Deny"],
        },
    }


def command(action: str) -> list[str]:
    """The words that run `action` (apply, remove) where the program runs, with `command_input`."""
    return ["python3", "-I", _SCRIPT, action]


def command_input(
    identities: Mapping[str, str],
    revoked: str,
    drain_seconds: int,
    kubernetes_version: str,
    rolling: Mapping[str, tuple[str, str]] | None = None,
    protected: Sequence[str] = (),
) -> str:
    """Standard input of `command`: the workers there are, and what the gate has revoked.

    `identities` are those of the workers by name; `revoked` is what the gate's command of that name
    printed, which holds no secret. A node that goes has `drain_seconds` to be drained; 0 leaves
    that away. `kubernetes_version` is the kubelets', which the API server's may not be older than.
    `rolling` are the workers whose machines are replaced where they are, each in its
    turn: its new machine-id, and where it is. `protected` are not let go by the next edit.
    """
    kept = {"protected": sorted(protected)} if protected else {}
    return json.dumps(
        {
            **kept,
            "workers": dict(sorted(identities.items())),
            "rolling": {
                name: {"machineId": machine_id, "place": place}
                for name, (machine_id, place) in sorted((rolling or {}).items())
            },
            "revoked": json.loads(revoked)["revoked"],
            "drainSeconds": drain_seconds,
            "kubernetesVersion": kubernetes_version,
            "namespace": NAMESPACE,
            "name": NAME,
            "policy": policy(),
            "binding": binding(),
        }
    )


def leave_input(node: str, machine_id: str, revoked: str, drain_seconds: int) -> str:
    """Standard input for `leave`: whose turn it is, and the machine-id of its new machine."""
    certificates = [each for each in json.loads(revoked)["revoked"] if each["node"] == node]
    return json.dumps(
        {
            "node": node,
            "machineId": machine_id,
            "revoked": certificates,
            "drainSeconds": drain_seconds,
            "namespace": NAMESPACE,
            "name": NAME,
        }
    )
