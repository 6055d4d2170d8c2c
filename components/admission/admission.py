"""Bars nodes that were removed from the stack, and certificates that were revoked; deletes Nodes.

A node that still works is drained first: while it may write, its pods can end in order. One whose
machine the graph replaces where it is has its own turn (rollout.py), and is left alone until then.

usage: admission.py apply|remove|leave, with an input of policy.py on standard input and KUBECONFIG
naming the cluster. `apply` takes what the run before printed in PULUMI_COMMAND_STDOUT, and prints
the workers with their identities, where they are, and who is barred, for the next run. `leave` is
one node's turn; it prints `left` where that node worked. Needs kubectl and nothing but the standard
library. Safe to repeat: each run states the whole truth, so that one which was interrupted costs
nothing.
"""

import datetime
import json
import os
import subprocess
import sys
import time

EFFECTIVE_SECONDS = 30
LOOK_SECONDS = 2
NOT_DNS = "k8s-app!=kube-dns"


class Failed(Exception):
    """One line for the person who reads the output of `pulumi up`."""


def main():
    if sys.argv[1:] not in (["apply"], ["remove"], ["leave"]):
        sys.exit("usage: admission.py apply|remove|leave")
    given = json.load(sys.stdin)
    try:
        if sys.argv[1] == "leave":
            print("left" if leave(given) else "did not work")
        else:
            state(given)
    except Failed as failure:
        sys.exit(f"barring removed workers: {failure}" if "workers" in given else str(failure))


def state(given):
    """The whole truth, of all workers."""
    before = json.loads(os.environ.get("PULUMI_COMMAND_STDOUT") or "{}")
    if sys.argv[1] == "apply":
        check_version(given["kubernetesVersion"])
        keep_protected(given["workers"], before.get("protected", []))
    workers = given["workers"] if sys.argv[1] == "apply" else {}
    earlier = before.get("workers", {})
    removed = sorted(set(earlier) - set(workers))
    changed = {name for name in workers if is_another(name, earlier, workers[name])}
    barred = sorted({*removed, *before.get("barred", [])} - set(workers))
    rolling = {name: it["place"] for name, it in given["rolling"].items()}
    places = before.get("places", rolling)  # a state of before places: where it was
    at_once = {name for name in changed if places.get(name) != rolling.get(name, "by hand")}
    later = waiting(given, changed, at_once)
    bar(given, workers, barred, removed, sorted(at_once), later)
    if sys.argv[1] == "apply":
        kept = {"protected": given["protected"]} if "protected" in given else {}
        print(json.dumps({"workers": workers, "places": rolling, "barred": barred, **kept}))


def keep_protected(workers, protected):
    """`pulumi preview` refuses the same; this is for who does without."""
    lost = sorted(set(protected) - set(workers))
    if lost:
        raise Failed(
            f"{', '.join(lost)}: protected, so not removed. Put it back, `pulumi up` with its "
            "protect: false, then remove it"
        )


def check_version(kubelets):
    """No kubelet may be newer than the API server; before any machine is touched.

    https://kubernetes.io/releases/version-skew-policy/#kubelet
    """
    server = json.loads(kubectl(["version", "--output=json"]))["serverVersion"]["gitVersion"]
    if minor(kubelets) > minor(server):
        raise Failed(
            f"autojoin:cluster.kubernetesVersion: is newer than the API server: {kubelets} and "
            f"{server.removeprefix('v')}; upgrade the control plane first"
        )


def minor(version):
    """`v1.34.2` as (1, 34)."""
    return tuple(int(part) for part in version.removeprefix("v").split(".")[:2])


def is_another(name, earlier, identity):
    """Whether a worker was there before and is another machine now."""
    before = earlier.get(name, identity)
    if isinstance(before, int):  # a state of before identities: its generation
        return not identity.startswith(f"{name}-g{before}-")
    return before != identity


def waiting(given, changed, at_once):
    """The nodes whose machines wait for their turn to be replaced, and work until then."""
    machines = {name: it["machineId"] for name, it in given["rolling"].items()}
    superseded = {entry["node"] for entry in given["revoked"]}
    concerned = ({*changed, *superseded} & set(machines)) - at_once
    if not concerned:
        return set()
    found = all_nodes()
    return {name for name in concerned if works(found.get(name), machines[name])}


def bar(given, workers, barred, removed, replaced, later):
    if sys.argv[1] == "apply":  # of a whole cluster there is nowhere to go
        for name in [*removed, *replaced]:
            if works(node(name)):
                drain(name, given["drainSeconds"])
    # The list before the policy that needs it, and the bars before the Nodes go: a kubelet that
    # still runs would make its Node again.
    now = [entry for entry in given["revoked"] if entry["node"] not in later]
    write_list(given, now, barred, workers)
    for manifest in (given["policy"], given["binding"]):
        apply(manifest)
    if removed:
        await_effect(removed[-1])
    for name in [*removed, *replaced]:
        delete_node(name)
    for name in removed:
        print(f"{name}: barred, its Node deleted", file=sys.stderr)


def leave(given):
    """One node's turn: drained, its old certificates barred, its Node deleted.

    Whether it worked. One that is the new machine already, by a run that was cut off, stays.
    """
    name, found = given["node"], node(given["node"])
    worked = works(found, given["machineId"])
    if worked:
        drain(name, given["drainSeconds"])
    write_list(given, given["revoked"])
    if worked or not works(found):
        # Else the Node of the machine before, which says Ready for a while, is taken for the new.
        delete_node(name)
    return worked


def works(found, machine_id=None):
    """Whether a Node is Ready; with `machine_id`, on a machine that is not that one."""
    if found is None:
        return False
    if machine_id and machine_id in machine_ids(found):
        return False
    return ready(found) == "True"


def machine_ids(found):
    """What a Node tells of its machine: its machine-id, and its provider's ID."""
    yield found["status"].get("nodeInfo", {}).get("machineID")
    yield found.get("spec", {}).get("providerID")


def ready(found):
    """What a Node's condition Ready says: True, False, Unknown; None where it has none."""
    conditions = found["status"].get("conditions", [])
    return next((it["status"] for it in conditions if it["type"] == "Ready"), None)


def node(name):
    answer = kubectl(["get", "node", name, "--ignore-not-found", "--output", "json"])
    return json.loads(answer) if answer.strip() else None


def all_nodes():
    """Every Node by its name."""
    nodes = json.loads(kubectl(["get", "nodes", "--output", "json"]))["items"]
    return {node["metadata"]["name"]: node for node in nodes}


def is_last(name):
    """Whether no other node is Ready: the cluster's DNS has nowhere to go."""
    return not any(works(found) for other, found in all_nodes().items() if other != name)


def silent(name):
    """Whether the cluster has lost a node: nobody is there who ends its pods."""
    found = node(name)
    return found is not None and ready(found) == "Unknown"


def drain(name, seconds):
    """Have the pods of a node that works leave it; one at a time, by kubectl's own rules.

    A machine that died says Ready for a while: the drain ends as soon as the cluster knows better.
    """
    if not seconds:
        return
    words = ["--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={seconds}s"]
    if is_last(name):
        # Nobody is left to ask it, and its budget would keep the node for ever.
        words.append(f"--pod-selector={NOT_DNS}")
    try:
        kubectl(["drain", name, *words], unless=lambda: silent(name))
    except Failed as failure:
        if silent(name):
            print(f"{name}: is lost, its pods are not waited for", file=sys.stderr)
            return
        kubectl(["uncordon", name])
        raise Failed(
            f"{name} can't be drained in {seconds} s and keeps running as it is: {failure}. Make "
            "room for its pods, loosen their PodDisruptionBudget, or set "
            "autojoin:rollout.drainTimeout: 0 to take nodes down as they are"
        ) from None


def write_list(given, revoked, barred=(), workers=None):
    """One patch: what goes and what comes is never half there. A lost list is made anew.

    Without `workers` it is one node's turn, which says nothing of names.
    """
    listed = read_list(given)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {} if workers is None else names(listed, now, barred, workers)
    for entry in revoked:
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


def names(listed, now, barred, workers):
    """What becomes of the names in the list: who is barred, and who renews at the join gate."""
    data = {f"node.{name}": f"removed {now}" for name in barred if f"node.{name}" not in listed}
    data.update({f"node.{name}": None for name in workers if f"node.{name}" in listed})
    data.update({f"worker.{name}": "renews at the join gate" for name in workers})
    gone = (key for key in listed if key.startswith("worker.") and key not in data)
    return {**data, **dict.fromkeys(gone)}


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


def kubectl(words, value=None, unless=None):
    """What kubectl prints; Failed with what it can't do, or its last line, where it fails.

    It is ended once `unless` says so, which is asked while it works.
    """
    data = "" if value is None else json.dumps(value)
    command = ["kubectl", "--request-timeout=30s", *words]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except FileNotFoundError:
        raise Failed("kubectl is not on PATH; it is needed where `pulumi up` runs") from None
    answer, errors = ended(process, data, unless)
    if process.returncode:
        said = errors.strip().splitlines() or [f"kubectl ended with {process.returncode}"]
        # It repeats a reason as long as it tries.
        causes = [line for line in said if "annot " in line] or said[-1:]
        raise Failed(f"kubectl {words[0]}: {'; '.join(dict.fromkeys(causes))[:500]}")
    return answer


def ended(process, data, unless):
    """The process's output and errors, once it ended by itself or by `unless`."""
    while True:
        try:
            return process.communicate(data, timeout=LOOK_SECONDS if unless else None)
        except subprocess.TimeoutExpired:
            data = None  # it has it
            if unless():
                process.terminate()


if __name__ == "__main__":
    main()
