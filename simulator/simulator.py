"""The simulated module as tests and benches hold it: what is in it, and every fault on command."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from .faults import Answer
from .journal import Event
from .llm import LlmTask
from .module import Module
from .process import NEVER
from .serialport import COM_ID
from .unit import Unit


@dataclasses.dataclass(frozen=True)
class TaskView:
    """What a test may want to know of a task."""

    model: str
    unit: str
    running: bool
    queued: int
    last_prompt: str
    com: int
    request_id: str
    response_format: str


class Simulator(Module):
    """A running module. Use it as `async with Simulator(settings) as sim`."""

    async def __aenter__(self) -> Simulator:  # noqa: PYI034 - Self needs 3.11
        await self.start()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()

    # -- where it is and what is in it

    @property
    def url(self) -> str:
        """tcp://host:port of the module."""
        if not self._tcp:
            raise RuntimeError("this module has no TCP")
        return f"tcp://{self._tcp.host}:{self._tcp.port}"

    @property
    def serial_path(self) -> str | None:
        """The path a client opens as its serial port."""
        return self._serial.path if self._serial else None

    @property
    def tasks(self) -> dict[str, TaskView]:
        """All tasks by work_id."""
        return {
            task.work_id: TaskView(
                model=task.setup.model,
                unit=unit.name,
                running=task.running,
                queued=len(task.waiting),
                last_prompt=task.last_prompt,
                com=task.outlet.com_id,
                request_id=task.request_id,
                response_format=task.setup.response_format,
            )
            for unit in self._units.values()
            for task in unit.tasks.values()
            if isinstance(task, LlmTask)
        }

    @property
    def coms(self) -> list[int]:
        """The ids of the open coms."""
        return sorted(self.world.coms)

    @property
    def cmm(self) -> dict[str, int]:
        """What cmminfo tells: total, used, remain, in KiB."""
        return self.world.memory.info()

    @property
    def models(self) -> list[str]:
        """The modes that lsmode lists."""
        return list(self.world.models)

    @property
    def log(self) -> list[Event]:
        """Everything noted so far."""
        return self.world.journal.events

    def mark(self) -> None:
        """Let `until` forget what happened so far."""
        self.world.journal.mark()

    async def until(
        self,
        kind: str,
        unit: str | None = None,
        work_id: str | None = None,
        count: int = 1,
        timeout: float = 5,
    ) -> Event:
        """Return the `count`th such event since the mark; wait for it. Raises TimeoutError."""
        return await self.world.journal.until(kind, unit, work_id, count, timeout)

    def state(self) -> dict[str, Any]:
        """Return all of the above as JSON."""
        return {
            "tasks": {work_id: dataclasses.asdict(view) for work_id, view in self.tasks.items()},
            "coms": self.coms,
            "cmm": self.cmm,
            "counters": dict(self.world.journal.counters),
            "models": self.models,
        }

    # -- answers

    def answer(self, unit: str, deltas: Sequence[str], cut: int = 0, hold: bool = False) -> None:
        """Let the unit's next inference say exactly `deltas`, a frame each, then the final frame.

        `cut` sends everything on that connection in writes of so many bytes from then on. `hold`
        stays before the final frame until `release`, `pause` or `exit`.
        """
        self._unit(unit).faults.answers.append(Answer(tuple(deltas), cut, hold))

    def release(self, unit: str) -> None:
        """Let go a held answer or a hanging setup."""
        self._unit(unit).faults.release()

    def mute(self, unit: str, n: int = 1) -> None:
        """Lose the next `n` inferences without a trace, as the slow joiner does."""
        self._unit(unit).faults.mute += n

    def stall_stream(self, unit: str, after: int = 0) -> None:
        """Let the next answer end without a finish after so many frames; the task is then idle."""
        self._unit(unit).faults.stall_after = after

    # -- faults of units

    def freeze(self, unit: str) -> None:
        """Stop the unit's process where it stands."""
        self._unit(unit).freeze()

    def thaw(self, unit: str) -> None:
        """Let a frozen unit run on."""
        self._unit(unit).thaw()

    def kill(self, unit: str, restart_after: float | None = 1.0, socket_left: bool = True) -> None:
        """Kill the unit's process; it is back, empty, after `restart_after` seconds (None: never)."""
        after = NEVER if restart_after is None else restart_after
        self._unit(unit).crash("killed", after, socket_left)

    def fail_setup(self, unit: str, code: int = -5, n: int = 1) -> None:
        """Let the next `n` setups fail with `code`."""
        self._unit(unit).faults.failures.extend([code] * n)

    def hang_setup(self, unit: str, n: int = 1) -> None:
        """Let the next `n` setups never come back, and the unit's RPCs wait behind them."""
        self._unit(unit).faults.hangs += n

    def late_setup(self, unit: str, seconds: float) -> None:
        """Let the next setup take so much longer (not scaled)."""
        self._unit(unit).faults.late.append(seconds)

    def _unit(self, name: str) -> Unit:
        if name not in self._units:
            raise ValueError(f"no unit {name!r}; there are {', '.join(self._units)}")
        return self._units[name]

    # -- faults of the gateway and the lines

    def drop_connections(self) -> None:
        """Hang up on every TCP client."""
        self._gateway.hang_up(keep=COM_ID)

    def unplug(self) -> None:
        """Pull the serial cable."""
        if self._serial:
            self._serial.unplug()

    def plug(self) -> None:
        """Put the serial cable back."""
        if self._serial:
            self._serial.plug()

    def inject(self, data: bytes) -> None:
        """Send raw bytes to every open com."""
        for com in list(self.world.coms.values()):
            com.send(data)

    # -- faults of memory

    def lie_about_memory(self, delta_kib: int) -> None:
        """Let cmminfo count `delta_kib` too much as used, from now on."""
        self.world.memory.lie = delta_kib

    def hold_memory(self, kib: int) -> None:
        """Let somebody unknown hold `kib`, from now on; 0 gives it back."""
        self.world.memory.held = kib
