"""The table of errors and the document's rows, walked from both sides."""

from __future__ import annotations

import inspect
import json

import pytest

import errors
from api.dialects import error_answer
from api.openai.errors import ANSWERS, answer_for, error_body, error_response
from errors import BridgeError, QueueFull, UnitError

# Each row of api-surface.md: status, type, code, and one class that it answers.
DOCUMENTED = [
    (400, "invalid_request_error", None, "InvalidRequest"),
    (400, "invalid_request_error", "model_capability_mismatch", "CapabilityMismatch"),
    (400, "invalid_request_error", "context_length_exceeded", "ContextTooLong"),
    (401, "invalid_request_error", "invalid_api_key", "AuthenticationFailed"),
    (403, "invalid_request_error", "insufficient_permissions", "Forbidden"),
    (404, "invalid_request_error", "model_not_found", "ModelNotFound"),
    (404, "not_found_error", "model_not_found", "ModelPathNotFound"),
    (404, "not_found_error", "not_found", "NotFound"),
    (405, "invalid_request_error", "method_not_allowed", "MethodNotAllowed"),
    (413, "invalid_request_error", "request_too_large", "TooLarge"),
    (415, "invalid_request_error", "unsupported_media_type", "UnsupportedMedia"),
    (429, "rate_limit_error", "rate_limit_exceeded", "RateLimited"),
    (429, "rate_limit_error", "queue_full", "QueueFull"),
    (500, "server_error", "internal_error", "BridgeError"),
    (502, "server_error", "device_error", "DeviceError"),
    (503, "server_error", "not_ready", "NotReady"),
    (503, "server_error", "device_unavailable", "DeviceUnavailable"),
    (503, "server_error", "queue_timeout", "QueueTimeout"),
    (503, "server_error", "no_capable_module", "NoCapableModule"),
    (504, "server_error", "device_timeout", "DeviceTimeout"),
]
# Answered like their parent, on purpose.
INHERITED = {
    "ConfigError": 500,  # stops the start; never reaches a client
    "ConnectFailed": 503,
    "ConnectionLost": 503,
    "Forbidden": 403,
    "ModelLoadFailed": 502,
    "ProtocolError": 502,
    "ShuttingDown": 503,
    "TaskFull": 502,
    "TaskGone": 502,
    "UnitError": 502,
    "UnitSilent": 503,
}
TREE = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, BridgeError) and cls.__module__ == "errors"
}


def bare(name: str) -> BridgeError:
    """Return an exception of class `name`, whatever its constructor asks for."""
    err = TREE[name].__new__(TREE[name])
    BridgeError.__init__(err, "a sentence")
    err.__dict__.setdefault("retry_after", 1)
    return err


@pytest.mark.parametrize(("status", "kind", "code", "name"), DOCUMENTED)
def test_each_documented_row_is_produced(status: int, kind: str, code: str | None, name: str) -> None:
    answer = error_response(bare(name), "id")
    assert answer.status == status
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)["error"]
    assert (body["type"], body["code"], body["param"]) == (kind, code, None)
    assert body["message"].startswith("a sentence")
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("name", sorted(TREE))
def test_each_class_has_a_row_or_an_intended_ancestor(name: str) -> None:
    cls = TREE[name]
    if cls in ANSWERS:
        assert name not in INHERITED or name == "Forbidden"
    else:
        assert INHERITED[name] == answer_for(bare(name)).status


def test_a_class_born_tomorrow_has_an_answer() -> None:
    class Melted(UnitError):
        pass

    assert answer_for(Melted("llm", -99, "melted")).code == "device_error"
    assert answer_for(KeyError("x")).status == 500


def test_busy_says_when_to_come_back_and_costly_failures_are_not_repeated() -> None:
    assert error_response(QueueFull("full", retry_after=7), "id").headers["Retry-After"] == "7"
    assert {row.status for row in ANSWERS.values() if not row.repeat} == {502, 503, 504}
    assert error_response(bare("DeviceTimeout"), "id").headers["x-should-retry"] == "false"


def test_strangers_keep_their_words_to_themselves() -> None:
    message = error_body(KeyError("secret"), "id7")["error"]["message"]
    assert "secret" not in message
    assert "id7" in message


def test_the_path_decides_the_dialect() -> None:
    for path in ("/", "/v1", "/v1/x", "/health", "/v1x", "*", ""):
        assert error_answer(path, bare("NotFound"), "id").status == 404
