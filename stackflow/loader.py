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
    DeviceTimeout,
    DeviceUnavailable,
    ModelLoadFailed,
    ProtocolError,
    TaskFull,
    UnitError,
    UnitSilent,
)
from stackflow.client import Client
from stackflow.decisions import Decision, Load
from stackflow.encoding import Value
from stackflow.ledger import Phase, Signature
from stackflow.scheduler import Scheduler
from stackflow.session import UnitSession
from stackflow.setup import LateSetup, open_session
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

    def forget(self, session: UnitSession) -> None:
        """Line up the clearing away of a task that is gone from the module."""
        self._line.put_nowait(self._forget(session))

    async def _forget(self, session: UnitSession) -> None:
        await session.aclose()
        await self._state.remove_task(self._client.link.peer, session.unit, session.work_id)
        await self._count_memory()
        self._carry(self._scheduler.tick(time.monotonic()))

    async def _exit(self, session_id: int) -> None:
        """End one task, if that is still what is wanted.

        A unit that does not answer keeps the slot until it is probed back to life. A task that cannot be
        reached stays in the book, for the next reclaim.
        """
        record, loaded = self._scheduler.ledger.sessions.get(session_id), self._shelf.live.get(session_id)
        if record is None or loaded is None or record.phase is not Phase.EXITING:
            return
        session = loaded.session
        try:
            await self._end(session)
        except UnitSilent:
            return  # the pool hears when the unit is back
        except (DeviceUnavailable, DeviceTimeout) as err:
            _LOGGER.debug("%s: exit: %s", session.work_id, err)
        except BridgeError as err:  # -6, -9: there is nothing left to end
            _LOGGER.debug("%s: exit: %s", session.work_id, err)
            await self._state.remove_task(self._client.link.peer, session.unit, session.work_id)
        else:
            await self._state.remove_task(self._client.link.peer, session.unit, session.work_id)
        self._shelf.live.pop(session_id, None)
        await self._count_memory()
        self._carry(self._scheduler.gone(time.monotonic(), session_id))

    async def _end(self, session: UnitSession) -> None:
        if session.connection.lost is None:
            await session.exit()
        else:  # its own connection died, the task did not
            await session.aclose()
            await self._client.exit_task(session.work_id)

    async def _load(self, load: Load) -> None:
        """Set up, unless nobody wants it any more, or the unit fell silent meanwhile."""
        if not self._scheduler.wanted(load.session):
            self._carry(self._scheduler.load_dropped(time.monotonic(), load.session, load.victims))
            return
        for victim in load.victims:
            await self._exit(victim)
        if load.session not in self._scheduler.ledger.sessions:  # the module was lost meanwhile
            return
        unit = load.signature.unit
        if unit in self._client.silent or any(victim in self._shelf.live for victim in load.victims):
            await self._failed(load, UnitSilent(f"the {unit} unit does not answer; it is being probed"))
            return
        await self._count_memory()
        before, began = self._client.memory, time.monotonic()
        try:
            session = await self._set_up(load.signature)
        except LateSetup as late:
            self._wait_on(load, late)
        except BridgeError as err:
            await self._failed(load, err)
        except Exception as err:  # ours; the waiters shall not wait for it
            _LOGGER.exception("%s: a setup failed unexpectedly", self._client.name)
            await self._failed(load, ProtocolError(f"setup failed: {err}"))
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
            # systemd brings a crashed unit back in about 1 s, and nobody says when it did.
            await asyncio.sleep(UNIT_RESTARTS)
            try:
                session = await open_session(self._client, unit, setup)
            except UnitError as again:
                if again.code != -9:
                    raise
                await self._state.remove_task(book, unit, "")
                raise DeviceUnavailable(str(again)) from again
        await self._state.add_task(book, unit, session.work_id)
        await self._state.remove_task(book, unit, "")
        return session

    async def _loaded(self, load: Load, session: UnitSession, before: int | None, seconds: float) -> None:
        record = self._scheduler.ledger.sessions.get(load.session)
        if record is None:  # the module went away and came back while this was loading
            await session.aclose()
            return
        self._shelf.live[load.session] = Loaded(session, time.time())
        await self._count_memory()
        after = self._client.memory.remain if self._client.memory else None
        model, old = load.signature.model, self._shelf.learned.get(load.signature.model)
        kib = self._believed(model, before - after if before is not None and after is not None else 0)
        self._shelf.learned[model] = Learned(kib or (old.kib if old else None), seconds)
        _LOGGER.info("%s: %s loaded in %.1f s", session.work_id, model, seconds)
        self._carry(self._scheduler.loaded(time.monotonic(), load.session, cost_kib=kib, seconds=seconds))

    def _believed(self, model: str, measured: int) -> int | None:
        """Return a measured cost, unless it is so far off that a stranger must have had a part in it."""
        installed = self._client.models.get(model)
        guess = installed.memory_kib if installed else None
        if measured <= 0 or (guess and not guess / 2 <= measured <= guess * 2):
            return None
        return measured

    async def _failed(self, load: Load, err: BridgeError) -> None:
        if isinstance(err, (UnitError, UnitSilent)):  # else it was not answered, and may yet come to life
            await self._state.remove_task(self._client.link.peer, load.signature.unit, "")
        _LOGGER.warning("%s: loading %s failed: %s", self._client.name, load.signature.model, err)
        await self._count_memory()
        record = self._scheduler.ledger.sessions.get(load.session)
        if record is not None:
            full = isinstance(err, ModelLoadFailed) and self._tight(load.signature.model, record.cost_kib)
            pressure = full or isinstance(err, TaskFull)
            self._carry(self._scheduler.load_failed(time.monotonic(), load.session, err, pressure=pressure))

    def _tight(self, model: str, cost_kib: int) -> bool:
        """True where -5 may mean memory: little is left, or nobody knows what the model takes."""
        memory, installed = self._client.memory, self._client.models.get(model)
        known = model in self._shelf.learned or (installed is not None and installed.memory_kib is not None)
        return memory is None or not known or memory.remain < TIGHT * cost_kib

    def _wait_on(self, load: Load, late: LateSetup) -> None:
        """Keep the place of a setup that was not answered in time: its task may still come to life."""
        unit = load.signature.unit
        _LOGGER.warning(
            "%s: %s; its place is kept until it answers or the unit restarts", self._client.name, late
        )
        self._carry(self._scheduler.load_late(time.monotonic(), load.session, UnitSilent(str(late))))
        self._client.suspect(unit)

        async def settle() -> None:
            try:
                if not await late.settled(LATE_SETUP):
                    return  # the unit may still hold it
                await self._state.remove_task(self._client.link.peer, unit, "")
            except BridgeError as err:  # the pipe is gone; what came to life is found at the next reclaim
                _LOGGER.debug("%s: %s", self._client.name, err)
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
