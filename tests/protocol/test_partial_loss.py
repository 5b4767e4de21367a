"""One of a module's connections goes before the others, and other ways to be half gone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from config import ModelConfig, QueueConfig
from errors import ConnectionLost, DeviceUnavailable, TaskGone, UnitSilent
from simulator import Simulator
from tests.protocol.house import FAST, MODEL, OTHER, House, answering, ask, count, eventually, settled, within


def hang_up(sim: Simulator, com: int) -> None:
    """Let the gateway close one of its connections."""
    sim.world.coms[com].close()


async def test_a_control_connection_that_dies_first_takes_running_answers_along(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    async with answering(bridge, sim) as events:
        hang_up(sim, min(sim.coms))
        with within(0.3), pytest.raises(ConnectionLost):
            await anext(events)
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_task_that_could_not_be_exited_stays_in_the_book(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge) == "well"
    session = sim.tasks["llm.1000"].com
    hang_up(sim, session)  # the task has to be exited over the control connection, which dies as well
    await sim.until("disconnect")
    hang_up(sim, min(sim.coms))
    assert await eventually(lambda: ask(bridge)) == "well"
    assert len(sim.tasks) == 1


async def test_no_setup_is_sent_to_a_unit_that_fell_silent_over_its_victim(house: House) -> None:
    sim = await house.module(limits={"llm": 1})
    queue = QueueConfig(wait=5.0, fairness=0.05, storm_guard=0.05)
    bridge = await house.bridge(sim, unit_limits={"llm": 1}, queue=queue)
    assert await ask(bridge) == "well"
    sim.freeze("llm")
    sim.mark()
    with within(3.0), pytest.raises((UnitSilent, DeviceUnavailable)):
        await ask(bridge, model=OTHER)
    assert count(sim, "setup") == 1
    sim.thaw("llm")
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_model_s_own_keep_alive_counts_from_its_first_turn(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim, models={MODEL: ModelConfig(keep_alive=0.1)})
    assert await ask(bridge) == "well"
    await sim.until("exit")
    assert await ask(bridge, keep_alive=0) == "well"
    await sim.until("exit", count=2)


async def test_a_stranger_s_memory_is_not_taken_for_a_model_s(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    sim.hold_memory(1_500_000)
    assert await ask(bridge) == "well"
    assert bridge.pool.learned[MODEL].kib == 560_460
    sim.hold_memory(0)


async def test_hang_ups_while_the_uart_is_busy_leave_no_inbox(house: House) -> None:
    sim = await house.module(serial=True)
    bridge = await house.bridge(modules=(), module=f"serial://{sim.serial_path}", deadlines=replace(FAST))
    assert await ask(bridge) == "well"
    live = next(iter(bridge.pool.live.values()))
    connection = live.session.connection
    await connection._uplink.enter(urgent=False)  # somebody's long payload is on the wire
    turns = [asyncio.create_task(ask(bridge, f"@echo {n}")) for n in range(3)]
    await settled(lambda: any(turn.done() for turn in turns) or bool(connection._inboxes))
    for turn in turns:
        turn.cancel()
    await asyncio.wait(turns)
    connection._uplink.leave()
    await settled(lambda: not connection._inboxes)
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_restarted_unit_ends_the_turns_it_cannot_finish(house: House) -> None:
    sim = await house.module()
    slow = replace(FAST, first_frame=5.0, between_frames=5.0)
    bridge = await house.bridge(sim, deadlines=slow)
    async with answering(bridge, sim) as events:
        sim.kill("llm", restart_after=0.05)
        began = time.monotonic()
        bridge.pool.clients["m0"].suspect("llm")  # as any unanswered call does
        with pytest.raises(TaskGone):
            await anext(events)
        assert time.monotonic() - began < 3.0
    assert await eventually(lambda: ask(bridge)) == "well"
