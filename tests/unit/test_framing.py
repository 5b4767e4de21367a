from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stackflow.framing
from errors import ProtocolError
from stackflow.framing import FrameDecoder
from stackflow.messages import Reply

ACK = (
    '{"created":1,"data":"None","error":{"code":0,"message":""},'
    '"object":"None","request_id":"r1","work_id":"llm.1000"}\n'
)
DELTA = (
    '{"created":1,"data":{"delta":"H\u00e9 {\\"\U0001f389","finish":false,"index":0},'
    '"error":{"code":0,"message":""},"object":"llm.utf-8.stream","request_id":"r2","work_id":"llm.1000"}\n'
)
RESET = '{"request_id": "0","work_id": "sys","created": 1,"error":{"code":-1, "message":"reace reset"}}'


def ids(replies: list[Reply]) -> list[str]:
    return [reply.request_id for reply in replies]


def fed(*chunks: bytes) -> list[str]:
    decoder = FrameDecoder()
    return [request_id for chunk in chunks for request_id in ids(decoder.feed(chunk))]


def test_a_reply_becomes_what_it_says() -> None:
    (reply,) = FrameDecoder().feed(DELTA.encode())
    assert (reply.request_id, reply.work_id, reply.unit) == ("r2", "llm.1000", "llm")
    assert reply.object == "llm.utf-8.stream"
    assert reply.data == {"delta": 'H\u00e9 {"\U0001f389', "finish": False, "index": 0}
    assert reply.error.code == 0


def test_replies_are_the_same_wherever_the_bytes_are_cut() -> None:
    stream = (ACK + DELTA + RESET + ACK).encode()
    whole = FrameDecoder().feed(stream)
    assert ids(whole) == ["r1", "r2", "0", "r1"]
    for at in range(1, len(stream)):
        decoder = FrameDecoder()
        assert decoder.feed(stream[:at]) + decoder.feed(stream[at:]) == whole, at


@given(st.lists(st.integers(1, 400), max_size=20))
def test_replies_are_the_same_in_any_number_of_pieces(sizes: list[int]) -> None:
    stream, chunks, at = (DELTA + RESET + ACK + "\n" + DELTA).encode(), [], 0
    for size in sizes:
        chunks.append(stream[at : at + size])
        at += size
    assert fed(*chunks, stream[at:]) == ["r2", "0", "r1", "r2"]


def test_byte_by_byte_nothing_is_lost() -> None:
    assert fed(*(bytes([byte]) for byte in (ACK + RESET + DELTA).encode())) == ["r1", "0", "r2"]


def test_the_framers_own_error_is_read_alone_and_glued_to_the_next_reply() -> None:
    assert fed(RESET.encode()) == ["0"]
    assert fed((RESET + ACK).encode()) == ["0", "r1"]
    assert fed((RESET + RESET + ACK).encode()) == ["0", "0", "r1"]
    assert fed(RESET.encode(), ACK.encode()) == ["0", "r1"]


def test_several_replies_on_one_line_are_all_read() -> None:
    assert fed((ACK.strip() + " " + DELTA.strip() + ACK).encode()) == ["r1", "r2", "r1"]


@pytest.mark.parametrize("noise", ["\x00\xff", "U-Boot 2020.04 {ver} [ok]", "}}}{{{", "\x1b[0m login: "])
def test_noise_of_a_booting_uart_is_skipped(noise: str) -> None:
    assert fed(noise.encode("latin-1") + ACK.encode()) == ["r1"]
    assert fed(noise.encode("latin-1"), ACK.encode()) == ["r1"]
    assert fed(noise.encode("latin-1") + b"\r\n" + ACK.encode()) == ["r1"]


def test_lines_that_are_no_replies_are_dropped() -> None:
    lines = b'\n\nnot json\n[1]\n"text"\n{"request_id":5}\n{"error":null}\n{"open":\n'
    assert fed(lines + ACK.encode()) == ["r1"]


def test_invalid_utf8_costs_a_character_and_no_reply() -> None:
    broken = ACK.encode().replace(b"None", b"N\xffne", 1)
    (reply,) = FrameDecoder().feed(broken)
    assert (reply.request_id, reply.data) == ("r1", "N\ufffdne")


def test_brackets_without_end_are_a_line_like_any_other() -> None:
    assert fed(b'{"data":' + b"[" * 20_000 + b"]" * 20_000 + b"}\n" + ACK.encode()) == ["r1"]
    assert fed(b"{" * 3_000 + b"!}", b"\n" + ACK.encode()) == ["r1"]


def test_a_reply_cut_short_by_a_crash_does_not_hide_the_next() -> None:
    assert fed(DELTA.encode()[:-30] + ACK.encode())[-1] == "r1"
    assert fed(DELTA.encode()[:-30] + b"\n" + ACK.encode())[-1] == "r1"


def test_a_line_of_two_megabytes_comes_whole_in_any_pieces() -> None:
    data = "QUJD" * (512 * 1024)
    line = ACK.replace('"None"', json.dumps(data), 1).encode()
    decoder, replies = FrameDecoder(), []
    for at in range(0, len(line), 8192):
        replies += decoder.feed(line[at : at + 8192])
    assert [reply.data for reply in replies] == [data]


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stackflow.framing, "LONGEST_LINE", 10_000)
    decoder = FrameDecoder()
    decoder.feed(b"x" * 10_000)
    with pytest.raises(ProtocolError, match="10000 bytes"):
        decoder.feed(b"x")


@given(st.binary(max_size=300))
def test_no_bytes_bring_it_down(data: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(data)
    assert ids(decoder.feed(b"\n" + ACK.encode()))[-1] == "r1"
