"""One request's claim on sessions: turns, one after another, and the session held between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from errors import BridgeError
from stackflow.ledger import Session, Signature
from stackflow.session import UnitSession


@dataclass(frozen=True, slots=True)
class Want:
    """What a request needs: a session of this signature, for this client.

    `keep_alive` is in seconds, None the configured value, negative for ever.
    """

    signature: Signature
    client: str
    low_priority: bool = False
    sticky: bool = False
    pool_size: int | None = None
    memory_kib: int | None = None
    keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting request stands: from 1, and ``queued`` or ``loading``."""

    position: int
    reason: str


class Desk(Protocol):
    """Where tickets are presented: the pool."""

    def arrive(self, ticket: Ticket) -> None:
        """Put the ticket in line."""

    def leave(self, ticket: Ticket) -> None:
        """Take it out of the line, with everything it has."""

    def place(self, ticket: Ticket) -> Place:
        """Return where it stands."""
        ...

    def leased(self, session_id: int) -> tuple[UnitSession, Session]:
        """Return a leased session and the scheduler's record of it."""
        ...

    def rest(self, ticket: Ticket, session_id: int) -> None:
        """Hold the session for the ticket's next turn."""

    def give_up(self, ticket: Ticket, session_id: int, *, gone: bool) -> None:
        """Take back a session whose turn failed."""


class Ticket:
    """Made by `Pool.request`, which also closes it."""

    def __init__(self, desk: Desk, number: int, want: Want) -> None:
        self.number = number
        self.want = want
        self.since = time.monotonic()  # its age in line, for all of its turns
        self.session_id: int | None = None
        self.granted_once = False
        self.queue_seconds = 0.0
        self.load_seconds = 0.0
        self._desk = desk
        self._changed = asyncio.Event()
        self._error: BridgeError | None = None

    @property
    def session(self) -> UnitSession:
        """The leased session."""
        return self._lease()[0]

    @property
    def module(self) -> str:
        """The name of the module the lease is on."""
        return self._lease()[1].module

    @property
    def signature(self) -> Signature:
        """What the leased session was set up with; differs from the wanted one when `sticky`."""
        return self._lease()[1].signature

    async def turn(self) -> AsyncGenerator[Place, None]:
        """Wait for the next turn, yielding the place in line as it changes; afterwards `session` is leased.

        Raises what the scheduler refuses with: QueueFull, QueueTimeout, DeviceUnavailable, ModelLoadFailed
        ...
        """
        asked, last = time.monotonic(), None
        self._desk.arrive(self)
        while not self._settled():
            self._changed.clear()
            place = self._desk.place(self)
            if place != last:
                last = place
                yield place
            await self._changed.wait()
        waited, record = time.monotonic() - asked, self._lease()[1]
        loading = min(record.load_seconds, waited) if record.loaded_at > asked else 0.0
        self.load_seconds += loading
        self.queue_seconds += waited - loading

    def rest(self) -> None:
        """Hold the session between two turns: others may take it only when they have waited too long."""
        session_id, self.session_id = self.session_id, None
        if session_id is not None:
            self._desk.rest(self, session_id)

    def give_up(self, *, gone: bool) -> None:
        """Give back the leased session to be leased another; with `gone` it is known to exist no more."""
        session_id, self.session_id = self.session_id, None
        if session_id is not None:
            self._desk.give_up(self, session_id, gone=gone)

    def granted(self, session_id: int) -> None:
        """The desk leased a session to this request."""
        self.session_id, self.granted_once = session_id, True
        self._changed.set()

    def refused(self, error: BridgeError) -> None:
        """The desk will not serve this request."""
        self._error = error
        self._changed.set()

    def notify(self) -> None:
        """The place in line may have changed."""
        self._changed.set()

    def _settled(self) -> bool:
        if self._error is not None:
            raise self._error.with_traceback(None)  # one refusal may be raised for many requests
        return self.session_id is not None

    def _lease(self) -> tuple[UnitSession, Session]:
        if self.session_id is None:
            raise RuntimeError("no session is leased")
        return self._desk.leased(self.session_id)
