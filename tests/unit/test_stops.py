from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.stops import StopCutter

TEXT = st.text(alphabet="ab\n", max_size=40)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), max_size=4)


def cut_at_once(text: str, stops: list[str]) -> str:
    """Cut the whole text at the stop sequence that is complete first; of several, the longest."""
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else text


@given(TEXT, STOPS, st.lists(st.integers(0, 40), max_size=10))
def test_the_result_is_the_same_however_it_is_fed(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    cutter, shown = StopCutter(stops), ""
    for start, end in pairwise(edges):
        if cutter.stopped:
            break
        shown += cutter.feed(text[start:end])
        assert cut_at_once(text, stops).startswith(shown), "nothing of a stop sequence leaks"
    if not cutter.stopped:
        shown += cutter.rest()
    expected = cut_at_once(text, stops)
    assert shown == expected
    assert cutter.stopped == (expected != text)


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    cutter = StopCutter(["###", "\nUser:"])
    assert [cutter.feed(piece) for piece in ("Hi #", "# there", "\nUs", "e x", "a##")] == [
        *("Hi ", "## there", "", "\nUse x", "a"),
    ]
    assert not cutter.stopped
    assert cutter.rest() == "##"
    assert cutter.rest() == ""


def test_the_first_stop_in_the_text_counts_not_the_first_in_the_list() -> None:
    cutter = StopCutter(["END", "stop"])
    assert cutter.feed("one stop two END") == "one "
    assert cutter.stopped


@pytest.mark.parametrize("text", ["", "anything"])
def test_without_stops_all_passes_at_once(text: str) -> None:
    assert StopCutter([]).feed(text) == text
