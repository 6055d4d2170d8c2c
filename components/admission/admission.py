"""Bars nodes that were removed from the stack, and certificates that were revoked; deletes Nodes.

usage: admission.py apply|remove, with command_input of policy.py on standard input,
KUBECONFIG naming the cluster, and what the run before printed in PULUMI_COMMAND_STDOUT. Prints
the workers with their generations, and who is barred, for the next run. Needs kubectl and nothing
but the standard library. Safe to repeat: each run states the whole truth, so that one which was
interrupted costs nothing.
"""

import datetime
import json
import os
import subprocess
import sys
import time

EFFECTIVE_SECONDS = 30


class Failed(Exception):
    """One line for the person who reads the output of `pulumi up`."""


def main():
    if sys.argv[1:] not in (["apply"], ["remove"]):
        sys.exit("usage: admission.py apply|remove")
    given = json.load(sys.stdin)
    before = json.loads(os.environ.get("PULUMI_COMMAND_STDOUT") or "{}")
    workers = given["workers"] if sys.argv[1] == "apply" else {}
    earlier = before.get("workers", {})
    removed = sorted(set(earlier) - set(workers))
    changed = sorted(name for name in workers if earlier.get(name, workers[name]) != workers[name])
    barred = sorted({*removed, *before.get("barred", [])} - set(workers))
    try:
        bar(given, workers, barred, removed, changed)
    except Failed as failure:
        sys.exit(f"barring removed workers: {failure}")
    if sys.argv[1] == "apply":
        print(json.dumps({"workers": workers, "barred": barred}))


def bar(given, workers, barred, removed, changed):
    # The list before the policy that needs it, and the bars before the Nodes go: a kubelet that
    # still runs would make its Node again.
    write_list(given, barred, workers)
    for manifest in (given["policy"], given["binding"]):
        apply(manifest)
    if removed:
        await_effect(removed[-1])
    for name in [*removed, *changed]:
        delete_node(name)
    for name in removed:
        print(f"{name}: barred, its Node deleted", file=sys.stderr)


def write_list(given, barred, workers):
    """One patch: what goes and what comes is never half there. A lost list is made anew."""
    listed = read_list(given)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {f"node.{name}": f"removed {now}" for name in barred if f"node.{name}" not in listed}
    data.update({f"node.{name}": None for name in workers if f"node.{name}" in listed})
    signs = "renews at the join gate"
    data.update({f"worker.{name}": signs for name in workers})
    data.update({key: None for key in listed if key.startswith("worker.") and key not in data})
    for entry in given["revoked"]:
        data[f"certificate.{entry['sha256']}"] = f"{entry['node']} until {entry['notAfter']}"
    for key, text in listed.items():
        # An expired certificate opens nothing any more.
        if key.startswith("certificate.") and text.rpartition(" ")[2] < now:
            data.setdefault(key, None)
    changes = {key: text for key, text in data.items() if listed.get(key) != text}
    # Without anything to change too: the policy needs the list to be there.
    patch = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": given["name"], "namespace": given["namespace"]},
        "data": changes,
    }
    where = ["--namespace", given["namespace"]]
    words = ["patch", "configmap", given["name"], *where, "--type", "merge"]
    kubectl([*words, "--patch-file", "/dev/stdin"], patch)


def read_list(given):
    """The list's data; an empty list is made where there is none."""
    where = ["--namespace", given["namespace"]]
    words = ["get", "configmap", given["name"], *where, "--ignore-not-found"]
    answer = kubectl([*words, "--output", "json"])
    if answer.strip():
        return json.loads(answer).get("data") or {}
    kubectl(["create", "configmap", given["name"], *where])
    return {}


def apply(manifest):
    words = ["apply", "--server-side", "--force-conflicts", "--field-manager", "autojoin"]
    try:
        kubectl([*words, "--filename", "-"], manifest)
    except Failed as failure:
        if "no matches for kind" not in str(failure):
            raise
        raise Failed(
            f"{manifest['kind']}: not served by this API server; Kubernetes 1.30 or newer is needed"
        ) from None


def await_effect(name):
    """Return once the API server really refuses the node; it needs about a second."""
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
    }
    user = ["--as", f"system:node:{name}", "--as-group", "system:nodes"]
    words = [*user, "create", "--filename", "-", "--dry-run=server"]
    deadline = time.monotonic() + EFFECTIVE_SECONDS
    while True:
        try:
            kubectl(words, lease)
            found = "it may still write"
        except Failed as failure:
            found = str(failure)
            if f"{name} is barred" in found:
                return
            if "cannot impersonate" in found:
                print(f"not proved, for want of the right: {found}", file=sys.stderr)
                return
        if time.monotonic() > deadline:
            raise Failed(f"{name} is not refused after {EFFECTIVE_SECONDS} s: {found}")
        time.sleep(0.2)


def delete_node(name):
    kubectl(["delete", "node", name, "--ignore-not-found", "--wait=false"])


def kubectl(words, value=None):
    """What kubectl prints; Failed with its last line where it fails."""
    data = "" if value is None else json.dumps(value)
    command = ["kubectl", "--request-timeout=30s", *words]
    try:
        answer = subprocess.run(command, input=data, capture_output=True, text=True)
    except FileNotFoundError:
        raise Failed("kubectl is not on PATH; it is needed where `pulumi up` runs") from None
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"kubectl ended with {answer.returncode}"]
        raise Failed(f"kubectl {words[0]}: {lines[-1][:500]}")
    return answer.stdout


if __name__ == "__main__":
    main()
