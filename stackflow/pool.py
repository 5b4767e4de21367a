"""Sessions and leases: carries the scheduler's decisions out on live modules, re-checking as it goes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from config import Config
from errors import BridgeError, ConnectionLost, ShuttingDown, TaskGone, UnitSilent
from stackflow.client import Client
from stackflow.decisions import Decision, Evict, Lease, Load, Rules
from stackflow.ledger import FOREVER, Phase, Session, Waiter
from stackflow.loader import Learned, Loaded, Loader, Shelf
from stackflow.scheduler import Scheduler
from stackflow.session import UnitSession
from stackflow.ticket import Place, Ticket, Want
from stackflow.units import UNKNOWN_KIB, InstalledModel
from state import State

_LOGGER = logging.getLogger(__name__)

SHUTDOWN_EXITS = 10.0  # seconds for exiting our tasks at the end


class Pool:
    """All sessions on all modules. Made by `open_pool`."""

    def __init__(self, config: Config, clients: Sequence[Client], state: State) -> None:
        self.clients = {client.name: client for client in clients}
        self.live: dict[int, Loaded] = {}
        self.learned: dict[str, Learned] = {}
        self.scheduler = Scheduler(_rules(config))
        shelf = Shelf(self.live, self.learned)
        self.loaders = {c.name: Loader(c, state, self.scheduler, shelf, self._do) for c in clients}
        self._config = config
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closing = False

    # --- requests

    @asynccontextmanager
    async def request(self, want: Want) -> AsyncIterator[Ticket]:
        """Open a ticket; nothing is leased until its `turn`. Leaving gives back whatever it has, at once."""
        ticket = Ticket(self, next(self._numbers), want)
        self._tickets[ticket.number] = ticket
        try:
            yield ticket
        finally:
            del self._tickets[ticket.number]
            self.leave(ticket)

    def arrive(self, ticket: Ticket) -> None:
        """Put the ticket in line, with the age of its first turn."""
        if self._closing:
            raise ShuttingDown("the server is stopping")
        want, now = ticket.want, time.monotonic()
        cost, seconds = self.cost(want.signature.model, want.memory_kib)
        waiter = Waiter(
            id=ticket.number,
            signature=want.signature,
            cost_kib=cost,
            load_seconds=seconds,
            client=want.client,
            since=ticket.since,
            deadline=now + self._config.queue.wait,
            low=want.low_priority,
            sticky=want.sticky,
            pool_size=want.pool_size,
        )
        self._do(self.scheduler.arrive(now, waiter))

    def leave(self, ticket: Ticket) -> None:
        """The ticket is closed: out of the line, and its session back, drained first if it still answers."""
        self._do(self.scheduler.leave(time.monotonic(), ticket.number))
        sessions = self.scheduler.ledger.sessions.values()
        held = {s.id for s in sessions if s.phase is Phase.HELD and s.holder == ticket.number}
        for session_id in held | ({ticket.session_id} if ticket.session_id is not None else set()):
            self._give_back(session_id, self._keep(ticket.want))

    def place(self, ticket: Ticket) -> Place:
        """Return where the ticket stands."""
        return Place(*self.scheduler.place(ticket.number, time.monotonic()))

    def leased(self, session_id: int) -> tuple[UnitSession, Session]:
        """Return a leased session and its record.

        Raises ShuttingDown or TaskGone's kin when it was lost since.
        """
        record, loaded = self.scheduler.ledger.sessions.get(session_id), self.live.get(session_id)
        if record is None or loaded is None:
            raise ConnectionLost("the session was lost with its module")
        return loaded.session, record

    def rest(self, ticket: Ticket, session_id: int) -> None:
        """Keep the session for the ticket's next turn, unless it still answers."""
        loaded = self.live.get(session_id)
        if loaded is None or loaded.session.unfinished or loaded.session.connection.lost:
            self._give_back(session_id, self._keep(ticket.want))
        else:
            self._do(self.scheduler.hold(time.monotonic(), session_id))

    def give_up(self, ticket: Ticket, session_id: int, *, gone: bool) -> None:
        """A turn failed: drop a session that is gone, quiet and keep one that is not."""
        if gone:
            self._drop(session_id)
        else:
            self._give_back(session_id, self._keep(ticket.want))

    def cost(self, model: str, configured: int | None = None) -> tuple[int, float]:
        """Return (KiB, load seconds) of a model: measured, else configured, else guessed from its package."""
        installed, learned = self.installed(model), self.learned.get(model)
        kib = (
            (learned.kib if learned else None) or configured or (installed.memory_kib if installed else None)
        )
        seconds = learned.seconds if learned else (installed.load_seconds if installed else 0.0)
        return kib or UNKNOWN_KIB, seconds

    def installed(self, model: str) -> InstalledModel | None:
        """Return the package of a model as the first module that has it lists it."""
        return next((c.models[model] for c in self.clients.values() if model in c.models), None)

    # --- what the modules' clients report

    def module_up(self, client: Client) -> None:
        """A module is connected, and clean of our tasks."""
        total, remain = (client.memory.total, client.memory.remain) if client.memory else (None, None)
        limits = self._config.unit_limits
        self._do(
            self.scheduler.module_up(time.monotonic(), client.name, client.models, limits, total, remain)
        )

    def module_down(self, client: Client) -> None:
        """A module is lost: its sessions are void, running answers end by their own lost connections."""
        for session_id in [s.id for s in self.scheduler.ledger.on(client.name)]:
            if loaded := self.live.pop(session_id, None):
                connection = loaded.session.connection
                connection.lose(client.down_because or ConnectionLost(f"module {client.name} is lost"))
                self._spawn(loaded.session.aclose(), f"close {loaded.session.work_id}")
        self._do(self.scheduler.module_down(time.monotonic(), client.name))

    def unit_silent(self, client: Client, unit: str) -> None:
        """Nothing may be asked of a unit but the client's own probe."""
        self._do(self.scheduler.unit_silent(time.monotonic(), client.name, unit))

    def unit_back(self, client: Client, unit: str, alive: frozenset[str]) -> None:
        """A unit answers again: sessions that outlived its silence are exited, the others forgotten."""
        for record in [s for s in self.scheduler.ledger.on(client.name) if s.signature.unit == unit]:
            loaded = self.live.get(record.id)
            if record.phase in (Phase.LEASED, Phase.HELD):
                if loaded is not None and loaded.session.work_id not in alive and loaded.session.stream:
                    loaded.session.stream.fail(TaskGone(unit, -6, "the unit was restarted"))
                continue  # its own turn ends it
            if loaded is None and record.phase is not Phase.LATE:
                continue  # its setup is under way
            if loaded is not None and loaded.session.work_id in alive:
                self._set_aside(record.id)
            else:
                self._drop(record.id)
        self._do(self.scheduler.unit_back(time.monotonic(), client.name, unit))

    # --- carrying out

    def _do(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Lease):
                self._tickets[decision.waiter].granted(decision.session)
            elif isinstance(decision, Load):
                self.loaders[decision.module].load(decision)
            elif isinstance(decision, Evict):
                self.loaders[self.scheduler.ledger.sessions[decision.session].module].exit(decision.session)
            elif ticket := self._tickets.get(decision.waiter):
                ticket.refused(decision.error)
        if decisions:
            for ticket in self._tickets.values():
                ticket.notify()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Look again when time alone will have changed something."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = time.monotonic()
        due = self.scheduler.next_tick(now)
        if due is not None and not self._closing:
            self._alarm = asyncio.get_running_loop().call_later(due - now, self._tick)

    def _tick(self) -> None:
        self._alarm = None
        self._do(self.scheduler.tick(time.monotonic()))

    def _give_back(self, session_id: int, keep: float) -> None:
        loaded = self.live.get(session_id)
        if loaded is None:
            return
        session = loaded.session
        if session.connection.lost is not None:
            self._set_aside(session_id)
            return
        draining = session.unfinished
        self._do(self.scheduler.release(time.monotonic(), session_id, draining=draining, keep=keep))
        if draining:
            self._spawn(self._drain(session_id, session), f"drain {session.work_id}")

    async def _drain(self, session_id: int, session: UnitSession) -> None:
        """Pause and read to the end; a session that cannot be quieted is ended instead."""
        try:
            await session.quiet()
        except TaskGone:
            self._drop(session_id)
        except UnitSilent:
            pass  # the unit is being probed; unit_back decides
        except BridgeError as err:
            _LOGGER.warning("%s: set aside, it did not come to rest: %s", session.work_id, err)
            self._set_aside(session_id)
        else:
            self._do(self.scheduler.drained(time.monotonic(), session_id))

    def _set_aside(self, session_id: int) -> None:
        """Exit a session that can no longer be trusted."""
        self._do(self.scheduler.set_aside(time.monotonic(), session_id))

    def _drop(self, session_id: int) -> None:
        """Forget a session that is no longer on the module."""
        record, loaded = self.scheduler.ledger.sessions.get(session_id), self.live.pop(session_id, None)
        if loaded is not None and record is not None:
            self.loaders[record.module].forget(loaded.session)
        self._do(self.scheduler.gone(time.monotonic(), session_id))

    def _keep(self, want: Want) -> float:
        """Return the idle seconds a request asks for, or the configured ones."""
        settings = self._config.model(want.signature.model)
        for seconds in (want.keep_alive, settings.keep_alive):
            if seconds is not None:
                return FOREVER if seconds < 0 else seconds
        return self.scheduler.rules.keep_alive

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (err := task.exception()):
            _LOGGER.error("%s failed", task.get_name(), exc_info=err)

    # --- the beginning and the end

    async def open(self) -> None:
        """Start the loaders."""
        for name, loader in self.loaders.items():
            self._spawn(loader.run(), f"setups of {name}")

    async def exit_all(self) -> None:
        """Exit every task of ours that can be reached, as much as `SHUTDOWN_EXITS` seconds allow."""
        self._closing = True
        modules = [asyncio.ensure_future(self._exit_module(c)) for c in self.clients.values() if c.connected]
        if modules:
            _, late = await asyncio.wait(modules, timeout=SHUTDOWN_EXITS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _exit_module(self, client: Client) -> None:
        """Let a setup under way end first: only its reply names the task that has to be exited."""
        loader, before = self.loaders[client.name], client.memory
        await loader.idle()
        ours = [r.id for r in self.scheduler.ledger.on(client.name) if r.signature.unit not in client.silent]
        for session_id in ours:
            self._set_aside(session_id)
        await loader.idle()
        if ours and before and client.memory:
            freed = client.memory.remain - before.remain
            _LOGGER.info("%s: ended %d tasks, %d KiB came back", client.name, len(ours), freed)

    async def aclose(self) -> None:
        """Stop all background work and close what is still open."""
        self._closing = True
        if self._alarm is not None:
            self._alarm.cancel()
        for loaded in self.live.values():
            await loaded.session.aclose()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _rules(config: Config) -> Rules:
    return Rules(
        queue_size=config.queue.size,
        fairness=config.queue.fairness,
        storm_guard=config.queue.storm_guard,
        stranded=config.deadlines.connect,
        keep_alive=FOREVER if config.keep_alive < 0 else config.keep_alive,
        max_models=config.max_concurrent_models,
        eviction=config.eviction,
    )


@asynccontextmanager
async def open_pool(config: Config, clients: Sequence[Client], state: State) -> AsyncIterator[Pool]:
    """Connect all modules in the background and pool their sessions; at the end exit our tasks."""
    pool = Pool(config, clients, state)
    await pool.open()
    async with AsyncExitStack() as stack:
        for client in clients:
            await stack.enter_async_context(client.run(pool))
        stack.push_async_callback(pool.aclose)
        stack.push_async_callback(pool.exit_all)
        yield pool
