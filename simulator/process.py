"""A unit's process: its threads, and the ways it can stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from .world import World

NEVER = float("inf")


class Process:
    """Something systemd starts again when it dies. Subclasses say what it does and holds."""

    name = ""

    def __init__(self, world: World) -> None:
        self.world = world
        self.up = False
        self.socket = False  # /tmp/rpc.<unit> exists
        self._thaw = asyncio.Event()
        self._threads: set[asyncio.Task[Any]] = set()
        self._restart: asyncio.TimerHandle | None = None
        self.start()

    def start(self) -> None:
        """Start with nothing in memory."""
        self.up = self.socket = True
        self._thaw.set()
        self.boot()

    def boot(self) -> None:
        """Create what a fresh process has, its first thread among it."""
        raise NotImplementedError

    def crash(self, reason: str, restart_after: float | None = None, socket_left: bool | None = None) -> None:
        """Die at once. systemd starts the process again after `restart_after` seconds."""
        settings = self.world.settings
        self.world.journal.add("crash", self.name, reason=reason)
        self.stop()
        self.socket = settings.crash_leaves_socket if socket_left is None else socket_left
        self.restart_in(settings.restart_s if restart_after is None else restart_after)

    def stop(self) -> None:
        """End the process; one of its own threads that calls this ends at its next await."""
        self.up = self.socket = False
        if self._restart:
            self._restart.cancel()
        for thread in self._threads:
            thread.cancel()
        self._thaw.set()

    def restart_in(self, seconds: float) -> None:
        """Start again later, unless it is NEVER."""
        if seconds != NEVER:
            self._restart = asyncio.get_running_loop().call_later(seconds, self._restarted)

    def _restarted(self) -> None:
        self.start()
        self.world.journal.add("restart", self.name)

    def freeze(self) -> None:
        """Stop scheduling the process, as SIGSTOP does."""
        self._thaw.clear()

    def thaw(self) -> None:
        """Let it run on."""
        self._thaw.set()

    @property
    def frozen(self) -> bool:
        """Whether the process is there but not running."""
        return self.up and not self._thaw.is_set()

    async def thawed(self) -> float:
        """Wait while the process is frozen; return for how many seconds."""
        if self._thaw.is_set():
            return 0.0
        started = asyncio.get_running_loop().time()
        await self._thaw.wait()
        return asyncio.get_running_loop().time() - started

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a thread of this process."""
        thread = self.world.spawn(work)
        self._threads.add(thread)
        thread.add_done_callback(self._threads.discard)
        return thread
