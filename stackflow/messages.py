"""Request, Reply and Delta: the messages, and the units, actions and object tags they name."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass
from typing import Any

import msgspec

from errors import ModelLoadFailed, TaskFull, TaskGone, UnitError
from stackflow.encoding import Value, encoded, quoted

URGENT = frozenset({"pause"})  # may pass payloads that wait for the pipe; so may every `sys` action


class Fault(msgspec.Struct):
    """``error`` of a reply; code 0 is success. Codes: stackflow-protocol 3.3."""

    code: int = 0
    message: str = ""


class Reply(msgspec.Struct):
    """One message from the module. `data` is ``"None"`` in acknowledgements and errors."""

    request_id: str = ""
    work_id: str = ""
    object: str = ""
    data: Any = None
    error: Fault = msgspec.field(default_factory=Fault)

    @property
    def unit(self) -> str:
        """The first dotted part of `work_id`."""
        return self.work_id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of a unit's streamed answer; the last one has `finish` set and, on llm and vlm, empty text."""

    text: str
    finish: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the module. No field but `data` may ever hold a client's words."""

    request_id: str
    work_id: str
    action: str
    object: str | None = None
    data: Value | None = None

    @property
    def urgent(self) -> bool:
        """True if it may pass payloads that have not begun on a shared pipe."""
        return self.action in URGENT or self.work_id == "sys"

    def encode(self) -> bytes:
        """Return the bytes to send.

        Keys stand in the order of stackflow-protocol 2.4, since units take the first textual match. The
        newlines around it flush a poisoned buffer before and feed the RAW off-by-one behind (2.1, 2.2).
        """
        head = f'\n{{"request_id":"{self.request_id}","work_id":"{self.work_id}","action":"{self.action}"'
        tag = "" if self.object is None else f',"object":{quoted(self.object)}'
        body = "" if self.data is None else f',"data":{encoded(self.data)}'
        return f"{head}{tag}{body}}}\n".encode()


class RequestIds:
    """Short ids that no earlier process used: a random prefix and a counter, ``[a-z0-9]`` only.

    Never a key name such as ``data``, which would hijack the units' field lookup (stackflow-protocol 2.4).
    """

    def __init__(self) -> None:
        self._prefix = f"r{secrets.token_hex(3)}x"
        self._counter = itertools.count(1)

    def __call__(self) -> str:
        """Return the next id."""
        return f"{self._prefix}{next(self._counter):x}"


def delta_of(reply: Reply) -> Delta | None:
    """Return the streamed part that `reply` carries, or None when it carries none."""
    data = reply.data
    if type(data) is dict and "delta" in data:
        text = data["delta"]
        return Delta(text if isinstance(text, str) else "", bool(data.get("finish")))
    return None


def failure(unit: str, reply: Reply) -> UnitError | None:
    """Return the exception for a reply's error code, None for success. Codes: stackflow-protocol 3.3."""
    code, text = reply.error.code, reply.error.message.rstrip(".")
    if code == 0:
        return None
    if code in (-4, -6):
        return TaskGone(unit, code, text)
    if code == -21:
        return TaskFull(unit, code, text, "all places of the unit are taken, perhaps by another program")
    if code == -5:
        return ModelLoadFailed(unit, code, text[:1].lower() + text[1:], "model files or NPU memory missing")
    if code == -9:
        return UnitError(unit, code, text, f"the {unit} unit is not installed or not running")
    return UnitError(unit, code, text)
