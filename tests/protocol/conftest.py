"""A house for every test, and proof after each that nothing was left: no task, no socket, no asyncio task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from config import Deadlines
from simulator import Simulator
from stackflow.client import Client
from tests.protocol.house import GRACE, House, link_to, sockets, tcp_link

WIRES = ("memory", "tcp", "serial")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--module", metavar="tcp://HOST:PORT", help="run what needs no faults against a real module"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "wire" in metafunc.fixturenames:
        real = metafunc.config.getoption("--module")
        metafunc.parametrize("wire", ["module"] if real else WIRES)


@pytest.fixture
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """Whatever the test opens in it is closed at the end, and must then be gone."""
    if request.config.getoption("--module") and "client" not in request.fixturenames:
        pytest.skip("needs the simulator")
    tasks, before = asyncio.all_tasks(), sockets()
    house = House(tmp_path)
    yield house
    await house.aclose()
    ends = time.monotonic() + GRACE
    while time.monotonic() < ends and (
        asyncio.all_tasks() - tasks - {asyncio.current_task()} or sockets() != before
    ):
        await asyncio.sleep(0.005)
    assert {t for t in asyncio.all_tasks() - tasks if t is not asyncio.current_task()} == set()
    assert sockets() == before


@pytest.fixture
async def sim(request: pytest.FixtureRequest, house: House) -> Simulator:
    """A module with a TCP port and a UART."""
    if request.config.getoption("--module"):
        pytest.skip("looks inside the module")
    return await house.first_module()


@pytest.fixture
async def client(request: pytest.FixtureRequest, house: House, wire: str) -> Client:
    """A client connected to `sim`, or to the module named by --module, over `wire`."""
    if wire == "module":
        return await house.client(tcp_link(request.config.getoption("--module")), deadlines=Deadlines())
    return await house.client(link_to(await house.first_module(), wire))


@pytest.fixture
async def house_with_gap(house: House) -> tuple[Simulator, Client]:
    """A module that takes a moment to begin an answer; a pause in that moment is lost."""
    sim = await house.module(dequeue_gap_s=0.02, rate=0.1)
    return sim, await house.client(link_to(sim, "tcp"))
