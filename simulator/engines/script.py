"""Deterministic answers at a module's pace: what a test can predict to the byte."""

from __future__ import annotations

import asyncio
import math
import re
import zlib

from simulator.models import Model, speed
from simulator.prompt import last_user_turn
from simulator.settings import Settings

from .base import Sampling

_TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>|<｜[^｜\s]{1,40}｜>| ?[A-Za-z0-9_]{1,4}| +|.", re.DOTALL)
_COUNTED = re.compile(r"@(frames|tokens)=(\d{1,7})")
FRAME = 3  # tokens per streamed part
SHOWN = 200  # characters of the user's turn in a default answer
GARBAGE = "zq kvx 0qq jw wvz ##q xx vkj zqz"  # the answer to a prompt beyond the input window


def script_tokens(text: str) -> list[str]:
    """Cut text into this engine's tokens; joined they are the text.

    A token is a special-token string such as <|im_start|>, or up to four ASCII letters, digits or
    underscores with the space before them, or a run of spaces, or any one other character.
    """
    return _TOKEN.findall(text)


def answer_to(text: str, thinks: bool = False) -> list[str]:
    """Return the tokens that answer `text`, the user's text as the model saw it.

    Directives in the last user turn: `@frames=N` and `@tokens=N` give numbered words, a token each,
    `@echo X` gives X.
    """
    turn = last_user_turn(text)
    if counted := _COUNTED.search(turn):
        count = int(counted.group(2)) * (FRAME if counted.group(1) == "frames" else 1)
        return [f" w{number}" if number else "w0" for number in range(count)]
    _, echo, rest = turn.partition("@echo ")
    if echo:
        return script_tokens(rest)
    crc = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    thought = "<think>\nA scripted thought.\n</think>\n\n" if thinks else ""
    return script_tokens(f"{thought}You said: {turn[:SHOWN]} [crc32 {crc:08x}]")


class ScriptGeneration:
    """Tokens known from the start, handed out against absolute deadlines so that nothing drifts."""

    def __init__(self, tokens: list[bytes], ttft: float, step: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._tokens, self._step = tokens, step
        self._at = 0
        self._due = self._loop.time() + ttft - step  # when the last token taken was there
        self._stopped = False
        self._waiter: asyncio.Future[None] | None = None

    async def take(self, count: int) -> list[bytes]:
        """Return the next tokens at the moment the last of them is due."""
        part = self._tokens[self._at : self._at + count]
        steps = len(part) + (len(part) < count)  # the end, too, is a token
        self._at += len(part)
        self._due += steps * self._step
        await self._until_due()
        if not self._stopped:
            return part
        missing = math.ceil(max(0.0, self._due - self._loop.time()) / self._step) if self._step else 0
        return part[: max(0, steps - missing)]

    async def _until_due(self) -> None:
        if self._stopped:
            return
        if self._due <= self._loop.time():
            await asyncio.sleep(0)
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(self._due, _wake, self._waiter)
        try:
            await self._waiter
        finally:
            timer.cancel()

    def stop(self) -> None:
        """Let `take` return what is due now."""
        self._stopped = True
        if self._waiter:
            _wake(self._waiter)

    def delay(self, seconds: float) -> None:
        """Move all that is still to come."""
        self._due += seconds


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def as_bytes(tokens: list[str], local: bool) -> list[bytes]:
    """Return tokens as bytes; the tokenizer inside the unit needs two for an emoji."""
    if not local:
        return [token.encode("utf-8", "surrogatepass") for token in tokens]
    pieces: list[bytes] = []
    for token in tokens:
        data = token.encode("utf-8", "surrogatepass")
        pieces += [data[:2], data[2:]] if len(token) == 1 and len(data) == 4 else [data]
    return pieces


class ScriptModel:
    """A vendor's model by name and speed only."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._ttft, self._step = speed(model, settings)

    async def count(self, prompt: str) -> int:
        """Return the prompt's length by script_tokens."""
        return len(script_tokens(prompt))

    def generate(self, _prompt: str, text: str, _sampling: Sampling, room: int) -> ScriptGeneration:
        """Begin to say what answer_to makes of `text`."""
        return self.say(answer_to(text, self._model.thinks)[:room])

    def say(self, tokens: list[str]) -> ScriptGeneration:
        """Begin to say exactly `tokens`."""
        return ScriptGeneration(as_bytes(tokens, self._model.tokenizer == "local"), self._ttft, self._step)

    def close(self) -> None:
        """There is nothing to free."""


class ScriptEngine:
    """Serves every vendor model."""

    artificial = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def load(self, model: Model) -> ScriptModel:
        """Return the model; how long that takes is the unit's business."""
        return ScriptModel(model, self._settings)

    async def aclose(self) -> None:
        """There is nothing to end."""
