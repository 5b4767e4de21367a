"""Making room: which sessions would have to leave for a new one. Pure arithmetic, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stackflow.ledger import Ledger, Module, Phase, Session, Waiter


@dataclass(frozen=True, slots=True)
class Plan:
    """Load on `module` after `victims` have left, most dispensable first."""

    module: Module
    victims: tuple[Session, ...]


def victim_value(session: Session, now: float, policy: str) -> float:
    """What is lost by evicting: seconds to reload, less the longer it was idle. Lower goes first."""
    idle = max(now - session.last_used, 0.0)
    return -idle if policy == "lru" else session.load_seconds / (1.0 + idle)


def make_room(
    ledger: Ledger,
    waiter: Waiter,
    module: Module,
    candidates: Iterable[Session],
    *,
    now: float,
    max_models: int,
    policy: str,
) -> Plan | None:
    """Choose victims among `candidates` so that the waiter's model can load; None if they do not suffice.

    All are chosen before any is evicted, and none that could stay: the most valuable are spared first.
    Sessions on other modules are of use only where the number of models is what stands in the way.
    """

    def rank(s: Session) -> tuple[bool, bool, bool, bool, float]:
        other = (s.signature.unit, s.signature.model) != (waiter.signature.unit, waiter.signature.model)
        value = victim_value(s, now, policy)
        return s.module != module.name, s.phase is Phase.HELD, not s.expired(now), other, value

    victims = sorted(candidates, key=rank)
    if not _suffices(ledger, waiter, module, victims, max_models):
        return None
    for session in reversed(victims.copy()):
        spared = [s for s in victims if s is not session]
        if _suffices(ledger, waiter, module, spared, max_models):
            victims = spared
    return Plan(module, tuple(victims))


def _suffices(
    ledger: Ledger, waiter: Waiter, module: Module, victims: list[Session], max_models: int
) -> bool:
    """True if, once `victims` have left, pool, unit, number of models and memory have a place."""
    gone = {s.id for s in victims}
    staying = [s.signature for s in ledger.staying(module.name) if s.id not in gone]
    unit, model = waiter.signature.unit, waiter.signature.model
    if waiter.pool_size is not None and sum(s.model == model for s in staying) >= waiter.pool_size:
        return False
    if sum(s.unit == unit for s in staying) >= module.limit(unit):
        return False
    if len(ledger.models_loaded(victims) | {model}) > max_models:
        return False
    freed = sum(s.cost_kib for s in victims if s.module == module.name)
    return ledger.free_kib(module) + freed >= waiter.cost_kib
