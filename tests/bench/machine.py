"""The machine and its processes as /proc shows them: what they are, what they used."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from typing_extensions import Self

PACKAGES = ("aiohttp", "msgspec")


def description() -> list[str]:
    """Return what the figures depend on, a line each."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return [
        f"machine   {cpu_model()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"software  Python {platform.python_version()}, {packages}",
        f"load      {load} (1, 5, 15 minutes, before the start)",
    ]


def cpu_model() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "model", "hardware") and not value.strip().isdigit():
            return value.strip()
    return platform.machine()


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of all threads of a process.

    /proc/PID/stat counts the same in ticks of 10 ms; the scheduler's own sum is in nanoseconds.
    """
    threads = Path(f"/proc/{pid}/task")
    try:
        return (
            sum(int((t / "schedstat").read_text(encoding="ascii").split()[0]) for t in threads.iterdir())
            / 1e9
        )
    except (OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return VmRSS in MB (1 MB = 1024 kB)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def busy_seconds() -> float:
    """Return the seconds all cores together have spent on anything."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds over a measurement. `others` is what the rest of the machine took, in cores."""

    server: float
    simulator: float
    client: float
    others: float


class Meter:
    """Reads the processes' clocks when the block begins and ends; `spent` afterwards."""

    def __init__(self, server: int | None, simulator: int) -> None:
        self._pids = (server, simulator)
        self.spent = Spent(0.0, 0.0, 0.0, 0.0)

    def _read(self) -> tuple[float, float, float, float, float]:
        server, simulator = (cpu_seconds(pid) if pid is not None else 0.0 for pid in self._pids)
        return server, simulator, time.process_time(), busy_seconds(), time.monotonic()

    def __enter__(self) -> Self:
        self._began = self._read()
        return self

    def __exit__(self, *_exc: object) -> None:
        server, simulator, client, busy, wall = (
            b - a for a, b in zip(self._began, self._read(), strict=True)
        )
        others = max(busy - server - simulator - client, 0.0) / wall
        self.spent = Spent(server, simulator, client, others)
