"""Whatever comes as a body is a request or an InvalidRequest, and nothing else can happen."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from api.openai.fields import Call
from api.openai.schemas import parse_chat, parse_completion
from errors import InvalidRequest

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
field_names = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stop",
        "stream",
        "stream_options",
        "tools",
        "response_format",
        "logprobs",
        "modalities",
        "seed",
        "keep_alive",
        "ttl",
        "echo",
        "suffix",
        "best_of",
        "role",
        "content",
        "type",
        "text",
    ]
)
part = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "x"])}, optional={"text": anything}
)
turn = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "system", "tool", "x"]),
        "content": st.text() | st.lists(part) | anything,
    }
)


def only_calls_or_invalid_requests(parse: Any, body: bytes, *, named: bool) -> None:
    try:
        call = parse(body)
    except InvalidRequest as err:
        call, param = None, err.param
    assert isinstance(call, Call) or param or not named


@settings(max_examples=300, deadline=None)
@given(
    extra=st.dictionaries(field_names | st.text(max_size=8), anything, max_size=4),
    messages=st.lists(turn | anything),
)
def test_any_object_is_a_call_or_names_its_fault(extra: dict[str, Any], messages: list[Any]) -> None:
    body = {"model": "qwen", "messages": messages, "prompt": "x", **extra}
    encoded = json.dumps(body).encode()  # lone surrogates travel as escapes
    for parse in (parse_chat, parse_completion):
        only_calls_or_invalid_requests(parse, encoded, named=True)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_call_or_an_invalid_request(body: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        only_calls_or_invalid_requests(parse, body, named=False)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=6), st.integers(0, 60))
def test_a_damaged_body_is_a_call_or_an_invalid_request(noise: bytes, at: int) -> None:
    body = rb'{"model":"qwen","messages":[{"role":"user","content":"\ud83d\ude00"}],"n":1}'
    for damaged in (body[:at] + noise + body[at:], body[:at] + noise + body[at + len(noise) :], body[:at]):
        only_calls_or_invalid_requests(parse_chat, damaged, named=False)
