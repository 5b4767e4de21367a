from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tokens import LONGEST_COUNTED, estimate, frame_tokens, pieces

COUNTS = [  # text, true tokens by the vocabularies of Qwen 3, Llama 3 and SmolLM2
    ("The quick brown fox jumps over the lazy dog.", (10, 10, 10)),
    ("Can you explain in simple terms how a refrigerator works?", (11, 11, 11)),
    ("1 2 3 4 5 6 7 8 9 10", (20, 19, 20)),
    ("8.1.1918 18:41", (14, 10, 14)),
    ("hneb ytni dibdib", (9, 9, 10)),
    ("pbrnrc l hltltsrh gprphtncd", (16, 16, 16)),
    ("def f(x):\n    return {k: v for k, v in x.items()}", (18, 18, 20)),
    ('{"name": "Paris", "population": 12237882}', (19, 14, 19)),
    ("今天天气很好,我们去公园散步吧。", (10, 14, 31)),
    ("こんにちは、いい天気ですね。", (7, 7, 23)),
    ("안녕하세요 오늘 날씨가 좋네요", (10, 8, 38)),
    ("Привет, как дела?", (7, 7, 13)),
    ("مرحبا كيف حالك", (6, 6, 13)),
    ("👍🏽🎉 👨\u200d👩\u200d👧\u200d👦", (14, 23, 27)),
    ("Donaudampfschifffahrtsgesellschaft", (13, 13, 14)),
    ("eW91IGNhbiByZWFk", (11, 10, 12)),
    ("b96ad8a7aefdfc93fa58d2a462", (22, 17, 22)),
    ("THE QUICK BROWN FOX", (5, 5, 8)),
    ("\u0669 \u0660 \u0300", (7, 5, 8)),
    ("\n\t 1\x0b \x00 2", (9, 9, 8)),
    ("龘靐齉爩鱻", (9, 10, 14)),
    ("don't it's we'll", (6, 6, 6)),
    ("      \n\n\n   x", (4, 4, 4)),
    ("zzzzzzzzzzzzzzzzzzzz", (10, 10, 10)),
]


@pytest.mark.parametrize(("text", "counts"), COUNTS, ids=[ascii(text)[:16] for text, _ in COUNTS])
def test_the_estimate_is_never_below_the_true_counts(text: str, counts: tuple[int, ...]) -> None:
    assert estimate(text) >= max(counts)


def test_prose_is_not_made_much_dearer_than_it_is() -> None:
    prose = [(text, counts) for text, counts in COUNTS[:2]]
    assert sum(estimate(text) for text, _ in prose) <= 2.6 * sum(max(counts) for _, counts in prose)


@given(st.text(max_size=60))
def test_no_text_has_more_tokens_than_bytes_and_none_is_free(text: str) -> None:
    size = len(text.encode("utf-8", "replace"))
    assert estimate(text) <= size + 1
    assert (estimate(text) > 0) == bool(text)


def test_what_is_far_too_long_is_extrapolated() -> None:
    text = "one word after another. " * 200_000
    assert estimate(text) == pytest.approx(
        estimate(text[:LONGEST_COUNTED]) * len(text) / LONGEST_COUNTED, abs=1
    )
    assert estimate(" " * 10_000_000) > 1023


@given(st.text(max_size=12))
def test_the_pieces_of_a_frame_join_to_its_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(pieces(text))
    assert (0 < frame_tokens(text) <= 3) == bool(text)


def test_a_frame_is_cut_where_its_words_begin_and_never_inside_one() -> None:
    assert pieces("How are you") == ["How", " are", " you"]
    assert pieces(" w59") == [" w59"]
    assert pieces("今天 ok.") == ["今", "天", " ok", "."]
    assert [frame_tokens(t) for t in ("Yes", " w59", "12", "no.", "w1 w2 w3")] == [1, 1, 1, 2, 3]
