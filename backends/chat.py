"""Chat on the llm unit: prompts, budget, sampling, stops, usage."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from backends.base import (
    ChatEvent,
    ChatRequest,
    Done,
    FinishReason,
    Sampling,
    Started,
    TextDelta,
    Timings,
    Usage,
    Waiting,
)
from backends.budget import Prompt, fit
from backends.stops import StopCutter
from backends.templates import template_for
from backends.tokens import TOKENS_PER_FRAME, frame_tokens, pieces
from config import Config, ModelConfig
from errors import BridgeError, ConnectionLost, DeviceTimeout, TaskGone
from stackflow.encoding import Value, clean
from stackflow.ledger import Signature
from stackflow.pool import Pool
from stackflow.ticket import Ticket, Want
from stackflow.units import CONTEXT_WINDOW, InstalledModel

ANSWER_SHARE = 4  # one part in so many of a ctx model's context is kept for the answer
TRIES = 2  # a turn is repeated once, and only while nothing of its answer was seen


class UnitChat:
    """One installed language model, as a ChatBackend."""

    def __init__(
        self, pool: Pool, installed: InstalledModel, config: Config, module_label: Callable[[str], str]
    ) -> None:
        self._pool = pool
        self._installed = installed
        self._config = config
        self._module_label = module_label
        self._settings = config.model(installed.name)
        self._template = template_for(installed.name)

    @asynccontextmanager
    async def complete(self, chat: ChatRequest) -> AsyncIterator[AsyncIterator[ChatEvent]]:
        """Yield the events of one request; see ChatBackend."""
        prompt = self._prompt(chat)
        async with (
            self._pool.request(self._want(chat)) as ticket,
            aclosing(self._events(chat, prompt, ticket)) as events,
        ):
            yield events

    def _prompt(self, chat: ChatRequest) -> Prompt:
        installed, settings = self._installed, self._settings
        window = min(installed.input_window, settings.input_window or installed.input_window)
        if installed.stateful:  # reads up to its whole context; the answer needs a part of it
            window = min(window, installed.context_window - installed.context_window // ANSWER_SHARE)
        prompt = fit(
            self._template,
            chat.messages,
            window,
            setup_prompt=settings.system_prompt,
            trim=settings.context == "trim",
            model=chat.model,
        )
        text = clean(prompt.text)
        if not text or (installed.stateful and text == "reset"):
            # Empty text is dropped unanswered (stackflow-observed, LLM unit); `reset` is a command of ctx
            # models (5.1).
            text += " "
        return Prompt(text, prompt.tokens, prompt.dropped)

    def _want(self, chat: ChatRequest) -> Want:
        settings = self._settings
        return Want(
            signature=signature(self._installed, settings, chat.sampling),
            client=chat.caller.name,
            low_priority=chat.caller.low_priority,
            sticky=self._config.sampling == "sticky",
            pool_size=settings.pool_size,
            memory_kib=settings.memory_kib,
            keep_alive=chat.keep_alive,
        )

    async def _events(
        self, chat: ChatRequest, prompt: Prompt, ticket: Ticket
    ) -> AsyncGenerator[ChatEvent, None]:
        for index in range(chat.n):
            async with aclosing(self._choice(chat, prompt, ticket, index)) as events:
                async for event in events:
                    yield event
            if index + 1 < chat.n:
                ticket.rest()

    async def _choice(
        self, chat: ChatRequest, prompt: Prompt, ticket: Ticket, index: int
    ) -> AsyncGenerator[ChatEvent, None]:
        """One choice, on one turn, or on a second one when the first came to nothing."""
        for attempt in range(1, TRIES + 1):
            choice = _Choice(index, StopCutter(chat.stop), chat.max_tokens or self._settings.max_tokens)
            fresh = False
            try:
                async with aclosing(ticket.turn()) as places:
                    async for place in places:
                        yield Waiting(place.position, place.reason, chat.model)
                fresh = ticket.session.fresh
                async with aclosing(self._turn(prompt, ticket, choice)) as events:
                    async for event in events:
                        yield event
                return
            except BridgeError as err:
                # The task is gone, its pipe had died unnoticed, or its first question was lost on the way.
                lost = ticket.granted_once and isinstance(err, (TaskGone, ConnectionLost))
                worth_it = lost or (fresh and isinstance(err, DeviceTimeout))
                if choice.begun or attempt == TRIES or not worth_it:
                    raise
                ticket.give_up(gone=isinstance(err, TaskGone))

    async def _turn(self, prompt: Prompt, ticket: Ticket, choice: _Choice) -> AsyncGenerator[ChatEvent, None]:
        session = ticket.session
        if self._installed.stateful:  # whose conversation it holds is not ours to go on with
            async with session.inference("reset") as stream:
                await stream.drain(self._config.deadlines.first_frame)
        began = time.monotonic()
        async with session.inference(prompt.text) as stream:
            async for delta in stream:
                if text := choice.take(delta.text):
                    if not choice.begun:
                        choice.first_token = time.monotonic() - began
                        yield self._started(prompt, ticket, choice)
                        choice.begun = True
                    yield TextDelta(text, choice.index)
                if choice.over:
                    break
        if not choice.begun:
            yield self._started(prompt, ticket, choice)
        if text := choice.rest():
            yield TextDelta(text, choice.index)
        if prompt.tokens + choice.tokens >= self._installed.context_window:
            choice.finish_reason = "length"
        usage = Usage(prompt.tokens, choice.tokens)
        yield Done(choice.finish_reason, usage, choice.index, choice.timings(ticket))

    def _started(self, prompt: Prompt, ticket: Ticket, choice: _Choice) -> Started:
        notes = {"context": f"dropped={prompt.dropped}"} if prompt.dropped else {}
        if ticket.signature != ticket.want.signature:
            notes["sampling"] = "sticky"
        return Started(self._module_label(ticket.module), choice.timings(ticket), notes)


@dataclass(slots=True)
class _Choice:
    """One choice as it comes: counted, cut at stops and at the limit."""

    index: int
    cutter: StopCutter
    limit: int  # tokens
    begun: bool = False  # the client has seen something of it
    over: bool = False  # nothing more of what the unit sends is wanted
    first_token: float = 0.0
    tokens: int = 0
    finish_reason: FinishReason = "stop"

    def take(self, text: str) -> str:
        """Return what the client gets of the next frame's `text`, if it has any."""
        if not text:
            return ""
        room = self.limit - self.tokens
        if room >= TOKENS_PER_FRAME:
            self.tokens += frame_tokens(text)
        else:  # the limit is near: words are counted, and none is cut in two
            parts = pieces(text)
            text = "".join(parts[:room])
            self.tokens += min(len(parts), room)
        shown = self.cutter.feed(text)
        if self.cutter.stopped:
            self.over = True
        elif self.tokens >= self.limit:
            self.over, self.finish_reason = True, "length"
        return shown

    def rest(self) -> str:
        """Return what was held back as the possible beginning of a stop sequence."""
        return "" if self.cutter.stopped else self.cutter.rest()

    def timings(self, ticket: Ticket) -> Timings:
        """Return where the time went."""
        return Timings(ticket.queue_seconds, ticket.load_seconds, self.first_token)


def signature(installed: InstalledModel, settings: ModelConfig, sampling: Sampling) -> Signature:
    """Return what a session for this request is set up with.

    The setup prompt is neutral and the same for all, so that nobody's system prompt costs a reload.
    """
    values: dict[str, Value] = {
        "response_format": "llm.utf-8.stream",
        "input": "llm.utf-8",
        "enoutput": True,
        "max_token_len": CONTEXT_WINDOW,
        "prompt": settings.system_prompt,
        **_sampling_keys(settings, sampling),
    }
    return Signature(installed.unit, installed.name, tuple(sorted(values.items())))


def _sampling_keys(settings: ModelConfig, asked: Sampling) -> dict[str, Value]:
    """Each value takes effect only with its flag; all flags off is greedy (stackflow-protocol 5.1)."""
    temperature = settings.temperature if asked.temperature is None else asked.temperature
    top_p = settings.top_p if asked.top_p is None else asked.top_p
    top_k = settings.top_k if asked.top_k is None else asked.top_k
    penalty = settings.repetition_penalty if asked.repetition_penalty is None else asked.repetition_penalty
    temperature = None if temperature is None else round(float(temperature), 2)
    keys: dict[str, Value] = {}
    if temperature == 0:  # also what rounds to it: the unit divides by it
        keys = {"enable_temperature": False, "enable_top_p_sampling": False, "enable_top_k_sampling": False}
    else:
        if temperature is not None:
            keys |= {"enable_temperature": True, "temperature": temperature}
        if top_p is not None and top_p < 1:  # 1 is no restriction, which is how the units start
            keys |= {"enable_top_p_sampling": True, "top_p": max(round(float(top_p), 2), 0.01)}
        if top_k is not None:
            keys |= {"enable_top_k_sampling": True, "top_k": top_k}
    if penalty is not None:
        keys |= {"enable_repetition_penalty": True, "repetition_penalty": round(float(penalty), 2)}
    return keys
