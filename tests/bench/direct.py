"""Path (a): a bare asyncio client that speaks StackFlow to the module, without anything between."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench.answer import MODEL, Answer, BenchError, longest, question

LAST = b'"finish":true'
TAIL = 400  # bytes; the last line of an answer is shorter
SETTLE = 0.01  # seconds after setup; an inference right behind it is lost

_numbers = itertools.count(1)


class DirectSession(asyncio.Protocol):
    """One task on one connection. Counts lines and looks closely only at the first and the last."""

    def __init__(self) -> None:
        self.work_id = "llm"
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._until = LAST  # what the end of an answer contains
        self._first = 0.0
        self._lines = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: gone."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(BenchError(f"the simulator hung up: {exc}"))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: bytes came."""
        if not self._first:
            self._first = time.perf_counter()
        self._lines += data.count(b"\n")
        self._tail = data if len(data) > TAIL else (self._tail + data)[-TAIL:]
        if self._until in self._tail[-TAIL:] and self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def set_up(self) -> None:
        """Make the task. Raises BenchError."""
        setup = {
            "model": MODEL,
            "response_format": "llm.utf-8.stream",
            "input": "llm.utf-8",
            "enoutput": True,
        }
        data = {**setup, "max_token_len": 1023, "prompt": "You are a helpful assistant."}
        self._until, self._done = b"\n", asyncio.get_running_loop().create_future()
        self._start("setup", "llm.setup", data)
        await asyncio.wait_for(self._done, longest(0))
        reply = json.loads(self._tail)
        if reply["error"]["code"]:
            raise BenchError(f"setup: {reply['error']['message']}")
        self.work_id = reply["work_id"]

    async def ask(self, frames: int) -> Answer:
        """Run one inference. Raises BenchError."""
        self._until, self._done = LAST, asyncio.get_running_loop().create_future()
        began = self._start("inference", "llm.utf-8", question(frames))
        try:
            await asyncio.wait_for(self._done, longest(frames))
        except (asyncio.TimeoutError, TimeoutError):
            raise BenchError(f"{self.work_id}: {self._lines} of {frames} frames came") from None
        return Answer(self._first - began, self._lines)

    def _start(self, action: str, tag: str, data: object) -> float:
        message = {
            "request_id": f"d{next(_numbers)}",
            "work_id": self.work_id,
            "action": action,
            "object": tag,
        }
        line = json.dumps({**message, "data": data}).encode() + b"\n"
        self._first, self._lines, self._tail = 0.0, 0, b""
        assert self._transport is not None
        began = time.perf_counter()
        self._transport.write(line)
        return began

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()


class Direct:
    """All sessions of path (a)."""

    def __init__(self, sessions: list[DirectSession]) -> None:
        self._sessions = sessions

    async def ask(self, slot: int, frames: int, *, keep: bool = False) -> Answer:
        """Ask session `slot`; `keep` is for the other paths, whose copying is under test."""
        return await self._sessions[slot].ask(frames)


@asynccontextmanager
async def open_direct(port: int, count: int) -> AsyncIterator[Direct]:
    """Provide `count` warm sessions."""
    loop = asyncio.get_running_loop()
    sessions = [(await loop.create_connection(DirectSession, "127.0.0.1", port))[1] for _ in range(count)]
    try:
        for session in sessions:
            await session.set_up()
        await asyncio.sleep(SETTLE)
        yield Direct(sessions)
    finally:
        for session in sessions:
            session.close()
