"""Pulumi's resource plugins: which are installed, and the two that are stood in for."""

# Set by the lab, and nowhere else: the one stack that the stand-ins change something for. It names
# its backend too, so that a stack of the user's own in the same shell is none.
LAB_STACK = "AUTOJOIN_LAB_STACK"


def lab_stack(backend: str, stack: str) -> str:
    """What LAB_STACK holds for `stack` in the backend of that URL."""
    return f"{stack} in {backend}"
