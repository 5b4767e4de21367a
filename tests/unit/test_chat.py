"""How an answer is cut: at the limit, at stop sequences, between words."""

from __future__ import annotations

import pytest

from backends.base import Sampling
from backends.chat import _Choice, _sampling_keys
from backends.stops import StopCutter
from config import ModelConfig


def cut(frames: list[str], limit: int, *stops: str) -> tuple[str, str, int]:
    """Return the text, the reason and the tokens of an answer that comes in these frames."""
    choice = _Choice(0, StopCutter(stops), limit)
    shown = ""
    for frame in [*frames, ""]:
        shown += choice.take(frame)
        if choice.over:
            break
    return shown + choice.rest(), choice.finish_reason, choice.tokens


WORDS = ["w0 w1 w2", *("".join(f" w{i}" for i in range(n, n + 3)) for n in range(3, 60, 3))]


@pytest.mark.parametrize("limit", range(1, 60))
def test_a_limit_cuts_between_words_and_counts_them(limit: int) -> None:
    text, reason, tokens = cut(WORDS, limit)
    assert text.split() == [f"w{i}" for i in range(limit)]
    assert (reason, tokens) == ("length", limit)


def test_an_answer_shorter_than_its_limit_is_left_whole() -> None:
    assert cut(["Yes"], 2) == ("Yes", "stop", 1)
    assert cut([*WORDS, " w60"], 62) == ("".join(WORDS) + " w60", "stop", 61)
    assert cut(["Yes"], 1) == ("Yes", "length", 1)


def test_a_stop_sequence_ends_an_answer_wherever_frames_are_cut() -> None:
    assert cut(["one t", "wo th", "ree"], 100, "two") == ("one ", "stop", 4)
    assert cut(["one t", "w"], 100, "two") == ("one tw", "stop", 3)


@pytest.mark.parametrize("temperature", [0, 0.0, 0.001, 1e-9])
def test_what_rounds_to_temperature_zero_is_greedy(temperature: float) -> None:
    keys = _sampling_keys(ModelConfig(), Sampling(temperature=temperature))
    assert keys == {
        "enable_temperature": False,
        "enable_top_p_sampling": False,
        "enable_top_k_sampling": False,
    }


def test_sampling_is_sent_with_its_flags() -> None:
    keys = _sampling_keys(ModelConfig(top_k=40), Sampling(temperature=0.7, top_p=0.0))
    assert keys == {
        "enable_temperature": True,
        "temperature": 0.7,
        "enable_top_p_sampling": True,
        "top_p": 0.01,
        "enable_top_k_sampling": True,
        "top_k": 40,
    }
