"""A UART: pyserial opens and configures it, the event loop reads and writes its descriptor. No threads."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from async_timeout import timeout

from errors import ConnectFailed
from stackflow.transports.base import HIGH_WATER, ReadBuffer, Valve

if TYPE_CHECKING:
    from serial import Serial

CHUNK = 65_536  # bytes asked of the descriptor at once; a UART holds 4 kB at most


class SerialTransport:
    """An open serial port. Made by `open_serial`."""

    def __init__(self, port: Serial, peer: str) -> None:
        self.peer = peer
        self._port: Serial | None = port
        self._fd = port.fileno()
        self._loop = asyncio.get_running_loop()
        self._incoming = ReadBuffer()
        self._outgoing = bytearray()
        self._valve = Valve()
        self._reading = True
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return
        except OSError as err:  # EIO: the adapter was pulled, or the pty's other end closed
            self._lose(err.strerror or str(err))
            return
        if not data:
            self._lose("it was unplugged")
            return
        self._incoming.push(data)
        if self._incoming.size > HIGH_WATER:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _writable(self) -> None:
        try:
            sent = os.write(self._fd, self._outgoing[:CHUNK])
        except BlockingIOError:
            return
        except OSError as err:
            self._lose(err.strerror or str(err))
            return
        del self._outgoing[:sent]
        if not self._outgoing:
            self._loop.remove_writer(self._fd)
            self._valve.open()

    def _lose(self, why: str) -> None:
        self._valve.lose(f"the serial port {self.peer} is gone: {why}")
        self._incoming.end()
        self._release()

    async def read(self) -> bytes:
        """Return the next bytes; ``b""`` once the port is gone."""
        data = await self._incoming.take()
        if not self._reading and self._port is not None:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`, returning when the last byte is with the driver. Raises ConnectionLost."""
        if self._valve.lost is not None:
            raise self._valve.lost
        if not self._outgoing:
            self._valve.shut()
            self._loop.add_writer(self._fd, self._writable)
        self._outgoing += data
        await self._valve.passed()

    async def aclose(self) -> None:
        """Close the port, dropping what has not been sent."""
        self._lose("closed")

    def _release(self) -> None:
        port, self._port = self._port, None
        if port is None:
            return
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        with suppress(OSError):  # a pulled adapter cannot be restored to its old settings
            port.close()


async def open_serial(path: str, baud: int, deadline: float) -> SerialTransport:
    """Open `path` at `baud`, 8N1, raw, for ourselves alone, within `deadline` seconds.

    Raises ConnectFailed.
    """
    import serial  # only where a UART is used

    def opened() -> Serial:
        return serial.Serial(path, baud, timeout=0, write_timeout=0, exclusive=True)

    try:  # a stuck USB adapter can block in open()
        async with timeout(deadline):
            port = await asyncio.to_thread(opened)
    except asyncio.TimeoutError:
        raise ConnectFailed(f"the serial port {path} did not open within {deadline:g} s") from None
    except (OSError, ValueError) as err:  # serial.SerialException is an OSError
        raise ConnectFailed(f"cannot open the serial port {path}: {err}") from err
    return SerialTransport(port, path)
