"""Progress of joins: nodes report phases, and whoever waits for a node follows them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .commits import Commits
from .errors import Refusal
from .store import Event, Store
from .waiting import within

PHASES = (
    "start",
    "clock",
    "packages",
    "authority",
    "certificate",
    "runtime",
    "kubelet",
    "node",
    "ready",
)
STATES = ("started", "done", "failed")
MESSAGE_LIMIT = 2000
# Between two lines of a message: who reads it has one line for each event.
_LINE_END = " | "
REPORTS_LIMIT = 16
AGE_LIMIT = 3600
WAIT_LIMIT_SECONDS = 30.0
# How soon what another process wrote, a worker of the gate or a command, is seen.
_LOOK_AGAIN_SECONDS = 0.25


@dataclass(frozen=True)
class Report:
    """One event as a node tells it; `age` is how many seconds before the telling it happened."""

    phase: str
    state: str
    message: str
    age: float = 0.0


def checked_reports(data: dict[str, Any], secrets: Iterable[bytes]) -> list[Report]:
    """The reports in `data`: one, or a list of them under `events`, oldest first.

    `secrets` are what the node was given; they are taken out of the messages.
    """
    if "events" not in data:
        return [checked_report({key: data[key] for key in data if key != "node"}, secrets)]
    for key in sorted(set(data) - {"node", "events"}):
        raise Refusal(400, f"{key[:40]}: unknown key; known: node, events")
    events = data["events"]
    if not isinstance(events, list) or not 1 <= len(events) <= REPORTS_LIMIT:
        raise Refusal(400, f"events: must be a list of 1 to {REPORTS_LIMIT} reports")
    for event in events:
        if not isinstance(event, dict):
            raise Refusal(400, "events: each report must be a JSON object")
    return [checked_report(event, secrets) for event in events]


def checked_report(data: dict[str, Any], secrets: Iterable[bytes]) -> Report:
    """A report with its message on one line and of bounded length."""
    for key in sorted(set(data) - {"phase", "state", "message", "age"}):
        raise Refusal(400, f"{key[:40]}: unknown key; known: phase, state, message, age")
    phase, state, message = data.get("phase"), data.get("state"), data.get("message", "")
    age = data.get("age", 0)
    if phase not in PHASES:
        raise Refusal(400, f"phase: must be one of {', '.join(PHASES)}, found {phase!r:.40}")
    if state not in STATES:
        raise Refusal(400, f"state: must be one of {', '.join(STATES)}, found {state!r:.40}")
    if not isinstance(message, str):
        raise Refusal(400, "message: must be text")
    if isinstance(age, bool) or not isinstance(age, (int, float)) or not 0 <= age <= AGE_LIMIT:
        raise Refusal(400, f"age: must be a number of seconds from 0 to {AGE_LIMIT}")
    return Report(phase, state, one_line(without_secrets(message, secrets)), age)


_HIDDEN = "REDACTED"
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|$)", re.DOTALL
)


def without_secrets(message: str, secrets: Iterable[bytes]) -> str:
    """The message without private keys, and without `secrets` in hex or base64.

    It is a log's last lines, and goes to terminals and into Pulumi's state.
    """
    message = _PRIVATE_KEY.sub(_HIDDEN, message)
    for secret in secrets:
        for text in (secret.hex(), base64.b64encode(secret).decode()):
            message = re.sub(re.escape(text), _HIDDEN, message, flags=re.IGNORECASE)
    return message


def one_line(message: str) -> str:
    """The message without control characters (it ends in terminals), at most MESSAGE_LIMIT.

    Its lines stay apart; of one that is too long the end is kept, where a log says what failed.
    """
    lines = [" ".join(_printable(line).split()) for line in message.splitlines()]
    text = _LINE_END.join(line for line in lines if line)
    return text if len(text) <= MESSAGE_LIMIT else "…" + text[1 - MESSAGE_LIMIT :]


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else " " for character in line)


class Progress:
    """Events of all nodes, kept in the store; `follow` waits for new ones."""

    def __init__(self, store: Store, commits: Commits, *, most_waiting: int) -> None:
        self._store = store
        self._commits = commits
        self._most_waiting = most_waiting
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._stopping = False

    async def report(self, name: str, reports: Sequence[Report]) -> None:
        now = time.time()
        events = [(now - it.age, it.phase, it.state, it.message) for it in reports]
        await self._commits.soon(lambda: self._store.append_events(name, events))
        self._wake(name)

    async def follow(self, name: str, after: int, wait: float) -> list[Event]:
        """Events numbered above `after`; waits up to `wait` seconds for the first.

        With too many waiting already it answers at once, so that joins always find a place.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait, WAIT_LIMIT_SECONDS)
        while not (events := self._store.events(name, after)):
            left = deadline - loop.time()
            if left <= 0 or self._stopping or len(self._waiting) >= self._most_waiting:
                break
            news: asyncio.Future[None] = loop.create_future()
            self._waiting[news] = name
            try:
                with contextlib.suppress(asyncio.TimeoutError):
                    await within(left, news)
            finally:
                del self._waiting[news]
        return events

    def _wake(self, name: str | None = None) -> None:
        """Have those look again who wait for the node; None: for any."""
        for news, node in self._waiting.items():
            if name in (node, None) and not news.done():
                news.set_result(None)

    async def look(self) -> None:
        """Wake those who wait for what another process wrote, which cannot wake them; for ever."""
        seen = self._store.version()
        while True:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            if self._waiting and (version := self._store.version()) != seen:
                seen = version
                self._wake()

    def stop(self) -> None:
        """Let everybody who waits go."""
        self._stopping = True
        self._wake()
