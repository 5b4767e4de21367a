"""What the scheduler goes by, and what it can decide."""

from __future__ import annotations

from dataclasses import dataclass

from errors import BridgeError
from stackflow.ledger import Signature


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's numbers; times in seconds."""

    queue_size: int = 16
    fairness: float = 30.0
    storm_guard: float = 30.0
    stranded: float = 5.0
    keep_alive: float = 300.0
    max_models: int = 3
    eviction: str = "value"


@dataclass(frozen=True, slots=True)
class Lease:
    """Give the session to the waiter."""

    waiter: int
    session: int


@dataclass(frozen=True, slots=True)
class Load:
    """After the victims have been exited, set up the session."""

    session: int
    module: str
    signature: Signature
    victims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evict:
    """Exit the session."""

    session: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The waiter gets this error."""

    waiter: int
    error: BridgeError


Decision = Lease | Load | Evict | Refuse
