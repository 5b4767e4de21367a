"""systemd's notification protocol: ready, alive, stopping. Silent where nobody listens.

Source: sd_notify(3), sd_watchdog_enabled(3): datagrams to the socket named by NOTIFY_SOCKET.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager


def notify(message: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send `message`, such as ``READY=1``. Never raises."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.send(message.encode())
    except OSError:
        pass


@asynccontextmanager
async def watchdog(environ: Mapping[str, str] = os.environ) -> AsyncIterator[None]:
    """Tell systemd twice per watchdog interval that the event loop turns, while the block runs."""
    text = environ.get("WATCHDOG_USEC", "")
    microseconds = int(text) if text.isascii() and text.isdigit() else 0
    if not microseconds or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        yield
        return

    async def beat() -> None:
        while True:
            notify("WATCHDOG=1", environ)
            await asyncio.sleep(microseconds / 2e6)

    task = asyncio.create_task(beat(), name="watchdog")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
