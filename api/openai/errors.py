"""Errors as OpenAI tells them; the one table of this dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from api.json_io import json_answer
from errors import (
    AccessDenied,
    AuthenticationFailed,
    BridgeError,
    Busy,
    CapabilityMismatch,
    ContextTooLong,
    DeviceError,
    DeviceTimeout,
    DeviceUnavailable,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    ModelPathNotFound,
    NoCapableModule,
    NotFound,
    NotReady,
    QueueFull,
    QueueTimeout,
    RateLimited,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """How one kind of failure is told. `retry_after` is in seconds.

    The official SDK repeats 408, 409, 429 and 5xx by itself; `repeat` False tells it not to, where trying
    again would only cost NPU time.
    """

    status: int
    type: str
    code: str | None = None
    retry_after: int | None = None
    repeat: bool = True


ANSWERS: dict[type[BridgeError], Answer] = {
    InvalidRequest: Answer(400, "invalid_request_error"),
    CapabilityMismatch: Answer(400, "invalid_request_error", "model_capability_mismatch"),
    ContextTooLong: Answer(400, "invalid_request_error", "context_length_exceeded"),
    AuthenticationFailed: Answer(401, "invalid_request_error", "invalid_api_key"),
    AccessDenied: Answer(403, "invalid_request_error", "insufficient_permissions"),
    ModelNotFound: Answer(404, "invalid_request_error", "model_not_found"),
    ModelPathNotFound: Answer(404, "not_found_error", "model_not_found"),
    NotFound: Answer(404, "not_found_error", "not_found"),
    MethodNotAllowed: Answer(405, "invalid_request_error", "method_not_allowed"),
    TooLarge: Answer(413, "invalid_request_error", "request_too_large"),
    UnsupportedMedia: Answer(415, "invalid_request_error", "unsupported_media_type"),
    RateLimited: Answer(429, "rate_limit_error", "rate_limit_exceeded", retry_after=1),
    QueueFull: Answer(429, "rate_limit_error", "queue_full", retry_after=1),
    Busy: Answer(429, "rate_limit_error", "rate_limit_exceeded", retry_after=1),
    NotReady: Answer(503, "server_error", "not_ready", retry_after=5),
    DeviceUnavailable: Answer(503, "server_error", "device_unavailable", retry_after=2),
    QueueTimeout: Answer(503, "server_error", "queue_timeout", retry_after=5),
    NoCapableModule: Answer(503, "server_error", "no_capable_module", retry_after=60, repeat=False),
    Unavailable: Answer(503, "server_error", "not_ready", retry_after=5),
    DeviceTimeout: Answer(504, "server_error", "device_timeout", repeat=False),
    DeviceError: Answer(502, "server_error", "device_error", repeat=False),
    BridgeError: Answer(500, "server_error", "internal_error"),
}


def answer_for(err: Exception) -> Answer:
    """Return the row of `err`'s class or its nearest ancestor; a stranger is told like a bare BridgeError."""
    return next((ANSWERS[cls] for cls in type(err).__mro__ if cls in ANSWERS), ANSWERS[BridgeError])


def error_body(err: Exception, request_id: str) -> dict[str, Any]:
    """Return OpenAI's error object: always all four fields, and never what a stranger exception says."""
    answer = answer_for(err)
    if isinstance(err, BridgeError):
        message, param = err.message, err.param
    else:
        message, param = "The server failed on this request", None
    if answer.status == 500:
        message += f"; its log says why under request id {request_id}"
    return {"error": {"message": message, "type": answer.type, "param": param, "code": answer.code}}


def error_response(err: Exception, request_id: str) -> web.Response:
    """Return the whole HTTP answer for `err`."""
    answer, headers = answer_for(err), {}
    if answer.retry_after is not None:
        headers["Retry-After"] = str(err.retry_after if isinstance(err, Busy) else answer.retry_after)
    if not answer.repeat:
        headers["x-should-retry"] = "false"
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_answer(error_body(err, request_id), status=answer.status, headers=headers)
