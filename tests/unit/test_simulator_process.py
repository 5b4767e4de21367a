"""`python -m simulator` as users and benches start it, and its control channel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from simulator.probe import Probe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ("--engine", "script", "--time-scale", "0.001", "--slow-joiner-ms", "0")


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """Start the simulator; give the process and its ready line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "simulator", *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        yield process, json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


class Orders:
    """A caller of the control channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def __call__(self, method: str, **params: Any) -> Any:
        line = json.dumps({"id": 7, "method": method, "params": params}).encode() + b"\n"
        self.writer.write(line)
        answer = json.loads(await asyncio.wait_for(self._reader.readline(), 5))
        assert answer.pop("id") == 7
        return answer


async def test_the_ready_line_tells_where_everything_is(tmp_path: Path) -> None:
    link = str(tmp_path / "tty")
    async with started(*SCRIPT, "--serial", link, "--control", "0") as (_, ready):
        assert ready["tcp"].startswith("tcp://127.0.0.1:")
        assert ready["serial"] == link
        assert ready["control"] > 0
        assert (ready["engine"], len(ready["models"]), ready["disabled"]) == ("script", 14, {})
        async with Probe(ready["tcp"]) as probe:
            await probe.infer(await probe.setup(), "@echo hello")
            assert "".join((await probe.answer())[0]) == "hello"


async def test_it_dies_with_its_parent_and_on_signals() -> None:
    async with started(*SCRIPT, "--lifeline") as (process, ready):
        assert (ready["serial"], ready["control"]) == (None, None)
        assert process.stdin
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 2) == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        async with started(*SCRIPT) as (process, _):
            process.send_signal(number)
            assert await asyncio.wait_for(process.wait(), 2) == 0


async def test_limits_speed_and_memory_come_from_the_command_line() -> None:
    arguments = ("--limits", "llm=3,vlm=1", "--cmm-kib", "9000000", "--rate", "1000", "--ttft-ms", "1")
    more = ("--load-s", "0", "--no-kv-limit")
    async with started(*SCRIPT, *arguments, *more) as (_, ready), Probe(ready["tcp"]) as probe:
        works = [await probe.setup() for _ in range(3)]
        assert (await probe.call("llm", "setup", "x", {"model": 1}))["error"]["code"] == -21
        assert (await probe.call("sys", "cmminfo"))["data"]["total"] == 9000000
        await probe.infer(works[0], "@tokens=2000")
        assert len("".join((await probe.answer())[0]).split()) == 2000


async def test_a_missing_engine_disables_its_model_and_nothing_else(tmp_path: Path) -> None:
    bare = (
        "import sys; sys.modules['xllamacpp'] = None\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'xllamacpp' else real(name, *a)\n"
        "from simulator.__main__ import main; sys.argv[1:] = ['--lifeline']; main()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", bare),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(b""), 10)
    ready = json.loads(out)
    assert ready["disabled"] == {"smollm2-135m-cpu": "the Python package xllamacpp is not installed"}
    assert len(ready["models"]) == 14
    assert b"smollm2-135m-cpu is not offered" in err


async def test_every_fault_can_be_ordered_from_another_process() -> None:
    async with started(*SCRIPT, "--control", "0") as (_, ready):
        reader, writer = await asyncio.open_connection("127.0.0.1", ready["control"])
        order = Orders(reader, writer)
        async with Probe(ready["tcp"]) as probe:
            work_id = await probe.setup()
            assert await order("answer", unit="llm", deltas=["Hel", "lo"], cut=1, hold=True) == {
                "result": None
            }
            await probe.infer(work_id, "hi")
            assert [(await probe.read())["data"]["delta"] for _ in range(2)] == ["Hel", "lo"]
            state = (await order("state"))["result"]
            assert state["tasks"][work_id]["running"] is True
            assert state["coms"] == [8000]
            await order("release", unit="llm")
            await probe.answer()
            seen = (await order("until", kind="inference"))["result"]
            assert (seen["work_id"], seen["data"]["text"]) == (work_id, "hi")
            assert [event["kind"] for event in (await order("log", last=2))["result"]] == [
                "inference",
                "finish",
            ]
            await order("kill", unit="llm", restart_after=0.01)
            assert (await order("until", kind="restart"))["result"]["unit"] == "llm"
            await order("inject", data="noise")
            assert "ValueError: no unit 'tts'" in (await order("kill", unit="tts"))["error"]
            assert "no method 'aclose'" in (await order("aclose"))["error"]
            await order("restart_gateway", down_s=0.01)
        writer.close()
