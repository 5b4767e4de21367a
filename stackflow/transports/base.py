"""What every byte pipe to the module offers."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from errors import BridgeError, ConnectionLost

HIGH_WATER = 1024 * 1024  # bytes read ahead of a reader that lags; beyond it the peer has to wait


class Transport(Protocol):
    """An open byte pipe to the module. Knows nothing of JSON, units or retries."""

    peer: str

    async def read(self) -> bytes:
        """Return the next bytes in whatever pieces they came; ``b""`` once the module hung up."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting while the pipe is full; cancelled, it still goes out whole.

        Raises ConnectionLost.
        """

    async def aclose(self) -> None:
        """Close the pipe. Never raises; a second call does nothing."""


class ReadBuffer:
    """Bytes between a callback that pushes them and one coroutine that reads them."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        self.size = 0

    def push(self, data: bytes) -> None:
        """Add what arrived."""
        self._chunks.append(data)
        self.size += len(data)
        self._wake()

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._wake()

    async def take(self) -> bytes:
        """Return all that is there, waiting for something; ``b""`` at the end."""
        if not self._chunks and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.size = 0
        return data

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Valve:
    """Open or shut; coroutines wait at it until it opens, or until the pipe is gone."""

    def __init__(self) -> None:
        self._shut = False
        self._waiters: set[asyncio.Future[None]] = set()
        self.lost: BridgeError | None = None

    def shut(self) -> None:
        """Make callers of `passed` wait."""
        self._shut = True

    def open(self) -> None:
        """Let everybody through."""
        self._shut = False
        self._release()

    def lose(self, cause: str) -> None:
        """Everybody, now and later, gets ConnectionLost."""
        self.lost = self.lost or ConnectionLost(cause)
        self._release()

    async def passed(self) -> None:
        """Wait until open. Raises ConnectionLost."""
        while self._shut and self.lost is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        if self.lost is not None:
            raise self.lost

    def _release(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
