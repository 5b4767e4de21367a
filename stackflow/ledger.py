"""What the scheduler knows: modules, sessions, waiters. Records and sums over them, no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from stackflow.encoding import Value
from stackflow.units import TASK_LIMITS

FOREVER = float("inf")


class Phase(str, Enum):
    """Where a session is in its life."""

    LOADING = "loading"
    IDLE = "idle"
    LEASED = "leased"
    HELD = "held"  # between two turns of one request
    DRAINING = "draining"  # reading an answer nobody wants any more to its end
    EXITING = "exiting"
    LATE = "late"  # its setup was not answered in time; it may own slot and memory


BUSY = frozenset({Phase.LEASED, Phase.DRAINING, Phase.LOADING, Phase.LATE})
COMING = frozenset({Phase.LOADING, Phase.LEASED, Phase.HELD, Phase.DRAINING})  # of use later, by itself


@dataclass(frozen=True, slots=True)
class Signature:
    """What the unit fixes at setup. `settings` are the setup keys besides the model's name, sorted."""

    unit: str
    model: str
    settings: tuple[tuple[str, Value], ...] = ()


@dataclass(slots=True)
class Session:
    """The scheduler's view of one task."""

    id: int
    module: str
    signature: Signature
    cost_kib: int
    load_seconds: float
    last_used: float
    phase: Phase = Phase.LOADING
    keep_until: float = 0.0
    client: str = ""  # who leased it last
    used_by_others: float = -FOREVER  # when somebody else than that client last did
    used: bool = False  # was leased since it was loaded
    condemned: bool = False  # to be exited whatever happens
    unwanted: bool = False  # loaded for somebody who left: the first victim
    promised: int | None = None  # the waiter it was loaded for, until that one is served or leaves
    holder: int | None = None  # the request that leases or holds it
    leased_at: float = 0.0
    loaded_at: float = 0.0
    victims: tuple[int, ...] = ()  # the sessions that leave for it

    @property
    def idle(self) -> bool:
        """Loaded, and nobody's."""
        return self.phase is Phase.IDLE

    def expired(self, now: float) -> bool:
        """True if nobody loses by its leaving: idle for long enough, or loaded for somebody who left."""
        return self.idle and (self.unwanted or now >= self.keep_until)


@dataclass(slots=True)
class Waiter:
    """A request for one turn. Times by the caller's clock, in seconds."""

    id: int
    signature: Signature
    cost_kib: int
    load_seconds: float
    client: str
    since: float
    deadline: float
    low: bool = False
    sticky: bool = False  # any session of the model will do
    pool_size: int | None = None
    stranded_at: float | None = None  # since when no module that could serve it is up
    retried: bool = False  # a load failed for want of room and is being tried once more

    def fits(self, session: Session) -> bool:
        """True if `session` can serve it as it is."""
        mine, its = self.signature, session.signature
        return mine == its or (self.sticky and (mine.unit, mine.model) == (its.unit, its.model))


@dataclass(slots=True)
class Module:
    """The scheduler's view of one module; memory in KiB, None where the module cannot tell."""

    name: str
    models: frozenset[str] = frozenset()
    up: bool = False
    total_kib: int | None = None
    remain_kib: int | None = None
    limits: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def limit(self, unit: str) -> int:
        """How many tasks `unit` holds at once."""
        return self.limits.get(unit, TASK_LIMITS.get(unit, 1))


class Ledger:
    """All of it, and the sums the rules are made of."""

    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}
        self.sessions: dict[int, Session] = {}
        self.waiters: dict[int, Waiter] = {}

    def on(self, module: str) -> Iterator[Session]:
        """The sessions of a module, in any phase."""
        return (s for s in self.sessions.values() if s.module == module)

    def staying(self, module: str) -> Iterator[Session]:
        """The sessions of a module that are not on their way out."""
        return (s for s in self.on(module) if s.phase is not Phase.EXITING)

    def free_kib(self, module: Module) -> float:
        """Memory to plan with: what the module last counted, less what loads, plus what exits.

        Setups and exits of one module run one after another in the order they were decided.
        """
        if module.remain_kib is None:
            return FOREVER
        loading = sum(s.cost_kib for s in self.on(module.name) if s.phase in (Phase.LOADING, Phase.LATE))
        leaving = sum(s.cost_kib for s in self.on(module.name) if s.phase is Phase.EXITING)
        return module.remain_kib - loading + leaving

    def models_loaded(self, leaving: Iterable[Session] = ()) -> set[str]:
        """The distinct models that hold memory anywhere, once `leaving` have left."""
        gone = {s.id for s in leaving}
        return {
            s.signature.model
            for s in self.sessions.values()
            if s.phase is not Phase.EXITING and s.id not in gone
        }

    def able(self, waiter: Waiter) -> list[Module]:
        """The modules that have the waiter's model, up or not."""
        return [m for m in self.modules.values() if waiter.signature.model in m.models]
