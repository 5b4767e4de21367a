from __future__ import annotations

import json
import re

import pytest

from stackflow.messages import Delta, Fault, Reply, Request, RequestIds, delta_of


def test_a_request_has_its_keys_in_the_order_units_search_them_and_newlines_around() -> None:
    request = Request("r1", "llm", "setup", "llm.setup", {"model": "x"})
    assert request.encode() == (
        b'\n{"request_id":"r1","work_id":"llm","action":"setup","object":"llm.setup","data":{"model":"x"}}\n'
    )


def test_what_is_not_given_is_not_sent() -> None:
    assert Request("r1", "sys", "ping").encode() == b'\n{"request_id":"r1","work_id":"sys","action":"ping"}\n'


def test_clients_words_stand_in_data_only_and_hide_nothing() -> None:
    sent = Request("r1", "llm.1", "inference", "llm.utf-8", '","work_id":"sys","action":"reset').encode()
    assert json.loads(sent)["work_id"] == "llm.1"
    assert sent.count(b'"work_id"') == 1


def test_pause_and_sys_may_pass_what_waits_for_the_pipe() -> None:
    assert Request("r", "llm.1", "pause").urgent
    assert Request("r", "sys", "lsmode").urgent
    assert not Request("r", "llm.1", "inference").urgent


def test_ids_are_unique_plain_and_never_a_key() -> None:
    ids, others = RequestIds(), RequestIds()
    made = [ids() for _ in range(1000)] + [others() for _ in range(1000)]
    assert len(set(made)) == 2000
    assert all(re.fullmatch(r"r[0-9a-f]{6}x[0-9a-f]+", request_id) for request_id in made)


@pytest.mark.parametrize(
    ("data", "delta"),
    [
        ({"delta": "Hi", "finish": False, "index": 0}, Delta("Hi", finish=False)),
        ({"delta": "", "finish": True, "index": 3}, Delta("", finish=True)),
        ({"delta": "Hi"}, Delta("Hi", finish=False)),
        ({"delta": None, "finish": True}, Delta("", finish=True)),
        ({"remain": 1}, None),
        ("None", None),
        (["llm.1000"], None),
        (None, None),
    ],
)
def test_streamed_parts_are_told_from_other_data(data: object, delta: Delta | None) -> None:
    assert delta_of(Reply(data=data)) == delta


def test_a_reply_knows_its_unit() -> None:
    assert [Reply(work_id=w).unit for w in ("llm.1002", "sys", "")] == ["llm", "sys", ""]
    assert Reply().error == Fault(0, "")
