"""What this program says of the objects that it makes in the cluster."""

from __future__ import annotations

from typing import Any


def owned(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an object that is ours alone: what somebody else wrote into it gives way.

    Without it server-side apply refuses every field that `kubectl edit` has touched.
    """
    annotations = {**metadata.get("annotations", {}), "pulumi.com/patchForce": "true"}
    return {**metadata, "annotations": annotations}
