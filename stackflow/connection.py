"""One live pipe to the module: a reader task routes each answer to its asker. Used once, never revived."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from errors import BridgeError, ConnectionLost, DeviceTimeout, ProtocolError
from stackflow.framing import FrameDecoder
from stackflow.messages import Reply, Request
from stackflow.transports.base import Transport

_LOGGER = logging.getLogger(__name__)

INBOX_LIMIT = 4096  # replies an asker may lag behind; an answer of 1023 tokens is 342 frames
FRAMER_FAULT = "reace reset"  # sic
RESTARTED = ("reset over", "upgrade over")  # said on the UART only; over TCP a restart ends the connection
JAM_TRIES = 8  # bursts of `}`; setup data nests two deep, noise may have added more
UNREADABLE = "json format error"  # llm_sys, with request_id "0": it could not read what we sent

OnStray = Callable[[Reply], None]


class Inbox:
    """The replies to one request, in order. Its owner asks it with patience; the connection fills it."""

    __slots__ = (
        "_conn",
        "_due",
        "_full",
        "_loop",
        "_queue",
        "_since",
        "_timer",
        "_waiter",
        "request",
        "sent",
    )

    def __init__(self, conn: Connection, request: Request) -> None:
        self.request = request
        self.sent = False  # it is on the pipe, or about to be
        self._conn = conn
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Reply | BridgeError] = deque()
        self._full = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._since = 0.0

    def put(self, reply: Reply) -> None:
        """Add a reply; an asker too far behind fails instead of filling the memory."""
        if self._full:
            return
        if len(self._queue) >= INBOX_LIMIT:
            self._full = True
            self.fail(ProtocolError(f"{self.request.work_id}: more than {INBOX_LIMIT} replies were not read"))
            return
        self._queue.append(reply)
        self.wake()

    def fail(self, cause: BridgeError) -> None:
        """Let the asker have `cause`, once it has read what came before; what comes after can be drained."""
        self._queue.append(cause)
        self.wake()

    async def get(self, patience: float) -> Reply:
        """Return the next reply, waiting at most `patience` seconds of silence.

        The clock stands while the pipe carries bytes. Raises DeviceTimeout, ConnectionLost, or what `fail`
        was given.
        """
        while not self._queue:
            if self._conn.lost is not None:
                raise self._conn.lost.with_traceback(None)  # one cause, many askers
            self._watch(patience)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        next_ = self._queue.popleft()
        if isinstance(next_, BridgeError):
            raise next_
        return next_

    def close(self) -> None:
        """Take nothing more, and let nobody wait on."""
        self._stop_clock()
        self.fail(self._conn.lost or ConnectionLost(f"{self.request.work_id}: nobody listens any more"))

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, patience: float) -> None:
        self._due, self._since = self._loop.time() + patience, self._conn.carried
        if self._timer is None or self._timer.when() > self._due:  # else the one set earlier looks again
            self._stop_clock()
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        due = self._due + self._conn.carried - self._since
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        request = self.request
        self._waiter.set_exception(DeviceTimeout(f"{request.work_id} left {request.action} unanswered"))

    def wake(self) -> None:
        """Let a waiting asker look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection:
    """A pipe in use. `baud` 0 means a pipe so fast that its transfer time does not matter."""

    def __init__(self, transport: Transport, *, baud: int = 0, on_stray: OnStray | None = None) -> None:
        self.peer = transport.peer
        self.lost: BridgeError | None = None
        self.ended = asyncio.Event()
        self.tasks: set[str] = set()  # work_ids of the sessions that live on it
        self.carried = 0.0  # seconds the pipe has spent moving bytes, both ways
        self._seconds_per_byte = 10 / baud if baud else 0.0  # 8N1: ten bits a byte
        self._transport = transport
        self._on_stray = on_stray
        self._inboxes: dict[str, Inbox] = {}
        self._uplink = Uplink()
        self._faulted = asyncio.Event()  # the framer has complained
        self._reader = asyncio.create_task(self._read(), name=f"read {self.peer}")

    def listen(self, request: Request) -> Inbox:
        """Open the inbox for `request` before it is sent. Close it with `forget`."""
        inbox = Inbox(self, request)
        self._inboxes[request.request_id] = inbox
        return inbox

    def forget(self, inbox: Inbox) -> None:
        """Take no more replies for it; those that still come are strays."""
        inbox.close()
        self._inboxes.pop(inbox.request.request_id, None)

    def listening(self, unit: str) -> list[Inbox]:
        """Return the inboxes of running inferences of `unit`."""
        return [
            box
            for box in self._inboxes.values()
            if box.request.action == "inference" and box.request.work_id.partition(".")[0] == unit
        ]

    async def send(self, request: Request) -> None:
        """Put `request` on the pipe, whole. Raises ConnectionLost."""
        data = request.encode()
        _LOGGER.debug("%s > %s %s %s", self.peer, request.work_id, request.action, request.request_id)
        await self._uplink.enter(request.urgent)
        try:
            if self.lost is not None:
                raise self.lost
            if inbox := self._inboxes.get(request.request_id):
                inbox.sent = True
            self.carried += len(data) * self._seconds_per_byte
            await self._transport.write(data)
        finally:
            self._uplink.leave()

    async def ask(self, request: Request, patience: float) -> Reply:
        """Send `request` and return its one reply, whatever its code.

        Raises DeviceTimeout, ConnectionLost.
        """
        inbox = self.listen(request)
        try:
            await self.send(request)
            return await inbox.get(patience)
        finally:
            self.forget(inbox)

    async def unjam(self, patience: float) -> None:
        """End the message an earlier user of this pipe left unfinished; a UART's framer outlives its users.

        "send `}` until "reace reset", then go on" (stackflow-observed, connections). Raises ConnectionLost.
        """
        self._faulted.clear()
        for _ in range(JAM_TRIES):
            await self._transport.write(b"}" * 16)
            with suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self._faulted.wait(), patience / JAM_TRIES)
                return

    def lose(self, cause: BridgeError) -> None:
        """Give the pipe up for all who use it."""
        self._die(cause)

    async def aclose(self) -> None:
        """Close the pipe and end the reader; whoever still waits gets ConnectionLost. Never raises."""
        self._die(ConnectionLost(f"the connection to {self.peer} was closed"))
        await self._transport.aclose()
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        decoder = FrameDecoder()
        cause: BridgeError = ConnectionLost(f"the module at {self.peer} closed the connection")
        try:
            while chunk := await self._transport.read():
                self.carried += len(chunk) * self._seconds_per_byte
                for reply in decoder.feed(chunk):
                    self._route(reply)
        except BridgeError as err:
            cause = err
        finally:
            self._die(cause)
            await self._transport.aclose()

    def _route(self, reply: Reply) -> None:
        inbox = self._inboxes.get(reply.request_id)
        if inbox is not None:
            inbox.put(reply)
        elif reply.error.message == FRAMER_FAULT or (
            reply.request_id == "0" and reply.error.message == UNREADABLE
        ):
            self._garbled(reply)
        elif reply.request_id == "0" and reply.error.message in RESTARTED:
            self._die(ConnectionLost(f"the module at {self.peer} was restarted"))
        elif self._on_stray is not None:
            self._on_stray(reply)

    def _garbled(self, reply: Reply) -> None:
        """The gateway could not read us. It does not say which request, so nobody here may go on waiting."""
        self._faulted.set()
        _LOGGER.warning("%s: the module could not read a message of ours: %s", self.peer, reply.error.message)
        cause = ProtocolError(f"the module could not read a message of ours ({reply.error.message})")
        for inbox in list(self._inboxes.values()):
            inbox.fail(cause)

    def _die(self, cause: BridgeError) -> None:
        if self.lost is not None:
            return
        self.lost = cause
        self.ended.set()
        for inbox in self._inboxes.values():
            inbox.wake()


class Uplink:
    """Whose turn it is to write: one at a time, in order, except that urgent ones go first."""

    def __init__(self) -> None:
        self._busy = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._normal: deque[asyncio.Future[None]] = deque()

    async def enter(self, urgent: bool) -> None:
        """Wait for the turn; pair with `leave`."""
        if not self._busy:
            self._busy = True
            return
        turn = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._normal).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the turn came in the same moment; it goes on to the next
            raise

    def leave(self) -> None:
        """Hand the turn on."""
        for line in (self._urgent, self._normal):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._busy = False
