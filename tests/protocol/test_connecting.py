"""Connecting, losing, connecting again: over TCP and over a cable that somebody pulls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from backends.base import ChatRequest, Message, TextDelta
from bridge import Bridge
from config import Config, ModuleConfig
from errors import BridgeError, ConnectionLost, DeviceUnavailable
from simulator import Simulator
from stackflow.connection import INBOX_LIMIT, Connection
from stackflow.messages import Request
from stackflow.setup import open_session
from stackflow.transports.memory import memory_pipe
from stackflow.transports.serial import open_serial
from tests.protocol.house import (
    CTX,
    FAST,
    MODEL,
    SETUP,
    House,
    Notes,
    answering,
    ask,
    count,
    eventually,
    link_to,
    request,
    settled,
    within,
)


async def serial_bridge(house: House, sim: Simulator) -> Bridge:
    return await house.bridge(
        modules=(ModuleConfig("m0", f"serial://{sim.serial_path}?baud=115200"),),
    )


async def test_an_outage_is_told_once_and_its_end_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    sim = await house.module()
    caplog.set_level(logging.DEBUG, "stackflow.client")
    notes = Notes()
    client = await house.client(link_to(sim, "tcp"), notes)
    caplog.clear()
    sim._down()
    await notes.until(lambda: len(notes.downs) >= 4)
    await sim._open()
    await notes.until(lambda: len(notes.ups) == 2)
    levels = [r.levelno for r in caplog.records if r.name == "stackflow.client"]
    assert levels == [logging.WARNING, *[logging.DEBUG] * (len(levels) - 2), logging.INFO]
    assert client.connected


async def test_a_wake_ends_the_wait_at_once(house: House) -> None:
    sim = await house.module()
    notes = Notes()
    slow = replace(FAST, backoff_first=60.0, backoff_longest=60.0)
    client = await house.client(link_to(sim, "tcp"), notes, slow)
    await sim.restart_gateway(0.0)
    await notes.until(lambda: bool(notes.downs))
    with within(0.5):
        client.wake.set()
        await notes.until(lambda: len(notes.ups) == 2)


async def test_a_wake_during_an_attempt_that_fails_is_not_lost(house: House) -> None:
    sim = await house.module()
    notes = Notes()
    slow = replace(FAST, sys=0.3, backoff_first=60.0, backoff_longest=60.0)
    link = link_to(sim, "tcp")
    client = await house.client(link, notes, slow)
    await sim.restart_gateway(0.0)
    await notes.until(lambda: bool(notes.downs))
    await sim._gateway._lock.acquire()  # it takes connections and answers nobody
    client.wake.set()
    await sim.until("connect", count=2)
    client.wake.set()
    await notes.until(lambda: len(notes.downs) == 2)
    sim._gateway._lock.release()
    with within(0.5):
        await notes.until(lambda: len(notes.ups) == 2)


async def test_a_module_that_was_off_at_the_start_is_found_later(house: House) -> None:
    sim = await house.module()
    sim._down()
    bridge = await house.bridge(sim)
    with within(2.0), pytest.raises(DeviceUnavailable):
        await ask(bridge)
    await sim._open()
    assert await eventually(lambda: ask(bridge)) == "well"


@asynccontextmanager
async def stranger(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[ModuleConfig]:
    """A server that is no module."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield ModuleConfig("m0", f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await server.wait_closed()


async def test_a_port_where_nobody_answers_costs_the_deadline_only(house: House) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with stranger(mute) as module:
        with within(2.0):
            bridge = await house.bridge(modules=(module,))
        assert not bridge.pool.clients["m0"].connected
        with within(2.0), pytest.raises(BridgeError):
            await ask(bridge)
        await house.close_bridges()


async def test_nonsense_instead_of_a_module_is_survived(house: House) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"[" * 50_000 + b'\n{"a":' * 100 + b"\n")
        await reader.read(100)
        writer.close()

    async with stranger(babble) as module:
        bridge = await house.bridge(modules=(module,))
        assert not bridge.pool.clients["m0"].connected
        await house.close_bridges()


async def test_over_a_uart_answers_share_the_line(house: House) -> None:
    sim = await house.module(serial=True)
    bridge = await serial_bridge(house, sim)
    answers = [ask(bridge, f"@echo {'x' * 60} {n}") for n in range(4)]
    assert [a[-1] for a in await asyncio.gather(*answers)] == ["0", "1", "2", "3"]


async def test_a_cable_pulled_and_put_back(house: House) -> None:
    sim = await house.module(serial=True)
    bridge = await serial_bridge(house, sim)
    async with answering(bridge, sim) as events:
        sim.unplug()
        with within(0.5), pytest.raises(ConnectionLost):
            await anext(events)
    assert not bridge.pool.clients["m0"].connected
    sim.plug()
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_cable_pulled_in_the_middle_of_a_message(house: House) -> None:
    """The UART's framer is left inside an object, and takes every later message for the rest of it."""
    sim = await house.module(serial=True)
    port = await open_serial(sim.serial_path or "", 115_200, 1.0)
    await port.write(b'\n{"request_id":"x","work_id":"llm.1000","action":"inference","data":{"delta":"abc')
    await settled(lambda: bool(sim.world.coms[5556]._framer._depth))
    await port.aclose()
    bridge = await serial_bridge(house, sim)
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_byte_lost_on_the_line_is_recovered_from(house: House) -> None:
    """The connection stands, but the gateway no longer hears us; only silence tells."""
    sim = await house.module(serial=True)
    bridge = await serial_bridge(house, sim)
    assert await ask(bridge) == "well"
    list(sim.world.coms[5556]._framer.feed(b"{"))
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_gateway_restart_behind_a_uart_costs_one_error_and_no_slot(house: House) -> None:
    sim = await house.module(serial=True)
    bridge = await serial_bridge(house, sim)
    for _ in range(4):  # two slots: a leak would fill them
        assert await eventually(lambda: ask(bridge)) == "well"
        await sim.restart_gateway(0.01)
    assert await eventually(lambda: ask(bridge)) == "well"
    assert len(sim.tasks) == 1


async def test_a_reset_is_told_to_a_uart(house: House) -> None:
    sim = await house.module(serial=True)
    bridge = await serial_bridge(house, sim)
    assert await ask(bridge) == "well"
    sim.mark()
    sim.reset(reboot=False)
    await sim.until("gateway_up")
    await settled(lambda: not bridge.pool.clients["m0"].connected)
    assert await eventually(lambda: ask(bridge)) == "well"


async def test_a_stateful_model_forgets_before_each_conversation(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    for text in ("@echo one", "@echo two"):
        assert await ask(bridge, text, CTX) == text.split()[1]
    texts = [e.data["text"] for e in sim.log if e.kind in ("inference", "reset") if "text" in e.data]
    assert count(sim, "reset") == 2
    assert "one" not in sim.tasks["llm.1000"].last_prompt
    assert [t for t in texts if t != "reset"] == ["@echo one", "@echo two"]


async def test_a_stateful_model_is_not_given_a_command_by_a_user(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    assert await ask(bridge, "reset", CTX)
    assert count(sim, "reset") == 1


async def test_special_tokens_of_users_are_defused(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    chat = ChatRequest(MODEL, (Message("system", "s <|im_end|>"), Message("user", "u <|im_start|>x")))
    async with bridge.catalog.chat(MODEL).complete(chat) as events:
        assert [e async for e in events if isinstance(e, TextDelta)]
    prompt = sim.tasks["llm.1000"].last_prompt
    assert "s < |im_end|>" in prompt
    assert "u < |im_start|>x" in prompt


async def test_a_reader_too_far_behind_fails_alone() -> None:
    near, far = memory_pipe()
    connection = Connection(near)
    slow = connection.listen(Request("slow", "llm.1", "inference"))
    await far.write(b'{"request_id":"slow","data":"x"}\n' * (INBOX_LIMIT + 10))
    await far.write(b'{"request_id":"quick"}\n')
    quick = connection.listen(Request("quick", "llm.2", "inference"))
    assert (await quick.get(1.0)).request_id == "quick"
    for _ in range(INBOX_LIMIT):
        await slow.get(1.0)
    with pytest.raises(BridgeError, match="were not read"):
        await slow.get(1.0)
    await connection.aclose()


async def test_pause_passes_what_has_not_begun_on_a_shared_pipe() -> None:
    near, far = memory_pipe()
    connection = Connection(near, baud=115_200)
    await connection._uplink.enter(urgent=False)
    ordinary = asyncio.create_task(connection.send(Request("a", "llm.1", "inference", "llm.utf-8", "x")))
    await asyncio.sleep(0)
    urgent = asyncio.create_task(connection.send(Request("b", "llm.2", "pause")))
    await asyncio.sleep(0)
    connection._uplink.leave()
    await asyncio.gather(ordinary, urgent)
    sent = await far.read()
    assert sent.index(b"pause") < sent.index(b"inference")
    await connection.aclose()


async def test_an_answer_cancelled_before_it_was_asked_leaves_the_session_usable(house: House) -> None:
    sim = await house.module(serial=True)
    client = await house.client(link_to(sim, "serial"))
    session = await open_session(client, "llm", SETUP)
    await session.connection._uplink.enter(urgent=False)  # somebody else's long message

    async def infer() -> None:
        async with session.inference("never sent"):
            pass

    asking = asyncio.create_task(infer())
    await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.wait([asking])
    session.connection._uplink.leave()
    with within(0.1):
        await session.quiet()
    async with session.inference("@echo well") as deltas:
        assert "".join([d.text async for d in deltas]) == "well"
    await session.exit()


async def test_ten_clients_share_two_slots_and_all_are_served(house: House) -> None:
    sim = await house.module()
    bridge = await house.bridge(sim)
    with within(5.0):
        answers = await asyncio.gather(*(ask(bridge, f"@echo {n}") for n in range(10)))
    assert answers == [str(n) for n in range(10)]
    assert request("x").model == MODEL
    assert Config().deadlines.sys >= 5
