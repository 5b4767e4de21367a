"""The three ways to the module that are compared, each with a simulator of its own, all warm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as Folder

from tests.bench import processes
from tests.bench.answer import BenchError, Path
from tests.bench.direct import open_direct
from tests.bench.machine import Meter
from tests.bench.processes import SESSIONS, Running
from tests.bench.sse_client import open_http

WARM_FRAMES = 100  # of each warming answer: so long that all of them overlap
WARM_TRIES = 5


@dataclass(frozen=True, slots=True)
class Lane:
    """One way, with the processes on it. `server` is None where there is none."""

    path: Path
    simulator: Running
    server: Running | None = None

    def meter(self) -> Meter:
        """Return a meter of this lane's processes."""
        return Meter(self.server.pid if self.server is not None else None, self.simulator.pid)


@asynccontextmanager
async def direct_lane(folder: Folder) -> AsyncIterator[Lane]:
    """(a): the load client speaks to the simulator itself."""
    with processes.simulator(folder) as simulator:
        async with open_direct(simulator.port, SESSIONS) as path:
            yield Lane(path, simulator)


@asynccontextmanager
async def relay_lane(folder: Folder) -> AsyncIterator[Lane]:
    """(b): through relay.py."""
    with processes.simulator(folder) as simulator, processes.relay(folder, simulator.port) as relay:
        async with open_http(relay.port, SESSIONS) as path:
            yield Lane(path, simulator, relay)


@asynccontextmanager
async def bridge_lane(folder: Folder, wrapper: tuple[str, ...] = ()) -> AsyncIterator[Lane]:
    """(c): through api_server.py. `wrapper` goes before it on the command line."""
    with processes.simulator(folder) as simulator:
        module = f"tcp://127.0.0.1:{simulator.port}"
        with processes.server(folder, module, wrapper=wrapper) as server:
            async with open_http(server.port, SESSIONS) as path:
                await warm(path, server.port)
                yield Lane(path, simulator, server)


async def warm(path: Path, port: int) -> None:
    """Ask until the server holds a session for every slot."""
    await path.ask(0, 1)  # from here on it knows how long loading takes
    held = 0
    for _ in range(WARM_TRIES):
        await asyncio.gather(*(path.ask(slot, WARM_FRAMES) for slot in range(SESSIONS)))
        held = sessions_held(port)
        if held == SESSIONS:
            return
    raise BenchError(f"the server holds {held} sessions instead of {SESSIONS}")


def sessions_held(port: int) -> int:
    """Return how many sessions the server says it has."""
    status, body = processes.http_get(port, "/v1/system/status")
    if status != 200:
        return 0
    return sum(len(engine["sessions"]) for engine in json.loads(body)["engines"].values())


@asynccontextmanager
async def all_lanes() -> AsyncIterator[dict[str, Lane]]:
    """Provide all three, by letter."""
    async with AsyncExitStack() as stack:
        lanes = {}
        for letter, lane in (("a", direct_lane), ("b", relay_lane), ("c", bridge_lane)):
            folder = stack.enter_context(processes.folder())
            lanes[letter] = await stack.enter_async_context(lane(folder))
        yield lanes
