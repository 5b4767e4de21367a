"""Everything that goes wrong inside the module, on purpose."""

from __future__ import annotations


class Mishap(Exception):
    """Base of all below."""


class FrameReset(Mishap):
    """The splitter gave up: the rest of the chunk is lost and the client is told "reace reset"."""


class DispatchFailed(Mishap):
    """An exception inside llm_sys while it handled a message: a reset, and the framer keeps it."""


class GatewayCrash(Mishap):
    """What was asked kills llm_sys."""


class UnitCrash(Mishap):
    """What was asked kills the unit's process."""


class LoadFailed(Mishap):
    """A model cannot be used; the reason is for the log, the client gets -5."""


class BadInput(Mishap):
    """The unit answers with an error of its own; carries StackFlow's code and text."""

    def __init__(self, code: int, message: str, work_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.work_id = work_id  # where the reply names another unit than the one that failed
