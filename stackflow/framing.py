"""Bytes -> replies, sans-IO: feed what came, in whatever pieces, and get the complete messages.

The module ends each reply with a newline, except its framer's own error, which sits glued in front of the
next reply; a UART adds boot noise. A raw newline never stands inside a reply, since it is compact JSON.
"""

from __future__ import annotations

import json
import logging

import msgspec

from errors import ProtocolError
from stackflow.messages import Reply

_LOGGER = logging.getLogger(__name__)

LONGEST_LINE = 64 * 1024 * 1024  # bytes; a pulled file or a spoken paragraph is a few MB on one line
SHORT_TAIL = 4096  # bytes; what has no newline may be the framer's error, about 110 bytes

# msgspec's errors are ValueErrors, and so is the UnicodeDecodeError it lets through.
_UNREADABLE = (ValueError, RecursionError)

_decode = msgspec.json.Decoder(Reply).decode
_scan = json.JSONDecoder().raw_decode


class FrameDecoder:
    """Collects bytes of one pipe. Not shared, never rewound."""

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, chunk: bytes) -> list[Reply]:
        """Return the replies completed by `chunk`, in order. Raises ProtocolError past `LONGEST_LINE`."""
        if not self._tail and chunk.endswith(b"\n"):
            lines, rest = chunk.split(b"\n"), b""
        elif b"\n" in chunk:
            whole, _, rest = (bytes(self._tail) + chunk).rpartition(b"\n")
            lines = whole.split(b"\n")
            self._tail.clear()
        else:
            lines, rest = [], chunk
        replies = [reply for line in lines if line for reply in _replies(line)]
        if rest:
            self._tail += rest
            replies += self._unterminated()
        return replies

    def _unterminated(self) -> list[Reply]:
        """Take a reply that has no newline: the framer's ``reace reset`` stays alone until the next one."""
        if len(self._tail) > LONGEST_LINE:
            raise ProtocolError(f"the module sent a line of more than {LONGEST_LINE} bytes")
        if len(self._tail) > SHORT_TAIL or not self._tail.endswith(b"}"):
            return []
        start = self._tail.find(b"{")
        try:  # a true prefix of a JSON object is never itself a JSON object
            reply = _decode(bytes(self._tail[start:]))
        except _UNREADABLE:
            return []
        self._tail.clear()
        return [reply]


def _replies(line: bytes) -> list[Reply]:
    start = line.find(b"{")
    if start < 0:
        return []
    try:
        return [_decode(line[start:] if start else line)]
    except _UNREADABLE:
        return _salvaged(line.decode("utf-8", "replace"), start)


def _salvaged(text: str, start: int) -> list[Reply]:
    """Read several objects on one line, with noise before or between them."""
    replies: list[Reply] = []
    while start >= 0:
        try:
            value, end = _scan(text, start)
            replies.append(msgspec.convert(value, Reply))
        except _UNREADABLE:
            end = start + 1
        start = text.find("{", end)
    if not replies:
        _LOGGER.debug("dropped a line nobody can read: %.80r", text)
    return replies
