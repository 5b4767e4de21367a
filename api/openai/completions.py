"""``/v1/completions``, the older of OpenAI's text routes."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api.json_io import read_json
from api.openai.chat import answer_call
from api.openai.chunks import JsonObject, Shape
from api.openai.schemas import COMPLETION, completion_call
from backends.base import FinishReason

routes = web.RouteTableDef()


@routes.post("/v1/completions")
async def create_completion(request: web.Request) -> web.StreamResponse:
    """Answer one text completion, whole or as a stream of chunks."""
    return await answer_call(request, completion_call(await read_json(request, COMPLETION)), SHAPE)


def _choice(index: int, text: Any, reason: FinishReason | None = None) -> JsonObject:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def _last(index: int, reason: FinishReason) -> JsonObject:
    return _choice(index, "", reason)


SHAPE = Shape("cmpl-", "text_completion", "text_completion", whole=_choice, delta=_choice, last=_last)
