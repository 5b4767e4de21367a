"""One task of a unit, `llm.1000`: a loaded model, a subscription, and a way out."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .engines.base import LoadedModel
from .envelope import ResultLine
from .memory import Lease
from .mishaps import BadInput
from .models import Model
from .outlet import Outlet
from .text import decode_base64, extract, unescape

if TYPE_CHECKING:
    from .unit import Unit

INBOX_LIMIT = 2000  # messages; ZeroMQ's 1000 on either side, what comes beyond vanishes


@dataclass(frozen=True)
class Setup:
    """The `data` of a setup, as far as all units read it alike."""

    model: str
    response_format: str
    enoutput: bool
    inputs: tuple[str, ...]
    fields: dict[str, Any]

    @classmethod
    def parse(cls, data: bytes, *, error_id: str, required: dict[str, type]) -> Setup:
        """Read the extracted object. Raises BadInput -2 under the odd name `error_id`, and -5."""
        try:
            fields = json.loads(data)
        except ValueError:
            raise BadInput(-2, "json format error.", error_id) from None
        wanted = {"model": str, "response_format": str, "enoutput": bool, **required}
        if not isinstance(fields, dict) or any(type(fields.get(key)) is not wanted[key] for key in wanted):
            raise load_failed()
        given = fields.get("input", [])
        inputs = [given] if isinstance(given, str) else given
        if not isinstance(inputs, list) or any(not isinstance(entry, str) for entry in inputs):
            raise load_failed()
        return cls(fields["model"], fields["response_format"], fields["enoutput"], tuple(inputs), fields)

    @property
    def streams(self) -> bool:
        """Whether results come in parts."""
        return "stream" in self.response_format


def load_failed() -> BadInput:
    """Return the answer to a setup that came to nothing."""
    return BadInput(-5, "Model loading failed.")


@dataclass(frozen=True)
class Origin:
    """What a new task begins with."""

    number: int
    setup: Setup
    model: Model
    loaded: LoadedModel
    lease: Lease
    com_id: int
    request_id: str


class Task:
    """Base of the tasks of all units. Subclasses say what an inference is."""

    def __init__(self, unit: Unit, origin: Origin) -> None:
        self.unit, self.number, self.setup = unit, origin.number, origin.setup
        self.work_id = f"{unit.name}.{origin.number}"
        self.outlet = Outlet(unit.world.coms, origin.com_id, unit.world.settings)
        self.request_id = origin.request_id
        self.joined_at = 0.0  # loop time; a message published earlier is lost
        # Only an input with the unit's own name subscribes to the client's inferences.
        self.subscribed = any(unit.name in entry for entry in origin.setup.inputs)
        self._lease = origin.lease
        self._inbox: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(INBOX_LIMIT)
        self._line: ResultLine | None = None
        self._line_id: str | None = None
        self._threads = [unit.spawn(self._subscribe())]

    def deliver(self, com_id: int, raw: bytes) -> None:
        """Take a published inference."""
        if self._inbox.full():
            self.note("dropped", reason="zmq queue full")
        else:
            self._inbox.put_nowait((com_id, raw))

    async def _subscribe(self) -> None:
        """The subscriber thread: one message after the other."""
        while True:
            com_id, raw = await self._inbox.get()
            await self.unit.thawed()
            with self.unit.guarded():
                await self.outlet.retarget(com_id)
                await self.on_message(raw)

    async def on_message(self, raw: bytes) -> None:
        """Handle one inference message, already addressed to this task."""
        raise NotImplementedError

    def read(self, raw: bytes) -> bytes | None:
        """Return the data of an inference, or None if a stream goes on. Raises BadInput, UnitCrash."""
        object_, data = extract(raw, "object"), extract(raw, "data")
        if b"stream" in object_:
            joined = self.unit.stream.add(data)
            if joined is None:
                return None
            data = joined
        return unescape(decode_base64(data) if b"base64" in object_ else data)

    async def push(self, line: bytes) -> float:
        """Send a result where the task's output goes now; return how many seconds that blocked."""
        if not self.setup.enoutput or self.outlet.send(line):
            return 0.0
        started = asyncio.get_running_loop().time()
        await self.outlet.push(line)
        return asyncio.get_running_loop().time() - started

    def delta(self, text: str, finish: bool) -> bytes:
        """Return one streamed part, numbered by the unit's only counter."""
        line = self.line().delta(text, self.unit.index, finish)
        # One static counter for all tasks; whoever finishes resets it. Observed with two work_ids.
        self.unit.index = 0 if finish else self.unit.index + 1
        return line

    def line(self) -> ResultLine:
        """Return the renderer for the request_id of this moment."""
        if self._line is None or self._line_id != self.request_id:
            self._line = ResultLine(self.setup.response_format, self.request_id, self.work_id)
            self._line_id = self.request_id
        return self._line

    def pause(self) -> None:
        """Stop what is being computed."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Do what an `exit` waits for, before the model goes."""
        raise NotImplementedError

    def close(self) -> None:
        """End at once: threads, model, memory."""
        for thread in self._threads:
            thread.cancel()
        self._lease.free()

    def info(self) -> dict[str, Any]:
        """Return what taskinfo tells."""
        return {
            "enoutput": self.setup.enoutput,
            "inputs": list(self.setup.inputs),
            "model": self.setup.model,
            "response_format": self.setup.response_format,
        }

    def note(self, kind: str, **data: Any) -> None:
        """Write an event of this task down."""
        self.unit.world.journal.add(kind, self.unit.name, self.work_id, **data)
