"""The module's UART: a pty whose other end looks like a serial adapter and can be unplugged."""

from __future__ import annotations

import asyncio
import os
import tempfile
import termios
import tty
from pathlib import Path

COM_ID = 5556  # the UART's, always
CHUNK = 1024  # bytes in one read of the tty
SLICE_S = 0.01  # how much line time is moved at once when the baud rate counts
WRITE_LIMIT_S = 1.0  # nobody reads the pty: a UART would not wait either
RATES = {int(n[1:]): getattr(termios, n) for n in dir(termios) if n[0] == "B" and n[1:].isdigit()}


class _Line:
    """One direction of the line: when what is put on it will have passed."""

    def __init__(self) -> None:
        self._free = 0.0  # loop time

    async def carry(self, size: int, baud: int) -> None:
        """Wait until `size` more bytes have passed. Late wake-ups do not add up."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._free > 2 * SLICE_S:
            self._free = loop.time()
        self._free += size * 10 / baud
        await asyncio.sleep(self._free - loop.time())


class SerialPort:
    """A pty and the symlink to it. Unplugged, what is written is lost and nothing arrives.

    With a `baud` both directions take the line's real time, ten bits a byte, and a client at
    another rate reads and writes garbage.
    """

    def __init__(self, link: str | None, baud: int | None) -> None:
        self._folder = None if link else tempfile.TemporaryDirectory(prefix="stackflow-")
        self.path = link or str(Path(self._folder.name if self._folder else "") / "ttyModule")
        self.baud = baud
        self._master = self._slave = -1
        self._plugged = asyncio.Event()
        self._waiting: set[asyncio.Event] = set()
        self._line_in, self._line_out = _Line(), _Line()

    def plug(self) -> None:
        """Make the pty and its symlink."""
        if self._master >= 0:
            return
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        Path(self.path).unlink(missing_ok=True)
        Path(self.path).symlink_to(os.ttyname(self._slave))
        self._plugged.set()

    def unplug(self) -> None:
        """Take the pty away; whoever has it open sees it hang up."""
        if self._master < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        self._plugged.clear()
        for ready in self._waiting:
            ready.set()
        Path(self.path).unlink(missing_ok=True)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = -1

    def close(self) -> None:
        """Unplug for good."""
        self.unplug()
        if self._folder:
            self._folder.cleanup()

    async def read(self) -> bytes:
        """Return what the client sent next; wait for the cable if there is none."""
        while True:
            await self._plugged.wait()
            master = self._master
            try:
                data = os.read(master, self._slice())
            except BlockingIOError:
                await self._ready(master, writing=False, timeout=None)
                continue
            except OSError:
                await asyncio.sleep(SLICE_S)
                continue
            if self.baud:
                await self._line_in.carry(len(data), self.baud)
            return self._garbled(data)

    async def write(self, data: bytes) -> None:
        """Send all of `data` as fast as the line goes; lost without a cable or a reader."""
        if not self.baud:
            await self._write_all(data)
            return
        size = self._slice()
        for start in range(0, len(data), size):
            part = self._garbled(data[start : start + size])
            await self._line_out.carry(len(part), self.baud)
            await self._write_all(part)

    def _slice(self) -> int:
        """Return how many bytes are read or written at once."""
        return max(1, min(CHUNK, int(self.baud / 10 * SLICE_S))) if self.baud else CHUNK

    async def _write_all(self, data: bytes) -> None:
        master = self._master
        while data and master >= 0 and master == self._master:
            try:
                data = data[os.write(master, data) :]
            except BlockingIOError:
                if not await self._ready(master, writing=True, timeout=WRITE_LIMIT_S):
                    termios.tcflush(self._slave, termios.TCIFLUSH)
                    return
            except OSError:
                return

    async def _ready(self, master: int, writing: bool, timeout: float | None) -> bool:
        """Wait until the pty can be read or written or is unplugged; return False on timeout."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        add, remove = (
            (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
        )
        add(master, ready.set)
        self._waiting.add(ready)
        try:
            await asyncio.wait_for(ready.wait(), timeout)
        except asyncio.TimeoutError:
            return False
        finally:
            self._waiting.discard(ready)
            if master == self._master:
                remove(master)
        return True

    def _garbled(self, data: bytes) -> bytes:
        """Return what arrives: noise, if the ends disagree on the speed or ours is none there is."""
        if not self.baud or self._slave < 0:
            return data
        speed = termios.tcgetattr(self._slave)[5]
        if RATES.get(self.baud) == speed:
            return data
        return bytes((byte ^ 0x5A) | 0x80 for byte in data)

    async def aclose(self) -> None:
        """A com's end does not touch the cable."""
