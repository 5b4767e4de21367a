"""The module as one long-lived thing: connect, handshake, reconnect with backoff, sys calls, silent units."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from async_timeout import timeout

from config import UNITS, Deadlines
from errors import BridgeError, ConnectionLost, DeviceTimeout, ProtocolError, UnitError, UnitSilent
from stackflow.link import Channel, Link
from stackflow.messages import Reply, Request, RequestIds, failure
from stackflow.units import InstalledModel, installed_model
from state import State

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """NPU memory (CMM) in KiB as the module counts it."""

    total: int
    used: int
    remain: int


class Watcher(Protocol):
    """Who wants to know how a module is: the pool."""

    def module_up(self, client: Client) -> None:
        """The module is connected, its models are known and our leftovers are gone."""

    def module_down(self, client: Client) -> None:
        """The module cannot be reached."""

    def unit_silent(self, client: Client, unit: str) -> None:
        """A unit left a call unanswered; nothing may be asked of it but the probe."""

    def unit_back(self, client: Client, unit: str, alive: frozenset[str]) -> None:
        """The unit answers again and lists these work_ids."""


class Client:
    """One module. `run` keeps it connected for as long as the block lasts."""

    def __init__(
        self, name: str, link: Link, state: State, deadlines: Deadlines, *, reclaim_all: bool = False
    ) -> None:
        self.name = name
        self.link = link
        self.deadlines = deadlines
        self.ids = RequestIds()
        self.models: dict[str, InstalledModel] = {}
        self.version: str | None = None
        self.unit_versions: tuple[str, ...] = ()
        self.memory: Memory | None = None
        self.temperature: float | None = (
            None  # degrees Celsius; hwinfo kills a gateway without a sensor, so unasked
        )
        self.down_because: BridgeError | None = None  # None while connected
        self.connected = False
        self.silent: set[str] = set()
        self.loading: set[str] = set()
        self.calls: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.wake = asyncio.Event()  # set by discovery: try to reconnect now
        self.first_try = asyncio.Event()  # the first attempt to connect has ended, well or not
        self._state = state
        self._reclaim_all = reclaim_all
        self._control: Channel | None = None
        self._watcher: Watcher | None = None
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._owed: dict[str, set[str]] = {}  # unit -> saved work_ids of an earlier run, once it answers

    @property
    def mark(self) -> str:
        """What our tasks' response_format ends in, echoed by taskinfo."""
        return self._state.bridge_id

    @asynccontextmanager
    async def run(self, watcher: Watcher) -> AsyncIterator[None]:
        """Keep the module connected, telling `watcher`; entering never waits for the first connection."""
        self._watcher = watcher
        keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")
        try:
            yield
        finally:
            tasks = [keeper, *self._probes.values()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if self._control is not None:
                await self._control.aclose()

    async def channel(self) -> Channel:
        """Return a channel for one session. Raises DeviceUnavailable."""
        if not self.connected:
            raise self._absent()
        return await self.link.channel()

    async def sys(self, action: str, patience: float | None = None) -> Any:
        """Do a sys action and return its `data`. Raises UnitError, DeviceTimeout, ConnectionLost."""
        return (await self._ask("sys", action, patience or self.deadlines.sys)).data

    async def read_memory(self) -> Memory | None:
        """Ask for the NPU memory; None when the module cannot tell.

        The counters may be uninitialised garbage.
        """
        try:
            data = await self.sys("cmminfo")
        except UnitError:  # before v1.5.0
            return None
        try:
            total, used, remain = (int(data[key]) for key in ("total", "used", "remain"))
        except (TypeError, KeyError, ValueError):
            return None
        sane = 0 <= used <= total and 0 <= remain <= total and total > 0
        self.memory = Memory(total, used, remain) if sane else None
        return self.memory

    async def list_tasks(self, unit: str) -> list[str]:
        """Return the work_ids a unit holds, anybody's. Raises UnitSilent, UnitError, ConnectionLost."""
        data = (await self._rpc(unit, "taskinfo", self.deadlines.task)).data
        return [w for w in data if isinstance(w, str)] if isinstance(data, list) else []

    async def exit_task(self, work_id: str) -> None:
        """End a task from the control connection. Raises UnitSilent, UnitError, ConnectionLost."""
        unit = work_id.partition(".")[0]
        if unit in self.silent:
            raise UnitSilent(f"the {unit} unit does not answer; it is being probed")
        try:
            await self._rpc(work_id, "exit", self.deadlines.exit)
        except UnitSilent:
            self.suspect(unit)
            raise

    def suspect(self, unit: str) -> None:
        """Take note that `unit` left an RPC call unanswered: fail what wants it, probe until it answers."""
        if unit in self.silent or not self.connected:
            return
        self.silent.add(unit)
        _LOGGER.warning("%s: the %s unit does not answer; probing it", self.name, unit)
        if self._watcher is not None:
            self._watcher.unit_silent(self, unit)
        self._probes[unit] = asyncio.create_task(self._probe(unit), name=f"probe {self.name} {unit}")

    async def _probe(self, unit: str) -> None:
        """Ask after 5 s, doubling to 60 s: each question to a dead unit stalls its whole gateway for 4 s."""
        pause = self.deadlines.probe_first
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, self.deadlines.probe_longest)
            try:
                alive = frozenset(await self.list_tasks(unit))
                if unit in self._owed:
                    await self._reclaim({unit: self._owed[unit]})
            except UnitSilent:
                _LOGGER.debug("%s: the %s unit is still silent", self.name, unit)
                await self._check_gateway()
                continue
            except UnitError:
                alive = frozenset()
            except BridgeError:
                continue
            if unit in self._owed:
                continue
            self.silent.discard(unit)
            self._probes.pop(unit, None)
            _LOGGER.info("%s: the %s unit answers again", self.name, unit)
            if self._watcher is not None:
                self._watcher.unit_back(self, unit, alive)
            return

    async def _check_gateway(self) -> None:
        """Give the connection up when not even `sys` answers on it: a UART may have lost a byte of ours."""
        try:
            await self.sys("ping")
        except DeviceTimeout:
            if self._control is not None:
                self._control.connection.lose(ConnectionLost(f"module {self.name} stopped answering"))
        except BridgeError:
            pass

    async def _keep(self) -> None:
        """Connect, stay connected, connect again: capped exponential backoff with jitter."""
        wait = self.deadlines.backoff_first
        while True:
            self.wake.clear()  # whoever sets it from here on wants the attempt after this one
            try:
                async with self._connected() as control:
                    wait = self.deadlines.backoff_first
                    await control.connection.ended.wait()
                    self._down(control.connection.lost or ConnectionLost(f"module {self.name} hung up"))
            except BridgeError as err:
                self._down(err)
            except Exception as err:  # a module that answers nonsense must not end the keeping
                _LOGGER.exception("%s: the connection ended on an error of ours", self.name)
                self._down(ProtocolError(f"module {self.name}: {err}"))
            self.first_try.set()
            with suppress(asyncio.TimeoutError):
                async with timeout(wait * random.uniform(0.7, 1.3)):
                    await self.wake.wait()
            wait = min(wait * 2, self.deadlines.backoff_longest)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Channel]:
        control = self._control = await self.link.control()
        try:
            await self._handshake()
            self.connected = True
            (_LOGGER.info if self.down_because or not self.first_try.is_set() else _LOGGER.debug)(
                "%s: connected to %s, version %s, %d models",
                self.name,
                self.link.peer,
                self.version,
                len(self.models),
            )
            self.down_because = None
            self.first_try.set()
            if self._watcher is not None:
                self._watcher.module_up(self)
            for unit in self._owed:
                self.suspect(unit)
            yield control
        finally:
            self.connected = False
            self._control = None
            await control.aclose()

    def _down(self, cause: BridgeError) -> None:
        first = self.down_because is None
        self.connected = False
        self.down_because = cause
        (_LOGGER.warning if first else _LOGGER.debug)("%s: %s", self.name, cause)
        for probe in self._probes.values():
            probe.cancel()
        self._probes.clear()
        self.silent.clear()
        if self._watcher is not None:
            self._watcher.module_down(self)

    async def _handshake(self) -> None:
        await self._greet()
        self.version = await self._optional("version")
        versions = await self._optional("version2")
        self.unit_versions = tuple(str(v) for v in versions) if isinstance(versions, list) else ()
        entries = await self._optional("lsmode")
        found = [m for m in map(installed_model, entries if isinstance(entries, list) else []) if m]
        self.models = {m.name: m for m in found}  # two packages may carry one `mode` (stackflow-protocol 4.1)
        self._owed.clear()
        book = await self._state.tasks(self.link.peer)
        await self._reclaim({unit: {work_id for u, work_id in book if u == unit} for unit in UNITS})
        await self.read_memory()

    async def _greet(self) -> None:
        """Ping. A UART's framer may be in the middle of what was being sent when the cable was pulled."""
        try:
            await self.sys("ping")
        except DeviceTimeout:
            if not self.link.baud or self._control is None:
                raise
            await self._control.connection.unjam(self.deadlines.sys)
            await self.sys("ping")

    async def _optional(self, action: str) -> Any:
        """Old firmware answers -3 to what it does not know."""
        try:
            return await self.sys(action)
        except UnitError:
            return None

    async def _reclaim(self, saved: Mapping[str, set[str]]) -> None:
        """Exit what an earlier run of this bridge left on the module, and log the memory that came back."""
        before, ended = await self.read_memory(), 0
        for unit, work_ids in saved.items():
            if not work_ids and not self._reclaim_all:
                continue
            try:
                ended += await self._end_leftovers(unit, work_ids)
            except UnitSilent:  # dead, or busy with the setup that we left: what it holds is looked at later
                self._owed[unit] = work_ids
                continue
            self._owed.pop(unit, None)
            for work_id in work_ids:
                await self._state.remove_task(self.link.peer, unit, work_id)
        if ended:
            after = await self.read_memory()
            freed = after.remain - before.remain if before and after else 0
            _LOGGER.info("%s: ended %d tasks of an earlier run, %d KiB came back", self.name, ended, freed)

    async def _end_leftovers(self, unit: str, saved: set[str]) -> int:
        """Exit the listed tasks of `unit` that are ours, by book and by mark. Raises UnitSilent."""
        ended = 0
        for work_id in await self._listed(unit):
            # Asking a task for its mark takes over its output, so only what we may have made is asked. A
            # setup that was never answered (saved as '') may be any of them.
            if self._reclaim_all or ((work_id in saved or "" in saved) and await self._is_ours(work_id)):
                try:
                    await self._rpc(work_id, "exit", self.deadlines.exit)
                    ended += 1
                except UnitError as err:
                    _LOGGER.warning("%s: %s could not be ended: %s", self.name, work_id, err)
        return ended

    async def _listed(self, unit: str) -> list[str]:
        try:
            return await self.list_tasks(unit)
        except UnitError as err:  # -9: not installed, or not running and therefore empty
            _LOGGER.debug("%s: cannot list the tasks of %s: %s", self.name, unit, err)
            return []

    async def _is_ours(self, work_id: str) -> bool:
        try:
            data = (await self._rpc(work_id, "taskinfo", self.deadlines.task)).data
        except UnitError:
            return False
        return isinstance(data, dict) and str(data.get("response_format", "")).endswith(f".{self.mark}")

    def _absent(self) -> ConnectionLost:
        return ConnectionLost(f"module {self.name} is not connected: {self.down_because or 'starting'}")

    async def _rpc(self, work_id: str, action: str, patience: float) -> Reply:
        try:
            return await self._ask(work_id, action, patience)
        except DeviceTimeout:
            raise UnitSilent(f"the {work_id.partition('.')[0]} unit does not answer") from None

    async def _ask(self, work_id: str, action: str, patience: float) -> Reply:
        if self._control is None:
            raise self._absent()
        reply = await self._control.connection.ask(Request(self.ids(), work_id, action), patience)
        if error := failure(work_id.partition(".")[0], reply):
            raise error
        return reply
