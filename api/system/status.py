"""``/v1/system/status``: everything the service knows of itself, for people and dashboards."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from aiohttp import web

from api.context import CATALOG
from api.json_io import json_answer
from api.system.health import engines, module_health
from catalog.models import LoadedModel, ModuleStatus, SessionStatus, Status

routes = web.RouteTableDef()


@routes.get("/v1/system/status")
async def system_status(request: web.Request) -> web.Response:
    """Show modules, loaded models and sessions as they are now."""
    return json_answer(status_body(request.app[CATALOG].status()))


def status_body(status: Status) -> dict[str, Any]:
    """Return the status object."""
    return {
        "initialized": status.initialized,
        "total_engines": len(status.modules),
        "registered_models": status.registered_models,
        "loaded_models": len(status.loaded),
        "max_concurrent_models": status.max_concurrent_models,
        "models": [_loaded(model) for model in status.loaded],
        "engines": {name: _engine(module) for name, module in engines(status).items()},
    }


def _loaded(model: LoadedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "engine_type": "stackflow",
        "status": "loaded",
        "loaded_at": utc(model.loaded_at),
        "memory_usage": gib(model.memory_kib),
        "context_length": model.context_length,
    }


def _engine(module: ModuleStatus) -> dict[str, Any]:
    return {
        "status": module_health(module),
        "memory_usage": gib(module.cmm_used_kib),
        "name": module.name,
        "address": module.address,
        "simulated": module.simulated,
        "connected": module.connected,
        "error": module.error,
        "version": module.version,
        "unit_versions": module.unit_versions,
        "temperature": module.temperature,
        "cmm": {
            "total_kib": module.cmm_total_kib,
            "used_kib": module.cmm_used_kib,
            "remain_kib": module.cmm_remain_kib,
        },
        "silent_units": module.silent_units,
        "sessions": [_session(session) for session in module.sessions],
        "queue": module.queue,
    }


def _session(session: SessionStatus) -> dict[str, Any]:
    return {
        "work_id": session.work_id,
        "model": session.model,
        "state": session.state,
        "idle_seconds": round(session.idle_seconds, 1),
        "leased": session.leased,
    }


def gib(kib: int | None) -> str | None:
    """Return KiB as ``2.1GB``: GiB with at most one decimal; None stays None."""
    return None if kib is None else f"{kib / 1048576:.1f}".removesuffix(".0") + "GB"


def utc(seconds: float) -> str:
    """Return unix seconds as UTC without zone, ``2024-01-01T12:00:00``."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
