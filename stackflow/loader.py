"""The setups and exits of one module, one at a time as they were decided, memory counted around each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from errors import (
    BridgeError,
    DeviceError,
    DeviceUnavailable,
    ModelLoadFailed,
    TaskFull,
    UnitError,
    UnitSilent,
)
from stackflow.client import Client
from stackflow.decisions import Decision, Load
from stackflow.encoding import Value
from stackflow.ledger import Signature
from stackflow.scheduler import Scheduler
from stackflow.session import LateSetup, UnitSession, open_session
from state import State

_LOGGER = logging.getLogger(__name__)

LATE_SETUP = 330.0  # seconds; the tokenizer's port alone may take 300 (stackflow-protocol 5.1)
UNIT_RESTARTS = 1.5  # seconds; -9 is asked once more after them (stackflow-protocol 11.1, 9)
TIGHT = 1.15  # -5 says memory only where less than this times the model's cost remains

Carry = Callable[[list[Decision]], None]


@dataclass(slots=True)
class Loaded:
    """A live session beside the scheduler's record of it."""

    session: UnitSession
    loaded_at: float  # unix seconds, for people


@dataclass(frozen=True, slots=True)
class Learned:
    """What a model was measured to cost; None where the module does not count its memory."""

    kib: int | None
    seconds: float


@dataclass(slots=True)
class Shelf:
    """What all loaders share: the live sessions by the scheduler's number, and what was learned by model."""

    live: dict[int, Loaded]
    learned: dict[str, Learned]


class Loader:
    """Works for one module. `carry` carries out what the scheduler decides on its news."""

    def __init__(
        self, client: Client, state: State, scheduler: Scheduler, shelf: Shelf, carry: Carry
    ) -> None:
        self._client = client
        self._state = state
        self._scheduler = scheduler
        self._shelf = shelf
        self._carry = carry
        self._line: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
        self._late: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work for ever; cancelled, drop what was not begun."""
        try:
            while True:
                work = await self._line.get()
                try:
                    await work
                except Exception:  # one failed operation must not end the line
                    _LOGGER.exception("%s: a setup or exit failed unexpectedly", self._client.name)
                finally:
                    self._line.task_done()
        finally:
            while not self._line.empty():
                self._line.get_nowait().close()
            late = list(self._late)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def load(self, load: Load) -> None:
        """Line up a setup, after the exits of its victims."""
        self._line.put_nowait(self._load(load))

    def exit(self, session_id: int) -> None:
        """Line up an exit."""
        self._line.put_nowait(self._exit(session_id))

    async def idle(self) -> None:
        """Wait until everything lined up is done."""
        await self._line.join()

    async def forget(self, session: UnitSession) -> None:
        """Clear away a task that is gone from the module."""
        await session.aclose()
        await self._state.remove_task(self._client.link.peer, session.unit, session.work_id)
        await self._count_memory()
        self._carry(self._scheduler.tick(time.monotonic()))

    async def _exit(self, session_id: int) -> None:
        """End one task. A unit that does not answer keeps the slot until it is probed back to life."""
        loaded = self._shelf.live.get(session_id)
        if loaded is None:
            return
        try:
            await self._end(loaded.session)
        except UnitSilent:
            return  # the pool hears when the unit is back
        except BridgeError as err:
            _LOGGER.debug("%s: exit: %s", loaded.session.work_id, err)
        self._shelf.live.pop(session_id, None)
        await self._state.remove_task(self._client.link.peer, loaded.session.unit, loaded.session.work_id)
        await self._count_memory()
        self._carry(self._scheduler.gone(time.monotonic(), session_id))

    async def _end(self, session: UnitSession) -> None:
        if session.connection.lost is None:
            await session.exit()
        elif self._client.connected:  # its own connection died, the task did not
            await session.aclose()
            await self._client.exit_task(session.work_id)

    async def _load(self, load: Load) -> None:
        if load.session not in self._scheduler.ledger.sessions:
            return
        if not self._scheduler.wanted(load.session):
            self._carry(self._scheduler.load_dropped(time.monotonic(), load.session, load.victims))
            return
        for victim in load.victims:
            await self._exit(victim)
        if load.session not in self._scheduler.ledger.sessions:  # the module was lost meanwhile
            return
        before, began = self._client.memory, time.monotonic()
        try:
            session = await self._set_up(load.signature)
        except LateSetup as late:
            self._wait_on(load, late)
        except BridgeError as err:
            await self._failed(load, err)
        else:
            await self._loaded(load, session, before.remain if before else None, time.monotonic() - began)

    async def _set_up(self, signature: Signature) -> UnitSession:
        unit, book = signature.unit, self._client.link.peer
        setup: dict[str, Value] = {"model": signature.model, **dict(signature.settings)}
        setup["response_format"] = f"{setup['response_format']}.{self._client.mark}"
        await self._state.add_task(book, unit, "")  # until the reply names it; a crash now must not lose it
        try:
            session = await open_session(self._client, unit, setup)
        except UnitError as err:
            if err.code != -9:
                raise
            await asyncio.sleep(
                UNIT_RESTARTS
            )  # systemd brings a crashed unit back in about 1 s; nobody says when
            session = await open_session(self._client, unit, setup)
        await self._state.add_task(book, unit, session.work_id)
        await self._state.remove_task(book, unit, "")
        return session

    async def _loaded(self, load: Load, session: UnitSession, before: int | None, seconds: float) -> None:
        record = self._scheduler.ledger.sessions.get(load.session)
        if record is None:  # the module went away and came back while this was loading
            await session.exit()
            return
        self._shelf.live[load.session] = Loaded(session, time.time())
        record.load_seconds, record.loaded_at = seconds, time.monotonic()
        await self._count_memory()
        after = self._client.memory.remain if self._client.memory else None
        kib = before - after if before is not None and after is not None and before > after else None
        record.cost_kib = kib or record.cost_kib
        self._shelf.learned[load.signature.model] = Learned(kib, seconds)
        _LOGGER.info("%s: %s loaded in %.1f s", session.work_id, load.signature.model, seconds)
        self._carry(self._scheduler.loaded(time.monotonic(), load.session))

    async def _failed(self, load: Load, err: BridgeError) -> None:
        if isinstance(err, UnitError):  # otherwise it was not answered, and may yet come to life
            await self._state.remove_task(self._client.link.peer, load.signature.unit, "")
        _LOGGER.warning("%s: loading %s failed: %s", self._client.name, load.signature.model, err)
        await self._count_memory()
        record = self._scheduler.ledger.sessions.get(load.session)
        if record is not None:
            pressure = isinstance(err, TaskFull) or (
                isinstance(err, ModelLoadFailed) and self._tight(record.cost_kib)
            )
            self._carry(self._scheduler.load_failed(time.monotonic(), load.session, err, pressure=pressure))

    def _tight(self, cost_kib: int) -> bool:
        memory = self._client.memory
        return memory is None or memory.remain < TIGHT * cost_kib

    def _wait_on(self, load: Load, late: LateSetup) -> None:
        """Keep the place of a setup that was not answered in time: its task may still come to life."""
        unit = load.signature.unit
        _LOGGER.warning(
            "%s: %s; its place is kept until it answers or the unit restarts", self._client.name, late
        )
        self._carry(self._scheduler.load_late(time.monotonic(), load.session, UnitSilent(str(late))))
        self._client.suspect(unit)

        async def settle() -> None:
            if await late.settled(LATE_SETUP):
                self._carry(self._scheduler.gone(time.monotonic(), load.session))

        task = asyncio.create_task(settle(), name=f"late setup of {unit}")
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _count_memory(self) -> None:
        try:
            memory = await self._client.read_memory()
        except (DeviceError, DeviceUnavailable) as err:
            _LOGGER.debug("%s: memory not counted: %s", self._client.name, err)
            return
        counted = (memory.total, memory.remain) if memory else (None, None)
        self._scheduler.memory(self._client.name, *counted)
