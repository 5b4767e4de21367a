"""Answers as server-sent events: waiting made visible, then data, then the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, cast

from aiohttp import web
from aiohttp.http import StreamWriter
from async_timeout import timeout

from api.context import CONFIG, request_id_of
from api.progress import Progress
from api.stopping import is_stopping
from backends.base import ChatEvent, Started, Waiting
from errors import BridgeError, ShuttingDown

_LOGGER = logging.getLogger(__name__)

COMMENT_EVERY = 5.0  # seconds between two signs of life while there is nothing to show
WRITE_DEADLINE = 60.0  # seconds a client may leave a full socket unread
SSE_HEADERS = {
    # The charset as OpenAI sends it: Python's requests takes text without one for Latin-1.
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect the events
}


class Chunks(Protocol):
    """Renders one answer's events as bytes ready to send."""

    def opening(self) -> bytes:
        """Return what goes before the first event."""

    def chunk(self, event: ChatEvent) -> bytes:
        """Return what shows `event`; empty for one that shows nothing."""

    def closing(self) -> bytes:
        """Return what goes after the last event. Raises when the answer is not complete."""

    def failure(self, err: Exception, request_id: str) -> bytes:
        """Return the last event of an answer that `err` ended."""


async def stream_events(
    request: web.Request, events: AsyncIterator[ChatEvent], chunks: Chunks, progress: Progress
) -> web.StreamResponse:
    """Send `events` as `chunks` renders them.

    Headers wait for the first delta, at most `sse_commit_after`: a failure before them is raised, to become
    a plain HTTP error; after them come comments while there is nothing to show, a failure is the last event.
    """
    outlet = _Outlet(request, progress)
    try:
        first = await outlet.first(events)
        writer = await outlet.open(chunks.opening() + chunks.chunk(first))
        write, chunk, protocol = writer.write, chunks.chunk, request.protocol
        async for event in events:  # once per frame of the module: nothing here that could be elsewhere
            await write(chunk(event), drain=False)
            if protocol.writing_paused:
                await outlet.drain()
        await outlet.close(chunks.closing())
    except asyncio.CancelledError:
        if not (outlet.response.prepared and is_stopping(request.app)):
            raise
        await outlet.fail(ShuttingDown("The server is shutting down"), chunks)
    except Exception as err:
        if not outlet.response.prepared:
            raise
        await outlet.fail(err, chunks)
    return outlet.response


class _Outlet:
    """One response on its way: when its headers go, and what may still be said."""

    def __init__(self, request: web.Request, progress: Progress) -> None:
        self._request = request
        self._progress = progress
        self._early = False  # headers went before the first delta
        self._ticker: asyncio.Task[None] | None = None
        self.response = web.StreamResponse(headers=SSE_HEADERS)

    async def first(self, events: AsyncIterator[ChatEvent]) -> ChatEvent:
        """Return the first event with something to show, sending signs of life until it is there."""
        # Most first deltas come before the first sign of life is due, and then need no task for it.
        after = self._request.app[CONFIG].sse_commit_after
        timer = asyncio.get_running_loop().call_later(after, self._start_ticking)
        try:
            async for event in events:
                if not isinstance(event, (Waiting, Started)):
                    return event
                self._progress.note(event)
            raise RuntimeError("the backend ended without an answer")
        finally:
            timer.cancel()
            if self._ticker is not None:
                self._ticker.cancel()
                await asyncio.wait({self._ticker})

    def _start_ticking(self) -> None:
        self._early = True
        self._ticker = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        try:
            while True:
                await (await self._prepare()).write(self._progress.comment(), drain=False)
                await self.drain()
                await asyncio.sleep(COMMENT_EVERY)
        except ConnectionError:
            return  # the client left; the handler is cancelled, or finds out at its first delta

    async def open(self, data: bytes) -> StreamWriter:
        """Send `data`, after the headers when they are still here."""
        writer = await self._prepare()
        await writer.write(data, drain=False)
        return writer

    async def drain(self) -> None:
        """Wait until the client has read on. Raises ConnectionError, having dropped one that does not."""
        async with self._patience():
            await self._request.writer.drain()

    async def close(self, data: bytes) -> None:
        """Send `data` as the last of the answer, with what the headers could not say before it."""
        notes = self._progress.closing_comments() if self._early else b""
        await self._prepare()
        async with self._patience():
            await self.response.write_eof(notes + data)

    async def fail(self, err: Exception, chunks: Chunks) -> None:
        """End the answer with an error event; to a client that left, say nothing."""
        request_id = request_id_of(self._request)
        if self._request.transport is None or self._request.transport.is_closing():
            _LOGGER.debug("%s: client left a stream: %s", request_id, err)
            return
        expected = isinstance(err, BridgeError)
        _LOGGER.warning("%s: stream failed: %s", request_id, err, exc_info=None if expected else err)
        try:
            await self.close(chunks.failure(err, request_id))
        except ConnectionError:
            return

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with timeout(WRITE_DEADLINE):
                yield
        except asyncio.TimeoutError as err:
            _LOGGER.info("%s: client did not read for %g s, dropped", self._request.remote, WRITE_DEADLINE)
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client reads too slowly") from err

    async def _prepare(self) -> StreamWriter:
        if not self.response.prepared:
            self.response.headers.update(self._progress.headers())
        return cast(StreamWriter, await self.response.prepare(self._request))
