"""One client channel of llm_sys: a framer for what comes in, a mailbox for what goes out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .envelope import framer_line
from .framing import Framer
from .mishaps import DispatchFailed, FrameReset, GatewayCrash
from .pipes import Pipe

_LOGGER = logging.getLogger(__name__)
OUTPUT_LIMIT = 16 * 2**20  # bytes; libhv closes a connection whose reader is further behind


Dispatch = Callable[["Com", bytes], Awaitable[None]]


class Com:
    """A client with an id. Ends when the pipe does; `on_crash` is told what kills llm_sys."""

    def __init__(
        self, id_: int, pipe: Pipe, dispatch: Dispatch, on_crash: Callable[[str], None], chunk: int
    ) -> None:
        self.id = id_
        self.cut = 0  # bytes per write; 0: whatever is there. Set by scripted answers
        self._pipe, self._dispatch, self._on_crash, self._chunk = pipe, dispatch, on_crash, chunk
        self._framer = Framer()
        self._out: list[bytes] = []
        self._out_size = 0
        self._wake = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._closed = False

    def send(self, data: bytes) -> None:
        """Queue bytes for the client; they leave in the same turn of the loop, with others' bytes."""
        self._out.append(data)
        self._out_size += len(data)
        self._wake.set()
        if self._out_size > OUTPUT_LIMIT:
            self.close()

    async def serve(self) -> None:
        """Talk until the client leaves or `close` is called."""
        writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        if self._closed:
            self._reader.cancel()
        try:
            await asyncio.wait({writer, self._reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.cancel()
            self._reader.cancel()
            try:
                await asyncio.gather(writer, self._reader, return_exceptions=True)
            finally:  # also when this is cancelled a second time
                await self._pipe.aclose()

    def close(self) -> None:
        """Hang up on the client."""
        self._closed = True
        if self._reader:
            self._reader.cancel()

    async def _read(self) -> None:
        while data := await self._pipe.read():
            for start in range(0, len(data), self._chunk):
                await self._feed(data[start : start + self._chunk])

    async def _feed(self, chunk: bytes) -> None:
        """Dispatch what `chunk` completes. Leaving the loop early keeps the message in the framer."""
        try:
            for message in self._framer.feed(chunk):
                _LOGGER.debug("com %s > %.200r", self.id, message)
                await self._dispatch(self, message)
        except (FrameReset, DispatchFailed):
            self.send(framer_line(-1, "reace reset"))
        except GatewayCrash as err:
            self._on_crash(str(err))

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                data, self._out, self._out_size = b"".join(self._out), [], 0
                await self._write_pieces(data)
        except OSError as err:
            _LOGGER.debug("com %s: %s", self.id, err)

    async def _write_pieces(self, data: bytes) -> None:
        if not self.cut:
            await self._pipe.write(data)
            return
        for start in range(0, len(data), self.cut):
            await self._pipe.write(data[start : start + self.cut])
            await asyncio.sleep(0)  # a read of its own on the other side
