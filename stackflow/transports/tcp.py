"""A TCP connection to port 10001 of the module."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from async_timeout import timeout

from errors import ConnectFailed, ConnectionLost
from stackflow.transports.base import HIGH_WATER, ReadBuffer, Valve


class TcpTransport(asyncio.Protocol):
    """One TCP connection. Made by `connect_tcp`."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._incoming = ReadBuffer()
        self._valve = Valve()
        self._transport: asyncio.Transport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)
        _notice_power_loss(transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: bytes came."""
        self._incoming.push(data)
        if self._incoming.size > HIGH_WATER and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio: no more reads or writes."""
        self._valve.lose(f"the connection to {self.peer} ended" + (f": {exc}" if exc else ""))
        self._incoming.end()

    def pause_writing(self) -> None:
        """Called by asyncio: the peer reads too slowly."""
        self._valve.shut()

    def resume_writing(self) -> None:
        """Called by asyncio: there is room again."""
        self._valve.open()

    async def read(self) -> bytes:
        """Return the next bytes; ``b""`` once the module hung up."""
        data = await self._incoming.take()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`. Raises ConnectionLost."""
        if self._valve.lost is not None or self._transport is None:
            raise self._valve.lost or ConnectionLost(f"the connection to {self.peer} was never made")
        self._transport.write(data)
        await self._valve.passed()

    async def aclose(self) -> None:
        """Close the connection; what was written before is still sent."""
        if self._transport is not None:
            self._transport.close()


async def connect_tcp(host: str, port: int, deadline: float) -> TcpTransport:
    """Connect within `deadline` seconds. Raises ConnectFailed."""
    peer = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    try:
        async with timeout(deadline):  # wait_for may swallow a cancellation before Python 3.12
            _, protocol = await loop.create_connection(lambda: TcpTransport(peer), host, port)
    except asyncio.TimeoutError:
        raise ConnectFailed(f"no answer from {peer} within {deadline:g} s") from None
    except OSError as err:
        raise ConnectFailed(f"cannot connect to {peer}: {err.strerror or err}") from err
    return protocol


def _notice_power_loss(transport: asyncio.BaseTransport) -> None:
    """Let the kernel find out within half a minute that a module lost its power and said no goodbye."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000)  # milliseconds
