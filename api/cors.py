"""Which web pages may read our answers: the configured origins, and nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from api.access import is_loopback
from api.context import CONFIG
from config import Config

EXPOSED = (
    "Retry-After, Server-Timing, x-request-id, x-queue-status, x-queue-wait-ms, "
    "x-stackflow-context, x-stackflow-ignored, x-stackflow-module"
)
PREFLIGHT_FRESH = 600  # seconds a browser may reuse a preflight's answer


@web.middleware
async def preflight(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a browser's question before the real request; it comes without a key."""
    wanted = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or wanted is None or allowed_origin(request) is None:
        return await handler(request)
    headers = {
        "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*"),
        "Access-Control-Max-Age": str(PREFLIGHT_FRESH),
    }
    return web.Response(status=204, headers=headers)


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let an allowed page read the answer, errors and streams too. An ``on_response_prepare`` hook."""
    if not request.app[CONFIG].cors_origins:
        return
    response.headers.add("Vary", "Origin")
    if (origin := allowed_origin(request)) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED


def allowed_origin(request: web.Request) -> str | None:
    """Return what to allow to the page that asks: its origin, ``*``, or None."""
    origin, allowed = request.headers.get("Origin"), request.app[CONFIG].cors_origins
    if origin is None:
        return None
    if "*" in allowed:
        return "*"
    return origin if origin in allowed else None


def is_foreign_page(request: web.Request, config: Config) -> bool:
    """Whether a browser sends this for a page that is neither ours on this machine nor a configured one.

    The Host header proves nothing: a name of the page's own may point here (DNS rebinding).
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        host = ""
    return origin not in config.cors_origins and host != "localhost" and not is_loopback(host)
