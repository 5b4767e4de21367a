"""The TCP door of the module: listens while llm_sys runs, keeps its port while it does not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from .pipes import Pipe, TcpPipe

BACKLOG = 512  # connections


class TcpDoor:
    """Listens on one address. Between `close` and `open` connections are refused."""

    def __init__(self, host: str, port: int, attach: Callable[[Pipe], object]) -> None:
        self._attach = attach
        self._server: asyncio.AbstractServer | None = None
        # Bound and never listening: nobody else gets the port while the gateway is down.
        self._claim = _bound(host, port)
        self.host, self.port = self._claim.getsockname()[:2]

    async def open(self) -> None:
        """Listen. Raises OSError."""
        if self._server is None:
            listener = _bound(self.host, self.port)
            self._server = await asyncio.start_server(self._accept, sock=listener, backlog=BACKLOG)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            writer.close()
        else:
            self._attach(TcpPipe(reader, writer))

    def close(self) -> None:
        """Refuse connections from now on; those accepted are not touched."""
        if self._server:
            self._server.close()
            self._server = None

    def give_up(self) -> None:
        """Close for good."""
        self.close()
        self._claim.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
