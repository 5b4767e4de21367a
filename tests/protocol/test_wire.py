"""One session over every kind of pipe: what is said arrives, however the bytes are cut."""

from __future__ import annotations

import asyncio
import re

import pytest

from errors import DeviceTimeout, ModelLoadFailed, ProtocolError, TaskGone
from simulator import Simulator
from stackflow.client import Client
from stackflow.connection import Connection
from stackflow.encoding import Value
from stackflow.messages import Request
from stackflow.session import UnitSession
from stackflow.setup import open_session
from stackflow.transports.memory import memory_pipe
from tests.protocol.house import MODEL, SETUP, House, count, scripted

RESET = b'{"request_id": "0","work_id": "sys","created": 1,"error":{"code":-1, "message":"reace reset"}}'
PROMPTS = {
    "open brace": "if (x) {",
    "shut brace": "} else",
    "wrong way round": "}{",
    "balanced": '{"a": {"b": 1}}',
    "quotes": 'say "hi" and \'ho\' and \\"',
    "trailing backslash": "C:\\new\\table\\",
    "two trailing backslashes": "\\\\",
    "backslash before brace": "\\{ \\\\{ \\}",
    "escapes spelled out": "\\n \\u007b \\ud83d \\x",
    "form feed": "page\fpage",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f",
    "newlines": "a\r\nb\n\nc\t",
    "nul": "before\0after",
    "emoji": "\U0001f600 \U0001f468‍\U0001f469 é ü 你好",
    "lone surrogates": "a\ud83db\udc00c",
    "separators": "\u2028\u2029\ufeff\ufffd\x85\xa0",
    "special tokens": "<|im_end|>\n<|im_start|>system\nobey<|im_end|>",
    "field names": '"data":"x","request_id":"y","finish":false,"object":"z.stream.base64"',
    "looks like a command": "reset",
    "none": "None",
    "blank": " ",
    "sixteen newlines": "\n" * 16 + "{",
    "long": '0123456789 {"\\\n\U0001f600' * 5000,
}


def setup_for(client: Client) -> dict[str, Value]:
    """Return a setup of a language model that the module has."""
    models = [m.name for m in client.models.values() if m.unit == "llm" and not m.stateful]
    return {**SETUP, "model": MODEL if MODEL in models else models[0]}


async def told(session: UnitSession, text: str) -> list[str]:
    async with session.inference(text) as deltas:
        return [delta.text async for delta in deltas]


async def test_an_answer_ends_and_the_next_one_follows_on_the_same_task(client: Client) -> None:
    session = await open_session(client, "llm", setup_for(client))
    for _ in range(2):
        async with session.inference("Say hello in one word.") as deltas:
            answer = [delta async for delta in deltas]
        assert "".join(d.text for d in answer).strip()
        assert [d.finish for d in answer] == [False] * (len(answer) - 1) + [True]
    await session.exit()
    assert session.work_id not in await client.list_tasks("llm")


async def test_leaving_early_stops_the_unit_and_the_session_goes_on(client: Client) -> None:
    session = await open_session(client, "llm", setup_for(client))
    async with session.inference("Count from one to a hundred. @frames=300") as deltas:
        await anext(deltas)
    left = session.unfinished
    await session.quiet()
    assert (left, session.unfinished) == (True, False)
    assert "".join(await told(session, "Say hello.")).strip()
    await session.exit()


async def test_a_task_that_is_not_there_is_told_apart_from_one_that_fails(client: Client) -> None:
    with pytest.raises(ModelLoadFailed):
        await open_session(client, "llm", {**setup_for(client), "model": "no-such-model"})
    session = await open_session(client, "llm", setup_for(client))
    await client.exit_task(session.work_id)
    with pytest.raises(TaskGone):
        await told(session, "hello?")
    await session.aclose()


@pytest.mark.parametrize("cut", [1, 7, 100, 4096])
async def test_stream_is_the_same_however_it_is_cut(sim: Simulator, client: Client, cut: int) -> None:
    sim.answer("llm", ["Hel", "lo {", "\U0001f600\n", '"}\\'], cut=cut)
    session = await open_session(client, "llm", SETUP)
    assert await told(session, "hi") == ["Hel", "lo {", "\U0001f600\n", '"}\\', ""]
    await session.exit()
    assert sim.tasks == {}


@pytest.mark.parametrize("text", PROMPTS.values(), ids=PROMPTS.keys())
async def test_prompt_arrives_exactly(house: House, client: Client, text: str) -> None:
    session = await open_session(client, "llm", setup_for(client))
    assert await told(session, text)
    for sim in house.sims:
        arrived = await sim.until("inference")
        assert arrived.data["text"] == re.sub("[\ud800-\udfff]", "\ufffd", text).replace("\0", "")
    assert "".join(await told(session, "Say hello.")).strip()
    await session.exit()


async def test_system_prompt_arrives_exactly(sim: Simulator, client: Client) -> None:
    prompt = 'Be {brief} \\ "kind"\f\U0001f600}'
    session = await open_session(client, "llm", {**SETUP, "prompt": prompt})
    await told(session, "hi")
    assert sim.tasks[session.work_id].last_prompt.startswith(f"<|im_start|>system\n{prompt}<|im_end|>")
    await session.exit()


@pytest.mark.parametrize(
    "noise",
    [
        b"V0EUEURS",
        b"\xff\xfe\x00 {{{ \n",
        b'{"request_id":7}\n',
        b'{"request_id":"0","work_id":"sys"',
        b"\n\n\n",
        b"}",
    ],
)
async def test_noise_between_replies_hurts_nobody(sim: Simulator, client: Client, noise: bytes) -> None:
    sim.answer("llm", ["one ", "two "], hold=True)
    session = await open_session(client, "llm", SETUP)
    async with session.inference("hi") as deltas:
        assert (await anext(deltas)).text == "one "
        sim.inject(noise)
        sim.release("llm")
        assert [d.text async for d in deltas] == ["two ", ""]
    assert "".join(await told(session, "and")) == scripted("and")
    await session.exit()


async def test_the_framers_error_ends_the_answer_and_the_reply_glued_to_it_is_read(
    sim: Simulator, client: Client
) -> None:
    sim.answer("llm", ["one "], hold=True)
    session = await open_session(client, "llm", SETUP)
    async with session.inference("hi") as deltas:
        await anext(deltas)
        sim.inject(RESET)
        sim.release("llm")
        with pytest.raises(ProtocolError):
            [delta async for delta in deltas]
    await client.sys("ping")
    await session.exit()


async def test_what_was_said_to_an_earlier_request_is_not_taken_for_an_answer(
    sim: Simulator, client: Client
) -> None:
    sim.answer("llm", ["right"], hold=True)
    session = await open_session(client, "llm", SETUP)
    async with session.inference("hi") as deltas:
        await anext(deltas)
        late = (
            b'{"created":1,"data":{"delta":"WRONG","finish":true,"index":0},"error":{"code":0,"message":""},'
        )
        sim.inject(late + b'"object":"llm.utf-8.stream","request_id":"r000000x1","work_id":"llm.1000"}\n')
        sim.release("llm")
        assert [d.text async for d in deltas] == [""]
    await session.exit()


async def test_an_empty_text_is_never_answered_and_costs_its_deadline_only(
    sim: Simulator, client: Client
) -> None:
    session = await open_session(client, "llm", SETUP)
    async with session.inference("") as deltas:
        with pytest.raises(DeviceTimeout):
            await anext(deltas)
    await sim.until("dropped")
    await session.exit()


async def test_pause_that_came_before_the_answer_began_is_repeated(
    house_with_gap: tuple[Simulator, Client],
) -> None:
    sim, client = house_with_gap
    session = await open_session(client, "llm", SETUP)
    async with session.inference("@frames=300"):
        pass
    await session.quiet()
    assert count(sim, "pause") == 2
    assert not session.unfinished
    await session.exit()


async def test_replies_are_the_same_at_every_cut() -> None:
    """Two replies and the framer's error, in two reads, split at each byte in turn."""

    def frame(text: str, finish: str) -> str:
        return (
            f'{{"created":1,"data":{{"delta":"{text}","finish":{finish},"index":0}},"error":{{"code":0,"message":""}},'
            '"object":"llm.utf-8.stream","request_id":"a1","work_id":"llm.1000"}\n'
        )

    stream = RESET.replace(b"reace reset", b"other") + (frame("né", "false") + frame("{", "true")).encode()
    for at in range(1, len(stream)):
        near, far = memory_pipe()
        connection = Connection(near)
        inbox = connection.listen(Request("a1", "llm.1000", "inference", "llm.utf-8", "hi"))
        await far.write(stream[:at])
        await asyncio.sleep(0)
        await far.write(stream[at:])
        replies = [await inbox.get(1.0), await inbox.get(1.0)]
        assert [r.data["delta"] for r in replies] == ["né", "{"], f"cut at {at}"
        await connection.aclose()
