"""The end of running answers when the server stops: time to finish, then one clear error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from aiohttp import web

from api.context import CONFIG

LAST_WORDS = 2.0  # seconds for a stopped answer to say so and unwind


@dataclass(slots=True)
class Running:
    """The answers being made now, and whether the server is stopping."""

    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    stopping: bool = False

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count the current task among the running answers."""
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self.tasks.add(task)
        try:
            yield
        finally:
            self.tasks.discard(task)


RUNNING = web.AppKey("RUNNING", Running)


def is_stopping(app: web.Application) -> bool:
    """Whether a cancellation now comes from the server, not from a client that left."""
    return app[RUNNING].stopping


async def finish_answers(app: web.Application) -> None:
    """Give running answers `shutdown_grace` seconds, then end what is left with ShuttingDown.

    An ``on_shutdown`` hook: aiohttp's own waiting comes after it and would cut the rest off without a word.
    """
    running = app[RUNNING]
    running.stopping = True
    if running.tasks:
        _, late = await asyncio.wait(set(running.tasks), timeout=app[CONFIG].shutdown_grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=LAST_WORDS)
