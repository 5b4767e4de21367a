"""``/v1/chat/completions``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiohttp import web

from api.context import CONFIG, FINGERPRINT, PROGRESS, identity_of, known_models
from api.json_io import json_answer, read_json
from api.openai.chunks import Answer, AnswerChunks, JsonObject, Shape
from api.openai.fields import Call
from api.openai.schemas import CHAT, chat_call
from api.progress import Progress
from api.sse import stream_events
from backends.base import ChatRequest, FinishReason

routes = web.RouteTableDef()


@routes.post("/v1/chat/completions")
async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """Answer one chat completion, whole or as a stream of chunks."""
    return await answer_call(request, chat_call(await read_json(request, CHAT)), SHAPE)


async def answer_call(request: web.Request, call: Call, shape: Shape) -> web.StreamResponse:
    """Have `call` answered by its model, in `shape`."""
    backend = (await known_models(request)).chat(call.chat.model)
    progress, fingerprint = Progress(call.ignored), request.app[FINGERPRINT]
    request[PROGRESS] = progress
    async with backend.complete(for_caller(call.chat, request)) as events:
        if call.stream:
            chunks = AnswerChunks(shape, call, fingerprint, progress)
            return await stream_events(request, events, chunks, progress)
        body = await Answer(shape, call, fingerprint, progress).whole(events)
    return json_answer(body, headers=progress.headers())


def for_caller(chat: ChatRequest, request: web.Request) -> ChatRequest:
    """Return `chat` with its caller, who unless an admin keeps no model loaded beyond `keep_alive_max`."""
    identity, asked = identity_of(request), chat.keep_alive
    longest = request.app[CONFIG].keep_alive_max
    if asked is not None and not identity.admin and not 0 <= asked <= longest:
        asked = longest
    return replace(chat, caller=identity.caller, keep_alive=asked)


def _whole(index: int, text: str, reason: FinishReason) -> JsonObject:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}


def _opening(index: int) -> JsonObject:
    return _chunk(index, {"role": "assistant", "content": ""})


def _delta(index: int, text: Any) -> JsonObject:
    return _chunk(index, {"content": text})


def _last(index: int, reason: FinishReason) -> JsonObject:
    return _chunk(index, {}, reason)


def _chunk(index: int, delta: JsonObject, reason: FinishReason | None = None) -> JsonObject:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


SHAPE = Shape(
    "chatcmpl-",
    "chat.completion",
    "chat.completion.chunk",
    whole=_whole,
    delta=_delta,
    last=_last,
    opening=_opening,
)
