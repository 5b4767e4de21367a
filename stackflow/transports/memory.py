"""Two ends of a pipe in one event loop, for tests and for nothing else."""

from __future__ import annotations

from errors import ConnectionLost
from stackflow.transports.base import ReadBuffer


class MemoryTransport:
    """One end of a pipe: reads from `incoming`, writes to `outgoing`."""

    def __init__(self, incoming: ReadBuffer, outgoing: ReadBuffer) -> None:
        self.peer = "memory"
        self._incoming = incoming
        self._outgoing = outgoing

    async def read(self) -> bytes:
        """Return the next bytes; ``b""`` once either end closed."""
        return await self._incoming.take()

    async def write(self, data: bytes) -> None:
        """Hand `data` to the other end. Raises ConnectionLost."""
        if self._outgoing.ended:
            raise ConnectionLost("the memory pipe is closed")
        self._outgoing.push(data)

    async def aclose(self) -> None:
        """Close both directions."""
        self._incoming.end()
        self._outgoing.end()


def memory_pipe() -> tuple[MemoryTransport, MemoryTransport]:
    """Return the two ends of a new pipe."""
    there, back = ReadBuffer(), ReadBuffer()
    return MemoryTransport(back, there), MemoryTransport(there, back)
