"""What the bridge remembers across restarts: SQLite in the state folder, one thread, crash-safe.

Delete the file and the server still starts. A corrupt file is put aside; where nothing can be written the
state lives in memory and a WARNING says what that costs.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

FILE = "state.sqlite3"
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    module TEXT NOT NULL,   -- the module's configured address
    unit TEXT NOT NULL,
    work_id TEXT NOT NULL,  -- 'llm.1002', or '' while the setup has not been answered
    PRIMARY KEY (module, unit, work_id)
);
"""


class State:
    """The open store. Made by `open_state`; every call runs in its one thread."""

    def __init__(self, database: sqlite3.Connection, thread: ThreadPoolExecutor, bridge_id: str) -> None:
        self._database = database
        self._thread = thread
        self.bridge_id = bridge_id  # eight hex digits: the mark on our tasks

    async def tasks(self, module: str) -> list[tuple[str, str]]:
        """Return (unit, work_id) of the tasks we may have left on `module`; '' is a setup under way."""
        query = "SELECT unit, work_id FROM tasks WHERE module = ? ORDER BY rowid"
        try:
            return await self._call(lambda db: [(str(u), str(w)) for u, w in db.execute(query, (module,))])
        except sqlite3.Error as err:  # no reason to leave the module unused
            _LOGGER.warning("state not read: %s", err)
            return []

    async def add_task(self, module: str, unit: str, work_id: str) -> None:
        """Remember a task, or with '' that one is about to be made."""
        await self._change("INSERT OR IGNORE INTO tasks VALUES (?, ?, ?)", (module, unit, work_id))

    async def remove_task(self, module: str, unit: str, work_id: str) -> None:
        """Forget a task that is gone."""
        await self._change(
            "DELETE FROM tasks WHERE module = ? AND unit = ? AND work_id = ?", (module, unit, work_id)
        )

    async def _change(self, statement: str, values: tuple[str, ...]) -> None:
        def change(db: sqlite3.Connection) -> None:
            with db:
                db.execute(statement, values)

        try:
            await self._call(change)
        except sqlite3.Error as err:  # a full disk must not stop an answer
            _LOGGER.warning("state not saved: %s", err)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._database)


@asynccontextmanager
async def open_state(folder: Path) -> AsyncIterator[State]:
    """Open the store in `folder`, making both as needed. Never fails."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="state") as thread, ExitStack() as held:
        database, bridge_id = await loop.run_in_executor(thread, _opened, folder, held)
        try:
            yield State(database, thread, bridge_id)
        finally:
            await loop.run_in_executor(thread, database.close)


def _opened(folder: Path, held: ExitStack) -> tuple[sqlite3.Connection, str]:
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _claim(folder, held)
        try:
            return _connected(str(path))
        except sqlite3.DatabaseError as err:
            if isinstance(err, sqlite3.OperationalError):  # locked or unwritable, not corrupt
                raise
            _LOGGER.warning(
                "%s is unreadable (%s): starting afresh, the old file is kept beside it", path, err
            )
            path.replace(path.with_suffix(".unreadable"))
            for leftover in ("-wal", "-shm"):  # SQLite would replay them into the new file
                path.with_name(FILE + leftover).unlink(missing_ok=True)
            return _connected(str(path))
    except (OSError, sqlite3.Error) as err:
        _LOGGER.warning(
            "no state can be kept in %s (%s): tasks left by a crash will not be recognised", folder, err
        )
        return _connected(":memory:")


def _claim(folder: Path, held: ExitStack) -> None:
    """Take the folder until `held` ends. Raises OSError when another server has it.

    Two bridges with one id and one book would end each other's tasks as left-overs.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise OSError(err.errno, "another server is using it") from err


def _connected(path: str) -> tuple[sqlite3.Connection, str]:
    database = sqlite3.connect(path, timeout=5, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        with database:
            database.executescript(SCHEMA)
            database.execute("INSERT OR IGNORE INTO facts VALUES ('bridge_id', ?)", (secrets.token_hex(4),))
        (bridge_id,) = database.execute("SELECT value FROM facts WHERE name = 'bridge_id'").fetchone()
    except BaseException:
        database.close()
        raise
    return database, str(bridge_id)
