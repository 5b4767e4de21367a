"""The HTTP server below the app: what never becomes a request still gets an answer in our words.

aiohttp answers malformed HTTP itself, quoting the bytes it got, and logs them with a traceback: a wrong
Content-Length would put a prompt into the log. It also waits for ever for a request that does not come.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from api.dialects import error_answer
from errors import InvalidRequest, UnsupportedMedia

_LOGGER = logging.getLogger(__name__)

FIRST_REQUEST = 30.0  # seconds a new connection may take to send the head of its first request
KEEP_ALIVE = 75.0  # seconds a connection stays open between two requests, as nginx has it


class _Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_first_request",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio: connected."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._first_request = loop.call_later(FIRST_REQUEST, self._give_up, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by asyncio: gone."""
        self._first_request.cancel()
        super().connection_lost(exc)

    def _give_up(self, transport: asyncio.BaseTransport) -> None:
        if not self._request_count:
            transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the client's bytes
    ) -> web.StreamResponse:
        """Answer what is not HTTP, or not as announced."""
        request_id = secrets.token_hex(16)
        _LOGGER.info("%s: malformed HTTP from %s (%s)", request_id, request.remote, type(exc).__name__)
        if isinstance(exc, ContentEncodingError) or isinstance(
            exc.__cause__ if exc else None, ContentEncodingError
        ):
            error: Exception = UnsupportedMedia("This content encoding is not read here")
        elif status < 500:
            error = InvalidRequest("The request is not well-formed HTTP")
        else:
            error = exc if isinstance(exc, Exception) else RuntimeError("failed")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was under way")
        answer = error_answer(request.path, error, request_id)
        answer.headers["x-request-id"] = request_id
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what went wrong below the app, without a client's bytes if it was the client's doing."""
        exc = kw.get("exc_info")
        if isinstance(exc, (HttpProcessingError, web.PayloadAccessError)) or "Payload" in type(exc).__name__:
            _LOGGER.info("malformed HTTP (%s)", type(exc).__name__)
        else:
            super().log_exception(*args, **kw)


class _Server(web.Server):
    """Makes our connections; `Runner` turns aiohttp's own into one of these."""

    def __call__(self) -> RequestHandler:
        """Return the protocol of one new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an app behind these connections. A client that leaves cancels its handler."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        super().__init__(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE,
            shutdown_timeout=shutdown_timeout,
        )

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # aiohttp has no place to name the class of its connections
        return server
