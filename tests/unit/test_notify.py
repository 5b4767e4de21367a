from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from notify import notify, watchdog


@pytest.fixture
def listener() -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = str(Path(folder) / "n")  # a socket's path is short
        sock.bind(path)
        sock.settimeout(5)
        yield sock, path


def test_systemd_is_told(listener: tuple[socket.socket, str]) -> None:
    sock, path = listener
    notify("READY=1", {"NOTIFY_SOCKET": path})
    assert sock.recv(100) == b"READY=1"


def test_the_abstract_namespace_is_reached() -> None:
    name = f"stackflow-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(5)
        notify("STOPPING=1", {"NOTIFY_SOCKET": "@" + name})
        assert sock.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "@nobody-listens-here", "x" * 500])
def test_where_nobody_listens_nothing_happens(address: str | None) -> None:
    notify("READY=1", {} if address is None else {"NOTIFY_SOCKET": address})


async def test_the_watchdog_beats_twice_an_interval_while_the_block_runs(
    listener: tuple[socket.socket, str],
) -> None:
    sock, path = listener
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    async with watchdog({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "10000", "WATCHDOG_PID": str(os.getpid())}):
        for _ in range(3):
            assert await asyncio.wait_for(loop.sock_recv(sock, 100), 5) == b"WATCHDOG=1"
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "watchdog"] == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "²"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
async def test_without_a_watchdog_nothing_beats(environ: dict[str, str]) -> None:
    before = asyncio.all_tasks()
    async with watchdog(environ):
        assert asyncio.all_tasks() == before
