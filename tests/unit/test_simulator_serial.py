"""The simulated UART: a pty that can be unplugged, with the line's real speed if wanted."""

from __future__ import annotations

import asyncio
import json
import os
import termios
import time
import tty
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from simulator import Settings, Simulator
from simulator.probe import SETUP, Probe

FAST = Settings(engine="script", time_scale=0.001, slow_joiner_ms=0, tcp=False, serial=True)
PING = b'\n{"request_id":"1","work_id":"sys","action":"ping"}\n'


class Tty:
    """The client's end of the cable."""

    def __init__(self, path: str, speed: int = termios.B115200) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self.fd)
        attributes = termios.tcgetattr(self.fd)
        attributes[4] = attributes[5] = speed
        termios.tcsetattr(self.fd, termios.TCSANOW, attributes)
        self.buffer = b""

    async def say(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.001)

    async def read(self, timeout: float = 5) -> Any:
        return json.loads(await asyncio.wait_for(self._line(), timeout))

    async def _line(self) -> bytes:
        while b"\n" not in self.buffer:
            try:
                self.buffer += os.read(self.fd, 4096) or b"\n"
            except BlockingIOError:
                await asyncio.sleep(0.001)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(FAST) as running:
        yield running


def path_of(sim: Simulator) -> str:
    assert sim.serial_path
    return sim.serial_path


async def test_the_uart_is_com_5556_and_speaks_like_tcp(sim: Simulator) -> None:
    assert sim.coms == [5556]
    cable = Tty(path_of(sim))
    await cable.say(PING)
    assert (await cable.read())["request_id"] == "1"
    text = "long " * 4000 + "@echo over the wire"
    setup = {"request_id": "2", "work_id": "llm", "action": "setup", "object": "x", "data": SETUP}
    setup["data"] = {**SETUP, "model": "qwen2.5-HA-0.5B-ctx-ax630c"}
    await cable.say(json.dumps(setup).encode())
    assert (await cable.read())["work_id"] == "llm.1000"
    inference = {"request_id": "3", "work_id": "llm.1000", "action": "inference", "object": "llm.utf-8"}
    await cable.say(json.dumps({**inference, "data": text}).encode() + b"\n")
    assert (await sim.until("inference")).data["text"] == text
    cable.close()


async def test_unplugging_hangs_up_and_the_framer_remembers_the_half_message(sim: Simulator) -> None:
    cable = Tty(path_of(sim))
    await cable.say(PING)
    await cable.read()
    await cable.say(b'{"request_id":"half')
    await asyncio.sleep(0.05)
    sim.unplug()
    assert os.read(cable.fd, 1) == b""
    with pytest.raises(OSError, match="Input/output"):
        os.write(cable.fd, b"x")
    with pytest.raises(FileNotFoundError):
        Tty(path_of(sim))
    cable.close()
    sim.plug()
    again = Tty(path_of(sim))
    await again.say(b'","work_id":"sys","action":"ping"}\n')
    assert (await again.read())["request_id"] == "half"
    again.close()


async def test_a_stream_can_be_stolen_from_the_uart_and_back(sim: Simulator) -> None:
    async with Simulator(Settings(engine="script", time_scale=0.001, slow_joiner_ms=0, serial=True)) as both:
        cable = Tty(path_of(both))
        async with Probe(both.url) as probe:
            work_id = await probe.setup()
            await cable.say(PING.replace(b"sys", work_id.encode()).replace(b"ping", b"taskinfo"))
            assert (await cable.read())["object"] == "llm.taskinfo"
            assert both.tasks[work_id].com == 5556
            await probe.call(work_id, "taskinfo")
            assert both.tasks[work_id].com == 8000
        cable.close()


async def test_the_line_takes_its_time_in_both_directions_and_wants_one_speed(tmp_path: Path) -> None:
    link = str(tmp_path / "ttyUSB0")
    settings = Settings(engine="script", tcp=False, serial=link, serial_baud=115200)
    async with Simulator(settings) as sim:
        assert sim.serial_path == link
        cable = Tty(link)
        started = time.monotonic()
        await cable.say(b" " * 1150 + PING)  # 0.1 s
        await cable.read()
        request = {"request_id": "1", "work_id": "sys", "action": "lsmode"}
        await cable.say(json.dumps(request).encode())
        size = len(json.dumps(await cable.read(), separators=(",", ":")))
        least = 0.1 + size * 10 / 115200
        assert least < time.monotonic() - started < 2 * least + 0.5
        cable.close()
        wrong = Tty(link, termios.B9600)
        await wrong.say(PING)
        with pytest.raises(asyncio.TimeoutError):
            await wrong.read(0.2)
        wrong.close()


async def test_uartsetup_answers_at_the_old_speed_and_then_changes_it() -> None:
    settings = Settings(engine="script", tcp=False, serial=True, serial_baud=115200)
    async with Simulator(settings) as sim:
        cable = Tty(path_of(sim))
        request = {"request_id": "1", "work_id": "sys", "action": "uartsetup", "data": {"baud": 921600}}
        await cable.say(b"\n" + json.dumps(request).encode())
        assert (await cable.read())["error"]["code"] == 0
        cable.close()
        await asyncio.sleep(0.15)
        faster = Tty(path_of(sim), termios.B921600)
        await faster.say(PING)
        assert (await faster.read())["request_id"] == "1"
        faster.close()


async def test_after_a_reset_the_uart_says_so_without_being_asked(sim: Simulator) -> None:
    cable = Tty(path_of(sim))
    await cable.say(PING.replace(b"ping", b"reset"))
    assert (await cable.read())["error"]["message"] == "llm server restarting ..."
    await sim.until("gateway_up")
    await cable.say(b"\n" + PING)
    glued = await cable._line()
    assert glued.startswith(b'{"request_id": "0","work_id": "sys","created": ')
    assert b'"message":"reset over"}}{"created":' in glued
    cable.close()
