"""What all parts of one module share: settings, log, memory, models, coms, background work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from .com import Com
from .engines.base import Engine
from .journal import Journal
from .memory import Memory
from .models import Model
from .settings import Settings

_LOGGER = logging.getLogger(__name__)


class World:
    """The inside of one module. Units and gateway find each other only through it."""

    def __init__(self, settings: Settings, models: dict[str, Model], engines: dict[str, Engine]) -> None:
        self.settings = settings
        self.models = models
        self.engines = engines
        self.journal = Journal()
        self.memory = Memory(settings.cmm_kib)
        self.coms: dict[int, Com] = {}
        self.register: Callable[[str], str] = lambda unit: f"{unit}.0"  # the gateway's, once it is there
        self.release: Callable[[str], None] = lambda _work_id: None
        self._background: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` until it ends or the module does; its failure is logged."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` as `spawn` does, where nobody needs to hold it."""
        _ = self.spawn(work)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _LOGGER.error("the simulator itself failed", exc_info=error)
            self.journal.add("bug", text=repr(error))

    async def stop(self) -> None:
        """End all background work."""
        while self._background:
            tasks = list(self._background)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
