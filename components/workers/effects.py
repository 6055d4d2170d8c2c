"""What an edit means for a worker's machine: the one table that previews tell it from."""

from __future__ import annotations

EFFECTS = {
    "added": ("create", "joins"),
    "removed": ("delete", "certificate revoked, name barred, Node deleted"),
    "re-provisioned": ("update", "starts and joins anew"),
    "to be provisioned anew": (
        "update",
        "its certificate is revoked; start it from its new seed, by hand",
    ),
    "seed delivered anew": ("update", "keeps running, with what it joined with"),
    "files delivered anew": ("update", "keeps running"),
    "rebooted": ("update", "restarts, and keeps its certificate"),
    "registered again": ("update", "keeps running"),
    "settings changed": ("update", "keeps running"),
    "seed changed, not delivered": ("update", "keeps running"),
    "known only after the CA host ran": ("update", "re-provisioned only if that changes"),
}


def machine_change(started_here: bool, registration: set[str], delivery: set[str]) -> str:
    """What an edit of a worker means for its machine, one of EFFECTS or "untouched".

    By the inputs that change of its registration and of its delivery; `started_here` where the
    graph itself restarts the machine (nspawn).
    """
    if "stdin" in registration:
        return "re-provisioned" if started_here else "to be provisioned anew"
    if not started_here and "stdin" in delivery:
        return "seed delivered anew"
    if {"stdin", "triggers"} & delivery:
        return "rebooted"
    if registration:
        return "registered again"
    return "settings changed" if delivery else "untouched"
