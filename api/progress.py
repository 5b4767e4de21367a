"""What one answer went through so far, told in headers and in the comments of a stream."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from backends.base import ChatEvent, Done, Started, Timings, Waiting


@dataclass(slots=True)
class Progress:
    """Listens to a backend's events. `ignored` names what the caller asked for and does not get."""

    ignored: tuple[str, ...] = ()
    waiting: Waiting | None = None  # the latest one
    started: Started | None = None  # the first one
    latest: Waiting | Started | None = None
    timings: Timings = field(default_factory=Timings)
    _began: float = field(default_factory=time.monotonic)

    def note(self, event: ChatEvent) -> None:
        """Take in one event."""
        if isinstance(event, Waiting):
            self.waiting = self.latest = event
        elif isinstance(event, Started):
            self.latest = event
            if self.started is None:
                self.started, self.timings = event, event.timings
        elif isinstance(event, Done) and event.timings != Timings():
            self.timings = event.timings

    def headers(self) -> dict[str, str]:
        """Return the headers for what is known now."""
        headers = {"x-queue-status": self._queue_status()}
        if self.ignored:
            headers["x-stackflow-ignored"] = ", ".join(self.ignored)
        if self.started is not None:
            headers.update(_times(self.timings), **self._notes(self.started))
        return headers

    def failure_headers(self) -> dict[str, str]:
        """Return the headers of an answer that failed; one that never started spent its time waiting."""
        if self.started is not None:
            return self.headers()
        return self.headers() | _times(Timings(queue=time.monotonic() - self._began))

    def comment(self) -> bytes:
        """Return the SSE comment on what is being waited for: ``: queued 2, loading qwen2.5-0.5B``."""
        if isinstance(self.latest, Waiting):
            return comment(describe(self.latest))
        return comment("waiting" if self.latest is None else "reading the prompt")

    def closing_comments(self) -> bytes:
        """Return, as comments, what headers sent early could not say."""
        notes = self._notes(self.started) if self.started is not None else {}
        said = {"Server-Timing": server_timing(self.timings), **notes}
        return b"".join(comment(f"{name}: {value}") for name, value in said.items())

    def _queue_status(self) -> str:
        if self.waiting is None:
            return "immediate"
        return "queued" if self.started is not None else one_line(describe(self.waiting))

    @staticmethod
    def _notes(started: Started) -> dict[str, str]:
        notes = {"module": started.module, **started.notes}
        return {f"x-stackflow-{name}": one_line(value) for name, value in notes.items()}


def _times(timings: Timings) -> dict[str, str]:
    return {"Server-Timing": server_timing(timings), "x-queue-wait-ms": str(round(timings.queue * 1000))}


def server_timing(timings: Timings) -> str:
    """Return a Server-Timing value; `dur` is in milliseconds."""
    parts = {"queue": timings.queue, "load": timings.load, "first_token": timings.first_token}
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())


def describe(waiting: Waiting) -> str:
    """Return a short phrase: the place in the queue, then what the model is doing."""
    place = f"queued {waiting.position}" if waiting.position > 0 else ""
    if waiting.reason in ("", "queued", place):
        return f"{place or 'queued'} for {waiting.model}"
    return f"{place}{', ' if place else ''}{waiting.reason} {waiting.model}"


def one_line(text: str) -> str:
    """Return `text` as fits a header: printable ASCII on one line."""
    return "".join(char if " " <= char <= "~" else "?" for char in " ".join(text.split()))


def comment(text: str) -> bytes:
    """Return `text` as an SSE comment, which clients skip."""
    return f": {' '.join(text.split())}\n\n".encode("utf-8", "replace")
