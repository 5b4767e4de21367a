"""Chat completions that do not end well."""

from __future__ import annotations

import asyncio

import pytest

from backends.base import TextDelta
from errors import DeviceTimeout, ModelLoadFailed
from tests.api.conftest import STARTED, Client, ScriptedBackend, chat_body, events_of

CHAT = "/v1/chat/completions"


async def test_early_failure_is_a_plain_http_error(client: Client, backend: ScriptedBackend) -> None:
    backend.steps = [ModelLoadFailed("llm", -5, "model loading failed", "free NPU memory")]
    response = await client.post(CHAT, json=chat_body(stream=True))
    assert response.status == 502
    assert response.headers["x-should-retry"] == "false"
    assert (await response.json())["error"] == {
        "message": "llm -5: model loading failed (free NPU memory)",
        "type": "server_error",
        "param": None,
        "code": "device_error",
    }
    assert backend.left.is_set()


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (DeviceTimeout("the unit fell silent"), "device_timeout", "the unit fell silent"),
        (ValueError("secret detail"), "internal_error", "The server failed on this request"),
    ],
)
async def test_late_failure_is_the_last_event(
    client: Client, backend: ScriptedBackend, failure: Exception, code: str, said: str
) -> None:
    backend.steps = [STARTED, TextDelta("Hel"), failure]
    response = await client.post(CHAT, json=chat_body(stream=True), headers={"x-request-id": "abc"})
    assert response.status == 200
    text = await response.text()
    last = events_of(text)[-1]
    assert last["error"]["code"] == code
    assert last["error"]["message"].startswith(said)
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert "[DONE]" not in text
    assert "secret" not in text
    assert backend.left.is_set()


async def test_answer_without_its_end_is_an_error(client: Client, backend: ScriptedBackend) -> None:
    backend.steps = [STARTED, TextDelta("Hel")]
    assert (await client.post(CHAT, json=chat_body())).status == 500
    events = events_of(await (await client.post(CHAT, json=chat_body(stream=True))).text())
    assert events[-1]["error"]["code"] == "internal_error"
    backend.steps = []
    assert (await client.post(CHAT, json=chat_body(stream=True))).status == 500


async def test_hanging_up_leaves_the_backend(client: Client, backend: ScriptedBackend) -> None:
    for stream in (True, False):
        backend.left.clear()
        backend.steps = [STARTED, TextDelta("Hel"), asyncio.Event()]
        request = asyncio.ensure_future(client.post(CHAT, json=chat_body(stream=stream)))
        if stream:
            response = await request
            await response.content.readany()
            response.close()
        else:
            while len(backend.asked) < 2:
                await asyncio.sleep(0)
            request.cancel()
        await asyncio.wait_for(backend.left.wait(), 5)
