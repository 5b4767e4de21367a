"""Bridges, single clients and simulated modules for the stories here, and what must be gone after each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backends.base import ChatEvent, ChatRequest, Message, TextDelta
from bridge import Bridge, open_bridge
from config import Config, Deadlines, ModuleConfig, QueueConfig
from errors import BridgeError
from simulator import Settings, Simulator, answer_to
from stackflow.client import Client
from stackflow.encoding import Value
from stackflow.link import Link
from stackflow.transports.base import Transport
from stackflow.transports.memory import memory_pipe
from stackflow.transports.serial import open_serial
from stackflow.transports.tcp import connect_tcp
from state import State, open_state

MODEL = "qwen2.5-0.5B-p256-ax630c"
OTHER = "qwen2.5-0.5B-Int4-ax630c"
CTX = "qwen2.5-HA-0.5B-ctx-ax630c"
SETUP: dict[str, Value] = {
    "model": MODEL,
    "response_format": "llm.utf-8.stream",
    "input": "llm.utf-8",
    "enoutput": True,
    "max_token_len": 1023,
    "prompt": "You are a helpful assistant.",
}
FAST = Deadlines(
    connect=1.0,
    sys=0.8,
    setup=0.8,
    task=0.3,
    first_frame=0.4,
    between_frames=0.3,
    pause=0.4,
    exit=0.6,
    probe_first=0.05,
    probe_longest=0.1,
    backoff_first=0.02,
    backoff_longest=0.1,
)
UART = 5556  # the id of a module's serial com, always open
STALL = 0.1  # seconds a dead unit holds the simulated gateway; 4 on a module
GRACE = 1.0  # seconds for tasks and sockets to go once all is closed
SOON = 4.0  # seconds in which any trouble that was cured is forgotten


class Notes:
    """A Watcher that writes down what a client reports."""

    def __init__(self) -> None:
        self.ups: list[str] = []
        self.downs: list[BridgeError | None] = []
        self.silent: list[str] = []
        self.back: list[frozenset[str]] = []
        self._changed = asyncio.Event()

    def module_up(self, client: Client) -> None:
        self.ups.append(client.name)
        self._changed.set()

    def module_down(self, client: Client) -> None:
        self.downs.append(client.down_because)
        self._changed.set()

    def unit_silent(self, client: Client, unit: str) -> None:
        self.silent.append(unit)
        self._changed.set()

    def unit_back(self, client: Client, unit: str, alive: frozenset[str]) -> None:
        self.back.append(alive)
        self._changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until the notes say so."""

        async def wait() -> None:
            while not true():
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(wait(), SOON)


class House:
    """Everything one test opens. Its end closes bridges first, then looks at what they left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.strangers: set[str] = set()  # work_ids that are not ours to end
        self.sims: list[Simulator] = []
        self._modules = AsyncExitStack()
        self._bridges = AsyncExitStack()

    async def module(self, **settings: Any) -> Simulator:
        """Switch on one more module."""
        fast = {
            "engine": "script",
            "time_scale": 0.002,
            "rpc_stall_s": STALL,
            "restart_s": 0.1,
            "linger_s": 0.02,
        }
        sim = await self._modules.enter_async_context(Simulator(Settings(**{**fast, **settings})))
        self.sims.append(sim)
        return sim

    async def first_module(self) -> Simulator:
        """Return the module that fixtures share, with a TCP port and a UART."""
        return self.sims[0] if self.sims else await self.module(serial=True)

    async def bridge(
        self, *sims: Simulator, deadlines: Deadlines = FAST, state: str = "", **config: Any
    ) -> Bridge:
        """Open a bridge to `sims`, without doors, and wait until it has tried to connect to each."""
        bridge = await self._bridges.enter_async_context(
            self.opened(*sims, deadlines=deadlines, state=state, **config)
        )
        await bridge.catalog.settled()
        return bridge

    @asynccontextmanager
    async def opened(
        self, *sims: Simulator, deadlines: Deadlines = FAST, state: str = "", **config: Any
    ) -> AsyncIterator[Bridge]:
        """The same as a block of its own."""
        config.setdefault("queue", QueueConfig(wait=5.0))
        config.setdefault("modules", tuple(ModuleConfig(f"m{n}", sim.url) for n, sim in enumerate(sims)))
        folder = str(self.folder / state) if state else str(self.folder / "state")
        async with open_bridge(Config(state_dir=folder, deadlines=deadlines, **config)) as bridge:
            yield bridge

    async def client(self, link: Link, watcher: Notes | None = None, deadlines: Deadlines = FAST) -> Client:
        """Connect one client, without a pool."""
        state = await self.state()
        client = Client("module", link, state, deadlines)
        await self._bridges.enter_async_context(client.run(watcher or Notes()))
        await asyncio.wait_for(client.first_try.wait(), SOON + deadlines.sys)
        return client

    async def state(self, folder: str = "state") -> State:
        """Open the store that bridges of this house use."""
        return await self._bridges.enter_async_context(open_state(self.folder / folder))

    async def close_bridges(self) -> None:
        """End all bridges and clients; modules stay on."""
        await self._bridges.aclose()

    async def aclose(self) -> None:
        """End everything, and be sure that bridges end their tasks."""
        await self._bridges.aclose()
        left = {work_id for sim in self.sims for work_id in sim.tasks} - self.strangers
        await settled(
            lambda: all(set(sim.coms) <= {UART} for sim in self.sims)
        )  # nobody is connected any more
        bugs = [event for sim in self.sims for event in sim.log if event.kind == "bug"]
        await self._modules.aclose()
        assert left == set(), "tasks were left on the module"
        assert bugs == []


def link_to(sim: Simulator, wire: str) -> Link:
    """Return a link to `sim` over ``memory``, ``tcp`` or ``serial``."""

    async def memory() -> Transport:
        near, far = memory_pipe()
        sim.attach(far)
        return near

    async def serial() -> Transport:
        return await open_serial(sim.serial_path or "", 115_200, FAST.connect)

    if wire == "serial":
        return Link(serial, lambda: "serial", baud=115_200)
    if wire == "memory":
        return Link(memory, lambda: "memory")
    return tcp_link(sim.url)


def tcp_link(url: str) -> Link:
    """Return a link to tcp://host:port."""
    where = urlsplit(url)

    async def tcp() -> Transport:
        return await connect_tcp(where.hostname or "", where.port or 10001, FAST.connect)

    return Link(tcp, lambda: url)


def request(text: str, model: str = MODEL, **fields: Any) -> ChatRequest:
    """Return a chat request of one user message."""
    return ChatRequest(model, (Message("user", text),), **fields)


async def ask(bridge: Bridge, text: str = "@echo well", model: str = MODEL, **fields: Any) -> str:
    """Return the answer to one message. Raises BridgeError."""
    return await said(bridge, request(text, model, **fields))


async def said(bridge: Bridge, chat: ChatRequest) -> str:
    """Return the answer to `chat`. Raises BridgeError."""
    async with bridge.catalog.chat(chat.model).complete(chat) as events:
        return "".join([event.text async for event in events if isinstance(event, TextDelta)])


@asynccontextmanager
async def answering(
    bridge: Bridge, sim: Simulator, text: str = "hi", model: str = MODEL, deltas: int = 2
) -> AsyncIterator[AsyncIterator[ChatEvent]]:
    """Be in the middle of an answer: two deltas came, the module holds the rest back."""
    sim.answer("llm", ["one ", "two "], hold=True)
    async with bridge.catalog.chat(model).complete(request(text, model)) as events:
        seen = 0
        while seen < deltas:
            seen += isinstance(await anext(events), TextDelta)
        yield events


async def eventually(answer: Callable[[], Awaitable[str]]) -> str:
    """Ask until there is an answer, as a user would; any failure has to be a BridgeError."""
    ends = time.monotonic() + SOON
    while True:
        try:
            return await answer()
        except BridgeError:
            if time.monotonic() > ends:
                raise
        await asyncio.sleep(0.02)


async def settled(true: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    ends = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < ends, "it never came to that"
        await asyncio.sleep(0.005)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.2f} s"


def scripted(text: str) -> str:
    """Return what the script engine answers to `text`."""
    return "".join(answer_to(text))


def count(sim: Simulator, kind: str) -> int:
    """Return how often something happened on the module."""
    return sum(event.kind == kind for event in sim.log)


def sockets() -> list[str]:
    """Return the open sockets and terminals of this process."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            name = str(fd.readlink())
        except OSError:
            continue
        if name.startswith(("socket:", "/dev/pt")):
            found.append(name)
    return sorted(found)
