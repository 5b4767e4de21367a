"""Which models there are now: what the modules list, under their own names and under aliases."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from backends.base import ChatBackend
from backends.chat import UnitChat
from catalog.models import LoadedModel, ModelInfo, ModelState, ModuleStatus, SessionStatus, Status
from config import Config
from errors import CapabilityMismatch, DeviceUnavailable, ModelNotFound, ModelPathNotFound
from launch import Source
from stackflow.client import Client
from stackflow.ledger import BUSY, Phase
from stackflow.pool import Pool
from stackflow.units import InstalledModel

CHAT_UNITS = frozenset({"llm"})
FIRST_CONNECTION = 15.0  # seconds a request waits for the modules' first answer after start


class Catalog:
    """The models of all modules, and the state of the service. Answers from memory."""

    def __init__(self, config: Config, pool: Pool, sources: dict[str, Source]) -> None:
        self._config = config
        self._pool = pool
        self._sources = sources
        self._started = int(time.time())

    async def settled(self) -> None:
        """Wait until every module has been tried once, so that its models are known; not for ever."""
        pending = [
            asyncio.ensure_future(c.first_try.wait()) for c in self._clients if not c.first_try.is_set()
        ]
        if pending:
            _, late = await asyncio.wait(pending, timeout=FIRST_CONNECTION)
            for each in late:
                each.cancel()

    def chat(self, model: str) -> ChatBackend:
        """Return the chat backend of `model`. Raises ModelNotFound, CapabilityMismatch, DeviceUnavailable."""
        known = self._installed()
        installed = known.get(self._target(model, known) or model)
        if installed is None:
            self._blame_absent_modules()
            raise ModelNotFound(model)
        if installed.unit not in CHAT_UNITS:
            raise CapabilityMismatch(model, "text generation")
        return UnitChat(self._pool, installed, self._config, self._label)

    def models(self) -> Sequence[ModelInfo]:
        """Return every model that can be used, then the aliases whose target exists."""
        usable = self._usable()
        names = [(name, name) for name in usable]
        targets = ((alias, self._target(alias, usable)) for alias in self._config.aliases)
        names += [(alias, target) for alias, target in targets if target is not None]
        return [self._info(name, usable[root]) for name, root in names]

    def model(self, name: str) -> ModelInfo:
        """Return one model or alias. Raises ModelPathNotFound."""
        usable = self._usable()
        installed = usable.get(self._target(name, usable) or name)
        if installed is None:
            raise ModelPathNotFound(name)
        return self._info(name, installed)

    def status(self) -> Status:
        """Return the present state of everything."""
        modules = tuple(self._module_status(client) for client in self._clients)
        tried = all(client.first_try.is_set() for client in self._clients)
        return Status(
            initialized=tried,
            modules=modules,
            loaded=tuple(self._loaded()),
            registered_models=len(self._usable()),
            max_concurrent_models=self._config.max_concurrent_models,
            issues=tuple(self._issues(modules)),
        )

    @property
    def _clients(self) -> Sequence[Client]:
        return list(self._pool.clients.values())

    def _installed(self) -> dict[str, InstalledModel]:
        """The models by name; where several modules have one, as the first lists it."""
        merged: dict[str, InstalledModel] = {}
        for client in self._clients:
            merged = {**client.models, **merged}
        return merged

    def _usable(self) -> dict[str, InstalledModel]:
        return {name: model for name, model in self._installed().items() if model.unit in CHAT_UNITS}

    def _target(self, alias: str, among: dict[str, InstalledModel]) -> str | None:
        """The first of `among` that an alias stands for; a model of that very name comes first."""
        if alias in among:
            return None
        return next((t for t in self._config.aliases.get(alias, ()) if t in among), None)

    def _label(self, module: str) -> str:
        """A module's name as clients see it; nobody shall take the simulator for an NPU."""
        return f"{module} (simulator)" if self._sources[module].simulated else module

    def _blame_absent_modules(self) -> None:
        for client in self._clients:
            if not client.connected and not client.models:
                raise DeviceUnavailable(
                    f"module {client.name} is not connected: {client.down_because or 'starting'}"
                )

    def _info(self, name: str, installed: InstalledModel) -> ModelInfo:
        kib, seconds = self._pool.cost(installed.name, self._config.model(installed.name).memory_kib)
        state, module, error = self._state_of(installed.name)
        return ModelInfo(
            id=name,
            root=installed.name,
            created=self._started,
            capabilities=("chat", "completion"),
            context_window=installed.context_window,
            input_window=installed.input_window,
            memory_kib=kib,
            load_seconds=round(seconds, 1),
            state=state,
            error=error,
            module=module,
            description=installed.description,
        )

    def _state_of(self, model: str) -> tuple[ModelState, str | None, str | None]:
        home = next((c.name for c in self._clients if model in c.models), None)
        sessions = [s for s in self._pool.scheduler.ledger.sessions.values() if s.signature.model == model]
        for session in sessions:
            if session.phase not in (Phase.LOADING, Phase.LATE, Phase.EXITING):
                return "loaded", session.module, None
        if any(s.phase is Phase.LOADING for s in sessions):
            return "loading", home, None
        error = self._pool.scheduler.load_error(model, time.monotonic())
        return ("error", home, str(error)) if error else ("unloaded", home, None)

    def _loaded(self) -> list[LoadedModel]:
        found: dict[str, LoadedModel] = {}
        for session_id, live in self._pool.live.items():
            record = self._pool.scheduler.ledger.sessions.get(session_id)
            if record is None:
                continue
            model, known = record.signature.model, found.get(record.signature.model)
            installed = self._installed().get(model)
            found[model] = LoadedModel(
                model,
                min(live.loaded_at, known.loaded_at) if known else live.loaded_at,
                record.cost_kib + (known.memory_kib or 0 if known else 0),
                installed.context_window if installed else None,
            )
        return list(found.values())

    def _module_status(self, client: Client) -> ModuleStatus:
        source, memory = self._sources[client.name], client.memory
        return ModuleStatus(
            name=client.name,
            address=source.address,
            simulated=source.simulated,
            connected=client.connected,
            error=str(client.down_because) if client.down_because else None,
            version=client.version,
            unit_versions=client.unit_versions,
            temperature=client.temperature,
            cmm_total_kib=memory.total if memory else None,
            cmm_used_kib=memory.used if memory else None,
            cmm_remain_kib=memory.remain if memory else None,
            silent_units=tuple(sorted(client.silent)),
            sessions=tuple(self._sessions(client.name)),
            queue=self._pool.scheduler.waiting_on(client.name),
        )

    def _sessions(self, module: str) -> list[SessionStatus]:
        now, statuses = time.monotonic(), []
        for record in self._pool.scheduler.ledger.on(module):
            live = self._pool.live.get(record.id)
            idle = 0.0 if record.phase in BUSY else max(now - record.last_used, 0.0)
            work_id = live.session.work_id if live else record.signature.unit
            leased = record.phase is Phase.LEASED
            statuses.append(
                SessionStatus(work_id, record.signature.model, record.phase.value, round(idle, 1), leased)
            )
        return statuses

    def _issues(self, modules: Sequence[ModuleStatus]) -> list[str]:
        issues = []
        for module in modules:
            if not module.connected:
                issues.append(
                    f"Module {module.name} at {module.address} is not connected: "
                    f"{module.error or 'still trying'}."
                )
            issues += [
                f"The {unit} unit of module {module.name} does not answer." for unit in module.silent_units
            ]
        return issues
