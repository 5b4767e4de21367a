"""The pure parts of the simulator against the literal examples of the two protocol documents."""

from __future__ import annotations

import json

import pytest

from simulator.envelope import check, framer_line, reply
from simulator.framing import Framer
from simulator.mishaps import BadInput, FrameReset, GatewayCrash, UnitCrash
from simulator.text import StreamMap, decode_base64, extract, stoi, unescape

PING = b'{"request_id":"1","work_id":"sys","action":"ping"}'


def cut(framer: Framer, *chunks: bytes) -> list[bytes]:
    return [message for chunk in chunks for message in framer.feed(chunk)]


def test_messages_come_out_whole_however_they_were_cut() -> None:
    stream = b"\n" + PING + b"\n \n" + PING + PING
    for size in (1, 7, 50, 4096):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert cut(Framer(), *pieces) == [PING] * 3


@pytest.mark.parametrize(("filler", "lost"), [(15, False), (16, True), (17, False), (32, True), (33, False)])
def test_sixteen_bytes_of_filler_hide_the_brace_after_them(filler: int, lost: bool) -> None:
    assert cut(Framer(), b"\n" * filler + PING) == ([] if lost else [PING])


def test_filler_that_was_hidden_spoils_only_one_message() -> None:
    assert cut(Framer(), b"\n" * 16 + PING + PING) == [PING]


def test_a_brace_after_a_backslash_counts_only_as_first_byte_of_a_chunk() -> None:
    message = b'{"data":"\\{"}'
    assert cut(Framer(), message) == [message]
    at = message.index(b"{", 1)
    assert cut(Framer(), message[:at], message[at:]) == []


def test_an_unbalanced_left_brace_swallows_what_follows() -> None:
    assert cut(Framer(), b'{"data":"{"}', PING, PING) == []


def test_an_unbalanced_right_brace_cuts_early_then_resets_and_loses_the_chunk() -> None:
    framer = Framer()
    seen: list[bytes] = []
    with pytest.raises(FrameReset):
        seen.extend(framer.feed(b'{"data":"a}b"}' + PING))
    assert seen == [b'{"data":"a}']
    assert cut(framer, PING) == [PING]


def test_a_message_whose_dispatch_failed_stays_in_front_of_the_next() -> None:
    framer = Framer()
    for _message in framer.feed(PING):
        break  # dispatching threw
    assert cut(framer, PING) == [PING + PING]
    for _message in framer.feed(PING):
        break
    assert cut(framer, b"\n" + PING) == [PING]


def test_raw_payload_becomes_base64_and_eats_one_byte_after_it() -> None:
    header = b'{"RAW":5,"object":"vlm.jpeg.base64"}'
    expected = b'{"RAW":5,"object":"vlm.jpeg.base64","data":"aGV7bG8="}'
    assert cut(Framer(), header + b"he{lo") == [expected]
    assert cut(Framer(), header, b"he", b"{lo") == [expected]
    assert cut(Framer(), header + b"he{lo\n" + PING) == [expected, PING]
    assert cut(Framer(), header.replace(b"5", b'"5"', 1) + b"he{lo")[0].endswith(b'"data":"aGV7bG8="}')
    with pytest.raises(FrameReset):
        cut(Framer(), header + b"he{lo" + PING)


def test_raw_without_a_length_kills_the_gateway_and_a_negative_one_swallows_all() -> None:
    with pytest.raises(GatewayCrash):
        cut(Framer(), b'{"RAW":0,"work_id":"x"}')
    framer = Framer()
    with pytest.raises(FrameReset):
        cut(framer, b'{"RAW":"abc","work_id":"x"}')
    with pytest.raises(GatewayCrash):
        cut(framer, b"\n")
    assert cut(Framer(), b'{"RAW":-5,"work_id":"x"}', PING, PING) == []


def test_raw_with_a_data_key_and_bon_are_swallowed_without_a_word() -> None:
    framer = Framer()
    assert cut(framer, b'{"RAW":2,"data":"x"}', b"ab", PING) == []
    assert cut(Framer(), b'{"BON":3}' + b"abc\n" + PING) == [PING]


def test_a_raw_key_that_is_not_first_is_an_ordinary_message() -> None:
    assert cut(Framer(), b'{ "RAW":5}') == [b'{ "RAW":5}']


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        (b'{"object":"x","a":1}', "object", b"x"),
        (b'{"data":{"index":3}}', "index", b"3"),
        (b'{"finish": true}', "finish", b"true"),
        (b'{"data":{"a":{"b":"}"}}', "data", b'{"a":{"b":"}"}'),
        (b'{"data":{"a":1},"x":2}', "data", b'{"a":1}'),
        (b'{"data":["x","y"]}', "data", b"[x"),
        (b'{"data":42}', "data", b"42"),
        (b'{"data":null}', "data", b"null"),
        (b'{"data":"say \\"hi\\""}', "data", b'say \\"hi\\"'),
        (b'{"data":"ends in a backslash\\\\"}', "data", b""),
        (b'{"data":"a\\\\","object":"o"}', "data", b'a\\\\",'),
        (b'{"data":"open', "data", b""),
        (b'{"data":{"open":{"x":1}', "data", b""),
        (b'{"request_id":"data","data":"x"}', "data", b""),
        (b'{"data":{"object":"inner"},"object":"outer"}', "object", b"inner"),
        (b'{"index":\n3}', "index", b"\n3"),
        (b"{}", "data", b""),
    ],
)
def test_fields_are_found_by_searching_the_text(text: bytes, key: str, found: bytes) -> None:
    assert extract(text, key) == found


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (rb"a\n\t\r\b\\\"z", b'a\n\t\r\b\\"z'),
        (rb"\u007b\u00e9\u0000", b"{\xc3\xa9\x00"),
        (rb"\f\/\x", b"f/x"),
        (rb"\ud83d\ude00", b"\\ud83d\xed\xb8\x80"),
        (rb"\u12", b"\\u12"),
        ("plain 😀".encode(), "plain 😀".encode()),
    ],
)
def test_escapes_are_undone_the_units_way(text: bytes, plain: bytes) -> None:
    assert unescape(text) == plain


def test_a_backslash_at_the_very_end_kills_the_unit() -> None:
    with pytest.raises(UnitCrash):
        unescape(b"abc\\")


def test_base64_is_strict_and_missing_padding_kills_the_unit() -> None:
    assert decode_base64(b"V2hhdD8=") == b"What?"
    assert decode_base64(b"") == b""
    assert decode_base64(b"QUI=garbage after the end") == b"AB"
    for bad in (b"QU\nI=", b"QU-_", b"QU I="):
        with pytest.raises(BadInput) as caught:
            decode_base64(bad)
        assert (caught.value.code, str(caught.value)) == (-23, "Base64 decoding error.")
    for unpadded in (b"QUI", b"QQ", b"Q", b"QQ="):
        with pytest.raises(UnitCrash):
            decode_base64(unpadded)


def part(index: object, delta: str, finish: object) -> bytes:
    return json.dumps({"delta": delta, "index": index, "finish": finish}).encode()


def test_streamed_input_is_joined_by_index_in_any_order() -> None:
    stream = StreamMap()
    assert stream.add(part(1, "b", False)) is None
    assert stream.add(part(0, "a", False)) is None
    assert stream.add(part(2, "c", True)) == b"abc"


def test_leftovers_of_an_aborted_stream_reach_the_next() -> None:
    stream = StreamMap()
    for index, text in enumerate(("old0", "old1", "old2")):
        assert stream.add(part(index, text, False)) is None
    assert stream.add(part(0, "new0", False)) is None
    assert stream.add(part(1, "new1", True)) == b"new0new1old2"


def test_a_missing_or_odd_index_is_an_error_that_clears_the_map() -> None:
    stream = StreamMap()
    for bad in (part(1, "x", True), part("x", "x", False), part(-1, "", True)):
        with pytest.raises(BadInput) as caught:
            stream.add(bad)
        assert (caught.value.code, str(caught.value)) == (-25, "Stream data index error.")
    assert stream.add(b'{"index":0,"delta":"whole"}') == b"whole"


def test_stoi_reads_like_c() -> None:
    assert [stoi(text) for text in (b" 12abc", b"+3", b"-1")] == [12, 3, -1]
    assert [stoi(text) for text in (b"", b"abc", b"99999999999")] == [None] * 3


@pytest.mark.parametrize(
    "raw",
    [
        b'{"request_id":1,"work_id":"sys","action":"ping"}',
        b'{"work_id":"sys","action":"ping"}',
        b'{"request_id":"1","action":"ping"}',
        b'{"request_id":"1","work_id":"sys"}',
        b"{not json}",
        b'{"request_id":"\xff","work_id":"sys","action":"ping"}',
        b'{"request_id":"1","work_id":"sys","action":"ping","data":"a\nb"}',
        b'{"request_id":"1","work_id":"sys","action":"ping","data":"open}',
    ],
)
def test_what_llm_sys_cannot_address_is_refused(raw: bytes) -> None:
    assert check(raw) is None


def test_syntax_beyond_the_three_fields_is_not_checked() -> None:
    for raw in (PING[:-1] + b",}", PING + PING, PING[:-1] + b',"data":"\\q"}'):
        request = check(raw)
        assert request
        assert (request.request_id, request.work_id, request.action) == ("1", "sys", "ping")


def test_replies_are_compact_sorted_and_end_a_line_except_the_framers_own() -> None:
    line = reply("1", "sys").decode()
    head, created = line.split(",", 1)[1], json.loads(line)["created"]
    assert head == (
        '"data":"None","error":{"code":0,"message":""},"object":"None","request_id":"1","work_id":"sys"}\n'
    )
    assert isinstance(created, int)
    text = framer_line(-1, "reace reset").decode()
    seconds = json.loads(text)["created"]
    assert text == (
        f'{{"request_id": "0","work_id": "sys","created": {seconds},'
        '"error":{"code":-1, "message":"reace reset"}}'
    )
