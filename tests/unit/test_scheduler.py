"""The rules of sharing the NPU, one story each. No clock: every event says when it happens."""

from __future__ import annotations

import pytest

from errors import (
    BridgeError,
    DeviceUnavailable,
    ModelLoadFailed,
    NoCapableModule,
    QueueFull,
    QueueTimeout,
    UnitSilent,
)
from stackflow.decisions import Decision, Evict, Lease, Load, Refuse, Rules
from stackflow.ledger import FOREVER, Phase, Signature, Waiter
from stackflow.scheduler import FAILED_LOAD_REST_MOST, Scheduler

TOTAL = 3_000_000  # KiB
COST = 1_000_000  # KiB of every model here, unless said otherwise
LOAD = 20.0  # seconds to load one; a copy is worth it where waiting takes longer
LATER = 1000.0  # a moment long after everything was last used
FAILED = ModelLoadFailed("llm", -5, "Model loading failed.")


class World:
    """A scheduler, one module unless said otherwise, and requests named by letters."""

    def __init__(
        self, *, limit: int = 2, total: int | None = TOTAL, up: bool = True, **rules: object
    ) -> None:
        self.scheduler = Scheduler(Rules(**rules))  # type: ignore[arg-type]
        self.now = 0.0
        self.log: list[Decision] = []
        self.strangers = 0  # KiB that others use
        self._limit = limit
        self._names: dict[str, int] = {}
        if up:
            self.up(total=total)

    def up(self, name: str = "m", models: str = "X Y Z", total: int | None = TOTAL) -> list[str]:
        limits = {"llm": self._limit, "vlm": 2}
        return self.note(self.scheduler.module_up(self.now, name, models.split(), limits, total, total))

    def want(self, who: str, model: str = "X", **fields: object) -> list[str]:
        """Let request `who` arrive. Its client is its letter, unless said otherwise."""
        self._names[who] = number = len(self._names) + 1 if who not in self._names else self._names[who]
        settings: dict[str, object] = {
            "client": who,
            "since": self.now,
            "deadline": self.now + 120,
            "cost_kib": COST,
            "load_seconds": LOAD,
        } | fields
        unit = str(settings.pop("unit", "llm"))
        sampling = settings.pop("sampling", None)
        signature = Signature(unit, model, (("temperature", str(sampling)),) if sampling else ())
        waiter = Waiter(id=number, signature=signature, **settings)  # type: ignore[arg-type]
        return self.note(self.scheduler.arrive(self.now, waiter))

    def at(self, now: float) -> list[str]:
        self.now = now
        return self.note(self.scheduler.tick(now))

    def loaded(self, session: int) -> list[str]:
        for victim in next(d.victims for d in self.log if isinstance(d, Load) and d.session == session):
            self.gone(victim)
        self.count(arrived=session)
        return self.note(self.scheduler.loaded(self.now, session))

    def release(self, session: int, keep: float = FOREVER, *, draining: bool = False) -> list[str]:
        return self.note(self.scheduler.release(self.now, session, draining=draining, keep=keep))

    def hold(self, session: int) -> list[str]:
        return self.note(self.scheduler.hold(self.now, session))

    def gone(self, session: int) -> list[str]:
        self.count(gone=session)
        return self.note(self.scheduler.gone(self.now, session))

    def leave(self, who: str) -> list[str]:
        return self.note(self.scheduler.leave(self.now, self._names[who]))

    def fail(self, session: int, error: BridgeError = FAILED, *, pressure: bool = False) -> list[str]:
        return self.note(self.scheduler.load_failed(self.now, session, error, pressure=pressure))

    def late(self, session: int) -> list[str]:
        return self.note(self.scheduler.load_late(self.now, session, UnitSilent("no answer to setup")))

    def note(self, decisions: list[Decision]) -> list[str]:
        """Say decisions in words, such as ``a gets 1`` or ``load X as 2 for 1``."""
        self.log += decisions
        self.count()
        return [self._words(decision) for decision in decisions]

    def count(self, arrived: int = 0, gone: int = 0) -> None:
        """Let the modules count their memory, as they do before the news of a setup or an exit."""
        ledger, absent = self.scheduler.ledger, (Phase.LOADING, Phase.LATE)
        for module in ledger.modules.values():
            there = [s for s in ledger.on(module.name) if s.id == arrived or s.phase not in absent]
            used = self.strangers + sum(s.cost_kib for s in there if s.id != gone)
            if module.total_kib is not None:
                self.scheduler.memory(module.name, module.total_kib, module.total_kib - used)

    def _words(self, decision: Decision) -> str:
        who = {number: name for name, number in self._names.items()}
        if isinstance(decision, Lease):
            return f"{who[decision.waiter]} gets {decision.session}"
        if isinstance(decision, Refuse):
            return f"{who[decision.waiter]} refused {type(decision.error).__name__}"
        if isinstance(decision, Evict):
            return f"evict {decision.session}"
        place = "" if decision.module == "m" else f" on {decision.module}"
        victims = f" for {' '.join(map(str, decision.victims))}" if decision.victims else ""
        return f"load {decision.signature.model} as {decision.session}{place}{victims}"

    def give(self, who: str, model: str = "X", **fields: object) -> int:
        """Let `who` have a session, freshly loaded; return its number."""
        self.want(who, model, **fields)
        load = self.log[-1]
        assert isinstance(load, Load), self.log
        assert self.loaded(load.session) == [f"{who} gets {load.session}"]
        return load.session

    def idle(self, model: str = "X", keep: float = FOREVER, **fields: object) -> int:
        """Have a session of `model` loaded, used and idle; return its number."""
        session = self.give(f"earlier{len(self._names)}", model, **fields)
        self.release(session, keep)
        return session

    def phase(self, session: int) -> Phase | None:
        record = self.scheduler.ledger.sessions.get(session)
        return record.phase if record else None

    def error(self) -> BridgeError:
        """The last refusal."""
        return next(d.error for d in reversed(self.log) if isinstance(d, Refuse))


# --- rules 1 and 2: leases and signatures


def test_a_first_request_loads_its_model_and_gets_it() -> None:
    world = World()
    assert world.want("a") == ["load X as 1"]
    assert world.loaded(1) == ["a gets 1"]


def test_an_idle_session_of_the_same_signature_is_reused() -> None:
    world = World()
    session = world.idle("X")
    assert world.want("b") == [f"b gets {session}"]


def test_a_leased_session_is_never_touched_however_long_others_wait() -> None:
    world = World(limit=1)
    session = world.give("a")
    world.want("b", "Y")
    for now in (31, 61, 119):
        assert world.at(now) == []
        assert world.phase(session) is Phase.LEASED
    assert world.at(120) == ["b refused QueueTimeout"]


def test_the_session_used_last_is_reused_first() -> None:
    world = World()
    first, second = world.give("a"), 2
    world.want("b")
    world.at(31)  # past the limit it may have a copy in free room
    assert world.loaded(second) == ["b gets 2"]
    world.release(second)
    world.at(32)
    world.release(first)
    assert world.want("c") == [f"c gets {first}"]


def test_another_sampling_is_another_signature() -> None:
    world = World()
    world.idle("X", sampling=0.7)
    assert world.want("b", sampling=0.1) == ["load X as 2"]


def test_a_sticky_request_takes_any_sampling_but_prefers_its_own() -> None:
    world = World()
    other = world.idle("X", sampling=0.7)
    assert world.want("b", sampling=0.1, sticky=True) == [f"b gets {other}"]
    world.release(other)
    exact = world.idle("X", sampling=0.1)
    world.at(1)
    world.want("c", sampling=0.7)
    world.release(other)
    assert world.want("d", sampling=0.1, sticky=True) == [f"d gets {exact}"]


def test_a_session_that_still_answers_an_abandoned_request_is_leased_only_when_drained() -> None:
    world = World()
    session = world.give("a")
    world.leave("a")
    world.release(session, draining=True)
    assert world.want("b") == []
    assert world.note(world.scheduler.drained(1, session)) == [f"b gets {session}"]


def test_a_turn_that_ends_twice_frees_nothing_twice() -> None:
    world = World()
    session = world.give("a")
    world.release(session)
    world.want("b")
    record = world.scheduler.ledger.sessions[session]
    record.phase = Phase.EXITING  # the pool set it aside
    assert world.release(session) == []
    assert world.phase(session) is Phase.EXITING


# --- held sessions


def test_a_held_session_waits_for_its_request_and_for_nobody_else() -> None:
    world = World(limit=1)
    session = world.give("a")
    assert world.hold(session) == []
    assert world.want("b") == []
    assert world.want("a", since=0.0) == [f"a gets {session}"]


def test_past_the_fairness_limit_a_held_session_is_taken_and_its_holder_waits_with_its_age() -> None:
    world = World(limit=1)
    session = world.give("a")
    world.want("b")
    world.want("c")
    world.at(31)
    assert world.hold(session) == [f"b gets {session}"]
    assert world.want("a", since=0.0) == []
    assert world.release(session) == [f"a gets {session}"]


def test_a_low_priority_request_takes_no_held_session_before_it_counts_as_normal() -> None:
    world = World(limit=1)
    world.hold(world.give("a"))
    world.want("b", low=True)
    assert world.at(59) == []
    assert world.at(60) == ["b gets 1"]


def test_a_held_session_is_evicted_only_past_the_limit() -> None:
    world = World(limit=1)
    session = world.give("a")
    world.hold(session)
    world.want("b", "Y")
    assert world.at(29.9) == []
    assert world.at(30) == [f"load Y as 2 for {session}"]


# --- rule 3: one load, copies, re-setup, storms


def test_a_second_waiter_for_a_model_that_is_loading_causes_no_second_load() -> None:
    world = World()
    assert world.want("a", load_seconds=1.0) == ["load X as 1"]
    assert world.want("b", load_seconds=1.0) == []
    assert world.loaded(1) == ["a gets 1", "load X as 2"]  # now waiting would take longer than loading


def test_a_copy_is_loaded_only_where_the_wait_is_longer_than_the_load() -> None:
    world = World()
    world.give("a")
    assert world.want("b") == []  # half a turn of 10 s
    assert world.want("c") == []  # one and a half
    assert world.want("d") == ["load X as 2"]  # two and a half turns, and a load takes 20 s


def test_a_copy_never_costs_another_model_its_place() -> None:
    world = World()
    world.idle("Y")
    world.at(LATER)
    world.give("a")
    for who in "bcdef":
        assert world.want(who) == []
    world.at(LATER + 40)
    assert world.phase(1) is Phase.IDLE


def test_measured_turns_decide_about_copies() -> None:
    world = World()
    world.give("a")
    world.at(100)
    world.release(1)
    world.want("b")
    assert world.want("c") == ["load X as 2"]  # half a turn of 100 s


def test_the_pool_size_bounds_the_copies() -> None:
    world = World()
    world.give("a", pool_size=1)
    for who in "bcdef":
        assert world.want(who, pool_size=1) == []


def test_the_same_model_with_other_settings_is_set_up_anew_before_another_model_leaves() -> None:
    world = World()
    other = world.idle("Y")
    mine = world.idle("X", sampling=0.7)
    world.at(LATER)
    assert world.want("a", sampling=0.1) == [f"load X as 3 for {mine}"]
    assert world.phase(other) is Phase.IDLE


def test_a_full_pool_is_set_up_anew_even_where_there_is_room() -> None:
    world = World()
    mine = world.idle("X", sampling=0.7, pool_size=1)
    world.at(LATER)
    assert world.want("a", sampling=0.1, pool_size=1) == [f"load X as 2 for {mine}"]


def test_a_session_used_just_now_is_spared_until_its_guard_ends() -> None:
    world = World(limit=1, storm_guard=10.0, fairness=300.0)
    session = world.idle("X", load_seconds=5.0)
    world.want("b", "Y")
    assert world.scheduler.next_tick(0.0) == 15.0  # three load times are more than 10 s
    assert world.at(14.9) == []
    assert world.at(15.0) == [f"load Y as 2 for {session}"]


def test_a_client_alone_takes_its_own_idle_session_at_once() -> None:
    world = World(limit=1)
    session = world.give("a", "X", client="one")
    world.release(session)
    assert world.want("b", "Y", client="one") == [f"load Y as 2 for {session}"]


def test_a_client_waits_for_what_another_used_lately_or_wants_now() -> None:
    world = World(limit=1, storm_guard=10.0)
    session = world.give("a", "X", client="one", load_seconds=5.0)
    world.release(session)
    world.want("b", "X", client="two")
    world.release(session)
    world.now = 1.0
    assert world.want("c", "Y", client="two") == []  # `one` may still be at it
    world.want("d", "X", client="two")
    assert world.phase(session) is Phase.LEASED
    world.release(session)
    assert world.at(14.9) == []
    assert world.at(15.0) == [f"load Y as 2 for {session}"]


def test_past_the_fairness_limit_no_guard_holds() -> None:
    world = World(limit=1, storm_guard=1000.0)
    session = world.idle("X")
    world.want("b", "Y")
    assert world.at(30.0) == [f"load Y as 2 for {session}"]


def test_the_loaded_signature_may_overtake_until_the_limit_and_then_no_more() -> None:
    world = World(limit=1)
    session = world.idle("X")
    world.want("b", "Y")
    assert world.want("c", "X") == [f"c gets {session}"]
    world.at(20)
    world.release(session)
    world.want("d", "X")
    world.want("e", "X")
    world.at(31)
    assert world.release(session) == [f"load Y as 2 for {session}"]


# --- rule 4: making room


def test_victims_are_all_or_nothing() -> None:
    world = World(limit=4)
    world.idle("Y")
    world.give("a", "X")
    world.at(LATER)
    assert world.want("b", "Z", cost_kib=2_500_000) == []  # Y alone would not do
    assert world.phase(1) is Phase.IDLE


def test_no_more_leave_than_have_to() -> None:
    world = World(limit=4, max_models=9)
    small = world.idle("X", cost_kib=500_000)
    big = world.idle("Y", cost_kib=2_000_000)
    world.at(LATER)
    assert world.want("b", "Z", cost_kib=2_200_000) == [f"load Z as 3 for {big}"]
    assert world.phase(small) is Phase.IDLE


def test_a_victim_for_the_slot_is_spared_where_the_one_for_memory_suffices() -> None:
    world = World(limit=2)
    small = world.idle("X", cost_kib=100_000)
    big = world.idle("Y", cost_kib=2_500_000)
    world.scheduler.ledger.sessions[small].load_seconds = 0.1  # by value alone it would go first
    world.at(LATER)
    assert world.want("b", "Z", cost_kib=2_500_000) == [f"load Z as 3 for {big}"]


def test_what_is_quickly_loaded_again_goes_first() -> None:
    world = World()
    slow, quick = world.idle("X", load_seconds=20.0), world.idle("Y", load_seconds=2.0)
    world.at(LATER)
    assert world.want("b", "Z") == [f"load Z as 3 for {quick}"]
    assert world.phase(slow) is Phase.IDLE


def test_with_lru_what_was_used_longest_ago_goes_first() -> None:
    world = World(eviction="lru")
    old = world.idle("X", load_seconds=20.0)
    world.at(1)
    world.idle("Y", load_seconds=2.0)
    world.at(LATER)
    assert world.want("b", "Z") == [f"load Z as 3 for {old}"]


def test_one_model_too_many_costs_all_sessions_of_the_least_valuable() -> None:
    world = World(limit=4, total=None, max_models=2, keep_alive=FOREVER)
    world.idle("X", sampling=0.1)
    world.idle("X", sampling=0.7)
    world.idle("Y", load_seconds=1000.0)
    world.at(LATER)
    assert world.want("e", "Z") == ["load Z as 4 for 1 2"]


def test_a_model_on_its_way_out_does_not_count() -> None:
    world = World(limit=4, total=None, max_models=1)
    first = world.idle("X")
    second = world.idle("X", sampling=0.7)
    world.scheduler.ledger.sessions[first].phase = Phase.EXITING
    world.at(LATER)
    assert world.want("b", "Y") == [f"load Y as 3 for {second}"]


def test_models_are_counted_over_all_modules() -> None:
    world = World(max_models=1)
    world.up("n", "W")
    session = world.idle("X")
    world.at(LATER)
    assert world.want("b", "W") == [f"evict {session}", "load W as 2 on n"]


def test_idle_time_ends_a_session_and_zero_ends_it_at_once() -> None:
    world = World()
    session = world.give("a")
    assert world.release(session, keep=0) == [f"evict {session}"]
    session = world.give("b")
    world.scheduler.ledger.sessions[session].keep_until = 0.0
    world.release(session, keep=50)
    assert world.scheduler.next_tick(0.0) == 50.0
    assert world.at(50.0) == [f"evict {session}"]


def test_the_longest_running_idle_time_counts() -> None:
    world = World()
    session = world.give("a")
    world.release(session, keep=500)
    world.want("b")
    world.release(session, keep=10)
    assert world.at(499) == []
    assert world.at(500) == [f"evict {session}"]


def test_a_model_just_loaded_for_a_waiter_is_not_taken_from_it() -> None:
    world = World(limit=1, keep_alive=0.0)
    world.want("a", "X")
    world.want("b", "Y")
    world.at(31)
    assert world.loaded(1) == ["a gets 1"]


# --- rule 5: the queue


def test_clients_take_turns_and_each_client_is_served_in_order() -> None:
    world = World(limit=1)
    session = world.give("a")
    for who, client in (("b1", "b"), ("b2", "b"), ("b3", "b"), ("c1", "c"), ("d1", "d")):
        world.want(who, client=client)
    served = []
    for _ in range(5):
        (words,) = world.release(session)
        served.append(words.split()[0])
    assert served == ["b1", "c1", "d1", "b2", "b3"]


def test_a_client_gets_one_of_two_free_sessions_where_others_wait() -> None:
    world = World(up=False)
    for who, model, client in (("a1", "X", "a"), ("a2", "Y", "a"), ("b1", "Z", "b")):
        world.want(who, model, client=client)
    assert world.up() == ["load X as 1", "load Z as 2"]


def test_nobody_is_overtaken_past_the_fairness_limit() -> None:
    world = World(limit=1)
    session = world.give("a")
    world.want("b1", client="b")
    world.want("b2", client="b")
    world.at(10)
    world.want("c1", client="c")
    world.at(35)
    assert world.release(session) == [f"b1 gets {session}"]
    assert world.release(session) == [f"b2 gets {session}"]  # past the limit by age, whose turn it ever was


def test_past_the_limit_a_fence_lets_idle_ones_leave_at_once_and_busy_ones_take_nobody_new() -> None:
    world = World(limit=2)
    idle, busy = world.idle("X"), world.give("a", "Y")
    world.want("b", "Z", cost_kib=2_500_000)
    assert world.at(30) == [f"evict {idle}"]
    world.gone(idle)
    assert world.want("c", "Y") == []  # would fit the busy one
    assert world.want("d", "X") == []  # and there is room, but it is spoken for
    assert world.release(busy) == [f"load Z as 3 for {busy}"]


def test_a_fence_is_given_up_when_its_waiter_leaves() -> None:
    world = World(limit=1)
    busy = world.give("a", "X")
    world.want("b", "Y")
    world.at(30)
    world.want("c", "X")
    world.leave("b")
    assert world.release(busy) == [f"c gets {busy}"]


def test_the_fence_stays_where_it_was_put_up() -> None:
    world = World(limit=2)
    first = world.give("a", "X", load_seconds=1.0)
    world.give("b", "Y", load_seconds=2.0)
    world.want("c", "Z")
    world.at(30)
    world.scheduler.ledger.sessions[first].load_seconds = 100.0  # now the other one would be chosen
    world.want("d", "X")
    assert world.at(31) == []
    assert world.release(first) == [f"load Z as 3 for {first}"]


def test_an_older_waiter_is_not_bound_by_a_younger_ones_fence() -> None:
    world = World(limit=1)
    busy = world.give("a", "X")
    world.at(1)
    world.want("older", "X")
    world.at(2)
    world.want("younger", "Y")
    world.at(40)
    assert world.release(busy) == [f"older gets {busy}"]
    assert world.release(busy) == [f"load Y as 2 for {busy}"]


def test_a_fence_whose_victims_no_longer_suffice_is_put_up_anew() -> None:
    world = World(limit=2)
    first, second = world.give("a", "X", load_seconds=1.0), world.give("b", "Y")
    world.want("c", "Z", cost_kib=2_000_000)
    world.at(30)
    world.strangers = COST
    world.want("d", "Y")
    assert world.release(first) == [f"evict {first}"]
    assert world.gone(first) == []
    assert world.release(second) == [f"load Z as 3 for {second}"]


def test_who_waits_for_a_busy_session_of_its_own_fences_nobody_elses() -> None:
    world = World(limit=2)
    world.give("a", "X")
    other = world.give("b", "Y")
    world.want("c", "X")
    world.at(31)
    world.want("d", "Y")
    assert world.release(other) == [f"d gets {other}"]


def test_who_waits_for_a_busy_session_of_its_own_keeps_nobody_from_free_room() -> None:
    world = World(limit=2)
    world.give("a", "X", pool_size=1)
    world.want("b", "X", pool_size=1)
    world.at(31)
    assert world.want("c", "Y") == ["load Y as 2"]


def test_a_fence_keeps_the_victims_it_chose() -> None:
    world = World(limit=3, max_models=9, up=False)
    world.up(models="V X Y Z")
    first = world.give("a", "X", load_seconds=1.0)
    world.give("b", "Y", load_seconds=2.0)
    world.give("c", "V", load_seconds=3.0)
    world.want("d", "Z", cost_kib=2_000_000)
    world.at(30)
    world.scheduler.ledger.sessions[first].load_seconds = 100.0  # now the other two would be chosen
    world.want("e", "X")
    assert world.release(first) == [f"evict {first}"]


def test_nobody_counts_on_a_session_behind_anothers_fence() -> None:
    world = World(limit=1)
    world.up("n", "X")
    world.give("a", "X")
    world.want("b", "Y")
    world.at(30)
    assert world.want("c", "X") == ["load X as 2 on n"]


def test_held_sessions_leave_last() -> None:
    world = World(limit=2)
    idle = world.idle("X", load_seconds=100.0)
    held = world.give("a", "Y", load_seconds=1.0)
    world.hold(held)
    world.want("b", "Z")
    assert world.at(30) == [f"load Z as 3 for {idle}"]


def test_low_priority_comes_last_and_makes_no_room() -> None:
    world = World(limit=1)
    session = world.idle("X")
    world.at(LATER)
    assert world.want("low", "Y", low=True) == []
    assert world.at(LATER + 59) == []
    world.want("b", "X")
    world.want("c", "X")
    assert world.release(session) == [f"c gets {session}"]


def test_after_a_minute_low_priority_is_as_normal() -> None:
    world = World(limit=1)
    session = world.idle("X")
    world.at(LATER)
    world.want("low", "Y", low=True)
    assert world.scheduler.next_tick(LATER + 31) == LATER + 60
    assert world.at(LATER + 60) == [f"load Y as 2 for {session}"]


def test_low_priority_uses_room_that_is_free() -> None:
    assert World().want("low", low=True) == ["load X as 1"]


def test_beyond_the_bound_a_request_is_refused_at_once() -> None:
    world = World(limit=1, queue_size=2)
    world.give("a")
    world.want("b")
    world.want("c")
    assert world.want("d") == ["d refused QueueFull"]
    assert isinstance(world.error(), QueueFull)
    assert str(world.error()) == "2 requests are waiting already"


def test_a_full_queue_keeps_nobody_from_an_idle_session() -> None:
    world = World(limit=2, queue_size=1)
    idle = world.idle("Y")
    world.give("a", "X")
    world.want("b", "X")
    assert world.want("c", "Y") == [f"c gets {idle}"]


def test_a_full_queue_starts_no_load_for_whom_it_refuses() -> None:
    world = World(queue_size=1)
    world.give("a", "X")
    world.want("b", "X")
    assert world.want("c", "Y") == ["c refused QueueFull"]
    assert world.scheduler.ledger.sessions.keys() == {1}


def test_a_request_between_two_turns_comes_back_to_a_full_queue() -> None:
    world = World(limit=1, queue_size=1)
    session = world.give("a")
    world.want("b")
    world.at(31)
    assert world.hold(session) == [f"b gets {session}"]
    world.want("c")
    assert world.want("a", since=0.0) == []
    assert world.release(session) == [f"a gets {session}"]


def test_requests_for_a_module_that_is_not_there_yet_are_bounded_too() -> None:
    world = World(up=False, queue_size=1)
    assert world.want("a") == []
    assert world.want("b") == ["b refused QueueFull"]


def test_past_the_deadline_the_refusal_says_why() -> None:
    world = World(limit=1)
    world.give("a")
    world.want("b", deadline=10.0)
    world.want("c", "Y", deadline=11.0)
    assert world.at(10.0) == ["b refused QueueTimeout"]
    assert str(world.error()) == "no turn on 'X' within 10 s: all of it was in use"
    world.leave("c")
    slow = World()
    slow.want("a", deadline=10.0)
    assert slow.at(10.0) == ["a refused QueueTimeout"]
    assert isinstance(slow.error(), QueueTimeout)
    assert str(slow.error()).endswith("it was still loading")


def test_what_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    world = World()
    assert world.want("a", cost_kib=TOTAL + 1) == ["a refused NoCapableModule"]
    assert isinstance(world.error(), NoCapableModule)
    assert f"{TOTAL + 1} KiB" in str(world.error())
    assert f"{TOTAL} KiB" in str(world.error())
    assert world.want("b", cost_kib=TOTAL) == ["load X as 1"]


def test_what_can_never_fit_is_refused_when_the_module_shows_up_small() -> None:
    world = World(up=False)
    assert world.want("a", cost_kib=TOTAL) == []
    assert world.up(total=TOTAL - 1) == ["a refused NoCapableModule"]


# --- rule 6: hanging up


def test_who_hangs_up_leaves_the_queue_at_once() -> None:
    world = World(limit=1)
    session = world.give("a")
    world.want("b")
    world.want("c")
    assert world.leave("b") == []
    assert world.release(session) == [f"c gets {session}"]


def test_a_load_not_begun_is_dropped_and_its_victims_stay() -> None:
    world = World(limit=1)
    victim = world.idle("X")
    world.at(LATER)
    assert world.want("b", "Y") == [f"load Y as 2 for {victim}"]
    assert world.scheduler.wanted(2)
    world.leave("b")
    assert not world.scheduler.wanted(2)
    assert world.note(world.scheduler.load_dropped(LATER, 2, (victim,))) == []
    assert world.want("c", "X") == [f"c gets {victim}"]


def test_a_load_begun_is_finished_and_is_the_first_victim() -> None:
    world = World()
    other = world.idle("X", load_seconds=0.1)
    world.at(LATER)
    world.want("b", "Y")
    world.leave("b")
    assert world.loaded(2) == []
    assert world.want("c", "Z") == ["load Z as 3 for 2"]  # though it was loaded this very moment
    assert world.phase(other) is Phase.IDLE


def test_a_load_given_up_by_one_waiter_serves_the_next() -> None:
    world = World()
    world.want("a")
    world.want("b")
    world.leave("a")
    assert world.loaded(1) == ["b gets 1"]


# --- rule 7: memory, failures, late setups


def test_memory_counts_what_loads_and_what_leaves() -> None:
    world = World(limit=9, max_models=9)
    assert world.want("a", "X", cost_kib=2_000_000) == ["load X as 1"]
    assert world.want("b", "Y", cost_kib=2_000_000) == []
    world.loaded(1)
    assert world.at(1) == []
    assert world.release(1) == []
    assert world.want("c", "X", sampling=0.1, cost_kib=1_000_000) == ["load X as 2"]
    world.scheduler.ledger.sessions[1].phase = Phase.EXITING
    assert world.at(2) == ["load Y as 3"]  # the exit comes first in the module's line


def test_a_module_that_cannot_count_is_bounded_by_its_limits_alone() -> None:
    world = World(total=None)
    assert world.want("a", "X", cost_kib=10**9) == ["load X as 1"]
    assert world.want("b", "Y", cost_kib=10**9) == ["load Y as 2"]
    assert world.want("c", "Z", cost_kib=10**9) == []


def test_each_unit_has_its_own_limit() -> None:
    world = World(limit=1)
    world.give("a", "X")
    assert world.want("b", "Y") == []
    assert world.want("c", "Z", unit="vlm") == ["load Z as 2"]


def test_a_late_setup_keeps_its_place_and_memory_and_its_waiter_fails() -> None:
    world = World(limit=2)
    world.want("a", "X", cost_kib=2_000_000)
    assert world.late(1) == ["a refused UnitSilent"]
    assert world.want("b", "Y", cost_kib=2_000_000) == []
    assert world.want("c", "Z") == ["load Z as 2"]  # others may load meanwhile
    world.loaded(2)
    world.release(2, keep=0)
    world.gone(2)
    assert world.gone(1) == ["load Y as 3"]


def test_a_failed_load_answers_from_memory_for_30_s_doubling_to_10_minutes() -> None:
    world = World()
    now, rest = 0.0, 30.0
    for attempt in range(7):
        assert world.want(f"a{attempt}") == [f"load X as {attempt + 1}"]
        assert world.fail(attempt + 1) == [f"a{attempt} refused ModelLoadFailed"]
        now += rest - 0.1
        world.now = now
        assert world.want(f"b{attempt}") == [f"b{attempt} refused ModelLoadFailed"]
        assert world.scheduler.load_error("X", now) is FAILED
        now += 0.1
        world.now = now = round(now, 3)
        rest = min(rest * 2, FAILED_LOAD_REST_MOST)


def test_a_load_that_succeeds_is_forgiven() -> None:
    world = World()
    world.want("a")
    world.fail(1)
    world.at(30.5)
    world.release(world.give("b"), keep=0)
    world.gone(2)
    world.want("c")
    world.fail(3)
    world.now = 61.0
    assert world.want("d") == ["load X as 4"]


def test_a_failed_copy_does_not_take_the_model_from_those_who_wait_for_the_first() -> None:
    world = World()
    session = world.give("a")
    for who in "bcd":
        world.want(who)
    assert world.fail(2) == []
    assert world.want("e") == []
    assert world.release(session) == [f"b gets {session}"]


def test_a_load_without_room_is_tried_once_more_after_all_idle_ones_left() -> None:
    world = World(max_models=9, limit=3)
    idle = world.idle("X")
    world.want("b", "Y")
    assert world.fail(2, pressure=True) == [f"load Y as 3 for {idle}"]
    assert world.fail(3, pressure=True) == ["b refused ModelLoadFailed"]


def test_a_load_without_room_and_nobody_to_evict_fails() -> None:
    world = World()
    world.give("a", "X")
    world.want("b", "Y")
    assert world.fail(2, pressure=True) == ["b refused ModelLoadFailed"]


def test_a_load_without_room_never_costs_a_busy_session() -> None:
    world = World(limit=3)
    busy, idle = world.give("a", "X"), world.idle("Y")
    world.want("b", "Z")
    assert world.fail(3, pressure=True) == [f"load Z as 4 for {idle}"]
    assert world.phase(busy) is Phase.LEASED


# --- units and modules that come and go


def test_requests_for_a_silent_unit_are_refused_at_once_and_others_are_not() -> None:
    world = World()
    world.idle("X")
    world.want("a", "Z")
    assert world.note(world.scheduler.unit_silent(1, "m", "llm")) == ["a refused UnitSilent"]
    assert world.want("b", "X") == ["b refused UnitSilent"]
    assert world.want("c", "Y", unit="vlm") == ["load Y as 3"]
    world.note(world.scheduler.unit_back(2, "m", "llm"))
    assert world.want("d", "X") == ["d gets 1"]


def test_what_failed_by_a_units_silence_is_tried_at_once_when_it_answers_again() -> None:
    world = World()
    world.want("a", "X")
    world.late(1)
    world.want("b", "Y")
    world.fail(2)
    world.note(world.scheduler.unit_silent(1, "m", "llm"))
    world.gone(1)
    world.note(world.scheduler.unit_back(2, "m", "llm"))
    assert world.want("c", "X") == ["load X as 3"]
    assert world.want("d", "Y") == ["d refused ModelLoadFailed"]


def test_a_load_on_a_silent_unit_is_not_waited_for_where_another_module_can_serve() -> None:
    world = World()
    world.want("a")
    world.up("n")
    assert world.note(world.scheduler.unit_silent(1, "m", "llm")) == ["load X as 2 on n"]


def test_waiters_of_a_lost_module_keep_their_age_for_a_while() -> None:
    world = World(limit=1)
    world.give("a")
    world.want("b", "Y")
    world.at(10)
    assert world.note(world.scheduler.module_down(10, "m")) == []
    world.want("c", "X")
    assert world.scheduler.next_tick(10) == 15.0
    world.at(14)
    assert world.up() == ["load Y as 2"]


def test_a_module_that_stays_away_strands_its_waiters() -> None:
    world = World()
    world.scheduler.module_down(0, "m")
    assert world.want("a") == []
    assert world.at(5.0) == ["a refused DeviceUnavailable"]
    assert isinstance(world.error(), DeviceUnavailable)
    assert str(world.error()) == "module m is not connected"


def test_a_module_that_comes_back_is_empty_and_forgiven() -> None:
    world = World()
    world.give("a")
    world.want("b", "Y")
    world.fail(2)
    world.note(world.scheduler.module_down(1, "m"))
    assert world.release(1) == []  # the pool reports the end of a turn on what is gone
    world.up()
    assert world.want("c", "Y") == ["load Y as 3"]


def test_with_several_modules_idle_comes_before_free_room_before_evicting() -> None:
    world = World(limit=1)
    world.up("n", "X Y Z V W")
    first = world.idle("X")
    world.at(LATER)
    assert world.want("a", "Y") == ["load Y as 2 on n"]
    assert world.want("b", "X") == [f"b gets {first}"]
    world.loaded(2)
    world.release(2)
    world.release(first)
    world.at(LATER * 2)
    assert world.want("c", "Z", load_seconds=1.0) == ["load Z as 3 for 1"]  # the one idle for longer


def test_after_a_failure_on_one_module_another_is_tried() -> None:
    world = World()
    world.up("n")
    world.want("a")
    assert world.fail(1) == ["load X as 2 on n"]


# --- rule 10: waiting is visible


def test_the_place_in_line_and_what_is_waited_for() -> None:
    world = World(limit=1)
    world.give("a")
    world.want("b")
    world.want("c", "Y")
    place = world.scheduler.place
    assert [place(n, 0.0) for n in (2, 3)] == [(1, "queued"), (2, "queued")]
    assert place(1, 0.0) == (0, "queued")
    world.release(1, keep=0)
    world.release(1, keep=0)
    loading = World()
    loading.want("a")
    assert loading.scheduler.place(1, 0.0) == (1, "loading")


def test_who_waits_for_another_module_is_not_in_front() -> None:
    world = World(limit=1)
    world.up("n", "W")
    world.give("a", "X")
    world.give("b", "W")
    world.want("c", "X")
    world.want("d", "W")
    assert world.scheduler.place(4, 0.0) == (1, "queued")
    assert (world.scheduler.waiting_on("m"), world.scheduler.waiting_on("n")) == (1, 1)
    assert world.scheduler.waiting_on("unknown") == 0


def test_time_alone_changes_nothing_where_nobody_waits_and_nothing_expires() -> None:
    world = World()
    world.idle("X")
    assert world.scheduler.next_tick(0.0) is None


@pytest.mark.parametrize("event", ["loaded", "gone", "drained", "hold", "release", "late", "fail", "leave"])
def test_news_of_what_is_no_longer_known_changes_nothing(event: str) -> None:
    scheduler = World().scheduler
    decisions = {
        "loaded": lambda: scheduler.loaded(0, 99),
        "gone": lambda: scheduler.gone(0, 99),
        "drained": lambda: scheduler.drained(0, 99),
        "hold": lambda: scheduler.hold(0, 99),
        "release": lambda: scheduler.release(0, 99, draining=False, keep=1),
        "late": lambda: scheduler.load_late(0, 99, FAILED),
        "fail": lambda: scheduler.load_failed(0, 99, FAILED, pressure=True),
        "leave": lambda: scheduler.leave(0, 99),
    }[event]()
    assert decisions == []
