"""Request bodies: what is taken, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.openai.fields import Call, parse_keep_alive
from api.openai.schemas import MAX_MESSAGES, parse_chat, parse_completion
from errors import InvalidRequest

USER: dict[str, Any] = {"role": "user", "content": "Hi"}


def chat(**fields: Any) -> Call:
    return parse_chat(json.dumps({"model": "qwen", "messages": [USER], **fields}).encode())


def completion(**fields: Any) -> Call:
    return parse_completion(json.dumps({"model": "qwen", "prompt": "Hi", **fields}).encode())


def message(**fields: Any) -> list[dict[str, Any]]:
    return [USER, USER, {"role": "user", "content": "Hi", **fields}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 513}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [USER] * (MAX_MESSAGES + 1)}, "messages"),
        ({"messages": [USER, "Hi"]}, "messages[1]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": message(role="robot")}, "messages[2].role"),
        ({"messages": message(role="tool")}, "messages[2].role"),
        ({"messages": message(role=None)}, "messages[2].role"),
        ({"messages": message(tool_calls=[{"id": "x"}])}, "messages[2].tool_calls"),
        ({"messages": message(function_call={"name": "x"})}, "messages[2].function_call"),
        ({"messages": message(content=5)}, "messages[2].content"),
        ({"messages": message(content=[5])}, "messages[2].content[0]"),
        ({"messages": message(content=[{"type": "text"}])}, "messages[2].content[0].text"),
        ({"messages": message(content=[{"text": "x"}])}, "messages[2].content[0].type"),
        ({"messages": message(content=[{"type": "hologram"}])}, "messages[2].content[0].type"),
        ({"messages": message(content=["x", {"type": "image_url"}])}, "messages[2].content[1]"),
        ({"messages": message(content=[{"type": "input_audio"}])}, "messages[2].content[0]"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 2.1}, "repetition_penalty"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": -0.1}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"logit_bias": {"5": "x"}}, "logit_bias"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"seed": "x"}, "seed"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": [5]}, "keep_alive"),
        ({"ttl": -1}, "ttl"),
    ],
)
def test_what_cannot_be_taken_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"logprobs": 0}, "logprobs"),
        ({"echo": "x"}, "echo"),
    ],
)
def test_completions_refuse_their_own(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        completion(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["model", "messages"])
def test_missing_fields_are_named(name: str) -> None:
    body = {"model": "qwen", "messages": [USER]}
    del body[name]
    with pytest.raises(InvalidRequest, match=f"Missing required parameter: '{name}'") as caught:
        parse_chat(json.dumps(body).encode())
    assert caught.value.param == name


def test_null_and_harmless_fields_pass() -> None:
    names = "temperature top_p top_k n stop stream stream_options max_tokens logprobs tools keep_alive seed"
    call = chat(**dict.fromkeys(names.split()))
    assert call == chat(
        tools=[], modalities=["text"], logprobs=False, top_logprobs=0, presence_penalty=0, store=True
    )
    assert (call.stream, call.include_usage, call.ignored, call.chat.n) == (False, False, (), 1)
    assert chat(seed=1, reasoning_effort="low", verbosity="low").ignored == (
        "seed",
        "reasoning_effort",
        "verbosity",
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ("x", "x"),
        (["x", {"type": "text", "text": "y", "cache_control": {}}], "x\ny"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
    ],
)
def test_content_is_read_as_leniently_as_openai_does(content: Any, text: str) -> None:
    call = chat(messages=[{"role": "assistant", "content": content}])
    assert call.chat.messages[0].text == text


def test_stops_limits_and_echo() -> None:
    assert chat(stop="a").chat.stop == ("a",)
    assert chat(stop=["a", "b"]).chat.stop == ("a", "b")
    assert chat(stop=[]).chat.stop == ()
    assert chat(max_tokens=3).chat.max_tokens == 3
    assert chat(max_tokens=3, max_completion_tokens=9).chat.max_tokens == 9
    assert completion(echo=True, prompt=["Say"]).echo == "Say"
    assert completion(best_of=2, n=2).chat.n == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (300, 300),
        (1.5, 1.5),
        (-1, -1),
        (-0.5, -1),
        ("0", 0),
        ("10", 10),
        ("-1", -1),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("-1m", -1),
        (" 5m ", 300),
        ("1µs", 1e-6),
    ],
)
def test_keep_alive_reads_ollamas_syntax(value: str | float, seconds: float) -> None:
    assert parse_keep_alive(value) == pytest.approx(seconds)
    assert chat(keep_alive=value).chat.keep_alive == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "m", "5 m", "5d", "1h-5m", "nan", "inf", "1e5", "٣m", "9" * 400, "9" * 41]
)
def test_keep_alive_refuses_the_rest(value: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_keep_alive(value)


def test_ttl_is_seconds_and_keep_alive_goes_first() -> None:
    assert chat(ttl=30).chat.keep_alive == 30
    assert chat(ttl=30, keep_alive="1m").chat.keep_alive == 60
