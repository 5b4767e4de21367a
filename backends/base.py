"""The seam between doors and backends: what is asked, what comes back, who answers it.

A backend takes no lease on entry. Its iterator yields `Waiting` while the request queues or loads, then
deltas, then one `Done` for each choice. Leaving the block at any point stops the work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as fairness is concerned: a key's name, else the peer's address."""

    name: str = "local"
    low_priority: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `developer` arrives here as ``system``."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; None means the model's configured value. Temperature 0 is greedy."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion to make. `max_tokens` None means the model's configured default."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    keep_alive: float | None = None  # seconds; None is the configured value, negative is for ever
    caller: Caller = Caller()


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing to show yet. `reason` is a short phrase such as ``queued 2`` or ``loading``."""

    position: int
    reason: str
    model: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of choice `index`; never empty."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts: of the rendered prompt, and of the delivered text.

    `estimated` when no tokenizer counted.
    """

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = True


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent waiting for a place, loading a model, and from inference to first delta."""

    queue: float = 0.0
    load: float = 0.0
    first_token: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """A session is leased and the prompt is on its way: what there is to say in headers.

    `notes` become ``x-stackflow-*`` headers, for example ``{"context": "dropped=3"}``.
    """

    module: str
    timings: Timings
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """Choice `index` is complete."""

    finish_reason: FinishReason
    usage: Usage
    index: int = 0
    timings: Timings = Timings()


ChatEvent = Waiting | Started | TextDelta | Done


class ChatBackend(Protocol):
    """Answers chat completions for one model."""

    def complete(self, chat: ChatRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatEvent]]:
        """Yield a request's events: any `Waiting`, a `Started`, then deltas and a `Done` for each choice.

        `Started` comes just before the first delta or `Done`. Raises a BridgeError; ContextTooLong before any
        event when the messages can never fit. Leaving the block stops the generation; the caller never waits
        for it.
        """
        ...
