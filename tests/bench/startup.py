"""The server alone: memory when idle, and how soon it answers after it was started."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench import processes
from tests.bench.answer import BenchError
from tests.bench.machine import resident_mb
from tests.bench.plan import Plan
from tests.bench.processes import Wanted
from tests.bench.streams import median
from tests.bench.table import table, verdict

MB_WANTED = {"3.13": 55.0}  # VmRSS; 50 on other Pythons
HEALTH_WANTED = 0.7  # seconds
ANY_HEALTH = Wanted("/health", (200, 503))  # it listens before the module's handshake ends
POLL = 0.002  # seconds between two tries to reach /health
REST = 1.0  # seconds from the handshake's end to the look at VmRSS


def measure(plan: Plan, pythons: list[str]) -> None:
    """Measure and print the table."""
    reasons: list[str] = []
    interpreters = {python: _version(python) for python in [sys.executable, *pythons]}
    rows = [
        _row(reasons, f"idle VmRSS after the handshake, Python {version}", partial(_idle, python, version))
        for python, version in interpreters.items()
    ]
    rows += [
        _row(reasons, f"/health after exec, module {module}", partial(_health, module, plan.launches))
        for module in ("tcp", "auto")
    ]
    notes = [
        *reasons,
        f"/health: median (and longest) of {plan.launches} starts to the first 200 or 503, files cached.",
        "auto: with mDNS; nothing is on port 10001, so a simulator is being started at the same time.",
    ]
    table("Start and size", ["", "found", "wanted", ""], rows, notes)


def _row(reasons: list[str], name: str, measured: Callable[[], list[str]]) -> list[str]:
    try:
        return [name, *measured()]
    except BenchError as err:
        reasons.append(f"{name}: {err}")
        return [name, "not measured", "", "MISSED"]


def _version(python: str) -> str:
    """Return ``3.11``, or the path of what does not start."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return python


def _idle(python: str, version: str) -> list[str]:
    with processes.folder() as folder, processes.simulator(folder) as simulator:
        module = f"tcp://127.0.0.1:{simulator.port}"
        try:
            with processes.server(folder, module, python=python) as server:
                time.sleep(REST)
                found = resident_mb(server.pid)
        except OSError as err:
            raise BenchError(f"{python}: {err.strerror}") from err
    wanted = MB_WANTED.get(version, 50.0)
    return [f"{found:.1f} MB", f"<= {wanted:g} MB", verdict(found <= wanted)]


def _health(module: str, launches: int) -> list[str]:
    with processes.folder() as folder, processes.simulator(folder) as simulator:
        url = f"tcp://127.0.0.1:{simulator.port}" if module == "tcp" else module
        times = [_until_health(folder, url) for _ in range(launches + 1)][1:]
    middle, longest = median(times), max(times)
    return [f"{middle:.2f} s ({longest:.2f})", f"<= {HEALTH_WANTED:g} s", verdict(middle <= HEALTH_WANTED)]


def _until_health(folder: Path, module: str) -> float:
    port, log = processes.free_port(), folder / "server.log"
    command = processes.server_command(sys.executable, folder, port, module, mdns=module == "auto")
    began = time.monotonic()
    with processes.process(command, log) as child:
        processes.wait_for_http(child, port, log, ANY_HEALTH, POLL)
        return time.monotonic() - began
