"""A unit: one thread for all RPC actions, a few tasks, and what they have in common.

Source: ext_components/StackFlow/stackflow/StackFlow.cpp
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .envelope import reply
from .faults import Faults
from .loading import load_task
from .mishaps import BadInput, UnitCrash
from .process import Process
from .rpc import Rpc
from .task import Origin, Setup, Task
from .text import StreamMap, stoi
from .world import World


class Unit(Process):
    """Base of all units. Subclasses name their limits and make their tasks."""

    limit = 1  # tasks
    pauses = True
    # In the order list_action tells them; anything else is not answered at all.
    actions: tuple[str, ...] = (
        "taskinfo",
        "link",
        "exit",
        "work",
        "pause",
        "setup",
        "unlink",
        "list_action",
    )

    def __init__(self, world: World) -> None:
        self.faults = Faults()
        self.tasks: dict[int, Task] = {}
        super().__init__(world)

    def boot(self) -> None:
        """Begin without tasks, and with the counters and maps that are static in the original."""
        self.index = 0
        self.stream = StreamMap()
        self._last_rpc = (0, "")
        self._events: asyncio.Queue[Rpc] = asyncio.Queue()
        _ = self.spawn(self._run())

    def stop(self) -> None:
        """End the process and all tasks."""
        super().stop()
        for task in self.tasks.values():
            task.close()
        self.tasks = {}
        self.world.memory.free_unit(self.name)

    # -- what subclasses say

    def parse(self, data: bytes) -> Setup:
        """Read the setup's data. Raises BadInput."""
        raise NotImplementedError

    def make_task(self, origin: Origin) -> Task:
        """Return the running task of a loaded model."""
        raise NotImplementedError

    # -- what the gateway does to it

    def call(self, rpc: Rpc) -> None:
        """Queue an RPC; to an unknown action the RPC layer replies, and llm_sys drops that."""
        if rpc.action in self.actions and rpc.action != "list_action":
            self._events.put_nowait(rpc)

    def publish(self, work_id: str, com_id: int, raw: bytes) -> None:
        """Take an inference, if anything here listens; else it is silently lost."""
        number = stoi(work_id.partition(".")[2].encode())
        task = self.tasks.get(number) if number is not None else None
        if not self.up or not task or not task.subscribed:
            self.world.journal.add("lost", self.name, work_id, reason="nobody subscribed")
        elif asyncio.get_running_loop().time() < task.joined_at:
            # ZeroMQ's slow joiner: 3 of 40 inferences sent with the setup reply were lost.
            task.note("lost", reason="slow joiner")
        elif self.faults.take_mute():
            task.note("lost", reason="muted")
        else:
            task.deliver(com_id, raw)

    # -- threads

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what escapes a thread into what it does to the process or sends to the last RPC's com.

        A subscriber has no address of its own: its errors carry the unit's bare name and go to
        whoever made the last RPC to this process.
        """
        try:
            yield
        except UnitCrash as err:
            self.crash(str(err))
        except BadInput as err:
            com_id, request_id = self._last_rpc
            self.world.journal.add("error", self.name, code=err.code)
            self._send(com_id, reply(request_id, self.name, code=err.code, message=str(err)))

    async def _run(self) -> None:
        """The event thread: one RPC after the other, however long a setup takes."""
        while True:
            rpc = await self._events.get()
            await self.thawed()
            self._last_rpc = (rpc.com_id, rpc.request_id)
            with self.guarded():
                await self._handle(rpc)

    async def _handle(self, rpc: Rpc) -> None:
        number = rpc.number()
        if rpc.action == "setup":
            await self._setup(rpc)
        elif rpc.action == "work" or (rpc.action == "pause" and not self.pauses):
            self.answer(rpc, code=-18, message="not have unit action!")
        elif rpc.action == "taskinfo" and number is None:
            self.world.journal.add("taskinfo", self.name)
            # the tasks live in an unordered map: the newest tends to come first
            names = [task.work_id for task in reversed(self.tasks.values())]
            self.answer(rpc, f"{self.name}.tasklist", names)
        elif (task := self.tasks.get(-1 if number is None else number)) is None:
            self.answer(rpc, code=-6, message="Unit Does Not Exist")
        else:
            await task.outlet.retarget(rpc.com_id)
            await self._handle_task(rpc, task)

    async def _handle_task(self, rpc: Rpc, task: Task) -> None:
        match rpc.action:
            case "taskinfo":
                task.note("taskinfo")
                self.answer(rpc, f"{self.name}.taskinfo", task.info())
            case "pause":
                task.note("pause")
                task.pause()
                self.answer(rpc)  # before the worker gets to run: the finish comes after it
            case "exit":
                await self._exit(rpc, task)
            case "link":  # no unit that could be linked to is simulated
                self.answer(rpc, code=-20, message="link false")
            case "unlink":
                self.answer(rpc)

    async def _setup(self, rpc: Rpc) -> None:
        """Load a task. Each attempt uses up a number, the failed ones too."""
        work_id = self.world.register(self.name)
        try:
            task = await load_task(self, rpc, work_id)
        except BadInput as err:
            self.world.release(work_id)
            self.world.journal.add("setup_failed", self.name, work_id, code=err.code)
            self.answer(rpc, code=err.code, message=str(err), work_id=err.work_id or self.name)
            return
        # After a restart of llm_sys alone the number may be that of an orphan, which is replaced.
        if orphan := self.tasks.pop(task.number, None):
            orphan.close()
        self.tasks[task.number] = task
        task.note("setup", model=task.setup.model, request_id=task.request_id)
        self.answer(rpc, work_id=work_id)
        if delay := self.world.settings.slow_joiner_ms / 1000:
            task.joined_at = asyncio.get_running_loop().time() + delay

    async def _exit(self, rpc: Rpc, task: Task) -> None:
        task.subscribed = False
        await task.drain()
        await self.thawed()
        task.close()
        self.tasks.pop(task.number, None)
        self.world.release(task.work_id)
        task.note("exit")
        self.answer(rpc)

    # -- replies

    def answer(
        self,
        rpc: Rpc,
        object_: str = "None",
        data: Any = "None",
        *,
        code: int = 0,
        message: str = "",
        work_id: str | None = None,
    ) -> None:
        """Reply to an RPC; by default with an acknowledgement."""
        to = rpc.work_id if work_id is None else work_id
        self._send(rpc.com_id, reply(rpc.request_id, to, object_, data, code=code, message=message))

    def _send(self, com_id: int, line: bytes) -> None:
        if com := self.world.coms.get(com_id):
            com.send(line)
