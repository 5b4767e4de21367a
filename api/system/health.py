"""``/health`` for watchdogs and load balancers. Answers from memory, before any module did."""

from __future__ import annotations

import time
from typing import Any, Literal

from aiohttp import web

from api.context import CATALOG
from api.json_io import json_answer
from catalog.models import ModuleStatus, Status

routes = web.RouteTableDef()

Health = Literal["healthy", "degraded", "unhealthy"]


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Tell how the service is; 503 when nothing can be served."""
    body = health_body(request.app[CATALOG].status(), time.time())
    return json_answer(body, status=503 if body["status"] == "unhealthy" else 200)


@routes.get("/health/live")
async def live(_request: web.Request) -> web.Response:
    """Answer as long as the process does."""
    return json_answer({"status": "alive", "timestamp": int(time.time())})


def health_body(status: Status, now: float) -> dict[str, Any]:
    """Return the health object; `now` is unix seconds."""
    return {
        "status": overall(status),
        "timestamp": int(now),
        "manager_initialized": status.initialized,
        "engines": {name: _engine(module, status) for name, module in engines(status).items()},
        "models": len(status.loaded),
        "issues": status.issues,
    }


def overall(status: Status) -> Health:
    """Return the worst that is true of the whole: unhealthy when no module can be reached."""
    if not any(module.connected for module in status.modules):
        return "unhealthy"
    ailing = any(module_health(module) != "healthy" for module in status.modules)
    return "degraded" if ailing or status.issues else "healthy"


def module_health(module: ModuleStatus) -> Health:
    """Return how one module is."""
    if not module.connected:
        return "unhealthy"
    return "degraded" if module.error or module.silent_units else "healthy"


def engines(status: Status) -> dict[str, ModuleStatus]:
    """Return the modules by engine name: the only one is ``stackflow``, several go by their own names."""
    if len(status.modules) == 1:
        return {"stackflow": status.modules[0]}
    return {module.name: module for module in status.modules}


def _engine(module: ModuleStatus, status: Status) -> dict[str, Any]:
    alone = len(status.modules) == 1
    loaded = len(status.loaded) if alone else len({session.model for session in module.sessions})
    body: dict[str, Any] = {"status": module_health(module), "loaded_models": loaded}
    body["simulated"] = module.simulated
    if module.simulated:
        body["notice"] = "No NPU is in use: answers come from the simulator."
    return body | ({"error": module.error} if module.error else {})
