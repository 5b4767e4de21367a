"""What every request passes: its id and log line, errors in its dialect, cross-origin rules, access."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from api.access import Presented, is_loopback
from api.context import CONFIG, GATE, IDENTITY, PROGRESS, REQUEST_ID, request_id_of
from api.cors import is_foreign_page
from api.dialects import error_answer
from api.stopping import RUNNING, is_stopping
from errors import (
    BridgeError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ShuttingDown,
    TooLarge,
    UnsupportedMedia,
)

_LOGGER = logging.getLogger(__name__)
_ACCESS = logging.getLogger("api.access_log")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SECRETS = re.compile(r"(?i)(\b(?:api_key|key|token|access_token)=)[^&#]*")
_QUIET = ("/health", "/metrics")  # asked every few seconds by machines: logged at DEBUG
CLIENT_LEFT = 499  # nginx's word for it; only ever logged


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, and log one line when it is over."""
    asked = request.headers.get("x-request-id", "")
    request[REQUEST_ID] = asked if _WELL_FORMED_ID.match(asked) else secrets.token_hex(16)
    began, status, size = time.monotonic(), CLIENT_LEFT, 0
    try:
        with request.app[RUNNING].one_more():
            response = await handler(request)
        status, size = response.status, response.body_length or response.content_length or 0
        return response
    finally:
        _log(request, status, time.monotonic() - began, size)


def _log(request: web.Request, status: int, seconds: float, size: int) -> None:
    level = logging.DEBUG if request.path.startswith(_QUIET) else logging.INFO
    if _ACCESS.isEnabledFor(level):
        identity = request.get(IDENTITY)
        key = identity.key if identity is not None else ""
        path = _SECRETS.sub(r"\1***", str(request.rel_url))[:200]
        asker, asked = f"{request.remote or 'local'} {key or '-'}", f"{request.method} {path}"
        outcome = f"{status} {seconds * 1000:.0f} ms {size} bytes"
        _ACCESS.log(level, "%s %s %s %s", asker, asked, outcome, request_id_of(request))


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Put the id on every answer, streams too. An ``on_response_prepare`` hook."""
    response.headers["x-request-id"] = request_id_of(request)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell every failure in the dialect of the path; a cancelled request only when the server stops."""
    try:
        if is_stopping(request.app) and not request.path.startswith("/health"):
            raise ShuttingDown("The server is shutting down")
        return await handler(request)
    except asyncio.CancelledError:
        if not is_stopping(request.app):
            raise
        return _answer(request, ShuttingDown("The server is shutting down"))
    except web.HTTPException as err:
        if err.status < 400:
            raise
        answer = _answer(request, _translated(err, request))
        if "Allow" in err.headers:
            answer.headers["Allow"] = err.headers["Allow"]
        return answer
    except Exception as err:  # noqa: BLE001 - the last net: logged with its traceback, told without
        return _answer(request, err)


def _answer(request: web.Request, err: Exception) -> web.Response:
    answer = error_answer(request.path, err, request_id_of(request))
    if progress := request.get(PROGRESS):
        answer.headers.update(progress.failure_headers())
    if not isinstance(err, BridgeError):
        _LOGGER.error("%s: %s failed", request_id_of(request), request.rel_url.raw_path, exc_info=err)
    elif answer.status >= 500:
        _LOGGER.warning("%s: %s: %s", request_id_of(request), type(err).__name__, err)
    return answer


def _translated(err: web.HTTPException, request: web.Request) -> Exception:
    """Return aiohttp's own `err` as one of ours."""
    asked = f"{request.method} {request.path}"
    if isinstance(err, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(f"{asked}: only {', '.join(sorted(err.allowed_methods))} is answered here")
    if isinstance(err, web.HTTPRequestEntityTooLarge):
        return TooLarge(f"The body is larger than the {request.client_max_size} bytes this server takes")
    if err.status == 404:
        return NotFound(f"Nothing is here: {asked}")
    if err.status == 415:
        return UnsupportedMedia(err.text or err.reason)
    return err if err.status >= 500 else InvalidRequest(err.text or err.reason)


_OPEN = re.compile(r"/health(/.*)?|/docs(/.*)?|/openapi\.json")
_OPEN_TO_READ = re.compile(r"/v1/images/[^/]+\.png")  # their names are unguessable


@web.middleware
async def access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in who may come in, and note who it is."""
    public = _OPEN.fullmatch(request.path) is not None or (
        request.method in ("GET", "HEAD") and _OPEN_TO_READ.fullmatch(request.path) is not None
    )
    request[IDENTITY] = request.app[GATE].identify(_presented(request), public=public)
    return await handler(request)


def _presented(request: web.Request) -> Presented:
    """Return what the request shows of itself."""
    headers = request.headers
    # Through a proxy everyone comes from loopback, and so does any web page in a browser on this machine.
    relayed = any(name in headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP"))
    foreign = is_foreign_page(request, request.app[CONFIG])
    return Presented(
        authorization=headers.get("Authorization"),
        peer=request.remote,
        low_priority=headers.get("x-priority", "").strip().lower() == "low",
        local=is_loopback(request.remote) and not relayed and not foreign,
    )
