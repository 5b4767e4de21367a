"""The module dies and comes back on the same port: how soon the next chat works."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack

from tests.bench import processes
from tests.bench.answer import BenchError
from tests.bench.paths import sessions_held, warm
from tests.bench.plan import Plan
from tests.bench.processes import SESSIONS
from tests.bench.sse_client import OverHttp, open_http
from tests.bench.streams import median
from tests.bench.table import table, verdict

OUTAGE = 1.0  # seconds between the end of one simulator and the start of the next
PATIENCE = 60.0  # seconds
AGAIN = 0.02  # seconds between two tries


async def measure(plan: Plan) -> None:
    """Kill and restart the simulator a few times and print the table."""
    times, held = await _outages(plan.reconnects)
    found = f"{median(times):.2f} s ({max(times):.2f})"
    rows = [
        ["from the module's return to the next answer", found, "-", ""],
        ["sessions held again afterwards", str(held), str(SESSIONS), verdict(held == SESSIONS)],
    ]
    notes = [
        f"Median (and longest) of {plan.reconnects} outages by SIGKILL, of {OUTAGE:g} s and its start,",
        f"with {SESSIONS} sessions open. The answer itself takes 0.04 s.",
    ]
    table("Reconnecting", ["", "found", "wanted", ""], rows, notes)


async def _outages(count: int) -> tuple[list[float], int]:
    """Return the seconds each return took, and how many sessions were held again at the end."""
    times = []
    with ExitStack() as stack:
        folder, port = stack.enter_context(processes.folder()), processes.free_port()
        simulator = stack.enter_context(processes.simulator(folder, port))
        server = stack.enter_context(processes.server(folder, f"tcp://127.0.0.1:{port}"))
        for _ in range(count):
            async with open_http(server.port, SESSIONS) as path:
                await warm(path, server.port)
                os.kill(simulator.pid, signal.SIGKILL)
                await asyncio.sleep(OUTAGE)
                simulator = stack.enter_context(processes.simulator(folder, port))
                times.append(await _until_chat(path))
        async with open_http(server.port, SESSIONS) as path:
            await warm(path, server.port)
            return times, sessions_held(server.port)


async def _until_chat(path: OverHttp) -> float:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        try:
            await path.ask(0, 1)
            return time.monotonic() - began
        except BenchError:
            await asyncio.sleep(AGAIN)
    raise BenchError(f"no chat worked within {PATIENCE:g} s after the module came back")
