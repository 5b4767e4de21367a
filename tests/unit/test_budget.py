from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Message, Role
from backends.budget import Prompt, fit
from backends.templates import TEMPLATES, Template, rendered, template_for
from backends.tokens import estimate
from errors import ContextTooLong

QWEN = template_for("qwen2.5")
SETUP = "You are a helpful assistant."


def fitted(
    messages: list[Message], window: int = 128, *, trim: bool = True, template: Template = QWEN
) -> Prompt:
    return fit(template, messages, window, setup_prompt=SETUP, trim=trim, model="q")


def user(text: str) -> Message:
    return Message("user", text)


def bot(text: str) -> Message:
    return Message("assistant", text)


def test_what_fits_is_sent_whole_and_counted_with_the_units_own_wrapping() -> None:
    prompt = fitted([user("Hi there")])
    assert (prompt.text, prompt.dropped) == ("Hi there", 0)
    assert prompt.tokens == QWEN.overhead + estimate(SETUP) + estimate("Hi there") + QWEN.mark_tokens


def test_the_window_is_filled_to_the_last_token_and_not_beyond() -> None:
    needed = fitted([user("Hi there")]).tokens
    assert fitted([user("Hi there")], needed, trim=False).tokens == needed
    with pytest.raises(ContextTooLong) as caught:
        fitted([user("Hi there")], needed - 1)
    assert caught.value.param == "messages"
    assert str(needed - 1) in str(caught.value)


def test_the_oldest_turns_go_first() -> None:
    messages = [user("one " * 20), bot("two " * 20), user("three"), bot("four"), user("five")]
    prompt = fitted(messages, 100)
    assert prompt.dropped == 2
    assert prompt.text == rendered(QWEN, messages[2:])


def test_system_and_the_last_message_stay() -> None:
    messages = [Message("system", "Be brief."), user("old " * 60), bot("old " * 60), user("new")]
    prompt = fitted(messages, 80)
    assert prompt.dropped == 2
    assert prompt.text == rendered(QWEN, [messages[0], messages[3]])


def test_no_conversation_begins_with_an_answer_whose_question_is_gone() -> None:
    messages = [user("question " * 20), bot("short"), user("next")]
    prompt = fitted(messages, 90)
    assert (prompt.text, prompt.dropped) == ("next", 2)


def test_a_conversation_that_fits_may_begin_with_an_answer() -> None:
    prompt = fitted([bot("Welcome!"), user("Hi")])
    assert prompt.dropped == 0
    assert "Welcome!" in prompt.text


def test_where_trimming_is_off_too_long_is_an_error_with_the_counts() -> None:
    with pytest.raises(ContextTooLong, match=r"reads at most 100 tokens.*trimming is switched off"):
        fitted([user("old " * 80), bot("old"), user("new")], 100, trim=False)


def test_a_last_message_that_cannot_fit_is_an_error_even_with_trimming() -> None:
    with pytest.raises(ContextTooLong):
        fitted([user("hi"), user("word " * 200)])
    with pytest.raises(ContextTooLong):
        fitted([user("hi")], 1)


def test_a_prompt_the_unit_ignores_costs_nothing() -> None:
    llama = template_for("llama3.2-1B")
    assert fitted([user("Hi")], template=llama).tokens == llama.overhead + llama.mark_tokens + estimate("Hi")


@given(
    st.sampled_from(TEMPLATES),
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=40)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 256),
)
def test_nothing_over_long_is_ever_sent(
    template: Template, turns: list[tuple[Role, str]], window: int
) -> None:
    messages = [Message(role, text) for role, text in turns]
    try:
        prompt = fitted(messages, window, template=template)
    except ContextTooLong:
        return
    assert prompt.tokens <= window
    assert 0 <= prompt.dropped < len(messages)
    assert prompt.text == rendered(template, messages) or prompt.dropped
