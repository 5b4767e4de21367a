"""Random days on random modules: whatever happens in whatever order, the rules that must always hold do.

A fake executor stands for pool, loaders and modules. It keeps its own account of who has what, and checks
every decision against it.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from dataclasses import dataclass

import pytest

from errors import ModelLoadFailed, UnitSilent
from stackflow.decisions import Decision, Evict, Lease, Load, Refuse, Rules
from stackflow.ledger import Phase, Signature, Waiter
from stackflow.scheduler import LOW_PRIORITY_WAIT, Scheduler

DAYS = 40  # a parameter
EVENTS = 120  # a day
UNITS = {"X": "llm", "Y": "llm", "Z": "llm", "V": "vlm", "W": "vlm"}
COSTS = {"X": 400, "Y": 900, "Z": 1500, "V": 700, "W": 2900}  # KiB
TOTAL = 3000
LIMITS = {"llm": 2, "vlm": 1}
POOL_SIZES = {"X": 2, "Y": 1, "Z": None, "V": None, "W": None}
FAILED = ModelLoadFailed("llm", -5, "Model loading failed.")


@dataclass
class Task:
    """A session as the executor knows it."""

    module: str
    signature: Signature
    state: str = "loading"  # loading, idle, leased, held, draining, exiting, late
    who: int | None = None


class Day:
    """One day, from its seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rules = Rules(
            queue_size=self.random.choice([2, 5, 16]),
            fairness=self.random.choice([5.0, 30.0, 90.0]),
            storm_guard=self.random.choice([0.0, 30.0]),
            keep_alive=self.random.choice([0.0, 20.0, 300.0]),
            max_models=self.random.choice([1, 2, 3, 9]),
            eviction=self.random.choice(["value", "lru"]),
        )
        self.scheduler = Scheduler(self.rules)
        self.now = self.random.random() * 1e5
        self.tasks: dict[int, Task] = {}
        self.waiting: dict[int, Waiter] = {}
        self.serving: dict[int, int] = {}  # request -> its leased session
        self.wants: dict[int, Waiter] = {}  # open requests
        self.refused: list[int] = []  # their tickets are about to close
        self.numbers = itertools.count(1)
        self.lines: dict[str, deque[Load | Evict]] = {}  # module -> setups and exits, while it is up
        self.silent: set[tuple[str, str]] = set()
        self.names = ["m", "n"][: self.random.choice([1, 1, 2])]
        self.models = {name: [m for m in UNITS if self.random.random() < 0.8] for name in self.names}
        self.counted = self.random.random() < 0.9  # whether modules can count their memory

    # --- decisions

    def carry(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Lease):
                self.lease(decision)
            elif isinstance(decision, Refuse):
                del self.waiting[decision.waiter]
                self.refused.append(decision.waiter)
            elif isinstance(decision, Load):
                self.load(decision)
            else:
                task = self.tasks[decision.session]
                assert task.state in ("idle", "held"), "only what nobody uses is evicted"
                task.state, task.who = "exiting", None
                self.lines[task.module].append(decision)
        self.check()
        while self.refused:
            self.end(self.refused.pop())

    def lease(self, lease: Lease) -> None:
        waiter, task = self.waiting.pop(lease.waiter), self.tasks[lease.session]
        own = task.state == "held" and task.who == waiter.id
        assert own or task.state == "idle" or (task.state == "held" and self.overdue(waiter))
        assert task.signature == waiter.signature or (
            waiter.sticky and task.signature.model == waiter.signature.model
        )
        for other in self.waiting.values():
            older = self.overdue(other) and (other.since, other.id) < (waiter.since, waiter.id)
            assert own or not (older and other.signature == task.signature), (
                "nobody is overtaken past the limit"
            )
        task.state, task.who = "leased", waiter.id
        self.serving[waiter.id] = lease.session

    def load(self, load: Load) -> None:
        assert load.session not in self.tasks
        unit = load.signature.unit
        assert load.signature.model in self.models[load.module]
        assert (load.module, unit) not in self.silent
        for victim in load.victims:
            task = self.tasks[victim]
            assert task.state in ("idle", "held"), "only what nobody uses makes room"
            assert task.module == load.module
            task.state, task.who = "exiting", None
        promised = self.scheduler.ledger.sessions[load.session].promised
        if promised is not None and self.is_low(self.waiting[promised]):
            assert not load.victims, "low priority makes no room"
        self.tasks[load.session] = Task(load.module, load.signature)
        self.lines[load.module].append(load)

    def check(self) -> None:
        ledger = self.scheduler.ledger
        assert ledger.sessions.keys() == self.tasks.keys()
        for number, task in self.tasks.items():
            assert ledger.sessions[number].phase.value == task.state
        assert ledger.waiters.keys() == self.waiting.keys()
        assert all(self.now < w.deadline for w in self.waiting.values()), "nobody waits past its deadline"
        staying = [t for t in self.tasks.values() if t.state != "exiting"]
        assert len({t.signature.model for t in staying}) <= self.rules.max_models
        loading = Counter((t.module, t.signature) for t in staying if t.state == "loading")
        assert all(count == 1 for count in loading.values()), "one load of a signature at a time"
        for name in self.names:
            here = [t.signature for t in staying if t.module == name]
            for unit, count in Counter(s.unit for s in here).items():
                assert count <= LIMITS[unit]
            for model, count in Counter(s.model for s in here).items():
                assert count <= (POOL_SIZES[model] or 99)
            if self.counted:
                assert sum(COSTS[s.model] for s in here) <= TOTAL

    def overdue(self, waiter: Waiter) -> bool:
        return self.now >= waiter.since + self.rules.fairness and not self.is_low(waiter)

    def is_low(self, waiter: Waiter) -> bool:
        return waiter.low and self.now < waiter.since + LOW_PRIORITY_WAIT

    # --- events

    def count(self, name: str, arrived: int = 0) -> None:
        there = [
            t
            for i, t in self.tasks.items()
            if t.module == name and (i == arrived or t.state not in ("loading", "late"))
        ]
        remain = TOTAL - sum(COSTS[t.signature.model] for t in there)
        self.scheduler.memory(name, TOTAL if self.counted else None, max(remain, 0) if self.counted else None)

    def arrive(self) -> None:
        model, low = self.random.choice(list(UNITS)), self.random.random() < 0.2
        settings = (("temperature", self.random.choice([0.1, 0.7])),)
        waiter = Waiter(
            id=next(self.numbers),
            signature=Signature(UNITS[model], model, settings),
            cost_kib=COSTS[model],
            load_seconds=self.random.choice([0.5, 5.0, 40.0]),
            client=self.random.choice("abc"),
            since=self.now,
            deadline=self.now + self.random.choice([1.0, 60.0, 120.0]),
            low=low,
            sticky=self.random.random() < 0.1,
            pool_size=POOL_SIZES[model],
        )
        self.enter(waiter)

    def enter(self, waiter: Waiter) -> None:
        self.wants[waiter.id] = self.waiting[waiter.id] = waiter
        self.carry(self.scheduler.arrive(self.now, waiter))

    def hang_up(self) -> None:
        """A request ends in any state: waiting, with a lease, or holding."""
        if self.wants:
            self.end(self.random.choice(list(self.wants)))

    def end(self, request: int) -> None:
        del self.wants[request]
        self.waiting.pop(request, None)
        self.carry(self.scheduler.leave(self.now, request))
        held = [i for i, t in self.tasks.items() if t.state == "held" and t.who == request]
        session = self.serving.pop(request, None)
        for number in {*held, *([session] if session is not None else [])}:
            self.give_back(number)

    def give_back(self, number: int) -> None:
        if number not in self.tasks:
            return  # lost with its module
        task, draining = self.tasks[number], self.random.random() < 0.3
        task.state, task.who = "draining" if draining else "idle", None
        keep = self.random.choice([0.0, 10.0, 300.0])
        self.carry(self.scheduler.release(self.now, number, draining=draining, keep=keep))

    def rest(self) -> None:
        """A request ends a turn and holds, or comes back for the next one."""
        leased = [r for r, s in self.serving.items() if s in self.tasks]
        if leased and self.random.random() < 0.6:
            request = self.random.choice(leased)
            number = self.serving.pop(request)
            self.tasks[number].state = "held"
            self.carry(self.scheduler.hold(self.now, number))
        else:
            between = [r for r in self.wants if r not in self.waiting and r not in self.serving]
            if between:
                old = self.wants[self.random.choice(between)]
                again = Waiter(
                    old.id,
                    old.signature,
                    old.cost_kib,
                    old.load_seconds,
                    old.client,
                    old.since,
                    self.now + 120,
                    old.low,
                    old.sticky,
                    old.pool_size,
                )
                self.enter(again)

    def drained(self) -> None:
        if numbers := [i for i, t in self.tasks.items() if t.state == "draining"]:
            number = self.random.choice(numbers)
            self.tasks[number].state = "idle"
            self.carry(self.scheduler.drained(self.now, number))

    def task_died(self) -> None:
        numbers = [i for i, t in self.tasks.items() if t.state in ("idle", "held", "draining", "leased")]
        if numbers and self.random.random() < 0.2:
            self.forget(self.random.choice(numbers))

    def forget(self, number: int) -> None:
        task = self.tasks.pop(number)
        self.serving = {r: s for r, s in self.serving.items() if s != number}
        self.count(task.module)
        self.carry(self.scheduler.gone(self.now, number))

    def work(self) -> None:
        """A module does the next thing in its line."""
        if names := [name for name, line in self.lines.items() if line]:
            line = self.lines[self.random.choice(names)]
            step = line.popleft()
            if isinstance(step, Evict):
                if step.session in self.tasks:
                    self.forget(step.session)
            elif step.session in self.tasks:
                self.set_up(step)

    def set_up(self, load: Load) -> None:
        number = load.session
        if not self.scheduler.wanted(number):
            del self.tasks[number]
            for victim in load.victims:
                if victim in self.tasks:
                    self.tasks[victim].state = "idle"
            self.carry(self.scheduler.load_dropped(self.now, number, load.victims))
            return
        for victim in load.victims:
            if victim in self.tasks:
                self.forget(victim)
        self.advance(self.random.choice([0.1, 3.0, 20.0]))
        if number not in self.tasks:
            return
        task, luck = self.tasks[number], self.random.random()
        if luck < 0.75:
            self.count(task.module, arrived=number)
            task.state = "idle"
            self.carry(self.scheduler.loaded(self.now, number))
        elif luck < 0.95:
            del self.tasks[number]
            pressure = self.random.random() < 0.5
            self.carry(self.scheduler.load_failed(self.now, number, FAILED, pressure=pressure))
        else:
            task.state = "late"
            self.carry(self.scheduler.load_late(self.now, number, UnitSilent("no answer")))

    def late_one_settles(self) -> None:
        if numbers := [i for i, t in self.tasks.items() if t.state == "late"]:
            self.forget(self.random.choice(numbers))

    def module_comes_or_goes(self) -> None:
        name = self.random.choice(self.names)
        if name not in self.lines:
            self.lines[name] = deque()
            total = TOTAL if self.counted else None
            self.carry(self.scheduler.module_up(self.now, name, self.models[name], LIMITS, total, total))
        elif self.random.random() < 0.1:
            del self.lines[name]
            lost = {i for i, t in self.tasks.items() if t.module == name}
            self.tasks = {i: t for i, t in self.tasks.items() if i not in lost}
            self.serving = {r: s for r, s in self.serving.items() if s not in lost}
            self.silent = {(n, unit) for n, unit in self.silent if n != name}
            self.carry(self.scheduler.module_down(self.now, name))

    def unit_falls_silent_or_returns(self) -> None:
        if not self.lines or self.random.random() < 0.7:
            return
        name, unit = self.random.choice(list(self.lines)), self.random.choice(list(LIMITS))
        if (name, unit) in self.silent:
            self.silent.discard((name, unit))
            stale = [i for i, t in self.tasks.items() if (t.module, t.signature.unit) == (name, unit)]
            for number in stale:
                if number in self.tasks and self.tasks[number].state in ("idle", "draining", "late"):
                    self.forget(number)
            self.carry(self.scheduler.unit_back(self.now, name, unit))
        else:
            self.silent.add((name, unit))
            self.carry(self.scheduler.unit_silent(self.now, name, unit))

    def advance(self, seconds: float) -> None:
        """Let time pass, ticking at `next_tick` only; in between a tick has nothing to do."""
        end = self.now + seconds
        for _ in range(1000):
            due = self.scheduler.next_tick(self.now)
            if due is None or due > end:
                break
            assert due > self.now
            self.between(due)
            self.now = due
            self.carry(self.scheduler.tick(due))
        else:
            pytest.fail("the ticks never end")
        self.between(end if due is None else min(due, end))
        self.now = end
        self.carry(self.scheduler.tick(end))

    def between(self, due: float) -> None:
        early = self.now + (due - self.now) * self.random.random()
        if self.now < early < due:
            assert self.scheduler.tick(early) == [], "next_tick missed something"

    def pass_time(self) -> None:
        self.advance(self.random.choice([0.01, 1.0, 7.0, 33.0]))

    # --- a day

    def run(self) -> None:
        events = {
            self.arrive: 30,
            self.hang_up: 14,
            self.rest: 10,
            self.drained: 8,
            self.task_died: 3,
            self.work: 30,
            self.late_one_settles: 3,
            self.module_comes_or_goes: 5,
            self.unit_falls_silent_or_returns: 5,
            self.pass_time: 20,
        }
        self.module_comes_or_goes()
        for event in self.random.choices(list(events), list(events.values()), k=EVENTS):
            event()
            assert self.scheduler.tick(self.now) == [], "an event leaves nothing undecided"

    def close(self) -> None:
        """Everybody goes home: what was taken comes back, and idle sessions leave in their time."""
        for name in self.names:
            if name not in self.lines:
                self.module_comes_or_goes()
        for name, unit in list(self.silent):
            self.silent.discard((name, unit))
            self.carry(self.scheduler.unit_back(self.now, name, unit))
        while self.wants:
            self.hang_up()
        for _ in range(1000):
            if not self.tasks:
                break
            self.work()
            self.drained()
            self.late_one_settles()
            self.advance(1.0)
        assert not self.tasks
        assert not self.scheduler.ledger.sessions
        assert not self.scheduler.ledger.waiters
        assert not self.scheduler._fences
        assert not self.scheduler._begun
        assert self.scheduler.next_tick(self.now) is None


@pytest.mark.parametrize("part", range(10))
def test_the_rules_hold_on_any_day(part: int) -> None:
    for seed in range(part * DAYS, (part + 1) * DAYS):
        day = Day(seed)
        try:
            day.run()
            day.close()
        except AssertionError as err:
            raise AssertionError(f"on day {seed}: {err}") from err


def test_the_executor_speaks_the_schedulers_words() -> None:
    assert {phase.value for phase in Phase} == {
        *("loading", "idle", "leased", "held", "draining", "exiting", "late")
    }
