"""The simulated llm unit over TCP: the exchanges of the documents, and everything that is lost."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from simulator import Settings, Simulator, answer_to, script_tokens
from simulator.probe import Probe

FAST = Settings(engine="script", time_scale=0.001, slow_joiner_ms=0)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(FAST) as running:
        yield running
    assert not [event for event in running.log if event.kind == "bug"]


@pytest.fixture
async def probe(sim: Simulator) -> AsyncIterator[Probe]:
    async with Probe(sim.url) as connected:
        yield connected


def error(reply: Any) -> tuple[int, str, str]:
    return reply["error"]["code"], reply["error"]["message"], reply["work_id"]


async def test_a_setup_an_answer_and_an_exit_read_like_the_documents(sim: Simulator, probe: Probe) -> None:
    assert await probe.setup() == "llm.1000"
    await probe.infer("llm.1000", "@echo Sure, here you are")
    deltas, last = await probe.answer()
    assert "".join(deltas) == "Sure, here you are"
    assert last["object"] == "llm.utf-8.stream"
    assert last["data"] == {"delta": "", "finish": True, "index": len(deltas) - 1}
    assert list(last) == ["created", "data", "error", "object", "request_id", "work_id"]
    assert (await probe.call("llm.1000", "exit"))["data"] == "None"
    assert sim.tasks == {}


async def test_the_default_answer_quotes_the_last_user_turn(probe: Probe) -> None:
    text = "first<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nHello there"
    await probe.infer(await probe.setup(), text)
    deltas, _ = await probe.answer()
    assert "".join(deltas) == f"You said: Hello there [crc32 {zlib.crc32(text.encode()):08x}]"


@pytest.mark.parametrize(("order", "words"), [("@frames=4", 12), ("@tokens=5", 5)])
async def test_numbered_answers_are_as_long_as_ordered(probe: Probe, order: str, words: int) -> None:
    await probe.infer(await probe.setup(), f"please {order}")
    deltas, _ = await probe.answer()
    assert "".join(deltas) == " ".join(f"w{number}" for number in range(words))
    assert len(deltas) == -(-words // 3) + 1


async def test_what_the_model_saw_is_in_the_log(sim: Simulator, probe: Probe) -> None:
    await probe.infer(await probe.setup(prompt="Be brief"), "a\nb {}")
    event = await sim.until("inference")
    assert event.data["text"] == "a\nb {}"
    assert event.data["prompt"] == (
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\na\nb {}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("model", "expected"),
    [("llama3.2-1B-p256-ax630c", False), ("qwen2.5-0.5B-prefill-20e", True)],
)
async def test_llama_never_sees_the_system_prompt(
    sim: Simulator, probe: Probe, model: str, *, expected: bool
) -> None:
    await probe.infer(await probe.setup(model=model, prompt="Be brief"), "hi")
    assert ("Be brief" in (await sim.until("inference")).data["prompt"]) is expected


async def test_setup_errors_have_their_odd_work_ids(probe: Probe) -> None:
    failed = (-5, "Model loading failed.", "llm")
    for broken in ({"model": "nope"}, {"model": None}, {"prompt": 1}, {"enoutput": "true"}):
        with pytest.raises(AssertionError) as caught:
            await probe.setup(**broken)
        assert error(caught.value.args[0]) == failed
    broken_json = await probe.call("llm", "setup", "llm.setup", "not json")
    assert error(broken_json) == (-2, "json format error.", "kws")
    assert error(await probe.call("llm", "setup")) == (-2, "json format error.", "kws")
    assert await probe.setup() == "llm.1006"  # each failure has used up a number


async def test_a_third_task_is_one_too_many(probe: Probe) -> None:
    await probe.setup()
    await probe.setup()
    with pytest.raises(AssertionError) as caught:
        await probe.setup()
    assert error(caught.value.args[0]) == (-21, "task full", "llm")


async def test_unknown_tasks_and_actions(probe: Probe) -> None:
    assert error(await probe.call("llm.1999", "inference", "llm.utf-8", "x")) == (
        -4,
        "inference data push false",
        "llm.1999",
    )
    for action in ("exit", "pause", "taskinfo", "link"):
        assert error(await probe.call("llm.1999", action)) == (-6, "Unit Does Not Exist", "llm.1999")
    assert error(await probe.call("llm", "exit")) == (-6, "Unit Does Not Exist", "llm")
    assert error(await probe.call("llm", "work")) == (-18, "not have unit action!", "llm")
    assert error(await probe.call("vlm", "setup")) == (-9, "unit call false", "vlm")
    await probe.say("llm", "no_such_action")
    assert await probe.quiet()


async def test_taskinfo_lists_and_describes(probe: Probe) -> None:
    assert (await probe.call("llm", "taskinfo"))["data"] == []
    await probe.setup()
    await probe.setup(input=["llm.utf-8", "asr.1"])
    listed = await probe.call("llm", "taskinfo")
    assert (listed["object"], listed["data"]) == ("llm.tasklist", ["llm.1001", "llm.1000"])
    described = await probe.call("llm.1001", "taskinfo")
    assert described["object"] == "llm.taskinfo"
    assert described["data"] == {
        "enoutput": True,
        "inputs": ["llm.utf-8", "asr.1"],
        "model": "qwen2.5-0.5B-p256-ax630c",
        "response_format": "llm.utf-8.stream",
    }


async def test_the_answer_without_stream_is_one_line(probe: Probe) -> None:
    work_id = await probe.setup(response_format="llm.utf-8.mine")
    await probe.infer(work_id, "@echo all at once")
    reply = await probe.read()
    assert (reply["object"], reply["data"]) == ("llm.utf-8.mine", "all at once")


async def test_without_output_or_without_an_input_of_its_own_a_task_stays_silent(probe: Probe) -> None:
    for fields in ({"enoutput": False}, {"input": "asr.1000"}):
        await probe.infer(await probe.setup(**fields), "hello")
        assert await probe.quiet()


async def test_base64_and_streamed_input_reach_the_model(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    text = base64.b64encode("@echo zwei Ä".encode()).decode()
    await probe.say(work_id, "inference", "llm.utf-8.base64", text)
    assert "".join((await probe.answer())[0]) == "zwei Ä"
    for index, delta in enumerate(("@echo ", "in ", "parts")):
        data = {"delta": delta, "index": index, "finish": index == 2}
        await probe.say(work_id, "inference", "llm.utf-8.stream", data)
    assert "".join((await probe.answer())[0]) == "in parts"


async def test_input_errors_go_to_whoever_spoke_last_to_the_unit(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    async with Probe(sim.url) as other:
        asked = (await other.call("llm", "taskinfo"))["request_id"]
        await probe.say(work_id, "inference", "llm.utf-8.base64", "not base64!")
        reply = await other.read()
        assert error(reply) == (-23, "Base64 decoding error.", "llm")
        assert reply["request_id"] == asked
        await probe.say(work_id, "inference", "llm.utf-8.stream", {"delta": "x", "index": 3, "finish": True})
        assert error(await other.read()) == (-25, "Stream data index error.", "llm")
    assert await probe.quiet()


async def test_empty_and_unterminated_texts_are_dropped(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    await probe.infer(work_id, "")
    await probe.infer(work_id, "ends in a backslash\\")
    await probe.say(work_id, "inference")
    assert await probe.quiet()
    await sim.until("dropped", count=3)


async def test_escaped_surrogates_end_an_answer_without_a_finish(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    message = f'{{"request_id":"x","work_id":"{work_id}","action":"inference","object":"llm.utf-8",'
    await probe.raw(message.encode() + b'"data":"\\ud83d\\ude00"}')
    assert await probe.quiet()
    await sim.until("silent")
    await probe.infer(work_id, "@echo 😀")
    assert "".join((await probe.answer())[0]) == "😀"


async def test_half_an_emoji_silences_the_local_tokenizer_and_leaves_the_index(probe: Probe) -> None:
    work_id = await probe.setup(model="qwen2.5-0.5B-prefill-20e")
    await probe.infer(work_id, "@echo one two three!😀 more")
    assert (await probe.read())["data"]["index"] == 0
    assert await probe.quiet()
    await probe.infer(work_id, "@echo x")
    assert (await probe.read())["data"]["index"] == 1


async def test_a_nul_cuts_its_delta_and_bd_holds_a_frame_back(probe: Probe) -> None:
    work_id = await probe.setup()
    await probe.infer(work_id, "@echo a\0b c")
    assert (await probe.answer())[0] == ["a", " c", ""]
    await probe.infer(work_id, "@echo ab好cd")
    assert (await probe.answer())[0] == ["ab好cd", ""]


async def test_request_ids_with_escapes_come_back_escaped_twice(probe: Probe) -> None:
    work_id = await probe.setup()
    await probe.raw(
        f'{{"request_id":"a\\"b","work_id":"{work_id}","action":"taskinfo"}}'.encode(),
    )
    assert (await probe.read())["request_id"] == 'a\\"b'


async def test_frames_come_at_the_ordered_pace() -> None:
    settings = Settings(engine="script", rate=150, ttft_ms=10, load_s=0, slow_joiner_ms=0)
    async with Simulator(settings) as sim, Probe(sim.url) as probe:
        await probe.infer(await probe.setup(max_token_len=1023), "@frames=20")
        started = asyncio.get_running_loop().time()
        await probe.answer()
        assert 0.38 < asyncio.get_running_loop().time() - started < 0.6


async def test_seven_quick_texts_get_four_answers_all_under_the_last_name(
    sim: Simulator, probe: Probe
) -> None:
    work_id = await probe.setup()
    ids = [await probe.infer(work_id, f"@echo {number}") for number in range(7)]
    said = []
    for _ in range(4):
        deltas, last = await probe.answer()
        said.append("".join(deltas))
        assert last["request_id"] == ids[-1]
    assert said == ["0", "1", "2", "3"]
    assert await probe.quiet()
    await sim.until("dropped", count=3)


async def test_pause_is_acknowledged_before_the_finish_and_loses_the_tail(
    sim: Simulator, probe: Probe
) -> None:
    work_id = await probe.setup(max_token_len=1023)
    sim.answer("llm", ["Hel", "lo {"], hold=True)
    await probe.infer(work_id, "hi")
    assert [(await probe.read())["data"]["delta"] for _ in range(2)] == ["Hel", "lo {"]
    paused = await probe.say(work_id, "pause")
    first, second = await probe.read(), await probe.read()
    assert (first["request_id"], first["object"]) == (paused, "None")
    assert second["data"] == {"delta": "", "finish": True, "index": 2}
    assert (await sim.until("stopped")).work_id == work_id


async def test_pause_stops_only_the_running_answer_and_may_come_in_one_write(probe: Probe) -> None:
    work_id = await probe.setup(max_token_len=1023)
    message = (
        '{{"request_id":"{id}","work_id":"llm.1000","action":"{do}","object":"llm.utf-8","data":"{text}"}}\n'
    )
    await probe.raw(
        (
            message.format(id="i1", do="inference", text="@tokens=900")
            + message.format(id="i2", do="inference", text="@echo second")
            + message.format(id="p1", do="pause", text="None")
        ).encode()
    )
    assert (await probe.read())["request_id"] == "p1"
    assert (await probe.answer())[0] == [""]
    assert "".join((await probe.answer())[0]) == "second"
    assert (await probe.call(work_id, "pause"))["error"]["code"] == 0  # idle: nothing happens


async def test_a_pause_between_dequeue_and_start_is_lost() -> None:
    settings = Settings(engine="script", time_scale=0.001, slow_joiner_ms=0, dequeue_gap_s=0.05)
    async with Simulator(settings) as sim, Probe(sim.url) as probe:
        work_id = await probe.setup()
        await probe.infer(work_id, "@echo whole")
        assert (await probe.call(work_id, "pause"))["object"] == "None"
        assert "".join((await probe.answer())[0]) == "whole"


async def test_exit_stops_what_runs_but_lets_the_queue_run_out(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    sim.answer("llm", ["held"], hold=True)
    for text in ("first", "@echo second", "@echo third"):
        await probe.infer(work_id, text)
    assert (await probe.read())["data"]["delta"] == "held"
    left = await probe.say(work_id, "exit")
    assert (await probe.answer())[0] == [""]
    assert "".join((await probe.answer())[0]) == "second"
    assert "".join((await probe.answer())[0]) == "third"
    assert (await probe.read())["request_id"] == left
    assert error(await probe.call(work_id, "exit")) == (-6, "Unit Does Not Exist", work_id)
    assert error(await probe.call(work_id, "inference", "llm.utf-8", "x"))[0] == -4


async def test_a_loading_setup_blocks_pause_but_neither_inference_nor_sys(
    sim: Simulator, probe: Probe
) -> None:
    work_id = await probe.setup()
    sim.late_setup("llm", 0.3)
    async with Probe(sim.url) as other:
        await other.say("llm", "setup", "llm.setup", {"model": "nope"})
        paused = await probe.say(work_id, "pause")
        assert (await probe.call("sys", "ping"))["error"]["code"] == 0
        await probe.infer(work_id, "@echo meanwhile")
        assert "".join((await probe.answer())[0]) == "meanwhile"
        assert (await other.read())["error"]["code"] == -5
        assert (await probe.read())["request_id"] == paused


async def test_one_index_counts_for_all_tasks_and_any_finish_resets_it(sim: Simulator, probe: Probe) -> None:
    first, second = await probe.setup(), await probe.setup()
    sim.answer("llm", ["a", "b"], hold=True)
    await probe.infer(first, "x")
    assert [(await probe.read())["data"]["index"] for _ in range(2)] == [0, 1]
    await probe.infer(second, "@echo c")
    assert [(await probe.read())["data"]["index"] for _ in range(2)] == [2, 3]
    sim.release("llm")
    assert (await probe.read())["data"] == {"delta": "", "finish": True, "index": 0}


@pytest.mark.parametrize(("limit", "words"), [(40, 15), (1023, 40)])
async def test_max_token_len_counts_the_prompt_too_and_the_tail_is_lost(
    sim: Simulator, probe: Probe, limit: int, words: int
) -> None:
    await probe.infer(await probe.setup(prompt="s", max_token_len=limit), "@tokens=40")
    deltas, _ = await probe.answer()
    tokens = (await sim.until("inference")).data["tokens"]
    room = max(0, limit - tokens - 1)
    said = len("".join(deltas).split())
    assert said == (40 if room >= 40 else room // 3 * 3)
    assert (room >= 40) is (words == 40)


async def test_a_prompt_at_the_limit_gets_an_empty_answer(probe: Probe) -> None:
    await probe.infer(await probe.setup(max_token_len=10), "hello")
    assert (await probe.answer())[0] == [""]


async def test_a_prompt_beyond_the_window_gets_garbage_then_a_finish(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup(max_token_len=1023)
    await probe.infer(work_id, "x " * 260)
    deltas, _ = await probe.answer()
    assert (await sim.until("garbage")).data["tokens"] > 256
    assert "x x" not in "".join(deltas)
    assert len(deltas) > 2


async def test_without_limits_any_length_goes() -> None:
    settings = Settings(engine="script", kv_limit=False, rate=1e6, ttft_ms=0, load_s=0, slow_joiner_ms=0)
    async with Simulator(settings) as sim, Probe(sim.url) as probe:
        await probe.infer(await probe.setup(), "x " * 400 + "@tokens=3000")
        assert len("".join((await probe.answer())[0]).split()) == 3000


async def test_a_ctx_model_remembers_until_reset_or_full(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup(model="qwen2.5-HA-0.5B-ctx-ax630c", prompt="S")
    for text in ("@echo one", "@echo two"):
        await probe.infer(work_id, text)
        await probe.answer()
    prompt = (await sim.until("inference", count=2)).data["prompt"]
    assert prompt.count("<|im_start|>user\n") == 2
    assert "assistant\none<|im_end|>\n" in prompt
    await probe.infer(work_id, "reset")
    assert (await probe.answer())[0] == [""]
    await probe.infer(work_id, "x " * 900 + "@echo three")
    await probe.answer()
    assert (await sim.until("inference", count=3)).data["prompt"].count("user\n") == 1
    await probe.infer(work_id, "x " * 900 + "@echo four")
    await probe.answer()
    await sim.until("context_full")
    assert (await sim.until("inference", count=4)).data["prompt"].count("user\n") == 1


async def test_thinking_models_think_aloud(probe: Probe) -> None:
    await probe.infer(await probe.setup(model="qwen3-0.6B-ax630c"), "hi")
    assert "".join((await probe.answer())[0]).startswith("<think>\n")


def test_tokens_of_the_script_engine_join_to_the_text() -> None:
    text = "<|im_start|>user\nHello, 世界 quick_brown"
    assert script_tokens(text)[:4] == ["<|im_start|>", "user", "\n", "Hell"]
    assert "".join(script_tokens(text)) == text
    assert "".join(answer_to("x" * 300)).startswith("You said: " + "x" * 200 + " [crc32 ")
