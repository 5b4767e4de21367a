"""One answer in OpenAI's shapes, as chunks of a stream or whole; routes differ in how a choice looks."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from api.json_io import encode_json, mend
from api.openai.errors import error_body
from api.openai.fields import Call
from api.progress import Progress
from backends.base import ChatEvent, Done, FinishReason, TextDelta, Usage, Waiting

JsonObject = dict[str, Any]

_HOLE = msgspec.Raw(b"\0")  # where the text goes; no valid JSON holds a NUL
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Shape:
    """What tells one kind of completion from the other: names, and how a choice looks."""

    prefix: str  # of the id
    object: str
    chunk_object: str
    whole: Callable[[int, str, FinishReason], JsonObject]
    delta: Callable[[int, Any], JsonObject]  # a chunk with text
    last: Callable[[int, FinishReason], JsonObject]  # the chunk that ends a choice
    opening: Callable[[int], JsonObject] | None = None  # the chunk that begins one, if any does


class Answer:
    """One answer being made: an id, a time, and what the choices have come to."""

    def __init__(self, shape: Shape, call: Call, fingerprint: str, progress: Progress) -> None:
        self._shape = shape
        self._call = call
        self._progress = progress
        self._done: dict[int, Done] = {}
        answer_id = shape.prefix + secrets.token_hex(12)
        self._head = {"id": answer_id, "object": shape.object, "created": int(time.time())}
        self._named = {"model": call.chat.model, "system_fingerprint": fingerprint}

    def note(self, event: ChatEvent) -> None:
        """Take in any event but text."""
        if isinstance(event, Done):
            self._done[event.index] = event
        self._progress.note(event)

    def usage(self) -> JsonObject:
        """Return the token counts over all choices. Raises when one is not done."""
        if len(self._done) < self._call.chat.n:
            raise RuntimeError(f"the backend finished {len(self._done)} of {self._call.chat.n} choices")
        return usage_body([done.usage for done in self._done.values()])

    async def whole(self, events: AsyncIterator[ChatEvent]) -> JsonObject:
        """Collect `events` into the whole answer."""
        texts = [[self._call.echo] for _ in range(self._call.chat.n)]
        async for event in events:
            if isinstance(event, TextDelta):
                texts[event.index].append(event.text)
            else:
                self.note(event)
        usage = self.usage()
        choices = [
            self._shape.whole(index, mend("".join(text)), self._done[index].finish_reason)
            for index, text in enumerate(texts)
        ]
        return {**self._head, **self._named, "choices": choices, "usage": usage}


class AnswerChunks(Answer):
    """The same as a stream: everything but the text of a chunk is encoded once, beforehand."""

    def __init__(self, shape: Shape, call: Call, fingerprint: str, progress: Progress) -> None:
        super().__init__(shape, call, fingerprint, progress)
        self._head["object"] = shape.chunk_object
        self._around = [  # what stands before and after the text of each choice
            tuple(self._event([shape.delta(index, _HOLE)]).split(b"\0")) for index in range(call.chat.n)
        ]

    def opening(self) -> bytes:
        """Return the first chunk of each choice."""
        opening, echo = self._shape.opening, self._call.echo
        sent = [self._event([opening(i)]) for i in range(self._call.chat.n)] if opening is not None else []
        if echo:
            sent += [before + json_text(echo) + after for before, after in self._around]
        return b"".join(sent)

    def chunk(self, event: ChatEvent) -> bytes:
        """Return the chunk that shows `event`; a choice that waits between turns shows as a comment."""
        if type(event) is TextDelta:
            text = event.text
            data = _encode(text) if text.isascii() else json_text(text)
            before, after = self._around[event.index]
            return before + data + after
        self.note(event)
        if isinstance(event, Done):
            return self._event([self._shape.last(event.index, event.finish_reason)])
        return self._progress.comment() if isinstance(event, Waiting) else b""

    def closing(self) -> bytes:
        """Return the usage, if it was asked for, and the end."""
        usage = self.usage()
        return (self._event([], usage) if self._call.include_usage else b"") + b"data: [DONE]\n\n"

    def failure(self, err: Exception, request_id: str) -> bytes:
        """Return the error as a last event, which the official SDK raises as APIError."""
        return b"data: " + encode_json(error_body(err, request_id)) + b"\n\n"

    def _event(self, choices: list[JsonObject], usage: JsonObject | None = None) -> bytes:
        counted = {"usage": usage} if self._call.include_usage else {}
        return b"data: " + encode_json({**self._head, **self._named, "choices": choices, **counted}) + b"\n\n"


def usage_body(parts: list[Usage]) -> JsonObject:
    """Return OpenAI's usage object over all choices, which share one prompt."""
    prompt = max(part.prompt_tokens for part in parts)
    completion = sum(part.completion_tokens for part in parts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


# Line ends to Python's splitlines, with which some clients cut a stream, but neither to JSON nor to SSE.
_BREAKS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def json_text(text: str) -> bytes:
    """Return `text` as a JSON string on one line in everyone's eyes."""
    data = encode_json(text)
    for raw, escaped in _BREAKS:
        data = data.replace(raw, escaped)
    return data
