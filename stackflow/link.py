"""A module's pipes: over TCP each session has its own connection, a UART is one pipe that all share."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from errors import UnitError
from stackflow.connection import Connection
from stackflow.messages import Reply
from stackflow.transports.base import Transport

_LOGGER = logging.getLogger(__name__)

CAUSES = {-23: "base64", -25: "stream"}  # error code -> what an inference's object must contain to get it

Opener = Callable[[], Awaitable[Transport]]


@dataclass(frozen=True, slots=True)
class Channel:
    """A connection as lent to one session or to the control side."""

    connection: Connection
    shared: bool

    async def aclose(self) -> None:
        """Give it back: a connection of one's own is closed, a shared pipe stays open for the others."""
        if not self.shared:
            await self.connection.aclose()


class Link:
    """Opens channels to one module. `baud` > 0 makes it one shared pipe; `address` names the other end."""

    def __init__(self, opener: Opener, address: Callable[[], str], *, baud: int = 0) -> None:
        self.baud = baud
        self._address = address
        self._opener = opener
        self._shared: Connection | None = None
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()

    @property
    def peer(self) -> str:
        """The other end, as people and the state file know it."""
        return self._address()

    async def control(self) -> Channel:
        """Open the control channel, on a UART the pipe itself. Raises ConnectFailed."""
        connection = await self._connect()
        if self.baud:
            self._shared = connection
        return Channel(connection, shared=False)

    async def channel(self) -> Channel:
        """Return a channel for one session. Raises ConnectFailed, ConnectionLost."""
        if self._shared is not None:
            return Channel(self._shared, shared=True)
        return Channel(await self._connect(), shared=False)

    async def _connect(self) -> Connection:
        connection = Connection(await self._opener(), baud=self.baud, on_stray=self._stray)
        self._open.add(connection)
        return connection

    def _stray(self, reply: Reply) -> None:
        """Find the owner of an error that a unit sent to the wrong address.

        -11, -23 and -25 go to whoever made the last RPC call to the unit process, under that call's
        request_id and the bare unit name (stackflow-protocol 1.4). With one inference running there that can
        have caused it, it is its; the mistakes of other programs come here as well.
        """
        unit = reply.work_id
        if reply.error.code == 0 or "." in unit:
            _LOGGER.debug("%s: nobody asked for %s of %s", self.peer, reply.request_id, unit)
            return
        cause = CAUSES.get(reply.error.code, "")
        listening = [inbox for connection in self._open for inbox in connection.listening(unit)]
        running = [inbox for inbox in listening if cause in (inbox.request.object or "")]
        if len(running) == 1:
            running[0].fail(UnitError(unit, reply.error.code, reply.error.message))
        else:
            _LOGGER.warning("%s: %s %d: %s", self.peer, unit, reply.error.code, reply.error.message)
