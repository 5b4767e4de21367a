"""``/v1/models``: what can be asked for, and what each model can do."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api.context import known_models
from api.json_io import json_answer
from catalog.models import ModelInfo

routes = web.RouteTableDef()


@routes.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """List every model and active alias."""
    models = [model_body(info) for info in (await known_models(request)).models()]
    return json_answer({"object": "list", "data": models})


@routes.get("/v1/models/{id:.+}")
async def get_model(request: web.Request) -> web.Response:
    """Show one model; ids may contain ``/`` and ``:``, encoded or not."""
    catalog = await known_models(request)
    return json_answer(model_body(catalog.model(request.match_info["id"])))


def model_body(info: ModelInfo) -> dict[str, Any]:
    """Return OpenAI's model object, with what this server knows beyond it."""
    return {
        "id": info.id,
        "object": "model",
        "created": info.created,
        "owned_by": info.owned_by,
        "permission": [],
        "root": info.root,
        "parent": None,
        "ready": info.ready,
        "capabilities": info.capabilities,
        "context_window": info.context_window,
        "input_window": info.input_window,
        "memory_kib": info.memory_kib,
        "load_seconds": info.load_seconds,
        "state": info.state,
        "error": info.error,
        "module": info.module,
        "description": info.description,
        "token_count": info.token_count,
    }
