"""A bridge before a module in trouble: one clear error in time, and back in service without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from bridge import Bridge
from errors import (
    BridgeError,
    DeviceTimeout,
    ModelLoadFailed,
    TaskFull,
    UnitSilent,
)
from simulator import Simulator
from simulator.probe import Probe
from stackflow.ledger import Phase
from tests.protocol.house import (
    FAST,
    MODEL,
    OTHER,
    SOON,
    House,
    answering,
    ask,
    count,
    eventually,
    request,
    settled,
    within,
)

LONGEST = 3.0  # seconds; what any failure may take with the deadlines of FAST: two turns and a load

Trouble = Callable[[Simulator], Awaitable[None]]


async def kill(sim: Simulator) -> None:
    sim.kill("llm", restart_after=0.1)


async def kill_cleanly(sim: Simulator) -> None:
    sim.kill("llm", restart_after=0.1, socket_left=False)


async def freeze(sim: Simulator) -> None:
    sim.freeze("llm")
    asyncio.get_running_loop().call_later(0.8, sim.thaw, "llm")


async def restart_gateway(sim: Simulator) -> None:
    await sim.restart_gateway(0.05)


async def drop_connections(sim: Simulator) -> None:
    sim.drop_connections()


async def reset(sim: Simulator) -> None:
    sim.reset(reboot=False)


TROUBLES = [kill, kill_cleanly, freeze, restart_gateway, drop_connections, reset]


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that failed is tried again soon; 30 s later in earnest."""
    monkeypatch.setattr("stackflow.scheduler.FAILED_LOAD_REST", 0.1)
    monkeypatch.setattr("stackflow.scheduler.FAILED_LOAD_REST_MOST", 0.1)


any_trouble = pytest.mark.parametrize("trouble", TROUBLES, ids=[t.__name__ for t in TROUBLES])


async def answer_or_error(bridge: Bridge) -> None:
    """Ask once: the right answer and a BridgeError are both fine, a long wait and anything else are not."""
    with within(LONGEST), suppress(BridgeError):
        assert await ask(bridge) == "well"


@any_trouble
async def test_trouble_before_the_first_answer(house: House, trouble: Trouble) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    await trouble(sim)
    await answer_or_error(bridge)
    assert await eventually(lambda: ask(bridge)) == "well"


@any_trouble
async def test_trouble_while_the_model_loads(house: House, trouble: Trouble) -> None:
    sim = await house.module(load_s=50)  # 0.1 s here
    bridge = await house.bridge(sim)
    asking = asyncio.create_task(answer_or_error(bridge))
    await settled(lambda: bool(bridge.pool.clients["m0"].loading))
    await trouble(sim)
    await asking
    assert await eventually(lambda: ask(bridge)) == "well"


@any_trouble
async def test_trouble_during_an_answer(house: House, trouble: Trouble) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    async with answering(bridge, sim) as events:
        await trouble(sim)
        with within(LONGEST), pytest.raises(BridgeError):
            await anext(events)
    assert await eventually(lambda: ask(bridge)) == "well"


@any_trouble
async def test_trouble_between_two_answers(house: House, trouble: Trouble) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge) == "well"
    await trouble(sim)
    await answer_or_error(bridge)
    assert await eventually(lambda: ask(bridge)) == "well"


@any_trouble
async def test_trouble_after_a_pause_long_enough_to_doubt_the_task(house: House, trouble: Trouble) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim, deadlines=replace(FAST, still_there=0.001))
    assert await ask(bridge) == "well"
    await trouble(sim)
    await answer_or_error(bridge)
    assert await eventually(lambda: ask(bridge)) == "well"


@any_trouble
async def test_trouble_while_an_answer_is_being_drained(house: House, trouble: Trouble) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    async with answering(bridge, sim):
        pass
    await trouble(sim)
    await answer_or_error(bridge)
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_unit_that_was_restarted_is_set_up_again_without_an_error(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim, deadlines=replace(FAST, still_there=0.001))
    assert await ask(bridge) == "well"
    sim.kill("llm", restart_after=0.01)
    await sim.until("restart")
    assert await ask(bridge) == "well"
    assert count(sim, "setup") == 2


async def test_the_first_inference_lost_after_setup_is_repeated_once_on_the_same_task(house: House) -> None:
    sim = await house.module(slow_joiner_ms=50, limits={"llm": 1})
    bridge = await house.bridge(sim, unit_limits={"llm": 1})
    assert await ask(bridge) == "well"
    assert [e.data["reason"] for e in sim.log if e.kind == "lost"] == ["slow joiner"]
    assert count(sim, "setup") == 1


async def test_a_unit_that_never_answers_costs_two_deadlines_and_says_so(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    sim.mute("llm", 2)
    with within(LONGEST), pytest.raises(DeviceTimeout):
        await ask(bridge)
    assert count(sim, "lost") == 2
    assert await ask(bridge) == "well"


async def test_an_answer_lost_later_is_not_repeated(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge) == "well"
    sim.mute("llm")
    with within(1.0), pytest.raises(DeviceTimeout):
        await ask(bridge)
    assert await ask(bridge) == "well"


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_stream_that_stalls_fails_and_its_task_is_set_aside(house: House, after: int) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge) == "well"
    sim.stall_stream("llm", after)
    with within(1.0), pytest.raises(DeviceTimeout):
        await ask(bridge, "@frames=6")
    assert await ask(bridge) == "well"


async def test_a_model_that_cannot_be_loaded_fails_with_the_units_own_words(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    sim.fail_setup("llm")
    with pytest.raises(ModelLoadFailed, match="llm -5: model loading failed"):
        await ask(bridge)
    assert await ask(bridge, model=OTHER) == "well"


async def test_a_setup_that_hangs_fails_its_waiter_and_the_unit_alone(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    sim.hang_setup("llm")
    with within(2.0), pytest.raises(UnitSilent):
        await ask(bridge)
    assert await bridge.pool.clients["m0"].sys("ping") == "None"
    sim.release("llm")
    await sim.until("exit")  # what came to life too late is not kept
    assert await eventually(lambda: ask(bridge, model=OTHER)) == "well"


async def test_a_task_that_came_to_life_too_late_is_ended(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim, deadlines=replace(FAST, setup=0.1))
    sim.late_setup("llm", 0.3)
    with within(1.0), pytest.raises(UnitSilent):
        await ask(bridge)
    await sim.until("setup")
    await sim.until("exit")
    await settled(lambda: not bridge.pool.clients["m0"].silent)
    assert sim.tasks == {}


async def test_places_a_stranger_holds_are_a_clear_refusal(house: House) -> None:
    sim = await house.module()
    async with Probe(sim.url) as stranger:
        house.strangers = {await stranger.setup(), await stranger.setup()}
        bridge = await house.bridge(sim)
        with pytest.raises(TaskFull, match="perhaps by another program"):
            await ask(bridge)
        assert set(sim.tasks) == house.strangers


async def test_leaving_during_a_load_leaves_a_session_that_serves_the_next(house: House) -> None:
    sim = await house.module(load_s=50)
    bridge = await house.bridge(sim)
    async with bridge.catalog.chat(MODEL).complete(request("hi")) as events:
        await anext(events)
        await settled(lambda: bool(bridge.pool.clients["m0"].loading))
    await sim.until("setup")
    assert await ask(bridge) == "well"
    assert count(sim, "setup") == 1


async def test_leaving_before_the_turn_asks_the_module_nothing(house: House) -> None:
    sim = await house.module(limits={"llm": 1})
    bridge = await house.bridge(sim)
    async with answering(bridge, sim):
        async with bridge.catalog.chat(MODEL).complete(request("never asked")) as waiting:
            await anext(waiting)
        sim.release("llm")
    await settled(lambda: all(s.phase is Phase.IDLE for s in bridge.pool.scheduler.ledger.sessions.values()))
    assert count(sim, "inference") == 1


async def test_hanging_up_pauses_on_the_owning_connection_and_the_task_is_used_again(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    async with answering(bridge, sim):
        ((work_id, task),) = sim.tasks.items()
    await sim.until("stopped")
    assert await ask(bridge) == "well"
    assert sim.tasks[work_id].com == task.com
    assert [e.kind for e in sim.log if e.work_id] == [
        "setup",
        "inference",
        "pause",
        "stopped",
        "inference",
        "finish",
    ]


async def test_a_pause_that_is_lost_is_repeated(house: House) -> None:
    sim = await house.module(dequeue_gap_s=0.05, rate=0.1)
    bridge = await house.bridge(sim)
    asking = asyncio.create_task(ask(bridge, "@frames=300"))
    await settled(lambda: any(task.running for task in sim.tasks.values()))
    asking.cancel()
    await sim.until("stopped")
    assert count(sim, "pause") == 2
    assert await ask(bridge) == "well"
    assert count(sim, "setup") == 1


async def test_hanging_up_while_the_unit_loads_another_model_waits_for_the_load(house: House) -> None:
    sim = await house.module(load_s=0)
    bridge = await house.bridge(sim, deadlines=replace(FAST, setup=3.0))
    async with answering(bridge, sim):
        sim.late_setup("llm", 0.9)  # twice the deadline of a pause
        loading = asyncio.create_task(ask(bridge, model=OTHER))
        await settled(lambda: bool(bridge.pool.clients["m0"].loading))
    assert await loading == "well"
    assert count(sim, "setup") == 2
    assert await ask(bridge) == "well"
    assert count(sim, "setup") == 2
    assert count(sim, "exit") == 0


async def test_a_frozen_unit_is_asked_nothing_but_the_probe(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim, deadlines=replace(FAST, probe_first=0.3, probe_longest=0.3))
    async with answering(bridge, sim, model=MODEL) as one, answering(bridge, sim, model=OTHER) as two:
        sim.freeze("llm")
        for events in (one, two):
            with pytest.raises(BridgeError):
                await anext(events)
    await settled(lambda: bool(bridge.pool.clients["m0"].silent))
    for _ in range(20):
        with within(0.1), pytest.raises(UnitSilent):
            await ask(bridge)
    await sim.until("stall", count=3)
    assert count(sim, "setup") == 2
    assert count(sim, "stall") == 3  # one pause, two probes
    sim.thaw("llm")
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_frozen_unit_does_not_hold_up_another_module(house: House) -> None:
    sims = [await house.module(limits={"llm": 1}) for _ in range(2)]
    bridge = await house.bridge(*sims, unit_limits={"llm": 1})
    assert await ask(bridge) == "well"
    frozen = sims[0] if sims[0].tasks else sims[1]
    other = sims[1] if frozen is sims[0] else sims[0]
    async with answering(bridge, frozen) as lost, answering(bridge, other, model=OTHER) as going_on:
        frozen.freeze("llm")
        with pytest.raises(BridgeError):
            await anext(lost)
        other.release("llm")
        assert [type(event).__name__ async for event in going_on] == ["Done"]
    await settled(lambda: any(client.silent for client in bridge.pool.clients.values()))
    with within(0.3):
        assert await ask(bridge, model=OTHER) == "well"
    frozen.thaw("llm")
    await settled(lambda: not any(client.silent for client in bridge.pool.clients.values()))


async def test_a_module_that_is_lost_leaves_the_work_to_the_other(house: House) -> None:
    one, two = await house.module(), await house.module()
    bridge = await house.bridge(one, two)
    assert await ask(bridge) == "well"
    first = one if one.tasks else two
    second = two if first is one else one
    down = asyncio.create_task(first.restart_gateway(0.5))
    await first.until("gateway_down")
    assert await eventually(lambda: ask(bridge)) == "well"
    assert second.tasks
    await down
    await settled(lambda: all(client.connected for client in bridge.pool.clients.values()))


async def test_a_session_whose_own_connection_died_is_replaced(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge) == "well"
    sim.world.coms[sim.tasks["llm.1000"].com].close()
    await sim.until("disconnect")
    assert await ask(bridge) == "well"


async def test_a_stranger_that_asks_about_our_task_cannot_mix_answers(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    async with Probe(sim.url) as stranger, answering(bridge, sim) as events:
        await stranger.call("llm.1000", "taskinfo")
        sim.release("llm")
        assert (await stranger.read())["data"]["finish"]
        with within(0.8), pytest.raises(DeviceTimeout):
            await anext(events)
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_stranger_that_talks_to_our_task_cannot_mix_answers(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    async with Probe(sim.url) as stranger, answering(bridge, sim) as events:
        await stranger.infer("llm.1000", "@echo FOREIGN")
        sim.release("llm")
        with within(0.8), pytest.raises(DeviceTimeout):
            await anext(events)
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_stranger_that_ends_our_task_costs_one_new_setup(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge) == "well"
    async with Probe(sim.url) as stranger:
        await stranger.call("llm.1000", "exit")
    assert await ask(bridge) == "well"
    assert list(sim.tasks) == ["llm.1001"]


@pytest.mark.parametrize(
    ("object_", "data"), [("llm.utf-8.base64", "%%%"), ("llm.utf-8.stream", {"delta": "x"})]
)
async def test_the_error_of_a_strangers_inference_is_not_taken_for_ours(
    house: House, object_: str, data: object
) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    async with Probe(sim.url) as stranger:
        house.strangers.add(foreign := await stranger.setup())
        async with answering(bridge, sim) as events:
            await bridge.pool.clients["m0"].list_tasks(
                "llm"
            )  # the last call, whom the unit sends such errors
            await stranger.say(foreign, "inference", object_, data)
            await sim.until("error")
            sim.release("llm")
            assert [type(event).__name__ async for event in events] == ["Done"]


async def test_a_shut_bridge_gives_a_running_answer_a_clear_end(house: House) -> None:
    sim = await house.module()
    async with house.opened(sim) as bridge:
        await bridge.catalog.settled()
        answering_ = answering(bridge, sim)
        events = await answering_.__aenter__()
        closing = asyncio.create_task(bridge.pool.exit_all())
        with within(SOON), suppress(BridgeError):
            [event async for event in events]
        await closing
        await answering_.__aexit__(None, None, None)
    assert sim.tasks == {}


async def test_a_unit_that_is_back_is_asked_again_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackflow.scheduler.FAILED_LOAD_REST", 30.0)
    sim = await house.module()
    bridge = await house.bridge(sim)
    sim.freeze("llm")
    with pytest.raises(UnitSilent):
        await ask(bridge)
    sim.thaw("llm")
    await settled(lambda: not bridge.pool.clients["m0"].silent)
    assert await ask(bridge) == "well"


async def test_a_unit_that_is_just_restarting_is_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackflow.scheduler.FAILED_LOAD_REST", 30.0)
    sim = await house.module()
    bridge = await house.bridge(sim)
    sim.kill("llm", restart_after=0.2, socket_left=False)
    assert await ask(bridge) == "well"
