"""Errors, ids, keys and cross-origin rules at every door."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest

from config import KeyConfig
from tests.api.conftest import Client, ScriptedBackend, StartClient, chat_body

CHAT = "/v1/chat/completions"


async def error_of(response: Any) -> Any:
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return body["error"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/health/nothing"])
async def test_unknown_route_is_told_as_an_openai_object(client: Client, path: str) -> None:
    response = await client.get(path)
    assert response.status == 404
    error = await error_of(response)
    assert (error["type"], error["code"]) == ("not_found_error", "not_found")


async def test_wrong_method_names_the_right_ones(client: Client) -> None:
    response = await client.get(CHAT)
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert (await error_of(response))["code"] == "method_not_allowed"
    response = await client.post("/health")
    assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")


async def test_model_errors_are_worded_exactly(client: Client) -> None:
    response = await client.post(CHAT, json=chat_body(model="unknown-model"))
    assert response.status == 404
    assert await error_of(response) == {
        "message": "Model 'unknown-model' not found",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    response = await client.post(CHAT, json=chat_body(model="voice"))
    assert response.status == 400
    error = await error_of(response)
    assert error["message"] == "Model 'voice' does not support text generation"
    assert error["code"] == "model_capability_mismatch"
    response = await client.get("/v1/models/unknown-model")
    assert response.status == 404
    error = await error_of(response)
    assert (error["type"], error["code"]) == ("not_found_error", "model_not_found")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{", "byte 1"),
        (b'{"model": nope}', "(byte 1"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"model":"\xff"}', "UTF-8"),
        (b'{"model":"qwen","x":"\xff"}', "UTF-8"),
        ('{"model":"qwen"}'.encode("utf-16"), "UTF-8"),
        (b'{"model":"qwen","messages":' + b"[" * 100_000, "messages[0]"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"temperature":NaN}', "byte 15"),
    ],
)
async def test_bad_bodies_are_told_by_name_or_place(client: Client, body: bytes, said: str) -> None:
    response = await client.post(CHAT, data=body, headers={"Content-Type": "application/json"})
    assert response.status == 400
    assert said in (await error_of(response))["message"]


async def test_json_passes_under_any_content_type(client: Client) -> None:
    body = '\ufeff{"model":"qwen","messages":[{"role":"user","content":"Hi"}]}'.encode()
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "application/octet-stream"):
        response = await client.post(CHAT, data=body, headers={"Content-Type": content_type})
        assert response.status == 200


async def test_forms_are_unsupported_media(client: Client) -> None:
    for data in ({"model": "qwen"}, {"file": io.BytesIO(b"x"), "model": "qwen"}):
        response = await client.post(CHAT, data=data)
        assert response.status == 415
        assert (await error_of(response))["code"] == "unsupported_media_type"
    response = await client.post(
        CHAT, data=b"{", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert response.status == 400


async def test_lone_surrogates_are_replaced(client: Client, backend: ScriptedBackend) -> None:
    text = rb"a\ud83d b\ud83d\ude00 \\ud83d \ude00\ud83d\ud83d\ude00\ud83d"
    body = b'{"model":"qwen","messages":[{"role":"user","content":"%s"}]}' % text
    assert (await client.post(CHAT, data=body)).status == 200
    assert backend.asked[0].messages[0].text == "a� b\U0001f600 \\ud83d ��\U0001f600�"
    response = await client.post(CHAT, data=body.replace(b"qwen", rb"\ud83d"))
    assert (await error_of(response))["message"] == "Model '�' not found"


async def test_large_bodies_are_refused(start: StartClient) -> None:
    client = await start(body_limit=2048)
    response = await client.post(CHAT, json=chat_body(user="x" * 2048))
    assert response.status == 413
    assert (await error_of(response))["code"] == "request_too_large"

    async def pieces() -> Any:
        for _ in range(3):
            yield b"x" * 1024

    response = await client.post(CHAT, data=pieces())
    assert response.status == 413
    response = await client.post("/health", data=b"x" * 4096)
    assert response.status == 405


async def test_unexpected_failure_shows_an_id_and_no_detail(
    client: Client, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.steps = [ZeroDivisionError("secret detail")]
    response = await client.post(CHAT, json=chat_body(), headers={"x-request-id": "my-id.1"})
    assert response.status == 500
    error = await error_of(response)
    assert error["code"] == "internal_error"
    assert "my-id.1" in error["message"]
    assert "secret" not in await response.text()
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]


async def test_request_id_is_kept_when_well_formed(client: Client) -> None:
    for asked, kept in (
        ("abc-1_2.Z", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("ü", False),
    ):
        response = await client.get("/health", headers={"x-request-id": asked})
        assert (response.headers["x-request-id"] == asked) is kept
    one, other = await client.get("/v1/models"), await client.get("/v1/models")
    assert one.headers["x-request-id"] != other.headers["x-request-id"]
    stream = await client.post(CHAT, json=chat_body(stream=True), headers={"x-request-id": "s1"})
    assert stream.headers["x-request-id"] == "s1"


async def test_access_log_tells_who_asked_what_but_no_secrets(
    start: StartClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.access_log")
    client = await start(keys=(KeyConfig("s3cret", "ann"),))
    headers = {"Authorization": "Bearer s3cret", "x-request-id": "id1"}
    await client.post(CHAT + "?api_key=s3cret&x=1", json=chat_body(), headers=headers)
    await client.get("/health")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "api.access_log"]
    assert line.startswith(f"127.0.0.1 ann POST {CHAT}?api_key=***&x=1 200 ")
    assert line.endswith(" bytes id1")
    assert "Hi" not in line


async def test_keys_guard_every_door_but_the_open_ones(start: StartClient) -> None:
    client = await start(keys=(KeyConfig("good"), KeyConfig("better", role="admin")))
    for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/"), ("GET", "/v1/nothing")):
        for headers in ({}, {"Authorization": "Bearer bad"}, {"Authorization": "Basic good"}):
            response = await client.request(method, path, headers=headers)
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert (await error_of(response))["code"] == "invalid_api_key"
    for key in ("Bearer good", "bearer  better"):
        assert (await client.get("/v1/models", headers={"Authorization": key})).status == 200
    for path, status in (("/health", 200), ("/health/live", 200), ("/docs", 404), ("/openapi.json", 404)):
        assert (await client.get(path)).status == status
    assert (await client.get("/v1/images/abc.png")).status == 404
    assert (await client.post("/v1/images/abc.png")).status == 401
    assert (await client.get("/v1/images/../models")).status == 401


async def test_without_keys_any_authorization_passes(client: Client) -> None:
    for value in ("Bearer x", "Basic x", ""):
        assert (await client.get("/v1/models", headers={"Authorization": value})).status == 200


async def test_only_configured_pages_may_read_answers(start: StartClient) -> None:
    home, other = "https://home.example", "https://other.example"
    client = await start(cors_origins=(home,), keys=(KeyConfig("good"),))
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    response = await client.options(CHAT, headers={"Origin": home, **ask})
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == home
    assert response.headers["Access-Control-Allow-Headers"] == "authorization"
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert (await client.options(CHAT, headers={"Origin": other, **ask})).status == 401
    response = await client.get("/v1/models", headers={"Origin": home})
    assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (401, home)
    stream = await client.post(
        CHAT, json=chat_body(stream=True), headers={"Origin": home, "Authorization": "Bearer good"}
    )
    assert stream.headers["Access-Control-Allow-Origin"] == home
    assert "x-stackflow-module" in stream.headers["Access-Control-Expose-Headers"]
    response = await client.get("/health", headers={"Origin": other})
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["Vary"] == "Origin"
    everyone = await start(cors_origins=("*",))
    response = await everyone.get("/health", headers={"Origin": other})
    assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_front_page_says_where_the_api_is(client: Client) -> None:
    response = await client.get("/", headers={"Host": "module.local:8000"})
    assert "http://module.local:8000/v1\n" in await response.text()
    assert response.content_type == "text/plain"


async def test_head_works_where_get_does(client: Client) -> None:
    for path in ("/", "/health", "/health/live", "/v1/models", "/v1/models/qwen", "/v1/system/status"):
        response = await client.head(path)
        assert response.status == 200
        assert await response.read() == b""
