"""One answer of a language model: prompt, frames of three tokens, and what gets lost on the way.

Source: projects/llm_framework/main_llm/src/runner/LLM.hpp
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from .engines.base import Generation, LoadedModel, Sampling
from .engines.script import FRAME, GARBAGE, ScriptModel, script_tokens
from .faults import Answer
from .models import UNLIMITED, Model
from .prompt import TEMPLATES

if TYPE_CHECKING:
    from .llm import LlmTask

_HELD_BACK = 0xBD  # no frame ends in this byte; U+FFFD, half a character, does


class Worker:
    """The part of a task that computes, one answer at a time."""

    def __init__(
        self, task: LlmTask, model: Model, loaded: LoadedModel, sampling: Sampling, limit: int
    ) -> None:
        self._task, self._model, self._loaded = task, model, loaded
        self._sampling, self._limit = sampling, limit
        self._limited = model.limited(task.unit.world.settings)
        self._template = TEMPLATES[model.template]
        fields = task.setup.fields
        system = (model.is_ctx and fields.get("system_prompt")) or fields["prompt"]
        self._opening = self._template.opening(str(system))
        self._context = self._opening  # what a ctx model remembers
        self._generation: Generation | None = None
        self.stopping = False
        self.last_prompt = ""

    def stop(self) -> None:
        """End the running answer; its last frame still comes."""
        self.stopping = True
        if self._generation:
            self._generation.stop()

    async def infer(self, data: bytes) -> None:
        """Answer one text."""
        stall_after = self._task.unit.faults.take_stall()
        answers = self._task.unit.faults.answers
        try:
            text = data.decode()
        except UnicodeDecodeError:
            # The JSON serialiser throws on the way to the tokenizer: no frame, no finish.
            self._see(data.decode("utf-8", "replace"), "", 0)
            self._fall_silent()
            return
        if answers:
            await self._recite(answers.popleft(), text, stall_after)
        elif self._model.is_ctx and text == "reset":
            self._context = self._opening
            self._task.note("reset")
            await self._finish("Context has been reset.")
        else:
            await self._generate(text, stall_after)
        self._generation = None

    async def _recite(self, answer: Answer, text: str, stall_after: int | None) -> None:
        """Say what a test has ordered, frame by frame, without waiting."""
        self._see(text, self._opening + self._template.turn(text), 0)
        if com := self._task.unit.world.coms.get(self._task.outlet.com_id):
            com.cut = answer.cut
        for number, delta in enumerate(answer.deltas):
            if number == stall_after or self.stopping:
                break
            await self._send(delta)
            await self._task.unit.thawed()
        if stall_after is not None and stall_after <= len(answer.deltas):
            self._fall_silent()
            return
        if answer.hold and not self.stopping:
            self._generation = _Held(self._task.unit.faults.held())
            _ = await self._generation.take(1)
        await self._finish("".join(answer.deltas))

    async def _generate(self, text: str, stall_after: int | None) -> None:
        prompt, tokens = await self._prompt(text)
        self._see(text, prompt, tokens)
        if self._limited and tokens > self._model.input_limit:
            # Encoding fails, the error is ignored, the model runs on nothing.
            self._task.note("garbage", tokens=tokens)
            script = ScriptModel(self._model, self._task.unit.world.settings)
            room = UNLIMITED
            self._generation = script.say(script_tokens(GARBAGE))
        else:
            room = max(0, self._limit - tokens - 1) if self._limited else UNLIMITED
            self._generation = self._loaded.generate(prompt, text, self._sampling, room)
        if self.stopping:  # while the tokens were counted
            self._generation.stop()
        answer = await self._stream(self._generation, room, stall_after)
        if answer is None:
            self._fall_silent()
            return
        if self._model.is_ctx:
            self._context = prompt + answer + self._template.answer_end
        await self._finish(answer)

    async def _prompt(self, text: str) -> tuple[str, int]:
        """Return what the model reads and its length in tokens."""
        prompt = self._context + self._template.turn(text)
        tokens = await self._loaded.count(prompt)
        if self._model.is_ctx and tokens > self._model.input_limit and self._context != self._opening:
            self._task.note("context_full")  # it resets itself without a word
            self._context = self._opening
            return await self._prompt(text)
        return prompt, tokens

    async def _stream(self, generation: Generation, room: int, stall_after: int | None) -> str | None:
        """Send frames until the answer ends; return all of it, or None if it fell silent.

        Every third token what is collected goes out. A stop and the length limit leave behind what
        is collected by then; a ctx model loses nothing.
        """
        answer, held = b"", b""
        taken = frames = 0
        ended = False
        while not ended:
            part = await generation.take(min(FRAME, room - taken)) if room > taken else []
            generation.delay(await self._task.unit.thawed())
            taken += len(part)
            held += b"".join(part)
            answer += b"".join(part)
            ended = self.stopping or len(part) < FRAME
            if ended and (not held or self._loses_tail(taken >= room)):
                break
            if not ended and held[-1:] == bytes([_HELD_BACK]):
                continue
            if frames == stall_after:
                return None
            try:
                generation.delay(await self._send(held.decode()))
            except UnicodeDecodeError:
                return None  # half an emoji from the local tokenizer: the serialiser throws
            frames, held = frames + 1, b""
        return None if frames == stall_after else answer.decode("utf-8", "replace")

    def _loses_tail(self, at_limit: bool) -> bool:
        return (self.stopping or at_limit) and not self._model.is_ctx

    async def _send(self, text: str) -> float:
        """Send one frame, if the task streams; return how many seconds that blocked."""
        if not self._task.setup.streams:
            return 0.0
        return await self._task.push(self._task.delta(text, finish=False))

    async def _finish(self, answer: str) -> None:
        task = self._task
        task.note("stopped" if self.stopping else "finish", answer=answer, request_id=task.request_id)
        if task.setup.streams:
            await task.push(task.delta("", finish=True))
        else:
            await task.push(task.line().whole(answer))

    def _fall_silent(self) -> None:
        self._task.note("silent", request_id=self._task.request_id)

    def _see(self, text: str, prompt: str, tokens: int) -> None:
        self.last_prompt = prompt
        request_id = self._task.request_id
        self._task.note("inference", text=text, prompt=prompt, tokens=tokens, request_id=request_id)


class _Held:
    """Stands for an answer that a test holds back; a pause ends it like any other."""

    def __init__(self, released: Coroutine[None, None, None]) -> None:
        self._released = asyncio.ensure_future(released)

    async def take(self, _count: int) -> list[bytes]:
        try:
            await asyncio.wait({self._released})
        finally:
            self._released.cancel()
        return []

    def stop(self) -> None:
        self._released.cancel()

    def delay(self, seconds: float) -> None:
        pass
