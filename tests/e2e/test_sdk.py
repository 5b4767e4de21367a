"""The official OpenAI SDK, sync and async, against the server started as users start it."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.e2e.conftest import MODEL, Server

HOSTILE = 'An open { and a \\ and "quotes" } }{ \f\b\t \x7f 👩‍👩‍👧 <|im_end|> end\\'


def client_of(server: Server, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=20)


def test_a_whole_answer_says_what_was_asked(server: Server) -> None:
    with client_of(server) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "@echo Hello."}]
        )
    assert answer.choices[0].message.content == "Hello."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_stream_has_one_id_a_role_first_a_reason_last_and_usage_on_request(server: Server) -> None:
    with client_of(server) as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "@frames=4"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * 5 + ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_any_text_arrives_as_it_was_written(server: Server) -> None:
    with client_of(server) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "@echo " + HOSTILE}]
        )
    assert answer.choices[0].message.content == HOSTILE.replace("<|", "< |")  # special tokens are defused


def test_history_and_system_text_reach_the_model_as_turns(server: Server) -> None:
    with client_of(server) as client:
        client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "My name is Ada."},
                {"role": "assistant", "content": "Hello Ada."},
                {"role": "user", "content": "What is my name?"},
            ],
        )
    # seen from the module's side in tests/protocol; here only that it is accepted and answered


def test_max_tokens_and_stop_cut_exactly(server: Server) -> None:
    with client_of(server) as client:
        question: list[openai.types.chat.ChatCompletionMessageParam] = [
            {"role": "user", "content": "@frames=50"}
        ]
        whole = (
            client.chat.completions.create(model=MODEL, messages=question).choices[0].message.content or ""
        )
        limited = client.chat.completions.create(model=MODEL, messages=question, max_tokens=7)
        stopped = client.chat.completions.create(model=MODEL, messages=question, stop=["w9 "])
    assert limited.choices[0].finish_reason == "length"
    assert limited.usage is not None
    assert limited.usage.completion_tokens == 7
    assert whole.startswith(limited.choices[0].message.content or "?")
    assert stopped.choices[0].message.content == whole[: whole.index("w9 ")]
    assert stopped.choices[0].finish_reason == "stop"


def test_errors_become_the_sdks_own_exceptions(server: Server) -> None:
    with client_of(server) as client:
        with pytest.raises(openai.NotFoundError, match="Model 'nobody' not found") as unknown:
            client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as wrong:
            client.chat.completions.create(model=MODEL, messages=[])
        assert wrong.value.param == "messages"
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "long " * 1000}]
            )
        assert long.value.code == "context_length_exceeded"


def test_completions_and_models_work_as_well(server: Server) -> None:
    with client_of(server) as client:
        answer = client.completions.create(model="qwen-0.5b", prompt="@echo one", echo=True)
        assert answer.choices[0].text == "@echo oneone"
        assert answer.model == "qwen-0.5b"
        ids = [model.id for model in client.models.list()]
        assert MODEL in ids
        assert "qwen-0.5b" in ids
        assert client.models.retrieve(MODEL).id == MODEL


async def test_many_at_once_each_get_their_own_answer(server: Server) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30) as client:

        async def ask(number: int) -> str:
            answer = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": f"@echo number {number}"}]
            )
            return answer.choices[0].message.content or ""

        answers = await asyncio.gather(*(ask(n) for n in range(12)))
    assert answers == [f"number {n}" for n in range(12)]
