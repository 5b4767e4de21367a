"""Pure decisions: reuse, set up, evict, queue, refuse. No asyncio, no clock, no client.

Events come in with the time they happened, decisions go out; the pool carries them out, re-checking. For each
waiter, in the order of `_order`:

 1. An idle session with its signature is leased; a session its own request holds comes first.
 2. A session with its signature that is loading and not promised to another waiter is waited for.
 3. While sessions with its signature are only busy, another copy is loaded only where waiting would take
    longer than loading, only into free room, and one at a time on a module.
 4. Free room (memory, unit limit, pool size, number of models): load.
 5. No room: victims among idle sessions, all chosen first: expired, then lowest value; held ones only for a
    waiter past the fairness limit. A session that another client used within the last max(30 s, 3 x its
    load) is spared until then.
 6. Past the limit, the oldest waiter of the highest priority fences its victims on a module: idle ones
    leave at once, busy ones get no new lease. While a fence stands only older waiters past the limit may
    load there.
 7. Otherwise it waits, to its deadline; beyond the queue's bound it is refused on arrival.

A leased session is never touched for another request's sake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from errors import (
    BridgeError,
    DeviceUnavailable,
    NoCapableModule,
    QueueFull,
    QueueTimeout,
    TaskFull,
    UnitSilent,
)
from stackflow.decisions import Decision, Evict, Lease, Load, Refuse, Rules
from stackflow.ledger import COMING, FOREVER, Ledger, Module, Phase, Session, Waiter
from stackflow.planning import Plan, make_room, victim_value

LOW_PRIORITY_WAIT = 60.0  # seconds; after it a low-priority waiter takes turns as a normal one
FAILED_LOAD_REST = 30.0  # seconds a failed load answers from memory, doubling
FAILED_LOAD_REST_MOST = 600.0
ABSENT_REST = 2.0
TURN_GUESS = 10.0  # seconds; length of a turn before any was measured
CLIENTS_REMEMBERED = 1024  # whose last turn is known, for taking turns
LOADS_PER_GUARD = 3  # load times a used session is spared, at least


@dataclass(slots=True)
class _FailedLoad:
    unit: str
    error: BridgeError
    until: float
    rest: float


@dataclass(frozen=True, slots=True)
class _Fence:
    waiter: int
    victims: frozenset[int]


class Scheduler:
    """Who may use which session when. Every public method is one event and returns what is to be done."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.ledger = Ledger()
        self._decisions: list[Decision] = []
        self._next_session = 1
        self._served: dict[str, int] = {}  # client -> number of the last lease it got
        self._leases = 0
        self._begun: set[int] = set()  # requests that had a turn; they may come back to a full queue
        self._fences: dict[str, _Fence] = {}  # by module
        self._turn_seconds: dict[str, float] = {}  # model -> running mean
        self._failed: dict[tuple[str, str], _FailedLoad] = {}  # (module, model)

    # --- modules

    def module_up(  # noqa: PLR0917 - what a module says of itself
        self,
        now: float,
        name: str,
        models: Iterable[str],
        limits: Mapping[str, int],
        total_kib: int | None = None,
        remain_kib: int | None = None,
    ) -> list[Decision]:
        """A module is connected and holds none of our tasks."""
        self._forget_sessions(name)
        self._failed = {key: value for key, value in self._failed.items() if key[0] != name}
        self.ledger.modules[name] = Module(name, frozenset(models), True, total_kib, remain_kib, dict(limits))
        return self._settle(now)

    def module_down(self, now: float, name: str) -> list[Decision]:
        """A module is gone, with all its sessions. Its waiters keep their age."""
        if module := self.ledger.modules.get(name):
            module.up = False
            module.silent.clear()
        self._forget_sessions(name)
        return self._settle(now)

    def memory(self, name: str, total_kib: int | None, remain_kib: int | None) -> None:
        """A module counted its memory while no setup or exit was under way."""
        if module := self.ledger.modules.get(name):
            module.total_kib, module.remain_kib = total_kib, remain_kib

    def unit_silent(self, now: float, name: str, unit: str) -> list[Decision]:
        """A unit stopped answering: nothing is asked of it until `unit_back`."""
        if module := self.ledger.modules.get(name):
            module.silent.add(unit)
        return self._settle(now)

    def unit_back(self, now: float, name: str, unit: str) -> list[Decision]:
        """A unit answers again, so loads may be tried that failed by its silence.

        Its idle sessions were reported `gone` before.
        """
        for key, failed in list(self._failed.items()):
            if (key[0], failed.unit) == (name, unit) and isinstance(failed.error, UnitSilent):
                del self._failed[key]
        if module := self.ledger.modules.get(name):
            module.silent.discard(unit)
        return self._settle(now)

    # --- requests

    def arrive(self, now: float, waiter: Waiter) -> list[Decision]:
        """A request wants a turn. With the queue full it gets one at once, or none."""
        self.ledger.waiters[waiter.id] = waiter
        if self._crowded(waiter):
            served = self._lease_idle(waiter, self._usable(waiter, now), now)
            if not served and waiter.id in self.ledger.waiters:
                self._refuse(waiter, QueueFull(f"{self._line(waiter) - 1} requests are waiting already"))
        return self._settle(now)

    def leave(self, now: float, waiter_id: int) -> list[Decision]:
        """A waiter hung up. What is being loaded for it is finished, and is the first victim if unwanted."""
        self.ledger.waiters.pop(waiter_id, None)
        self._begun.discard(waiter_id)
        self._unpromise(waiter_id)
        return self._settle(now)

    def release(self, now: float, session_id: int, *, draining: bool, keep: float) -> list[Decision]:
        """A turn ended. `keep` is how many seconds the session may idle: 0 not at all, infinity for ever."""
        session = self.ledger.sessions.get(session_id)
        if session is None or session.phase not in (Phase.LEASED, Phase.HELD):
            return []
        if session.phase is Phase.LEASED:
            self._learn_turn(session, now)
        session.phase = Phase.DRAINING if draining else Phase.IDLE
        session.holder = None
        session.last_used = now
        session.keep_until = now if keep == 0 else max(session.keep_until, now + keep)
        return self._settle(now)

    def hold(self, now: float, session_id: int) -> list[Decision]:
        """A turn ended, but its request has more to come."""
        session = self.ledger.sessions.get(session_id)
        if session is None or session.phase is not Phase.LEASED:
            return []
        self._learn_turn(session, now)
        session.phase, session.last_used = Phase.HELD, now
        return self._settle(now)

    # --- sessions

    def loaded(
        self, now: float, session_id: int, *, cost_kib: int | None = None, seconds: float | None = None
    ) -> list[Decision]:
        """A setup succeeded, and was measured to cost this much; None keeps the guess."""
        session = self.ledger.sessions.get(session_id)
        if session is not None and session.phase is Phase.LOADING:
            session.phase, session.last_used, session.loaded_at = Phase.IDLE, now, now
            session.cost_kib = cost_kib or session.cost_kib
            session.load_seconds = session.load_seconds if seconds is None else seconds
            session.keep_until = now + self.rules.keep_alive
            self._failed.pop((session.module, session.signature.model), None)
            session.unwanted = not self.wanted(session_id)
        return self._settle(now)

    def load_failed(
        self, now: float, session_id: int, error: BridgeError, *, pressure: bool
    ) -> list[Decision]:
        """A setup failed. With `pressure` (no room) it is tried once more after evicting what is idle."""
        session = self.ledger.sessions.pop(session_id, None)
        if session is None:
            return []
        waiter = self.ledger.waiters.get(session.promised) if session.promised is not None else None
        same_unit = isinstance(error, TaskFull)
        if not (pressure and waiter is not None and self._retry(waiter, session.module, now, same_unit)):
            self._remember_failure(session, error, now)
        return self._settle(now)

    def load_dropped(self, now: float, session_id: int, spared: Iterable[int]) -> list[Decision]:
        """A load was given up before it began, as `wanted` said; `spared` victims were not exited."""
        self.ledger.sessions.pop(session_id, None)
        for victim in spared:
            session = self.ledger.sessions.get(victim)
            if session is not None and session.phase is Phase.EXITING and not session.condemned:
                session.phase = Phase.IDLE
        return self._settle(now)

    def load_late(self, now: float, session_id: int, error: BridgeError) -> list[Decision]:
        """A setup was not answered in time: it keeps slot and memory until `gone`, its waiters fail."""
        session = self.ledger.sessions.get(session_id)
        if session is not None and session.phase is Phase.LOADING:
            session.phase = Phase.LATE
            self._remember_failure(session, error, now)
        return self._settle(now)

    def set_aside(self, now: float, session_id: int) -> list[Decision]:
        """A session can no longer be trusted, or the server stops: it is exited whatever it was doing."""
        if session := self.ledger.sessions.get(session_id):
            session.condemned = True
            self._evict(session)
        return self._settle(now)

    def drained(self, now: float, session_id: int) -> list[Decision]:
        """An abandoned answer was read to its end."""
        if (session := self.ledger.sessions.get(session_id)) and session.phase is Phase.DRAINING:
            session.phase = Phase.IDLE
        return self._settle(now)

    def gone(self, now: float, session_id: int) -> list[Decision]:
        """A session no longer exists on its module."""
        self.ledger.sessions.pop(session_id, None)
        return self._settle(now)

    def tick(self, now: float) -> list[Decision]:
        """Time has passed: limits, deadlines and idle times are looked at again."""
        return self._settle(now)

    # --- questions

    def next_tick(self, now: float) -> float | None:
        """Return when `tick` is due, or None when time alone changes nothing."""
        idle = [s for s in self.ledger.sessions.values() if s.idle]
        times = [s.keep_until for s in idle]
        for waiter in self.ledger.waiters.values():
            times += [waiter.deadline, waiter.since + self.rules.fairness, waiter.since + LOW_PRIORITY_WAIT]
            times += [self._spared_until(s, waiter) for s in idle]
            times += [f.until for (_, model), f in self._failed.items() if model == waiter.signature.model]
            if waiter.stranded_at is not None:
                times.append(waiter.stranded_at + self.rules.stranded)
        return min((t for t in times if now < t < FOREVER), default=None)

    def wanted(self, session_id: int) -> bool:
        """True if somebody waits for what this session is, or will be; a load not begun is dropped otherwise.

        One whose victims cannot stay is carried on with: what was decided later may count on their room.
        """
        sessions = self.ledger.sessions
        session = sessions.get(session_id)
        if session is None:
            return False
        if any(w.fits(session) for w in self.ledger.waiters.values()):
            return True
        loading = session.phase is Phase.LOADING
        return loading and bool(session.victims) and any(later > session_id for later in sessions)

    def place(self, waiter_id: int, now: float) -> tuple[int, str]:
        """Return the waiter's place in line, from 1, and what it waits for; place 0 is not in line."""
        waiter = self.ledger.waiters.get(waiter_id)
        if waiter is None:
            return 0, "queued"
        line = [w.id for w in self._order(now) if self._share(w, waiter)]
        loading = any(s.phase is Phase.LOADING and waiter.fits(s) for s in self.ledger.sessions.values())
        return line.index(waiter_id) + 1, "loading" if loading else "queued"

    def load_error(self, model: str, now: float) -> BridgeError | None:
        """Return why `model` cannot be loaded at present on some module, while that is remembered."""
        return next((f.error for (_, m), f in self._failed.items() if m == model and now < f.until), None)

    def waiting_on(self, module: str) -> int:
        """Return how many requests wait for `module`, alone or among others."""
        record = self.ledger.modules.get(module)
        return sum(w.signature.model in record.models for w in self.ledger.waiters.values()) if record else 0

    # --- the rules

    def _settle(self, now: float) -> list[Decision]:
        """Decide until nothing changes: what leaves may make room for one who was looked at before."""
        self._drop_overdue(now)
        before = self._undecided()
        while True:
            # Fences are put up again in the order of their owners, so that none binds an older waiter.
            fences, self._fences = self._fences, {}
            for waiter in self._order(now):
                self._serve(waiter, now, fences)
            self._expire(now)
            if not self.ledger.waiters or before == (before := self._undecided()):
                break
        decisions, self._decisions = self._decisions, []
        return decisions

    def _undecided(self) -> tuple[int, dict[str, _Fence], list[int]]:
        """What one look at all waiters may change for the next."""
        promised = [s.promised for s in self.ledger.sessions.values() if s.promised is not None]
        return len(self._decisions), self._fences, promised

    def _order(self, now: float) -> list[Waiter]:
        """Past the limit by age; then normal before low, clients in turn, within a client by age."""
        by_age = sorted(self.ledger.waiters.values(), key=lambda w: (w.since, w.id))
        rounds: dict[tuple[str, bool], int] = {}

        def key(waiter: Waiter) -> tuple[bool, bool, int, int]:
            low = self._is_low(waiter, now)
            turn = rounds[waiter.client, low] = rounds.get((waiter.client, low), 0) + 1
            if self._overdue(waiter, now):
                return False, False, 0, 0
            return True, low, turn, self._served.get(waiter.client, 0)

        keys = {waiter.id: key(waiter) for waiter in by_age}
        return sorted(by_age, key=lambda w: keys[w.id])  # stable: by age where the keys are the same

    def _serve(self, waiter: Waiter, now: float, fences: Mapping[str, _Fence]) -> None:
        modules = self._usable(waiter, now)
        if not modules or self._lease_idle(waiter, modules, now) or self._load_promised(waiter, modules):
            return
        coming = [
            s for s in self._fitting(waiter, modules) if s.phase in COMING and not self._fenced(s, waiter)
        ]
        failures = [self._failure(m.name, waiter.signature.model, now) for m in modules]
        if not coming and (failure := failures[0]) and all(failures):
            self._refuse(waiter, failure.error)
            return
        overdue = self._overdue(waiter, now)
        if coming and not overdue and self._expected_wait(waiter, coming) <= waiter.load_seconds:
            return
        loading = {s.module for s in coming if s.phase is Phase.LOADING}
        open_to_it = [
            m for m, f in zip(modules, failures, strict=True) if f is None and m.name not in loading
        ]
        if plan := self._best_plan(waiter, open_to_it, now, spare_only=bool(coming)):
            self._load(plan, waiter, now)
        elif overdue and not coming:
            self._fence(waiter, open_to_it, now, fences)

    def _usable(self, waiter: Waiter, now: float) -> list[Module]:
        """The modules that could serve it now. With none, it is stranded for a while and then refused."""
        model, unit = waiter.signature.model, waiter.signature.unit
        able = self.ledger.able(waiter)
        large = [m for m in able if m.total_kib is None or waiter.cost_kib <= m.total_kib]
        up = [m for m in large if m.up]
        usable = [m for m in up if unit not in m.silent]
        if usable:
            waiter.stranded_at = None
        elif up:
            self._refuse(waiter, UnitSilent(f"the {unit} unit does not answer; it is being probed"))
        elif able and not large:
            most = max(m.total_kib or 0 for m in able)
            numbers = f"'{model}' needs {waiter.cost_kib} KiB of NPU memory, the module has {most} KiB"
            self._refuse(waiter, NoCapableModule(numbers))
        else:
            waiter.stranded_at = now if waiter.stranded_at is None else waiter.stranded_at
            if now >= waiter.stranded_at + self.rules.stranded:
                names = ", ".join(m.name for m in large)
                what = f"module {names}" if names else f"a module with '{model}'"
                self._refuse(waiter, DeviceUnavailable(f"{what} is not connected"))
        return usable

    def _fitting(self, waiter: Waiter, modules: list[Module]) -> list[Session]:
        names = {m.name for m in modules}
        return [s for s in self.ledger.sessions.values() if s.module in names and waiter.fits(s)]

    def _lease_idle(self, waiter: Waiter, modules: list[Module], now: float) -> bool:
        overdue = self._overdue(waiter, now)

        def free(s: Session) -> bool:
            if s.phase is Phase.HELD and s.holder != waiter.id and not overdue:
                return False
            return s.phase in (Phase.IDLE, Phase.HELD) and not self._fenced(s, waiter)

        def rank(s: Session) -> tuple[bool, bool, bool, bool, bool, float]:
            exact, promise = s.signature == waiter.signature, s.promised
            others = promise is not None and promise != waiter.id
            return s.holder != waiter.id, not s.idle, not exact, others, promise is None, -s.last_used

        fitting = [s for s in self.ledger.sessions.values() if free(s) and waiter.fits(s)]
        fitting = [s for s in fitting if any(s.module == m.name for m in modules)]
        if not fitting:
            return False
        session = min(fitting, key=rank)
        session.phase, session.holder, session.leased_at = Phase.LEASED, waiter.id, now
        session.promised, session.unwanted = None, False
        if not session.used:  # its requests say from here on how long it may idle
            session.keep_until, session.used = 0.0, True
        if session.client != waiter.client:
            if session.client:
                session.used_by_others = session.last_used
            session.client = waiter.client
        self._count_lease(waiter.client)
        del self.ledger.waiters[waiter.id]
        self._begun.add(waiter.id)
        self._unpromise(waiter.id)
        self._decisions.append(Lease(waiter.id, session.id))
        return True

    def _count_lease(self, client: str) -> None:
        """Clients take turns: who was served longest ago comes first."""
        self._leases += 1
        self._served.pop(client, None)
        self._served[client] = self._leases
        if len(self._served) > CLIENTS_REMEMBERED:
            del self._served[next(iter(self._served))]

    def _load_promised(self, waiter: Waiter, modules: list[Module]) -> bool:
        """True if a load under way is, or now becomes, this waiter's."""
        for session in self._fitting(waiter, modules):
            if session.phase is Phase.LOADING and session.promised in (waiter.id, None):
                session.promised = waiter.id
                return True
        return False

    def _expected_wait(self, waiter: Waiter, coming: list[Session]) -> float:
        """Seconds until a turn comes by itself: the turns ahead, shared by the sessions that serve them."""
        age, others = (waiter.since, waiter.id), self.ledger.waiters.values()
        ahead = sum(w.signature == waiter.signature and (w.since, w.id) < age for w in others)
        turn = self._turn_seconds.get(waiter.signature.model, TURN_GUESS)
        at_once = sum(s.phase is Phase.DRAINING for s in coming)  # a matter of milliseconds
        return turn * max(ahead + 0.5 - at_once, 0.0) / len(coming)

    def _best_plan(
        self, waiter: Waiter, modules: list[Module], now: float, *, spare_only: bool
    ) -> Plan | None:
        """Free room first, then the same model set up anew, then the least loss, then the shortest line."""

        def rank(plan: Plan) -> tuple[bool, bool, float, int, str]:
            others = any(s.signature.model != waiter.signature.model for s in plan.victims)
            loss = sum(victim_value(s, now, "value") for s in plan.victims if not s.expired(now))
            return bool(plan.victims), others, loss, self.waiting_on(plan.module.name), plan.module.name

        candidates = [s for s in self.ledger.sessions.values() if self._may_leave(s, waiter, now)]
        if spare_only:
            candidates = [s for s in candidates if s.expired(now)]
        unfenced = [m for m in modules if m.name not in self._fences]
        plans = [plan for m in unfenced if (plan := self._room(waiter, m, candidates, now))]
        return min(plans, key=rank, default=None)

    def _room(self, waiter: Waiter, module: Module, candidates: list[Session], now: float) -> Plan | None:
        most, policy = self.rules.max_models, self.rules.eviction
        return make_room(self.ledger, waiter, module, candidates, now=now, max_models=most, policy=policy)

    def _may_leave(self, session: Session, waiter: Waiter, now: float, *, pressed: bool = False) -> bool:
        """True if `session` may be evicted now for this waiter; `pressed`, also one used just now."""
        overdue = self._overdue(waiter, now)
        if self._is_low(waiter, now) or session.promised is not None or self._fenced(session, waiter):
            return False
        if session.phase is Phase.HELD:
            return overdue and session.holder != waiter.id
        spared = now < self._spared_until(session, waiter)
        return session.idle and (session.expired(now) or overdue or pressed or not spared)

    def _retry(self, waiter: Waiter, module: str, now: float, same_unit: bool) -> bool:
        """Load once more what found no room, after evicting all that is idle there, or in the unit."""
        record = self.ledger.modules[module]
        if waiter.retried or waiter.signature.unit in record.silent:
            return False
        waiter.retried = True
        victims = [s for s in self.ledger.on(module) if self._may_leave(s, waiter, now, pressed=True)]
        victims = [s for s in victims if not same_unit or s.signature.unit == waiter.signature.unit]
        if victims:
            self._load(Plan(record, tuple(victims)), waiter, now)
        return bool(victims)

    def _fence(
        self, waiter: Waiter, modules: list[Module], now: float, earlier: Mapping[str, _Fence]
    ) -> None:
        """Reserve what this waiter needs on one module: busy victims get no new lease and leave once idle.

        The victims it chose earlier stay the same while they suffice.
        """
        stuck = (Phase.LATE, Phase.EXITING)
        movable = [s for s in self.ledger.sessions.values() if s.phase not in stuck and s.promised is None]
        movable = [s for s in movable if not self._fenced(s, waiter)]
        unfenced = [m for m in modules if m.name not in self._fences]
        chosen = {i for f in earlier.values() if f.waiter == waiter.id for i in f.victims}
        again = [m for m in unfenced if m.name in earlier and earlier[m.name].waiter == waiter.id]
        plans = [self._room(waiter, m, [s for s in movable if s.id in chosen], now) for m in again]
        plans += [self._room(waiter, m, movable, now) for m in unfenced]
        plan = next(filter(None, plans), None)
        if plan is None:
            return
        self._fences[plan.module.name] = _Fence(waiter.id, frozenset(s.id for s in plan.victims))
        for session in plan.victims:
            if session.phase in (Phase.IDLE, Phase.HELD):
                self._evict(session)

    def _fenced(self, session: Session, waiter: Waiter) -> bool:
        return any(f.waiter != waiter.id and session.id in f.victims for f in self._fences.values())

    def _load(self, plan: Plan, waiter: Waiter, now: float) -> None:
        """Set up after the victims there; victims on other modules leave on their own."""
        victims = [s for s in plan.victims if s.module == plan.module.name]
        for session in plan.victims:
            if session in victims:
                session.phase, session.holder = Phase.EXITING, None
            else:
                self._evict(session)
        session = Session(
            self._next_session, plan.module.name, waiter.signature, waiter.cost_kib, waiter.load_seconds, now
        )
        self._next_session += 1
        session.promised = waiter.id
        self.ledger.sessions[session.id] = session
        session.victims = tuple(s.id for s in victims)
        self._decisions.append(Load(session.id, session.module, session.signature, session.victims))

    def _evict(self, session: Session) -> None:
        session.phase, session.holder = Phase.EXITING, None
        self._decisions.append(Evict(session.id))

    def _expire(self, now: float) -> None:
        for session in self.ledger.sessions.values():
            if session.idle and now >= session.keep_until and session.promised is None:
                self._evict(session)

    def _drop_overdue(self, now: float) -> None:
        for waiter in list(self.ledger.waiters.values()):
            if now >= waiter.deadline:
                reason = self.place(waiter.id, now)[1]
                self._refuse(
                    waiter,
                    QueueTimeout(
                        f"no turn on '{waiter.signature.model}' within {waiter.deadline - waiter.since:g} s"
                        + (": it was still loading" if reason == "loading" else ": all of it was in use")
                    ),
                )

    def _refuse(self, waiter: Waiter, error: BridgeError) -> None:
        self.ledger.waiters.pop(waiter.id, None)
        self._unpromise(waiter.id)
        self._decisions.append(Refuse(waiter.id, error))

    def _unpromise(self, waiter_id: int) -> None:
        """Give up what was loaded for a waiter that will not take it."""
        for session in self.ledger.sessions.values():
            if session.promised == waiter_id:
                session.promised = None
                session.unwanted = session.idle and not self.wanted(session.id)

    def _crowded(self, waiter: Waiter) -> bool:
        """True if the line is too long for a newcomer; a request between two turns is none."""
        bound = self.rules.queue_size * max(len(self.ledger.able(waiter)), 1)
        return waiter.id not in self._begun and self._line(waiter) > bound

    def _line(self, waiter: Waiter) -> int:
        return sum(self._share(w, waiter) for w in self.ledger.waiters.values())

    def _share(self, one: Waiter, other: Waiter) -> bool:
        """True if they wait for the same module, or both for one that is not known yet."""
        its, others = ({m.name for m in self.ledger.able(w)} for w in (one, other))
        return bool(its & others) or its == others

    def _remember_failure(self, session: Session, error: BridgeError, now: float) -> None:
        key = (session.module, session.signature.model)
        previous = self._failed.get(key)
        rest = min(previous.rest * 2, FAILED_LOAD_REST_MOST) if previous else FAILED_LOAD_REST
        if isinstance(error, DeviceUnavailable) and not isinstance(error, UnitSilent):
            rest = ABSENT_REST  # a unit that restarts is back in seconds; a silent one is probed
        self._failed[key] = _FailedLoad(session.signature.unit, error, now + rest, rest)

    def _failure(self, module: str, model: str, now: float) -> _FailedLoad | None:
        failed = self._failed.get((module, model))
        return failed if failed is not None and now < failed.until else None

    def _forget_sessions(self, module: str) -> None:
        self.ledger.sessions = {i: s for i, s in self.ledger.sessions.items() if s.module != module}

    def _learn_turn(self, session: Session, now: float) -> None:
        model, took = session.signature.model, now - session.leased_at
        known = self._turn_seconds.get(model)
        self._turn_seconds[model] = took if known is None else 0.8 * known + 0.2 * took

    def _overdue(self, waiter: Waiter, now: float) -> bool:
        """True past the fairness limit. Times are compared as `next_tick` names them, to the last bit."""
        return now >= waiter.since + self.rules.fairness and not self._is_low(waiter, now)

    def _is_low(self, waiter: Waiter, now: float) -> bool:
        return waiter.low and now < waiter.since + LOW_PRIORITY_WAIT

    def _spared_until(self, session: Session, waiter: Waiter) -> float:
        """When this waiter may have a used session evicted.

        The guard is against clients that take a model from each other in turns: against the only one that
        used the session lately it would protect nobody.
        """
        alone = session.client == waiter.client
        return (session.used_by_others if alone else session.last_used) + self._guard(session)

    def _guard(self, session: Session) -> float:
        return max(self.rules.storm_guard, LOADS_PER_GUARD * session.load_seconds)
