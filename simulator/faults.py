"""Faults and scripted answers a test has ordered for one unit; used up as they happen."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What the next inference says: one frame per delta, without waiting."""

    deltas: tuple[str, ...]
    cut: int = 0
    hold: bool = False  # stay before the end until released or paused


class Faults:
    """The orders for one unit."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.failures: deque[int] = deque()  # codes for the next setups
        self.late: deque[float] = deque()  # seconds the next setups take longer
        self.hangs = 0  # setups that never come back
        self.mute = 0  # inferences that never arrive
        self.stall_after: int | None = None  # frames of the next stream, then silence
        self._released = asyncio.Event()

    async def held(self) -> None:
        """Wait for the next `release`."""
        self._released.clear()
        await self._released.wait()

    def release(self) -> None:
        """Let go whoever is held now."""
        self._released.set()

    def take_mute(self) -> bool:
        """Return whether this inference is to be lost."""
        if not self.mute:
            return False
        self.mute -= 1
        return True

    def take_hang(self) -> bool:
        """Return whether this setup is to hang."""
        if not self.hangs:
            return False
        self.hangs -= 1
        return True

    def take_stall(self) -> int | None:
        """Return after how many frames this stream is to fall silent."""
        after, self.stall_after = self.stall_after, None
        return after
