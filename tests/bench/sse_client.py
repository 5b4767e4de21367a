"""The load client of paths (b) and (c): streams read from raw sockets, events counted, nothing parsed.

It shares two cores with what it measures, so it does per piece of data what cannot be left out: count the
blank lines that end events, find the first text once, see the end.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench.answer import MODEL, Answer, BenchError, longest, question

FIRST_TEXT = re.compile(rb'"content": ?"[^"]')
END = b"\r\n0\r\n\r\n"  # the empty chunk that ends a chunked response


class SseConnection(asyncio.Protocol):
    """One keep-alive HTTP connection that streams one answer at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._first = 0.0
        self._events = 0
        self._head = b""
        self._tail = b""
        self._kept: list[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: gone."""
        self._transport = None
        self._fail(f"the server hung up: {exc}")

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: bytes came."""
        if not self._first:
            self._opening(data)
        self._events += data.count(b"\n\n") + (data[:1] == b"\n" and self._tail[-1:] == b"\n")
        if self._kept is not None:
            self._kept.append(data)
        self._tail = data[-7:] if len(data) >= 7 else (self._tail + data)[-7:]
        if self._tail == END and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _opening(self, data: bytes) -> None:
        self._head += data
        if FIRST_TEXT.search(self._head):
            self._first = time.perf_counter()
        elif not self._head.startswith(b"HTTP/1.1 200"[: len(self._head)]):
            self._fail(self._head[:300].decode("latin-1"))

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(BenchError(why))

    async def ask(self, frames: int, *, keep: bool) -> Answer:
        """Stream one answer. Raises BenchError."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._first, self._events, self._head, self._tail = 0.0, 0, b"", b""
        self._kept = [] if keep else None
        self._done = loop.create_future()
        request = http_request(frames)
        assert self._transport is not None
        began = time.perf_counter()
        self._transport.write(request)
        try:
            await asyncio.wait_for(self._done, longest(frames))
        except (asyncio.TimeoutError, TimeoutError):
            self.close()
            raise BenchError(f"{self._events} of {frames} events came, then none") from None
        except BenchError:
            self.close()
            raise
        return Answer(self._first - began, self._events, b"".join(self._kept or ()))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()


def http_request(frames: int) -> bytes:
    """Return the bytes of one streaming chat completion request."""
    messages = [{"role": "user", "content": question(frames)}]
    body = json.dumps({"model": MODEL, "messages": messages, "stream": True}).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class OverHttp:
    """A server's streams, one connection a slot."""

    def __init__(self, connections: list[SseConnection]) -> None:
        self._connections = connections

    async def ask(self, slot: int, frames: int, *, keep: bool = False) -> Answer:
        """Ask on connection `slot`."""
        return await self._connections[slot].ask(frames, keep=keep)


@asynccontextmanager
async def open_http(port: int, count: int) -> AsyncIterator[OverHttp]:
    """Provide `count` connections to the server on `port`, opened at their first question."""
    connections = [SseConnection(port) for _ in range(count)]
    try:
        yield OverHttp(connections)
    finally:
        for connection in connections:
            connection.close()


def texts(body: bytes) -> list[str]:
    """Return the pieces of text in a kept response, in order."""
    _, _, rest = body.partition(b"\r\n\r\n")
    stream = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        stream, rest = stream + rest[:length], rest[length + 2 :]
    events = [event[6:] for event in stream.split(b"\n\n") if event.startswith(b"data: {")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]
