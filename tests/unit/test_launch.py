"""Which module `auto` stands for, and how a name on the LAN becomes an address."""

from __future__ import annotations

import asyncio

import pytest

import discovery
import launch
from config import Config, MdnsConfig, ModuleConfig
from errors import ConnectFailed
from simulator import Settings, Simulator

QUIET = Config(mdns=MdnsConfig(advertise=False, find=False))
SCRIPT = Settings(engine="script", time_scale=0.01)


def answered(monkeypatch: pytest.MonkeyPatch, address: str | None) -> list[str]:
    """Let mDNS know every name under `address`; return what it is asked."""
    asked: list[str] = []

    async def find_host(host: str, _timeout: float) -> str | None:
        asked.append(host)
        return address

    monkeypatch.setattr(discovery, "find_host", find_host)
    return asked


async def test_auto_takes_the_module_on_this_machine_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answered(monkeypatch, "192.0.2.1")
    async with Simulator(SCRIPT) as sim:
        monkeypatch.setattr(launch, "LOCAL", sim.url)
        assert await launch.resolve("auto", Config()) == sim.url
    assert asked == []


async def test_another_program_on_that_port_is_not_taken_for_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "PROBE", 0.1)

    left = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-somebody else\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setattr(launch, "LOCAL", f"tcp://127.0.0.1:{port}")
        assert await launch.resolve("auto", QUIET) == "simulator"
        await left.wait()


async def test_auto_then_asks_the_lan_and_last_starts_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LOCAL", "tcp://127.0.0.1:9")
    answered(monkeypatch, "192.0.2.1")
    assert await launch.resolve("auto", Config()) == "tcp://m5stack-LLM.local:10001"
    asked = answered(monkeypatch, None)
    assert await launch.resolve("auto", Config()) == "simulator"
    assert asked == ["m5stack-llm.local"]
    assert await launch.resolve("auto", QUIET) == "simulator"


async def test_a_local_name_is_looked_up_once_and_again_when_it_no_longer_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = answered(monkeypatch, "127.0.0.1")
    async with Simulator(SCRIPT) as sim:
        port = sim.url.rpartition(":")[2]
        module = ModuleConfig("kitchen", f"tcp://kitchen.local:{port}")
        async with launch.open_source(module, Config()) as source:
            for _ in range(2):
                channel = await source.link.channel()
                await channel.aclose()
            assert asked == ["kitchen.local"]
            monkeypatch.setattr(source, "_url", "tcp://kitchen.local:9")
            for _ in range(2):
                with pytest.raises(ConnectFailed):
                    await source.link.channel()
    assert asked == ["kitchen.local", "kitchen.local"]


async def test_a_simulator_that_does_not_start_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectFailed, match="python -m simulator"):
        await launch.Simulator.start(("--no-such-argument",))
