"""What a com talks through: anything that reads, writes and closes. And the TCP one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

READ_SIZE = 8192  # bytes; libhv's default, and chunk boundaries influence the framer


class Pipe(Protocol):
    """An open byte pipe to one client."""

    async def read(self) -> bytes:
        """Return the next bytes in whatever pieces they came; b"" once the client hung up."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting while the pipe is full. Raises OSError when it is gone."""

    async def aclose(self) -> None:
        """Close the pipe. Never raises; a second call does nothing."""


class TcpPipe:
    """One accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        """Return one read of the socket."""
        try:
            return await self._reader.read(READ_SIZE)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Send, waiting for a slow reader."""
        self._writer.write(data)
        await self._writer.drain()

    async def aclose(self) -> None:
        """Close once all is sent."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
