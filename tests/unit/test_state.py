from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

import pytest

import state
from state import FILE, open_state


async def test_tasks_are_remembered_across_restarts(tmp_path: Path) -> None:
    async with open_state(tmp_path / "deep" / "folder") as first:
        await first.add_task("tcp://m", "llm", "")
        await first.add_task("tcp://m", "llm", "llm.1000")
        await first.add_task("tcp://m", "llm", "llm.1000")
        await first.add_task("tcp://n", "vlm", "vlm.1001")
        await first.remove_task("tcp://m", "llm", "")
        bridge_id = first.bridge_id
    async with open_state(tmp_path / "deep" / "folder") as second:
        assert await second.tasks("tcp://m") == [("llm", "llm.1000")]
        assert await second.tasks("tcp://n") == [("vlm", "vlm.1001")]
        assert await second.tasks("tcp://o") == []
        assert second.bridge_id == bridge_id
    assert len(bridge_id) == 8
    assert int(bridge_id, 16) >= 0


@pytest.mark.parametrize(
    "junk", [b"this is no database, however long it is" * 40, b"SQLite format 3\0" + b"x" * 200]
)
async def test_a_corrupt_file_is_put_aside(
    tmp_path: Path, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(junk)
    async with open_state(tmp_path) as store:
        await store.add_task("m", "llm", "llm.1")
    assert "starting afresh" in caplog.text
    assert (tmp_path / FILE).with_suffix(".unreadable").read_bytes() == junk
    async with open_state(tmp_path) as again:
        assert await again.tasks("m") == [("llm", "llm.1")]


async def test_a_file_of_another_shape_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("CREATE TABLE facts (something TEXT)")
    other.close()
    async with open_state(tmp_path) as store:
        await store.add_task("m", "llm", "llm.1")
        assert await store.tasks("m") == [("llm", "llm.1")]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("place", ["file/folder", "file"])
async def test_where_nothing_can_be_written_it_lives_in_memory(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with open_state(tmp_path / place) as store:
        await store.add_task("m", "llm", "llm.1")
        assert await store.tasks("m") == [("llm", "llm.1")]
    assert "no state can be kept" in caplog.text


async def test_a_store_that_fails_later_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_state(tmp_path) as store:
        await store._call(lambda db: db.execute("DROP TABLE tasks"))
        await store.add_task("m", "llm", "llm.1")
        await store.remove_task("m", "llm", "llm.1")
        assert await store.tasks("m") == []
    assert "state not saved" in caplog.text


async def test_many_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    async with open_state(tmp_path) as store:
        await asyncio.gather(*(store.add_task("m", "llm", f"llm.{n}") for n in range(200)))
        assert len(await store.tasks("m")) == 200


async def test_a_second_bridge_on_the_folder_keeps_to_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_state(tmp_path) as one, open_state(tmp_path) as two:
        assert one.bridge_id != two.bridge_id  # or each would end the other's tasks as left-overs
        await one.add_task("m", "llm", "llm.1")
        await two.add_task("m", "llm", "llm.2")
        assert await one.tasks("m") == [("llm", "llm.1")]
        assert await two.tasks("m") == [("llm", "llm.2")]
    assert "another server is using it" in caplog.text
    async with open_state(tmp_path) as next_one:
        assert next_one.bridge_id == one.bridge_id
        assert await next_one.tasks("m") == [("llm", "llm.1")]


async def test_the_folder_is_only_ours_to_read(tmp_path: Path) -> None:
    async with open_state(tmp_path / "private"):
        assert (tmp_path / "private").stat().st_mode & 0o077 == 0


def test_the_file_name_is_what_the_notes_say() -> None:
    assert FILE == "state.sqlite3"
    assert "WAL" in Path(state.__file__).read_text(encoding="utf-8")
