"""mDNS between zeroconf instances on loopback, and on hosts that have no multicast at all."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

import discovery

LOOPBACK = ["127.0.0.1"]
ROOT = Path(discovery.__file__).parent
OPENAI, HTTP = discovery.SERVICE_TYPES


@pytest.fixture
async def lan() -> AsyncIterator[AsyncZeroconf]:
    """Somebody else on the network, which here is loopback."""
    try:
        other = AsyncZeroconf(interfaces=LOOPBACK)
    except OSError as err:
        pytest.skip(f"loopback has no multicast on this machine: {err}")
    yield other
    await other.async_close()


@pytest.fixture
def tag() -> str:
    """A name of this test's own: other test runs on this machine share its loopback."""
    return secrets.token_hex(4)


@pytest.fixture(autouse=True)
async def nothing_is_left_running() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for a name's owner for 0.3 s, not 1.5 s; answers come within 0.12 s."""
    monkeypatch.setattr("zeroconf._core._CHECK_TIME", 100, raising=False)  # milliseconds, as all of these
    monkeypatch.setattr("zeroconf._core._PROBE_RANDOM_DELAY_INTERVAL", (1, 10), raising=False)
    monkeypatch.setattr("zeroconf._core._REGISTER_TIME", 30, raising=False)
    monkeypatch.setattr("zeroconf._core._UNREGISTER_TIME", 30, raising=False)


class Browser:
    """The names with `tag` in them that a person sees who browses for a service type."""

    def __init__(self, tag: str) -> None:
        self.names: set[str] = set()
        self._tag = tag
        self._changed = asyncio.Event()

    def on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if self._tag not in name:
            return
        if state_change is ServiceStateChange.Removed:
            self.names.discard(name)
        else:
            self.names.add(name)
        self._changed.set()

    async def until(self, expected: Callable[[set[str]], bool]) -> set[str]:
        while not expected(self.names):
            self._changed.clear()
            await self._changed.wait()
        return set(self.names)


@asynccontextmanager
async def browse(lan: AsyncZeroconf, tag: str, *service_types: str) -> AsyncIterator[Browser]:
    browser = Browser(tag)
    browsing = AsyncServiceBrowser(lan.zeroconf, list(service_types), handlers=[browser.on_change])
    yield browser
    await browsing.async_cancel()


def announcing(host: str) -> AsyncServiceInfo:
    """A service whose announcement carries the address record of `host`."""
    return AsyncServiceInfo(
        "_ssh._tcp.local.", f"{host}_ssh._tcp.local.", port=22, server=host, parsed_addresses=LOOPBACK
    )


async def test_the_server_is_announced_under_both_types_and_taken_back(lan: AsyncZeroconf, tag: str) -> None:
    async with browse(lan, tag, OPENAI, HTTP) as browser:
        async with discovery.advertise(8000, "1.2.3", name=f"bridge {tag}", interfaces=LOOPBACK):
            names = await browser.until(lambda names: len(names) == 2)
            assert names == {f"bridge {tag}.{OPENAI}", f"bridge {tag}.{HTTP}"}
            for service_type in (OPENAI, HTTP):
                info = AsyncServiceInfo(service_type, f"bridge {tag}.{service_type}")
                assert await info.async_request(lan.zeroconf, 5000)
                assert info.port == 8000
                assert info.decoded_properties == {"path": "/v1", "version": "1.2.3"}
                assert info.parsed_addresses(IPVersion.V4Only) == LOOPBACK
        await browser.until(lambda names: not names)


async def test_two_bridges_on_one_host_have_two_names(lan: AsyncZeroconf, tag: str) -> None:
    async with (
        browse(lan, tag, OPENAI) as browser,
        discovery.advertise(8000, "1", name=tag, interfaces=LOOPBACK),
    ):
        await browser.until(lambda names: len(names) == 1)
        async with discovery.advertise(8001, "1", name=tag, interfaces=LOOPBACK):
            names = await browser.until(lambda names: len(names) == 2)
    assert names == {f"{tag}.{OPENAI}", f"{tag}-2.{OPENAI}"}


async def test_a_block_left_at_once_announces_nothing() -> None:
    async with discovery.advertise(8000, "1", interfaces=LOOPBACK):
        pass


async def test_a_cancelled_server_takes_its_announcement_back(lan: AsyncZeroconf, tag: str) -> None:
    async def serve() -> None:
        async with discovery.advertise(8000, "1", name=tag, interfaces=LOOPBACK):
            await asyncio.Event().wait()

    async with browse(lan, tag, OPENAI) as browser:
        serving = asyncio.create_task(serve())
        await browser.until(lambda names: len(names) == 1)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await browser.until(lambda names: not names)


@pytest.mark.parametrize("name", ["x" * 200, "ä" * 60, "m5.stack", "日本語の橋"])
async def test_any_name_can_be_announced(lan: AsyncZeroconf, tag: str, name: str) -> None:
    name = tag + name
    async with (
        browse(lan, tag, OPENAI) as browser,
        discovery.advertise(8000, "1", name=name, interfaces=LOOPBACK),
    ):
        (seen,) = await browser.until(lambda names: len(names) == 1)
    label = seen.removesuffix(f".{OPENAI}")
    assert name.replace(".", " ").startswith(label)
    assert len(label.encode()) <= discovery.LABEL_BYTES


async def test_without_a_network_the_block_runs_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "INTERFACES_EVERY", 0.0)
    tried = asyncio.Event()
    attempts: list[None] = []

    def no_addresses(_interfaces: object) -> list[str]:
        attempts.append(None)
        if len(attempts) == 3:
            tried.set()
        return []

    monkeypatch.setattr(discovery, "_addresses", no_addresses)
    with caplog.at_level(logging.INFO, discovery.__name__):
        async with discovery.advertise(8000, "1"):
            await tried.wait()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "no network interface" in caplog.text


async def test_a_host_that_refuses_multicast_is_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()

    def refuse(**_: object) -> None:
        refused.set()
        raise OSError(19, "No such device")

    monkeypatch.setattr("zeroconf.asyncio.AsyncZeroconf", refuse)
    seen = asyncio.Event()
    with caplog.at_level(logging.INFO, discovery.__name__):
        async with (
            discovery.advertise(8000, "1", interfaces=LOOPBACK),
            discovery.watch("m5stack-LLM.local", seen, interfaces=LOOPBACK),
        ):
            await refused.wait()
            assert await discovery.find_host("m5stack-LLM.local", interfaces=LOOPBACK) is None
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert not seen.is_set()


async def test_what_breaks_is_tried_again(
    lan: AsyncZeroconf, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "INTERFACES_EVERY", 0.01)
    answers: Iterator[list[str]] = iter([[], []])
    monkeypatch.setattr(discovery, "_addresses", lambda _interfaces: next(answers, LOOPBACK))
    async with browse(lan, tag, OPENAI) as browser, discovery.advertise(8000, "1", name=tag):
        await browser.until(lambda names: len(names) == 1)


async def test_the_module_is_found_by_its_name(lan: AsyncZeroconf, tag: str) -> None:
    await (await lan.async_register_service(announcing(f"m5stack-llm-{tag}.local.")))
    assert await discovery.find_host(f"m5stack-LLM-{tag}.local", 5.0, interfaces=LOOPBACK) == "127.0.0.1"


async def test_no_module_is_none(tag: str) -> None:
    assert await discovery.find_host(f"m5stack-LLM-{tag}.local", 0.1, interfaces=LOOPBACK) is None


async def test_without_a_network_there_is_no_module_and_no_wait() -> None:
    assert await discovery.find_host("m5stack-LLM.local", 1e6, interfaces=[]) is None


async def test_a_host_that_comes_back_is_seen(lan: AsyncZeroconf, tag: str) -> None:
    seen = asyncio.Event()
    service = announcing(f"{tag}-LLM.local.")
    async with discovery.watch(f"{tag}-llm.local", seen, interfaces=LOOPBACK):
        while not seen.is_set():  # until the watch has opened its sockets
            await (await lan.async_register_service(service))
            await (await lan.async_unregister_service(service))
    assert seen.is_set()


async def test_another_host_or_a_goodbye_is_not_seen(
    lan: AsyncZeroconf, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = asyncio.Event()
    listen = discovery._listen

    def listen_and_tell(mdns: Zeroconf, host: str, seen: asyncio.Event) -> None:
        listen(mdns, host, seen)
        listening.set()

    monkeypatch.setattr(discovery, "_listen", listen_and_tell)
    seen = asyncio.Event()
    service = announcing(f"{tag}.local.")
    await (await lan.async_register_service(service))
    async with discovery.watch(f"{tag}.local", seen, interfaces=LOOPBACK):
        await listening.wait()
        await (await lan.async_unregister_service(service))
        await (await lan.async_register_service(announcing(f"printer-{tag}.local.")))
    assert not seen.is_set()


async def test_a_host_outside_local_is_not_watched() -> None:
    before = asyncio.all_tasks()
    async with discovery.watch("192.168.1.20", asyncio.Event()):
        assert asyncio.all_tasks() == before


def test_zeroconf_is_not_loaded_before_it_is_used() -> None:
    code = "import discovery, sys; sys.exit('zeroconf' in sys.modules or 'ifaddr' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


NO_NETWORK = """
import asyncio, logging, time, discovery

async def main():
    start = time.monotonic()
    async with discovery.advertise(8000, "1"), discovery.watch("m5stack-LLM.local", asyncio.Event()):
        assert await discovery.find_host("m5stack-LLM.local", 20) is None
        await asyncio.sleep(0.1)
    assert time.monotonic() - start < 10, "waited for a network"

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
asyncio.run(main())
"""


@pytest.mark.parametrize("loopback", ["down", "up"])
def test_a_host_with_no_network_at_all_starts_and_stops(loopback: str) -> None:
    unshare = shutil.which("unshare")
    namespace = [unshare or "", "--user", "--map-root-user", "--net"]
    if not unshare or subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    prepare = 'ip link set lo up && exec "$@"' if loopback == "up" else 'exec "$@"'
    if loopback == "up" and not shutil.which("ip"):
        pytest.skip("no ip command (iproute2) to bring loopback up")
    result = subprocess.run(
        [*namespace, "sh", "-c", prepare, "sh", sys.executable, "-W", "error", "-c", NO_NETWORK],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 2, result.stderr
    assert all(line.startswith("INFO discovery cannot ") for line in lines)
