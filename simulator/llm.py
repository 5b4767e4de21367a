"""The llm unit and its tasks: what waits, what runs, what a pause and an exit do.

Source: projects/llm_framework/main_llm/src/main.cpp
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from typing import Any

from .engines.base import Sampling
from .llm_worker import Worker
from .models import Model
from .rpc import text_of
from .task import Origin, Setup, Task, load_failed
from .text import extract
from .unit import Unit

QUEUE_LIMIT = 3  # waiting inferences; one more is dropped without a word
DEFAULT_MAX_TOKENS = 127  # prompt and answer together, where the setup says nothing


class LlmUnit(Unit):
    """The language unit: two tasks unless the settings say more."""

    name = "llm"
    limit = 2

    def parse(self, data: bytes) -> Setup:
        """Read the setup's data. Broken JSON is reported under the keyword spotter's name."""
        setup = Setup.parse(data, error_id="kws", required={"prompt": str})
        max_tokens(setup.fields)
        sampling(setup.fields)
        return setup

    def make_task(self, origin: Origin) -> LlmTask:
        """Return the running task of a loaded model."""
        return LlmTask(self, origin)


def max_tokens(fields: dict[str, Any]) -> int:
    """Return the setup's limit on prompt and answer together. Raises BadInput -5 for a wrong type."""
    limit = fields.get("max_token_len", DEFAULT_MAX_TOKENS)
    if type(limit) is not int:
        raise load_failed()
    return limit


def sampling(fields: dict[str, Any]) -> Sampling:
    """Return the setup's sampling. Raises BadInput -5 for a wrong type."""
    values: dict[str, Any] = {}
    for known in dataclasses.fields(Sampling):
        if known.name in fields:
            value = fields[known.name]
            kind: Any = type(known.default)
            if isinstance(value, bool) is not (kind is bool) or not isinstance(value, (int, float)):
                raise load_failed()
            values[known.name] = kind(value)
    return Sampling(**values)


def _limit_of(setup: Setup, model: Model) -> int:
    """Return the token limit: a ctx model knows its own, others never exceed what was compiled."""
    return model.kv if model.is_ctx else min(max_tokens(setup.fields), model.kv)


class LlmTask(Task):
    """One loaded language model with its worker thread and the queue before it."""

    def __init__(self, unit: Unit, origin: Origin) -> None:
        super().__init__(unit, origin)
        setup, model = origin.setup, origin.model
        how = sampling({**model.defaults, **setup.fields})
        self._worker = Worker(self, model, origin.loaded, how, _limit_of(setup, model))
        self._loaded = origin.loaded
        self.waiting: deque[bytes] = deque()
        self.running = False
        self._current = b""
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._threads.append(unit.spawn(self._work()))

    @property
    def last_prompt(self) -> str:
        """The rendered prompt the model saw last."""
        return self._worker.last_prompt

    # -- the subscriber thread

    def deliver(self, com_id: int, raw: bytes) -> None:
        """Take an inference; at once if nothing is in the way, for the unit's threads are fast."""
        if self.unit.frozen or self._inbox.qsize() or self.outlet.lingers(com_id):
            super().deliver(com_id, raw)
            return
        self.outlet.com_id = com_id
        with self.unit.guarded():
            self._receive(raw)

    async def on_message(self, raw: bytes) -> None:
        """Take an inference that had to wait for the subscriber."""
        self._receive(raw)

    def _receive(self, raw: bytes) -> None:
        # Overwritten on receipt: the answer that runs goes on under the new request_id.
        self.request_id = text_of(extract(raw, "request_id"))
        text = self.read(raw)
        if text is None:
            return
        if not text:
            self.note("dropped", reason="empty text")
        elif not self.running:
            self._begin(text)
        elif len(self.waiting) < QUEUE_LIMIT:
            self.waiting.append(text)
        else:
            self.note("dropped", reason="queue full")

    def _begin(self, text: bytes) -> None:
        self._current, self.running = text, True
        self._worker.stopping = False
        self._idle.clear()
        self._wake.set()

    # -- the worker thread

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if gap := self.unit.world.settings.dequeue_gap_s:
                await asyncio.sleep(gap)
                self._worker.stopping = False  # a pause that came in between is lost
            await self._worker.infer(self._current)
            if self.waiting:
                self._begin(self.waiting.popleft())
            else:
                self.running = False
                self._idle.set()

    # -- RPC actions

    def pause(self) -> None:
        """Stop the running answer; what waits runs next."""
        if self.running:
            self._worker.stop()

    async def drain(self) -> None:
        """Stop the running answer and let all that waits run to its end."""
        self.pause()
        await self._idle.wait()

    def close(self) -> None:
        """End at once, whatever runs or waits."""
        super().close()
        self._worker.stop()
        self._loaded.close()
