"""A task's way out: the push socket to the one com that addressed the task last.

Source: ext_components/StackFlow/stackflow/StackFlow.cpp, set_push_url and send; pzmq.hpp
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from .com import Com
from .settings import Settings


class Outlet:
    """Where a task's output goes now. Output for a com that is gone waits for nobody."""

    def __init__(self, coms: Mapping[int, Com], com_id: int, settings: Settings) -> None:
        self._coms, self._settings = coms, settings
        self.com_id = com_id
        self._pending: deque[bytes] = deque()
        self._retargeted = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    def lingers(self, com_id: int) -> bool:
        """Return whether moving to `com_id` costs the linger time."""
        return com_id != self.com_id and bool(self._pending)

    async def retarget(self, com_id: int) -> None:
        """Send to `com_id` from now on; what the former com did not take is lost."""
        if com_id == self.com_id:
            return
        lost = bool(self._pending)
        self._pending.clear()
        self.com_id = com_id
        self._retargeted.set()
        if lost:
            self._settled.clear()
            try:
                await asyncio.sleep(self._settings.linger_s)
            finally:
                self._settled.set()

    def send(self, data: bytes) -> bool:
        """Send or keep `data`; False if neither is possible: then `push` is for who can wait."""
        if not self._settled.is_set():
            return False
        com = self._coms.get(self.com_id)
        if com:
            self.flush()
            com.send(data)
        elif len(self._pending) < self._settings.undelivered_limit:
            self._pending.append(data)
        else:
            return False
        return True

    async def push(self, data: bytes) -> None:
        """Send as a thread does: wait for the linger's end, and beyond the limit until the timeout.

        What waited for the timeout, or for a new target meanwhile, is lost.
        """
        await self._settled.wait()
        if self.send(data):
            return
        self._retargeted.clear()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._retargeted.wait(), self._settings.output_block_s)
        await self._settled.wait()

    def flush(self) -> None:
        """Deliver what is pending, if the com is there: a gateway's ids begin anew after a restart."""
        com = self._coms.get(self.com_id)
        while com and self._pending:
            com.send(self._pending.popleft())
