"""What happened inside the module, for whoever tests against it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

KEPT = 100_000  # events; a long bench must not fill the memory


@dataclass(frozen=True)
class Event:
    """One thing that happened. `data` is JSON: its members depend on the kind."""

    kind: str
    unit: str = ""
    work_id: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The module's log, and the one place to wait for something to appear in it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.counters: Counter[str] = Counter()
        self._mark = 0
        self._changed = asyncio.Event()

    def add(self, kind: str, unit: str = "", work_id: str = "", **data: Any) -> None:
        """Write one event down."""
        if len(self.events) >= 2 * KEPT:
            del self.events[:KEPT]
            self._mark = max(0, self._mark - KEPT)
        self.events.append(Event(kind, unit, work_id, data))
        self.counters[kind] += 1
        self._changed.set()

    def mark(self) -> None:
        """Let `until` forget what happened so far."""
        self._mark = len(self.events)

    async def until(
        self,
        kind: str,
        unit: str | None = None,
        work_id: str | None = None,
        count: int = 1,
        timeout: float = 5,
    ) -> Event:
        """Return the `count`th such event since the mark; wait for it. Raises TimeoutError."""
        try:
            return await asyncio.wait_for(self._find(kind, unit, work_id, count), timeout)
        except asyncio.TimeoutError:  # in 3.10 not yet the builtin
            seen = dict(Counter(event.kind for event in self.events[self._mark :]))
            raise TimeoutError(f"no {count} x {kind!r} in {timeout} s; since the mark: {seen}") from None

    async def _find(self, kind: str, unit: str | None, work_id: str | None, count: int) -> Event:
        while True:
            found = [
                event
                for event in self.events[self._mark :]
                if event.kind == kind and unit in (None, event.unit) and work_id in (None, event.work_id)
            ]
            if len(found) >= count:
                return found[count - 1]
            self._changed.clear()
            await self._changed.wait()
