"""Tasks that outlive their bridge: ours are ended at the next start, strangers' are left alone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from simulator import Simulator
from simulator.probe import Probe
from stackflow.setup import open_session
from state import open_state
from tests.protocol.house import FAST, SETUP, House, Notes, ask, count, link_to, settled, within

# A bridge that loads a model, says so, and then only waits to be killed.
VICTIM = """
import asyncio, sys
sys.path.insert(0, ".")
from bridge import open_bridge
from config import Config
from tests.protocol.house import FAST, ask

async def main(url, folder):
    async with open_bridge(Config(module=url, state_dir=folder, deadlines=FAST)) as bridge:
        await bridge.catalog.settled()
        if "loading" not in sys.argv:
            print(await ask(bridge), flush=True)
            await asyncio.Event().wait()
        print("asking", flush=True)
        await ask(bridge)

asyncio.run(main(*sys.argv[1:3]))
"""


@asynccontextmanager
async def victim(house: House, sim: Simulator, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A bridge in a process of its own; leaving kills it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        VICTIM,
        sim.url,
        str(house.folder / "state"),
        *words,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline()
    yield process
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await process.communicate()


async def test_what_a_killed_bridge_left_is_ended_at_the_next_start(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    sim = await house.module()
    async with victim(house, sim), Probe(sim.url) as stranger:
        house.strangers = {await stranger.setup()}
        assert len(sim.tasks) == 2
    caplog.set_level(logging.INFO)
    bridge = await house.bridge(sim)
    assert set(sim.tasks) == house.strangers
    assert "ended 1 tasks of an earlier run, 560460 KiB came back" in caplog.text
    assert await ask(bridge) == "well"


async def test_what_a_bridge_killed_during_a_load_left_is_ended_when_it_comes_to_life(house: House) -> None:
    sim = await house.module()
    sim.late_setup("llm", 1.0)  # longer than a start waits for the unit
    async with victim(house, sim, "loading"):
        await sim.until("connect", count=2)
        await asyncio.sleep(0.05)  # the setup is a line behind the connection
    bridge = await house.bridge(sim)
    await sim.until("setup")
    await sim.until("exit")
    await settled(lambda: not bridge.pool.clients["m0"].silent)
    assert await ask(bridge) == "well"
    assert len(sim.tasks) == 1


async def test_a_unit_that_is_frozen_at_the_start_is_cleaned_when_it_thaws(house: House) -> None:
    sim = await house.module()
    async with victim(house, sim):
        pass
    sim.freeze("llm")
    with within(2.0):
        bridge = await house.bridge(sim)
    assert bridge.pool.clients["m0"].connected
    assert bridge.pool.clients["m0"].silent == {"llm"}
    sim.thaw("llm")
    await sim.until("exit")
    await settled(lambda: not bridge.pool.clients["m0"].silent)
    assert sim.tasks == {}
    assert await ask(bridge) == "well"


async def test_reclaim_all_ends_the_tasks_of_strangers_too(house: House) -> None:
    sim = await house.module()
    async with Probe(sim.url) as stranger:
        await stranger.setup()
        await stranger.setup()
        await house.bridge(sim, reclaim="all")
        assert sim.tasks == {}


async def test_strangers_are_not_even_asked_about_their_tasks(house: House) -> None:
    sim = await house.module()
    async with Probe(sim.url) as stranger:
        house.strangers = {await stranger.setup()}
        bridge = await house.bridge(sim)
        assert await ask(bridge) == "well"
        await house.close_bridges()
        assert count(sim, "taskinfo") == 0


async def test_another_bridges_tasks_are_not_ours(house: House) -> None:
    sim = await house.module()
    one = await house.bridge(sim, state="one")
    assert await ask(one) == "well"
    two = await house.bridge(sim, state="two")
    assert await ask(two) == "well"
    assert len(sim.tasks) == 2
    assert await ask(one) == "well"
    assert count(sim, "exit") == 0


async def test_after_a_gateway_restart_no_new_task_takes_the_place_of_an_old_one(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge) == "well"
    assert list(sim.tasks) == ["llm.1000"]
    await sim.restart_gateway(0.02)
    await sim.until("exit", work_id="llm.1000")
    assert await ask(bridge) == "well"
    assert list(sim.tasks) == ["llm.1000"]
    assert sim.cmm["used"] == 448 + 560460


async def test_a_gateway_that_restarts_unnoticed_behind_a_uart_is_found_out_by_its_work_ids(
    house: House,
) -> None:
    sim = await house.module(serial=True)
    notes = Notes()
    client = await house.client(link_to(sim, "serial"), notes)
    old = await open_session(client, "llm", SETUP)
    await client._state.add_task(client.link.peer, "llm", old.work_id)
    await sim.restart_gateway(0.02)
    assert not notes.downs
    with pytest.raises(Exception, match="gateway was restarted"):
        await open_session(client, "llm", SETUP)
    await notes.until(lambda: len(notes.ups) == 2)
    await client.exit_task("llm.1000")


@pytest.mark.parametrize("marked", [True, False])
async def test_only_a_task_with_our_mark_is_ended(house: House, marked: bool) -> None:
    sim = await house.module()
    async with open_state(house.folder / "state") as state:
        mark = state.bridge_id if marked else "0000aaaa"
        async with Probe(sim.url) as other:
            left = await other.setup(response_format=f"llm.utf-8.stream.{mark}")
        await state.add_task(sim.url, "llm", left)
    await house.bridge(sim, deadlines=replace(FAST))
    assert set(sim.tasks) == (set() if marked else {left})
    house.strangers = {left}
    await house.close_bridges()
    async with open_state(house.folder / "state") as state:
        assert await state.tasks(sim.url) == []
