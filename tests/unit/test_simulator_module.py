"""The simulated gateway and module over TCP: sys actions, routing, orphans, memory, and every fault."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from simulator import Settings, Simulator
from simulator.probe import SETUP, Probe

FAST = Settings(
    engine="script", time_scale=0.001, slow_joiner_ms=0, rpc_stall_s=0.2, linger_s=0.1, restart_s=0.1
)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(FAST) as running:
        yield running
    assert not [event for event in running.log if event.kind == "bug"]


@pytest.fixture
async def probe(sim: Simulator) -> AsyncIterator[Probe]:
    async with Probe(sim.url) as connected:
        yield connected


def outcome(reply: Any) -> tuple[int, str]:
    return reply["error"]["code"], reply["error"]["message"]


async def test_sys_answers_like_the_documents(probe: Probe) -> None:
    ping = await probe.call("sys", "ping")
    assert (ping["data"], ping["object"], ping["work_id"]) == ("None", "None", "sys")
    version = await probe.call("sys", "version")
    assert (version["data"], version["object"]) == ("v1.6", "sys.utf-8")
    packages = await probe.call("sys", "version2")
    assert (packages["data"], packages["object"]) == (["llm_llm-1.12", "llm_sys-1.6"], "sys.utf-8.stream")
    memory = await probe.call("sys", "cmminfo")
    assert memory["data"] == {"remain": 3145280, "total": 3145728, "used": 448}
    facts = await probe.call("sys", "hwinfo")
    assert set(facts["data"]) == {"cpu_loadavg", "eth_info", "mem", "temperature"}
    assert outcome(await probe.call("sys", "lstask")) == (-10, "Not available at the moment.")
    for refused in ("nope", "bashexec", "push", "update", "upgrade", "rmmode"):
        assert outcome(await probe.call("sys", refused)) == (-3, "action match false")
    actions = await probe.call("sys", "unit_call", "llm.list_action", "None")
    assert actions["data"]["actions"][:3] == ["taskinfo", "link", "exit"]
    assert (await probe.call("sys", "unit_call", "llm.x", "None"))["data"] == "x NotAction"
    assert (await probe.call("sys", "unit_call", "tts.x", "None"))["data"] == ""
    assert (await probe.call("", "ping"))["work_id"] == ""


async def test_lsmode_lists_the_vendors_models_with_their_limits(sim: Simulator, probe: Probe) -> None:
    entries = {entry["mode"]: entry for entry in (await probe.call("sys", "lsmode"))["data"]}
    assert len(entries) == 14
    assert sim.models == list(entries)
    flags = entries["qwen2.5-0.5B-p256-ax630c"]["compile_flage"]
    assert "--kv_cache_len 1023" in flags
    assert "--prefill_len 256" in flags
    assert entries["qwen2.5-HA-0.5B-ctx-ax630c"]["mode_param"]["precompute_len"] == 1024


async def test_old_firmware_knows_less() -> None:
    async with Simulator(dataclasses.replace(FAST, firmware="v1.0")) as sim, Probe(sim.url) as probe:
        for action in ("version", "version2", "cmminfo"):
            assert outcome(await probe.call("sys", action)) == (-3, "action match false")


async def test_pull_reads_the_sandbox_and_nothing_else(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "file.bin").write_bytes(content)
    settings = dataclasses.replace(FAST, sandbox=str(tmp_path))
    async with Simulator(settings) as sim, Probe(sim.url) as probe:
        whole = await probe.call("sys", "pull", "sys.file./opt/file.bin", "None")
        assert whole["object"] == "sys.base64.stream"
        assert base64.b64decode(whole["data"]) == content
        await probe.say("sys", "pull", "sys.stream.file./opt/file.bin", "None")
        deltas, _ = await probe.answer()
        assert base64.b64decode("".join(deltas)) == content
        assert {len(delta) for delta in deltas[:-2]} == {1024}
        for path, text in (("/nope", "file does not exist."), ("/../etc/passwd", "file path error")):
            assert outcome(await probe.call("sys", "pull", f"sys.file.{path}", "None")) == (-17, text)


async def test_without_a_sandbox_the_disk_is_empty(probe: Probe) -> None:
    missing = await probe.call("sys", "pull", "sys.file./etc/passwd", "None")
    assert outcome(missing) == (-17, "file does not exist.")


async def test_reace_reset_has_no_newline_and_is_glued_to_the_next_reply(probe: Probe) -> None:
    await probe.raw(b"}")
    assert outcome(await probe.read()) == (-1, "reace reset")
    await probe.raw(b'{"request_id":"1","work_id":"sys","action":"ping",}')
    await asyncio.sleep(0.05)
    await probe.raw(b'{"request_id":"2","work_id":"sys","action":"ping"}')  # appended to the bad one
    await asyncio.sleep(0.05)
    assert outcome(await probe.read()) == outcome(await probe.read()) == (-1, "reace reset")
    assert outcome(await probe.call("sys", "ping")) == (0, "")  # it begins with a newline


async def test_what_cannot_be_addressed_gets_the_general_error(probe: Probe) -> None:
    await probe.raw(b'{"request_id":1,"work_id":"sys","action":"ping"}\n')
    reply = await probe.read()
    assert (outcome(reply), reply["request_id"]) == ((-2, "json format error"), "0")


async def test_output_follows_whoever_spoke_last(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    async with Probe(sim.url) as other:
        sim.answer("llm", ["one"], hold=True)
        asked = await probe.infer(work_id, "x")
        assert (await probe.read())["data"]["delta"] == "one"
        await other.call("llm", "taskinfo")  # the unit's name moves nothing
        await other.call(work_id, "taskinfo")  # the task's does
        sim.release("llm")
        frame = await other.read()
        assert (frame["data"]["finish"], frame["request_id"]) == (True, asked)
        await other.infer(work_id, "@echo mine")
        assert "".join((await other.answer())[0]) == "mine"
    assert await probe.quiet()


async def test_a_task_outlives_its_client_and_the_next_one_waits_out_the_linger(sim: Simulator) -> None:
    async with Probe(sim.url) as first:
        work_id = await first.setup(max_token_len=1023)
        sim.answer("llm", ["one"], hold=True)
        await first.infer(work_id, "x")
        await first.read()
    await sim.until("disconnect")
    sim.release("llm")
    await sim.until("finish")
    async with Probe(sim.url) as second:
        started = time.monotonic()
        assert (await second.call(work_id, "taskinfo"))["data"]["enoutput"] is True
        assert time.monotonic() - started >= FAST.linger_s
        started = time.monotonic()
        await second.infer(work_id, "@echo back")
        assert "".join((await second.answer())[0]) == "back"
        assert time.monotonic() - started < FAST.linger_s


async def test_output_nobody_takes_blocks_until_somebody_claims_the_task() -> None:
    settings = dataclasses.replace(FAST, undelivered_limit=5, output_block_s=30)
    async with Simulator(settings) as sim:
        async with Probe(sim.url) as first:
            work_id = await first.setup(max_token_len=1023)
            sim.answer("llm", ["one"], hold=True)
            await first.infer(work_id, "x")
            await first.read()
            await first.infer(work_id, "@frames=20")
        await sim.until("disconnect")
        sim.release("llm")
        await sim.until("inference", count=2)
        await asyncio.sleep(0.1)
        assert sim.tasks[work_id].running
        async with Probe(sim.url) as second:
            await second.say(work_id, "taskinfo")
            assert (await second.read())["object"] == "llm.taskinfo"
            _, last = await second.answer()
            assert last["data"]["finish"] is True


async def test_an_inference_glued_to_the_setup_reply_may_be_lost() -> None:
    settings = dataclasses.replace(FAST, slow_joiner_ms=100)
    async with Simulator(settings) as sim, Probe(sim.url) as probe:
        work_id = await probe.setup()
        await probe.infer(work_id, "too early")
        assert (await sim.until("lost")).data["reason"] == "slow joiner"
        await asyncio.sleep(0.1)
        await probe.infer(work_id, "@echo now")
        assert "".join((await probe.answer())[0]) == "now"


async def test_memory_is_accounted_for_and_too_big_a_model_fails(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup(model="qwen2.5-1.5B-ax630c")
    assert sim.cmm == {"total": 3145728, "used": 448 + 1782579, "remain": 3145280 - 1782579}
    with pytest.raises(AssertionError) as caught:
        await probe.setup(model="qwen2.5-1.5B-ax630c")
    assert outcome(caught.value.args[0]) == (-5, "Model loading failed.")
    await probe.call(work_id, "exit")
    assert sim.cmm["used"] == 448
    sim.hold_memory(3000000)
    with pytest.raises(AssertionError):
        await probe.setup()
    sim.hold_memory(0)
    sim.lie_about_memory(1000)
    assert (await probe.call("sys", "cmminfo"))["data"]["used"] == 1448
    await probe.setup(model="qwen2.5-HA-0.5B-ctx-ax630c")
    assert sim.cmm["used"] == 1448 + 1840108


async def test_a_killed_unit_stalls_the_gateway_then_is_back_without_tasks(
    sim: Simulator, probe: Probe
) -> None:
    work_id = await probe.setup()
    sim.kill("llm", restart_after=0.5)
    assert sim.cmm["used"] == 448
    started = time.monotonic()
    await probe.say("llm", "taskinfo")
    async with Probe(sim.url) as other:
        await other.call("sys", "ping")  # everybody waits
    assert time.monotonic() - started >= FAST.rpc_stall_s
    await probe.infer(work_id, "x")
    assert await probe.quiet()
    await sim.until("restart", "llm")
    assert (await probe.call("llm", "taskinfo"))["data"] == []
    assert outcome(await probe.call(work_id, "exit")) == (-6, "Unit Does Not Exist")
    await probe.infer(work_id, "x")
    assert await probe.quiet()
    assert await probe.setup() == "llm.1001"


async def test_a_killed_unit_without_its_socket_is_missing_at_once(sim: Simulator, probe: Probe) -> None:
    sim.kill("llm", restart_after=None, socket_left=False)
    assert outcome(await probe.call("llm", "taskinfo")) == (-9, "unit call false")


@pytest.mark.parametrize(
    "data", [b'"work_id":"llm.abc","action":"exit"', b'"work_id":"llm.","action":"pause"']
)
async def test_an_odd_work_id_kills_the_unit(sim: Simulator, probe: Probe, data: bytes) -> None:
    await probe.raw(b'{"request_id":"1",' + data + b"}\n")
    await sim.until("crash", "llm")
    await sim.until("restart", "llm")
    assert (await probe.call("llm", "taskinfo"))["data"] == []


async def test_bad_text_kills_the_unit_with_all_its_tasks(sim: Simulator, probe: Probe) -> None:
    for object_, data in (
        ("llm.utf-8.base64", "QUI"),
        ("llm.utf-8.base64", base64.b64encode(b"odd\\").decode()),
    ):
        sim.mark()
        await probe.say(await probe.setup(), "inference", object_, data)
        await sim.until("crash", "llm")
        assert sim.tasks == {}
        await sim.until("restart", "llm")


async def test_a_frozen_unit_answers_nobody_and_gets_its_inferences_after_the_thaw(
    sim: Simulator, probe: Probe
) -> None:
    work_id = await probe.setup()
    sim.freeze("llm")
    await probe.infer(work_id, "@echo late")
    await probe.say("llm", "taskinfo")
    started = time.monotonic()
    await probe.call("sys", "ping")
    assert time.monotonic() - started >= FAST.rpc_stall_s * 0.9
    sim.thaw("llm")
    assert "".join((await probe.answer())[0]) == "late"
    assert await probe.quiet()  # the taskinfo is lost


async def test_a_frozen_stream_goes_on_after_the_thaw() -> None:
    settings = dataclasses.replace(FAST, time_scale=1, rate=300, ttft_ms=10, load_s=0)
    async with Simulator(settings) as sim, Probe(sim.url) as probe:
        await probe.infer(await probe.setup(max_token_len=1023), "@frames=30")
        await probe.read()
        sim.freeze("llm")
        frames = 1
        while not await probe.quiet(0.1):
            frames += 1
        sim.thaw("llm")
        assert frames + len((await probe.answer())[0]) == 31


async def test_a_restarted_gateway_forgets_and_the_units_remember(sim: Simulator, probe: Probe) -> None:
    await probe.setup()
    await probe.setup()
    await sim.restart_gateway(down_s=0.05)
    with pytest.raises(ConnectionError):
        await probe.read()
    async with Probe(sim.url) as again:
        assert outcome(await again.call("llm.1000", "inference", "llm.utf-8", "x"))[0] == -4
        assert (await again.call("llm", "taskinfo"))["data"] == ["llm.1001", "llm.1000"]
        with pytest.raises(AssertionError):  # the slots are still taken
            await again.setup()
        assert outcome(await again.call("llm.1000", "exit")) == (0, "")
        used = sim.cmm["used"]
        assert await again.setup() == "llm.1001"  # and replaces the orphan of that name
        assert sim.cmm["used"] == used


async def test_connections_are_refused_while_the_gateway_is_down(sim: Simulator) -> None:
    restart = asyncio.create_task(sim.restart_gateway(down_s=0.2))
    await sim.until("gateway_down")
    with pytest.raises(ConnectionRefusedError):
        async with Probe(sim.url):
            pass
    await restart
    async with Probe(sim.url) as probe:
        await probe.call("sys", "ping")


async def test_raw_of_length_zero_takes_the_gateway_down_for_a_moment(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    await probe.raw(b'{"RAW":0,"request_id":"1","work_id":"llm.1000","action":"inference"}\n')
    with pytest.raises(ConnectionError):
        await probe.read()
    await sim.until("gateway_up")
    async with Probe(sim.url) as again:
        assert (await again.call(work_id, "exit"))["error"]["code"] == 0


async def test_two_crashes_at_once_are_one_restart(sim: Simulator, probe: Probe) -> None:
    async with Probe(sim.url) as other:
        for client in (probe, other):
            await client.raw(b'{"RAW":0,"work_id":"x"}\n')
        await sim.until("gateway_up")
        await asyncio.sleep(0.15)
    assert sum(event.kind == "gateway_up" for event in sim.log) == 1


async def test_raw_text_reaches_the_model(probe: Probe) -> None:
    await probe.setup()
    text = b"@echo raw } text"
    header = b'{"RAW":%d,"request_id":"1","work_id":"llm.1000","action":"inference",' % len(text)
    await probe.raw(b"\n" + header + b'"object":"llm.utf-8.base64"}' + text + b"\n")
    assert "".join((await probe.answer())[0]) == "raw } text"


async def test_sys_reset_drops_everything(sim: Simulator, probe: Probe) -> None:
    await probe.setup()
    assert outcome(await probe.call("sys", "reset")) == (0, "llm server restarting ...")
    with pytest.raises(ConnectionError):
        await probe.read()
    await sim.until("gateway_up")
    await sim.until("restart", "llm")
    assert sim.tasks == {}
    async with Probe(sim.url) as again:
        assert await again.setup() == "llm.1000"


async def test_ordered_faults_of_setups(sim: Simulator, probe: Probe) -> None:
    sim.fail_setup("llm", code=-5)
    with pytest.raises(AssertionError):
        await probe.setup()
    sim.hang_setup("llm")
    await probe.say("llm", "setup", "llm.setup", SETUP)
    await sim.until("setup_hangs")
    await probe.say("llm", "taskinfo")
    assert await probe.quiet()
    sim.release("llm")
    assert (await probe.read())["work_id"] == "llm.1001"
    assert (await probe.read())["data"] == ["llm.1001"]


async def test_ordered_faults_of_answers(sim: Simulator, probe: Probe) -> None:
    work_id = await probe.setup()
    sim.mute("llm")
    await probe.infer(work_id, "lost")
    assert await probe.quiet()
    sim.stall_stream("llm", after=2)
    await probe.infer(work_id, "@frames=5")
    assert [(await probe.read())["data"]["index"] for _ in range(2)] == [0, 1]
    assert await probe.quiet()
    assert outcome(await probe.call(work_id, "pause")) == (0, "")
    await probe.infer(work_id, "@echo next")
    assert (await probe.read())["data"]["index"] == 2


@pytest.mark.parametrize("cut", [1, 7, 4096])
async def test_ordered_answers_arrive_whole_however_they_are_cut(
    sim: Simulator, probe: Probe, cut: int
) -> None:
    work_id = await probe.setup()
    sim.answer("llm", ["Hel", "lo {"], cut=cut)
    await probe.infer(work_id, "hi")
    assert (await probe.answer())[0] == ["Hel", "lo {", ""]


async def test_injected_bytes_and_dropped_connections(sim: Simulator, probe: Probe) -> None:
    await probe.call("sys", "ping")
    sim.inject(b'noise {"x":1}')
    with pytest.raises(TimeoutError, match="noise"):
        await probe.read(0.1)
    sim.drop_connections()
    with pytest.raises(ConnectionError):
        await probe.read()
    assert sim.coms == []


class Loop:
    """An in-memory pipe: what is put in `sent` is read by the module."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.got = bytearray()
        self.changed = asyncio.Event()

    async def read(self) -> bytes:
        return await self.sent.get()

    async def write(self, data: bytes) -> None:
        self.got += data
        self.changed.set()

    async def aclose(self) -> None:
        self.changed.set()


async def test_an_in_memory_pipe_is_one_more_com() -> None:
    async with Simulator(dataclasses.replace(FAST, tcp=False)) as sim:
        pipe = Loop()
        com = sim.attach(pipe)
        pipe.sent.put_nowait(b'{"request_id":"1","work_id":"sys","action":"ping"}')
        await pipe.changed.wait()
        assert pipe.got.endswith(b'"request_id":"1","work_id":"sys"}\n')
        assert sim.coms == [com] == [8000]
        pipe.sent.put_nowait(b"")
        await sim.until("disconnect")
        assert sim.coms == []
