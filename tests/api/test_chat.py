"""Chat completions, whole and streamed."""

from __future__ import annotations

import json
import re

from backends.base import Caller, ChatRequest, Done, Message, Sampling, TextDelta, Usage, Waiting
from tests.api.conftest import DONE, STARTED, Client, ScriptedBackend, StartClient, chat_body, events_of

CHAT = "/v1/chat/completions"


async def test_whole_answer_has_openais_shape_and_says_where_the_time_went(client: Client) -> None:
    response = await client.post(CHAT, json=chat_body())
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Server-Timing"] == "queue;dur=12.0, load;dur=1500.0, first_token;dur=250.0"
    assert response.headers["x-stackflow-module"] == "bench"
    assert response.headers["x-stackflow-context"] == "dropped=3"
    assert response.headers["x-queue-wait-ms"] == "12"
    assert response.headers["x-queue-status"] == "immediate"
    body = await response.json()
    assert re.fullmatch("chatcmpl-[0-9a-f]{24}", body.pop("id"))
    assert re.fullmatch("fp_[0-9]{10}", body.pop("system_fingerprint"))
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "qwen",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


async def test_stream_is_exact_to_the_byte(client: Client) -> None:
    response = await client.post(CHAT, json=chat_body(stream=True))
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["x-stackflow-module"] == "bench"
    body = await response.text()
    first = events_of(body)[0]
    head = (
        f'data: {{"id":"{first["id"]}","object":"chat.completion.chunk","created":{first["created"]},'
        f'"model":"qwen","system_fingerprint":"{first["system_fingerprint"]}","choices":['
    )
    expected = [
        head + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}',
        head + '{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}]}',
        head + '{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}]}',
        head + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}',
        "data: [DONE]",
    ]
    assert body == "".join(line + "\n\n" for line in expected)


async def test_usage_comes_on_request_in_a_chunk_of_its_own(client: Client) -> None:
    body = chat_body(stream=True, stream_options={"include_usage": True})
    events = events_of(await (await client.post(CHAT, json=body)).text())
    assert [event["usage"] for event in events[:-2]] == [None] * 4
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert events[-1] == "[DONE]"


async def test_several_choices_share_a_prompt_and_keep_apart(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.steps = [
        STARTED,
        TextDelta("a"),
        Done("stop", Usage(7, 1)),
        Waiting(1, "queued 1", "qwen"),
        STARTED,
        TextDelta("b", 1),
        Done("length", Usage(7, 1), 1),
    ]
    whole = await (await client.post(CHAT, json=chat_body(n=2))).json()
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["a", "b"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["stop", "length"]
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    text = await (await client.post(CHAT, json=chat_body(n=2, stream=True))).text()
    choices = [event["choices"][0] for event in events_of(text)[:-1]]
    assert [(choice["index"], choice["delta"].get("content")) for choice in choices] == [
        (0, ""),
        (1, ""),
        (0, "a"),
        (0, None),
        (1, "b"),
        (1, None),
    ]
    assert ": queued 1 for qwen\n\n" in text
    assert backend.asked[0].n == 2


async def test_each_choice_of_a_streamed_completion_carries_its_own_index(
    client: Client, backend: ScriptedBackend
) -> None:
    backend.steps = [
        STARTED,
        TextDelta("a"),
        Done("stop", Usage(7, 1)),
        TextDelta("b", 1),
        Done("stop", Usage(7, 1), 1),
    ]
    body = {"model": "qwen", "prompt": "p", "n": 2, "stream": True, "echo": True}
    text = await (await client.post("/v1/completions", json=body)).text()
    choices = [event["choices"][0] for event in events_of(text)[:-1]]
    said = [(choice["index"], choice["text"]) for choice in choices if choice["text"]]
    assert said == [(0, "p"), (1, "p"), (0, "a"), (1, "b")]


async def test_backend_is_asked_for_what_the_body_says(client: Client, backend: ScriptedBackend) -> None:
    body = {
        "model": "team/qwen:small",
        "messages": [
            {"role": "developer", "content": "Be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None},
            {"role": "user", "content": "x", "name": "ann"},
        ],
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "max_tokens": 5,
        "max_completion_tokens": 4,
        "stop": "END",
        "keep_alive": "1h30m",
        "seed": 1,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tools": [],
        "frequency_penalty": 0,
        "response_format": {"type": "text"},
        "not_a_field": [1],
    }
    response = await client.post(CHAT, json=body, headers={"x-priority": "low"})
    assert response.headers["x-stackflow-ignored"] == "seed"
    assert (await response.json())["model"] == "team/qwen:small"
    assert backend.asked == [
        ChatRequest(
            model="team/qwen:small",
            messages=(
                Message("system", "Be brief"),
                Message("user", "a\nb"),
                Message("assistant", ""),
                Message("user", "x"),
            ),
            sampling=Sampling(0, 0.5, 20, 1.1),
            max_tokens=4,
            stop=("END",),
            keep_alive=5400.0,
            caller=Caller("127.0.0.1", low_priority=True),
        )
    ]


async def test_no_model_is_kept_longer_than_allowed(start: StartClient, backend: ScriptedBackend) -> None:
    stranger = {"X-Forwarded-For": "192.0.2.1"}
    client = await start(keep_alive_max=60.0)
    for headers in ({}, stranger):
        await client.post(CHAT, json=chat_body(keep_alive=-1), headers=headers)
        await client.post(CHAT, json=chat_body(keep_alive="5m"), headers=headers)
        await client.post(CHAT, json=chat_body(ttl=30), headers=headers)
    assert [chat.keep_alive for chat in backend.asked] == [-1, 300, 30, 60, 60, 30]


async def test_answer_without_text_still_has_role_and_end(client: Client, backend: ScriptedBackend) -> None:
    backend.steps = [STARTED, Done("length", Usage(7, 0))]
    events = events_of(await (await client.post(CHAT, json=chat_body(stream=True))).text())
    assert [event["choices"][0]["delta"] for event in events[:-1]] == [
        {"role": "assistant", "content": ""},
        {},
    ]
    whole = await (await client.post(CHAT, json=chat_body())).json()
    assert whole["choices"][0]["message"]["content"] == ""


async def test_odd_text_arrives_as_it_left(client: Client, backend: ScriptedBackend) -> None:
    odd = '{"\\\n\r\0\x0b\x1c\x85\u2028\u2029 \U0001f600 é 中文'
    backend.steps = [STARTED, TextDelta(odd), TextDelta("\ud83d"), DONE]
    body = await (await client.post(CHAT, json=chat_body(stream=True))).read()
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
    assert [event["choices"][0]["delta"].get("content") for event in events] == ["", odd, "�", None]
    whole = await (await client.post(CHAT, json=chat_body())).json()
    assert whole["choices"][0]["message"]["content"] == odd + "�"
