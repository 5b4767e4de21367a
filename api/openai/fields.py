"""The fields chat and text completions share, and what is refused among them by name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

import msgspec

from backends.base import ChatRequest, Sampling
from errors import InvalidRequest

MAX_MODEL_NAME = 512  # characters; it is echoed in errors

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Tokens = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request: what to ask, and how to answer. `echo` goes before a completion's text."""

    chat: ChatRequest
    stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()
    echo: str = ""


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool | None = None


class CommonBody(msgspec.Struct, kw_only=True):
    """What both bodies have. Unknown fields are ignored, and null means absent, as at OpenAI."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MODEL_NAME)]
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: Tokens | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], msgspec.Meta(max_length=4)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    keep_alive: str | float | None = None
    ttl: Annotated[float, msgspec.Meta(ge=0)] | None = None

    def refusals(self) -> dict[str, bool]:
        """Return what would change the answer and cannot be honoured, and whether it was asked for."""
        return {
            "frequency_penalty": bool(self.frequency_penalty),
            "presence_penalty": bool(self.presence_penalty),
            "logit_bias": bool(self.logit_bias),
        }

    def refuse(self) -> None:
        """Raise InvalidRequest naming the first refused parameter."""
        for name, asked in self.refusals().items():
            if asked:
                raise InvalidRequest(f"'{name}' is not supported by this server", param=name)

    def sampling(self) -> Sampling:
        """Return how to draw tokens."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.repetition_penalty)

    def stops(self) -> tuple[str, ...]:
        """Return the stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def residence(self) -> float | None:
        """Return how many seconds the model should stay loaded; None when nothing was asked."""
        return self.ttl if self.keep_alive is None else parse_keep_alive(self.keep_alive)

    def wants_usage(self) -> bool:
        """Whether a stream should end with a usage chunk."""
        return bool(self.stream_options is not None and self.stream_options.include_usage)

    def ignored(self) -> tuple[str, ...]:
        """Return what was asked for, is harmless to leave out, and is left out."""
        return ("seed",) if self.seed is not None else ()


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PIECE = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|h|m|s)"
_DURATION = re.compile(rf"([+-]?)((?:{_PIECE})+)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)", re.ASCII)


def parse_keep_alive(value: str | float) -> float:
    """Return seconds from Ollama's syntax: a number, or ``5m``, ``1h30m``, ``-1``; negative is for ever."""
    seconds = value if not isinstance(value, str) else _seconds(value.strip())
    if seconds is None or not math.isfinite(seconds):
        raise InvalidRequest("Invalid 'keep_alive': expected seconds, or such as 5m", param="keep_alive")
    return -1.0 if seconds < 0 else float(seconds)


def _seconds(text: str) -> float | None:
    if len(text) > 40:
        return None
    if _NUMBER.fullmatch(text):
        return float(text)
    if (match := _DURATION.fullmatch(text)) is None:
        return None
    total = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PIECE, match[2], re.ASCII))
    return -total if match[1] == "-" else total
