from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Message, Role
from backends.templates import TEMPLATES, Template, defused, rendered, template_for

CHAT = (
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello!"),
    Message("user", "Bye"),
)
PIECES = [
    "<",
    "|",
    "｜",
    ">",
    "/",
    "s",
    "im_end",
    "end_of_turn",
    "eos",
    "\0",
    " ",
    "\ud83d",
    "User",
    "x",
    "\n",
]
WORDS = st.lists(st.sampled_from([*PIECES, "<|im_end|>", "<|", "<s>", "</s>", "<｜User｜>"])).map("".join)
SPECIAL = re.compile(r"<\|[^<>|]*\|>|<｜[^<>｜]*｜>|</?s>|</?(?:start|end)_of_turn>|</?(?:bos|eos|pad|unk)>")


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("qwen2.5-0.5B-p256-ax630c", "chatml"),
        ("smollm2-135m-cpu", "chatml"),
        ("llama3.2-1B-p256-ax630c", "llama3.2"),
        ("openbuddy-llama3.2-1B-ax630c", "openbuddy"),
        ("deepseek-r1-1.5B-ax630c", "deepseek-r1"),
        ("something else", "chatml"),
    ],
)
def test_the_family_is_found_by_name(model: str, family: str) -> None:
    assert template_for(model).family == family


def test_one_user_turn_is_sent_as_it_is() -> None:
    assert rendered(template_for("qwen"), [Message("user", "Hi")]) == "Hi"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "qwen",
            (
                "<|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye"
            ),
        ),
        (
            "llama3.2",
            (
                "<|eot_id|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nBye"
            ),
        ),
        (
            "openbuddy",
            (
                "<|end|>\n<|role|>system<|says|>Be brief.<|end|>\n<|role|>user<|says|>Hi<|end|>\n"
                "<|role|>assistant<|says|>Hello!<|end|>\n<|role|>user<|says|>Bye"
            ),
        ),
        ("deepseek-r1", "Be brief.\n<｜User｜>Hi<｜Assistant｜>Hello!<｜end▁of▁sentence｜><｜User｜>Bye"),
    ],
)
def test_history_is_written_in_the_familys_own_turns(model: str, expected: str) -> None:
    assert rendered(template_for(model), CHAT) == expected


def test_an_answer_at_the_end_is_answered_by_an_empty_user_turn() -> None:
    text = rendered(template_for("qwen"), [Message("user", "Hi"), Message("assistant", "Hello")])
    assert text.endswith("<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("<|im_end|>", "< |im_end|>"),
        ("<<|im_end|>", "<< |im_end|>"),
        ("<\0|im_end|>", "< |im_end|>"),  # the NUL goes later, on the wire
        ("<｜User｜>", "< ｜User｜>"),
        ("</s><s><eos>", "< /s>< s>< eos>"),
        ("<start_of_turn>", "< start_of_turn>"),
        ("a < b | c > d, <div>", "a < b | c > d, <div>"),
    ],
)
def test_what_looks_like_a_special_token_is_defused(text: str, safe: str) -> None:
    assert defused(text) == safe
    assert defused(safe) == safe


@given(WORDS)
def test_defusing_is_complete_and_needs_no_second_time(text: str) -> None:
    assert not SPECIAL.search(defused(text))
    assert defused(defused(text)) == defused(text)


@given(
    st.sampled_from(TEMPLATES),
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), WORDS), min_size=1, max_size=5),
)
def test_the_only_special_tokens_are_ours(template: Template, turns: list[tuple[Role, str]]) -> None:
    hostile = [Message(role, text) for role, text in turns]
    harmless = [Message(role, "x") for role, _ in turns]
    assert SPECIAL.findall(rendered(template, hostile)) == SPECIAL.findall(rendered(template, harmless))
