"""What a unit asks of an engine, whatever it computes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from simulator.models import Model


@dataclass(frozen=True)
class Sampling:
    """How the unit picks tokens; the defaults are the unit's, from LLMPostprocess.hpp."""

    enable_temperature: bool = False
    temperature: float = 0.7
    enable_top_p_sampling: bool = False
    top_p: float = 0.7
    enable_top_k_sampling: bool = True
    top_k: int = 10
    enable_repetition_penalty: bool = False
    repetition_penalty: float = 1.2
    penalty_window: int = 50


class Generation(Protocol):
    """One answer in the making."""

    async def take(self, count: int, /) -> list[bytes]:
        """Return the next `count` tokens once they are there; fewer at the end or after `stop`."""

    def stop(self) -> None:
        """Compute no further; a waiting `take` returns at once with what there is."""

    def delay(self, seconds: float, /) -> None:
        """Note that the unit could not go on for `seconds`; later tokens come later."""


class LoadedModel(Protocol):
    """A model in memory, owned by one task."""

    async def count(self, prompt: str) -> int:
        """Return the number of tokens of a rendered prompt."""

    def generate(self, prompt: str, text: str, sampling: Sampling, room: int, /) -> Generation:
        """Begin to answer `prompt`, whose user text is `text`, with up to `room` tokens."""

    def close(self) -> None:
        """Free what it holds. Does not block."""


class Engine(Protocol):
    """Loads the models of one kind."""

    artificial: bool  # whether load times are to be simulated

    async def load(self, model: Model, /) -> LoadedModel:
        """Return the model, ready. Raises LoadFailed."""

    async def aclose(self) -> None:
        """End all computation."""
