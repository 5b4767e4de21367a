"""The official OpenAI SDK, sync and async, and OpenAI's own schemas against the doors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from backends.base import TextDelta
from config import KeyConfig
from errors import (
    ContextTooLong,
    DeviceTimeout,
    DeviceUnavailable,
    ModelLoadFailed,
    NotReady,
    QueueFull,
)
from tests.api.conftest import DONE, STARTED, Client, ScriptedBackend, StartClient, chat_body

SCHEMAS = Path(__file__).parents[2].parent / "shared" / "openai-openapi-subset.json"
HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def sdk(client: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="any", max_retries=0) as sdk:
        yield sdk


async def test_chat_whole_and_streamed(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(model="qwen", messages=HI, max_tokens=5)
    assert whole.choices[0].message.content == "Hello"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 9
    stream = await sdk.chat.completions.create(
        model="qwen", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


async def test_stream_helper_accumulates_the_answer(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.chat.completions.stream(model="qwen", messages=HI) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello"
    assert final.choices[0].finish_reason == "stop"


async def test_completions_whole_and_streamed(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.completions.create(model="qwen", prompt="Say: ", echo=True)
    assert (whole.object, whole.choices[0].text, whole.id[:5]) == ("text_completion", "Say: Hello", "cmpl-")
    stream = await sdk.completions.create(model="qwen", prompt=["Say: "], stream=True, echo=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Say: Hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]


async def test_models_list_and_one(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == ["qwen", "team/qwen:small", "voice"]
    assert (await sdk.models.retrieve("team/qwen:small")).to_dict()["root"] == "qwen"
    with pytest.raises(openai.NotFoundError, match="Model 'none' not found"):
        await sdk.models.retrieve("none")


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (ContextTooLong("200 tokens, the model reads 128"), openai.BadRequestError),
        (QueueFull("16 are waiting"), openai.RateLimitError),
        (ModelLoadFailed("llm", -5, "model loading failed"), openai.InternalServerError),
        (NotReady("no module has the llm unit"), openai.InternalServerError),
        (DeviceTimeout("the unit fell silent"), openai.InternalServerError),
    ],
)
async def test_errors_become_the_sdks_own(
    sdk: openai.AsyncOpenAI, backend: ScriptedBackend, failure: Exception, raised: type[openai.APIStatusError]
) -> None:
    backend.steps = [failure]
    with pytest.raises(raised, match=str(failure)) as caught:
        await sdk.chat.completions.create(model="qwen", messages=HI)
    assert caught.value.request_id is not None
    with pytest.raises(raised):
        await sdk.chat.completions.create(model="qwen", messages=HI, stream=True)


async def test_late_error_ends_the_sdks_stream(sdk: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    backend.steps = [STARTED, TextDelta("Hel"), DeviceUnavailable("the module was lost")]
    stream = await sdk.chat.completions.create(model="qwen", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match="the module was lost") as caught:
        async for _ in stream:
            pass
    assert caught.value.code == "device_unavailable"


@pytest.mark.parametrize(
    ("failure", "times"), [(DeviceTimeout("silent"), 1), (ModelLoadFailed("llm", -5, "x"), 1)]
)
async def test_sdk_does_not_repeat_what_only_costs_npu_time(
    client: Client, backend: ScriptedBackend, failure: Exception, times: int
) -> None:
    backend.steps = [failure]
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="any") as sdk:
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(model="qwen", messages=HI)
    assert len(backend.asked) == times


async def test_keys_decide_who_passes(start: StartClient) -> None:
    client = await start(keys=(KeyConfig("good", "ann"),))
    url = str(client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="good", max_retries=0) as sdk:
        assert (await sdk.chat.completions.create(model="qwen", messages=HI)).choices
    async with openai.AsyncOpenAI(base_url=url, api_key="bad", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError):
            await sdk.chat.completions.create(model="qwen", messages=HI)


async def test_sync_sdk_streams_too(client: Client) -> None:
    def ask() -> tuple[str, str]:
        with openai.OpenAI(base_url=str(client.make_url("/v1")), api_key="any", max_retries=0) as sdk:
            whole = sdk.chat.completions.create(model="qwen", messages=HI).choices[0].message.content or ""
            stream = sdk.chat.completions.create(model="qwen", messages=HI, stream=True)
            return whole, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(ask) == ("Hello", "Hello")


def validator(name: str) -> Any:
    """Return a JSON Schema validator of OpenAI's schema `name`."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    if not SCHEMAS.exists():
        pytest.skip(f"OpenAI's schemas are not at {SCHEMAS}")
    document = _nullable(json.loads(SCHEMAS.read_text(encoding="utf-8")))
    return jsonschema.Draft202012Validator({**document, "$ref": f"#/components/schemas/{name}"})


def _nullable(node: Any) -> Any:
    """Turn OpenAPI 3.0's ``nullable`` into what JSON Schema says for it."""
    if isinstance(node, list):
        return [_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _nullable(value) for key, value in node.items()}
    return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") is True else made


async def test_answers_fit_openais_schemas(client: Client, backend: ScriptedBackend) -> None:
    whole, chunk = validator("CreateChatCompletionResponse"), validator("CreateChatCompletionStreamResponse")
    text = validator("CreateCompletionResponse")
    backend.steps = [STARTED, TextDelta("Hel"), TextDelta("lo"), DONE]
    whole.validate(await (await client.post("/v1/chat/completions", json=chat_body())).json())
    prompt = {"model": "qwen", "prompt": "Hi", "echo": True}
    text.validate(await (await client.post("/v1/completions", json=prompt)).json())
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    for path, body, schema in (
        ("/v1/chat/completions", chat_body(**usage), chunk),
        ("/v1/completions", {**prompt, "stream": True}, text),
    ):
        stream = await (await client.post(path, json=body)).text()
        events = [line for line in stream.split("\n\n") if line.startswith("data: {")]
        assert len(events) >= 4
        for event in events:
            sent = json.loads(event.removeprefix("data: "))
            if schema is text:  # it describes whole answers only; until the end OpenAI streams nulls here too
                for choice in sent["choices"]:
                    choice["finish_reason"] = choice["finish_reason"] or "stop"
            schema.validate(sent)


async def test_models_and_errors_fit_openais_schemas(client: Client) -> None:
    validator("ListModelsResponse").validate(await (await client.get("/v1/models")).json())
    validator("Model").validate(await (await client.get("/v1/models/qwen")).json())
    validator("ErrorResponse").validate(await (await client.get("/v1/models/none")).json())
