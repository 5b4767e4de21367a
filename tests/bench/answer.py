"""What the load clients report of one streamed answer, and the question that gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MODEL = "qwen2.5-0.5B-p256-ax630c"
FRAME_SECONDS = 0.02  # a frame of three tokens at the simulator's --rate 150
GRACE = 30.0  # seconds an answer may take longer than its frames


class BenchError(Exception):
    """Something could not be measured; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `first` is the seconds from the request written to the first text received."""

    first: float
    events: int
    body: bytes = b""  # only where it was asked for


class Path(Protocol):
    """A way to the module, with as many slots as streams; each slot asks one thing at a time."""

    async def ask(self, slot: int, frames: int, *, keep: bool = False) -> Answer:
        """Have an answer of `frames` frames streamed. Raises BenchError."""
        ...


def question(frames: int) -> str:
    """Return the text that the simulator's script engine answers with `frames` frames of numbered words."""
    return f"@frames={frames}"


def longest(frames: int) -> float:
    """Return how many seconds an answer may take before it counts as lost."""
    return frames * FRAME_SECONDS + GRACE
