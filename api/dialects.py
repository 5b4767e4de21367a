"""Which words an error is told in: looked up by the path, so that each dialect adds one line."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from api.openai.errors import error_response as openai_error

ErrorAnswer = Callable[[Exception, str], web.Response]  # the failure, the request id

DIALECTS: tuple[tuple[str, ErrorAnswer], ...] = (
    ("/v1", openai_error),
    ("/", openai_error),
)


def error_answer(path: str, err: Exception, request_id: str) -> web.Response:
    """Return the answer that tells of `err` in the dialect of `path`."""
    for prefix, answer in DIALECTS:
        if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
            return answer(err, request_id)
    return openai_error(err, request_id)
