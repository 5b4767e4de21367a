"""Headers, comments and fingerprints: small pure things the doors say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.app import fingerprint
from api.json_io import whole_surrogates
from api.progress import Progress, comment, describe, one_line
from api.system.status import gib, utc
from backends.base import Done, Started, Timings, Usage, Waiting
from config import Config, KeyConfig, QueueConfig


@pytest.mark.parametrize(
    ("position", "reason", "said"),
    [
        (2, "loading", "queued 2, loading qwen"),
        (2, "queued", "queued 2 for qwen"),
        (2, "queued 2", "queued 2 for qwen"),
        (0, "loading", "loading qwen"),
        (0, "queued", "queued for qwen"),
        (0, "", "queued for qwen"),
    ],
)
def test_waiting_is_described_shortly(position: int, reason: str, said: str) -> None:
    assert describe(Waiting(position, reason, "qwen")) == said


def test_comments_and_headers_stay_on_one_line() -> None:
    assert comment("a\r\nb\n\ndata: x") == b": a b data: x\n\n"
    assert one_line("a\r\nb\x00ü") == "a b??"


def test_the_last_timings_count_and_the_first_start() -> None:
    progress = Progress(("seed",))
    assert progress.headers() == {"x-queue-status": "immediate", "x-stackflow-ignored": "seed"}
    progress.note(Waiting(1, "queued", "qwen"))
    assert progress.headers()["x-queue-status"] == "queued 1 for qwen"
    progress.note(Started("one", Timings(0.0004, 0, 0.1)))
    progress.note(Started("two", Timings()))
    headers = progress.headers()
    assert headers["x-queue-status"] == "queued"
    assert headers["x-queue-wait-ms"] == "0"
    assert headers["x-stackflow-module"] == "one"
    progress.note(Done("stop", Usage(1, 1)))
    assert progress.headers()["Server-Timing"] == "queue;dur=0.4, load;dur=0.0, first_token;dur=100.0"
    progress.note(Done("stop", Usage(1, 1), timings=Timings(1, 2, 3)))
    assert progress.headers()["Server-Timing"] == "queue;dur=1000.0, load;dur=2000.0, first_token;dur=3000.0"


def test_fingerprint_changes_with_the_settings_but_not_with_the_keys() -> None:
    config = Config()
    assert fingerprint(config) == fingerprint(Config())
    assert fingerprint(config) != fingerprint(replace(config, queue=QueueConfig(size=3)))
    assert fingerprint(config) == fingerprint(replace(config, keys=(KeyConfig("secret"),)))


def test_sizes_and_times_are_written_as_documented() -> None:
    assert [gib(kib) for kib in (0, 2202010, 4404019, 4194304, None)] == [
        "0GB",
        "2.1GB",
        "4.2GB",
        "4GB",
        None,
    ]
    assert utc(1704110400.9) == "2024-01-01T12:00:00"


def test_only_lone_surrogate_escapes_are_replaced() -> None:
    for whole in (rb"\ud83d\ude00", rb"\\ud83d", rb"\u00e9\n\"", rb"\\\ud83d\ude00"):
        assert whole_surrogates(whole) == whole
    assert whole_surrogates(rb"\ud83dx\ude00\\\ud83d\ud83d\ude00") == rb"\ufffdx\ufffd\\\ufffd\ud83d\ude00"
