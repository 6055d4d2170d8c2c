"""What the gate refuses, and what stops it."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is answered with an error; `message` goes to the client as it is.

    `status` is the HTTP status; `close` ends the connection after the answer, for requests
    whose body was not read.
    """

    def __init__(self, status: int, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.close = close


class GateError(Exception):
    """A fault for the operator: printed as one line by the commands, never sent to a client."""


class AuthorityError(Exception):
    """CFSSL did not sign. `definite`: it is certain that no certificate was made."""

    def __init__(self, message: str, *, definite: bool) -> None:
        super().__init__(message)
        self.definite = definite
