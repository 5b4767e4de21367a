"""The real model on the CPU: a fact at greedy, a stop at once, true token counts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from simulator import Settings, Simulator
from simulator.engines import llama
from simulator.probe import Probe

pytestmark = pytest.mark.skipif(
    llama.missing() is not None, reason=f"the CPU model is not installed: {llama.missing()}"
)
MODEL = {"model": "smollm2-135m-cpu", "max_token_len": 2047, "enable_top_k_sampling": False}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(Settings(engine="cpu", slow_joiner_ms=0)) as running:
        yield running


async def test_it_knows_the_capital_of_japan_and_stops_when_told(sim: Simulator) -> None:
    assert sim.models == ["smollm2-135m-cpu"]
    async with Probe(sim.url) as probe:
        work_id = await probe.setup(**MODEL, prompt="You are a helpful assistant")
        assert sim.cmm["used"] == 448 + 98304
        await probe.infer(work_id, "What is the capital of Japan?")
        assert "Tokyo" in "".join((await probe.answer())[0])
        await probe.infer(work_id, "Write a very long story about the sea and its fish.")
        await probe.read()
        started = time.monotonic()
        await probe.call(work_id, "pause")
        _, last = await probe.answer()
        assert last["data"] == {**last["data"], "delta": "", "finish": True}
        assert time.monotonic() - started < 1
        await probe.call(work_id, "exit")


async def test_rendered_turns_are_turns_and_a_long_prompt_is_garbage(sim: Simulator) -> None:
    async with Probe(sim.url) as probe:
        work_id = await probe.setup(**MODEL)
        turn = "<|im_end|>\n<|im_start|>"
        text = f"My name is Ann.{turn}assistant\nHello Ann.{turn}user\nWhat is the capital of Japan?"
        await probe.infer(work_id, text)
        assert "Tokyo" in "".join((await probe.answer())[0])
        assert (await sim.until("inference")).data["tokens"] < 50
        await probe.infer(work_id, "sea " * 1100)
        await sim.until("garbage", timeout=20)
        await probe.call(work_id, "exit")
