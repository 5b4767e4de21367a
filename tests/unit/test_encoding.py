"""What we write, read back by the simulator's parsers: an independent port of the module's own."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulator.framing import Framer
from simulator.text import extract, unescape
from stackflow.encoding import Value, clean, encoded, quoted
from stackflow.messages import Request

# Rich in what the module's parsers trip over.
HOSTILE = st.text(
    st.one_of(st.sampled_from('{}"\\\n\f\0\x7fu/,:dat\u00e9\U0001f389\ud83d\ude00'), st.characters())
)
TRIPWIRES = [
    *("{", "}", "}{", "{}", '"', "\\", "\\\\", "\\{", 'say "hi"\\', "\\u007b", "\\n", "\f", "\x7f", "a\0b"),
    *(
        "\U0001f389",
        "\ud83d",
        "\ud83d\ude00",
        "\u2028",
        '","data":"x',
        '"}',
        "reset",
        " " * 64,
        "x" * 100_000,
    ),
]


def sent(text: str, *cuts: int) -> bytes:
    """Return the text that a unit ends up with."""
    message = Request("r1", "llm.1000", "inference", "llm.utf-8", text).encode()
    edges = [0, *sorted(cut % len(message) for cut in cuts), len(message)]
    framer = Framer()
    chunks = [message[a:b] for a, b in pairwise(edges)]
    (frame,) = [frame for chunk in chunks for frame in framer.feed(chunk)]
    assert extract(frame, "request_id") == b"r1"
    assert extract(frame, "work_id") == b"llm.1000"
    assert extract(frame, "action") == b"inference"
    assert extract(frame, "object") == b"llm.utf-8"
    return unescape(extract(frame, "data"))


@pytest.mark.parametrize("text", TRIPWIRES, ids=lambda text: ascii(text)[:20])
def test_a_unit_gets_exactly_the_text(text: str) -> None:
    assert sent(text).decode() == clean(text)


@given(HOSTILE, st.lists(st.integers(0, 10_000), max_size=4))
@example("\\{", [75])
@settings(max_examples=400)
def test_a_unit_gets_exactly_any_text_however_the_network_cuts_it(text: str, cuts: list[int]) -> None:
    assert sent(text, *cuts).decode() == clean(text)


@given(HOSTILE)
def test_it_is_json_as_well(text: str) -> None:
    assert json.loads(quoted(text)) == clean(text)


ANY = st.recursive(
    HOSTILE | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(HOSTILE, inner),
)


@given(ANY)
def test_setup_data_is_json_without_a_brace_in_any_string(value: Value) -> None:
    text = encoded(value)
    assert json.loads(text) == _clean_all(value)
    assert text.count("{") == text.count("}")


def _clean_all(value: Value) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _clean_all(item) for key, item in value.items()}
    return [_clean_all(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_setup_data_survives_the_gateways_extraction() -> None:
    data: dict[str, Value] = {
        "model": "q",
        "prompt": 'You } are { "x"\\',
        "top_k": 10,
        "enoutput": True,
        "t": 0.5,
    }
    frame = Request("r1", "llm", "setup", "llm.setup", data).encode().strip()
    assert json.loads(extract(frame, "data")) == data


def test_nul_is_dropped_and_half_a_character_replaced() -> None:
    assert clean("a\0b\ud83dc") == "ab\ufffdc"
    assert clean("\U0001f389") == "\U0001f389"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        encoded({"temperature": number})
