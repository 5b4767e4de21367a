"""What the doors may know of a model and of the modules: plain facts, already settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from backends.base import ChatBackend

ModelState = Literal["unloaded", "loading", "loaded", "downloading", "error"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model as `/v1/models` shows it; `root` differs from `id` for an alias only."""

    id: str
    root: str
    created: int  # unix seconds
    owned_by: str = "local"
    ready: bool = True
    capabilities: tuple[str, ...] = ()
    context_window: int | None = None  # tokens of prompt and answer together
    input_window: int | None = None  # tokens the unit reads
    memory_kib: int | None = None
    load_seconds: float | None = None
    state: ModelState = "unloaded"
    error: str | None = None
    module: str | None = None
    description: str | None = None
    token_count: Literal["exact", "estimate"] = "estimate"


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One session for `/v1/system/status`."""

    work_id: str
    model: str
    state: str  # loading, idle, leased, held, draining, exiting
    idle_seconds: float
    leased: bool


@dataclass(frozen=True, slots=True)
class ModuleStatus:
    """One module as seen last; None where it has not been learned yet."""

    name: str
    address: str
    simulated: bool
    connected: bool
    error: str | None = None
    version: str | None = None
    unit_versions: tuple[str, ...] = ()
    temperature: float | None = None  # degrees Celsius
    cmm_total_kib: int | None = None
    cmm_used_kib: int | None = None
    cmm_remain_kib: int | None = None
    silent_units: tuple[str, ...] = ()
    sessions: tuple[SessionStatus, ...] = ()
    queue: int = 0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that holds NPU memory now. `loaded_at` is unix seconds by the host's clock."""

    name: str
    loaded_at: float
    memory_kib: int | None
    context_length: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole service at one moment, for health and status doors."""

    initialized: bool
    modules: tuple[ModuleStatus, ...]
    loaded: tuple[LoadedModel, ...]
    registered_models: int
    max_concurrent_models: int
    issues: tuple[str, ...] = ()  # sentences a person can act on


class Models(Protocol):
    """What a door needs of the catalog."""

    async def settled(self) -> None:
        """Wait, within a bound, until every module has been asked once what it has."""

    def chat(self, model: str) -> ChatBackend:
        """Return the backend of `model` (an id or alias).

        Raises ModelNotFound, CapabilityMismatch, NotReady.
        """
        ...

    def models(self) -> Sequence[ModelInfo]:
        """Return every model and active alias, in a stable order."""
        ...

    def model(self, name: str) -> ModelInfo:
        """Return one model or alias. Raises ModelPathNotFound."""
        ...

    def status(self) -> Status:
        """Return the present state from memory; never asks the module."""
        ...
