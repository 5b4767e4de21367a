"""llm_sys: checks, addresses and passes on what its coms bring, one message at a time.

Source: projects/llm_framework/main_sys/src/event_loop.cpp, remote_action.cpp
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol

from .com import Com
from .envelope import Request, check, reply
from .mishaps import DispatchFailed, GatewayCrash
from .pipes import READ_SIZE, Pipe
from .rpc import Rpc
from .sysactions import ACTIONS, SysCall
from .unit import Unit
from .world import World

_LOGGER = logging.getLogger(__name__)
FIRST_COM, LAST_COM = 8000, 65535
FIRST_WORK_ID = 1000


class Machine(Protocol):
    """What llm_sys can do to the computer it runs on."""

    def crashed(self, reason: str) -> None:
        """llm_sys has died of `reason`."""

    def reset(self, reboot: bool) -> None:
        """Restart all services, or the whole machine."""

    def set_baud(self, baud: int) -> None:
        """Change the UART's speed, once the reply is out."""


class Gateway:
    """The one process all clients talk to. Units outlive it; its counters and its table do not."""

    def __init__(self, world: World, units: dict[str, Unit], machine: Machine) -> None:
        self.world, self.units, self.machine = world, units, machine
        self._lock = asyncio.Lock()
        self._published: dict[str, str] = {}
        self._next_com = FIRST_COM
        self._next_work_id = FIRST_WORK_ID
        self._serving: dict[Com, asyncio.Task[None]] = {}
        world.register, world.release = self._register, self._release

    # -- coms

    def attach(self, pipe: Pipe, id_: int | None = None, chunk: int = READ_SIZE) -> Com:
        """Serve `pipe` as one more com until it ends."""
        com_id = self._take_com_id() if id_ is None else id_
        com = Com(com_id, pipe, self.dispatch, self.machine.crashed, chunk)
        self.world.coms[com.id] = com
        self.world.journal.add("connect", com=com.id)
        for unit in self.units.values():  # an id may be one that an orphan's output waits for
            for task in unit.tasks.values():
                task.outlet.flush()
        self._serving[com] = self.world.spawn(self._serve(com))
        return com

    def _take_com_id(self) -> int:
        id_ = self._next_com
        self._next_com = id_ + 1 if id_ < LAST_COM else FIRST_COM
        return id_

    async def _serve(self, com: Com) -> None:
        try:
            await com.serve()
        finally:
            self._forget(com)

    def _forget(self, com: Com) -> None:
        if self._serving.pop(com, None):
            self.world.journal.add("disconnect", com=com.id)
        if self.world.coms.get(com.id) is com:
            del self.world.coms[com.id]

    def hang_up(self, keep: int | None = None) -> None:
        """Close every com but the one with the id `keep`."""
        for com in list(self._serving):
            if com.id != keep:
                com.close()
                if self.world.coms.get(com.id) is com:
                    del self.world.coms[com.id]

    def die(self) -> None:
        """End the process: coms closed, table and counters gone."""
        self.hang_up()
        self._published.clear()
        self._next_com, self._next_work_id = FIRST_COM, FIRST_WORK_ID
        self._lock = asyncio.Lock()

    # -- work_ids

    def _register(self, unit: str) -> str:
        work_id = f"{unit}.{self._next_work_id}"
        self._next_work_id += 1
        self._published[work_id] = unit
        return work_id

    def _release(self, work_id: str) -> None:
        self._published.pop(work_id, None)

    # -- messages

    async def dispatch(self, com: Com, raw: bytes) -> None:
        """Handle one message under the process's one lock. Raises DispatchFailed, GatewayCrash."""
        async with self._lock:
            request = check(raw)
            if request is None:
                com.send(reply("0", "sys", code=-2, message="json format error"))
            elif request.action == "inference":
                self._infer(com, request)
            elif request.unit in ("", "sys"):
                await self._sys(com, request)
            else:
                await self._rpc(com, request)

    def _infer(self, com: Com, request: Request) -> None:
        """Publish to the task. The table knows who was registered, not who is alive."""
        unit = self.units.get(self._published.get(request.work_id, ""))
        if unit:
            unit.publish(request.work_id, com.id, request.raw)
        else:
            self._fail(com, request, -4, "inference data push false")

    async def _rpc(self, com: Com, request: Request) -> None:
        unit = self.units.get(request.unit)
        if not unit or not unit.socket:
            self._fail(com, request, -9, "unit call false")
        elif await self.reaches(unit):
            unit.call(Rpc(request.action, com.id, request.raw))

    async def reaches(self, unit: Unit) -> bool:
        """Return whether an RPC to `unit` gets through; if not, after a stall of seconds."""
        if unit.up and not unit.frozen:
            return True
        stall = self.world.settings.rpc_stall_s
        self.world.journal.add("stall", unit.name)
        if not unit.up:
            await asyncio.sleep(stall)
            return False
        try:
            await asyncio.wait_for(unit.thawed(), stall)
        except asyncio.TimeoutError:
            return False
        return unit.up

    async def _sys(self, com: Com, request: Request) -> None:
        action = ACTIONS.get(request.action)
        if not action:
            self._fail(com, request, -3, "action match false")
            return
        call = SysCall(self, com, request)
        if not action.detached:
            await action.run(call)
        else:
            call.parse()
            self.world.background(self._detached(action.run(call)))

    async def _detached(self, running: Awaitable[None]) -> None:
        try:
            await running
        except (DispatchFailed, GatewayCrash) as err:  # an exception in a detached thread is fatal
            self.machine.crashed(str(err))

    def _fail(self, com: Com, request: Request, code: int, message: str) -> None:
        com.send(reply(request.request_id, request.work_id, code=code, message=message))
