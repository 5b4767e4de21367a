"""An RPC event on its way from the gateway to a unit's event thread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .mishaps import UnitCrash
from .text import extract, stoi


def text_of(raw: bytes) -> str:
    """Return raw bytes as text that encodes back to the same bytes."""
    return raw.decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Rpc:
    """An action, who asked, and the whole message, from which the unit takes what it needs."""

    action: str
    com_id: int
    raw: bytes

    @cached_property
    def request_id(self) -> str:
        """As found in the raw text: escapes stay, and are escaped once more in the reply."""
        return text_of(extract(self.raw, "request_id"))

    @cached_property
    def work_id(self) -> str:
        """As found in the raw text."""
        return text_of(extract(self.raw, "work_id"))

    def number(self) -> int | None:
        """Return the task's number, None for the bare unit. Raises UnitCrash where stoi throws."""
        _, dot, rest = self.work_id.partition(".")
        if not dot:
            return None
        number = stoi(rest.encode("utf-8", "surrogateescape"))
        if number is None:
            raise UnitCrash(f"stoi of work_id {self.work_id!r}")
        return number
