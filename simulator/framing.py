"""Bytes to messages exactly as llm_sys cuts them, mistakes included. No I/O, no JSON.

Source: projects/llm_framework/main_sys/src/zmq_bus.cpp, select_json_str
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Iterator

from .mishaps import FrameReset, GatewayCrash

NEON_WINDOW = 16  # bytes; the AArch64 build copies windows without a brace unchecked
_BRACE = re.compile(rb"[{}]")
_LEFT_BRACE, _RIGHT_BRACE, _BACKSLASH = b"{}\\"


class _Mode(enum.Enum):
    NORMAL = "normal"
    RAW = "raw"
    BON = "bon"


class Framer:
    """The splitter of one com. Its state survives everything but the com's end."""

    def __init__(self) -> None:
        self._message = bytearray()
        self._depth = 0
        self._mode = _Mode.NORMAL
        self._left = 0
        self._payload = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the messages that `chunk`, one read of the socket, completes.

        A message is forgotten only when the caller asks for the next one. A caller that stops early,
        as llm_sys does when dispatching throws, leaves it in front of whatever comes next: the
        poisoned buffer. Raises FrameReset and GatewayCrash.
        """
        at = 0
        while at < len(chunk):
            if self._mode is not _Mode.NORMAL:
                at, message = self._swallow(chunk, at)
                if message:
                    yield message
                    self._message.clear()
                continue
            at = self._skip_filler(chunk, at)
            if at == len(chunk):
                return
            self._count(chunk, at)
            at += 1
            if self._depth == 0:
                if self._complete():
                    if self._enter_payload():
                        continue
                    yield bytes(self._message)
                self._message.clear()

    def _skip_filler(self, chunk: bytes, at: int) -> int:
        """Take the bytes before the next brace; return where it is, or the chunk's length.

        Whole windows of 16 are kept even outside a message, so that 16 newlines hide the `{` after
        them; single bytes outside a message clear the buffer.
        """
        found = _BRACE.search(chunk, at)
        end = found.start() if found else len(chunk)
        singles = (end - at) % NEON_WINDOW
        self._message += chunk[at:end]
        if singles and self._depth == 0:
            self._message.clear()
        return end

    def _count(self, chunk: bytes, at: int) -> None:
        """Take the brace at `at`. One after a backslash of the same chunk does not count."""
        brace = chunk[at]
        self._message.append(brace)
        if at > 0 and chunk[at - 1] == _BACKSLASH:
            return
        self._depth += 1 if brace == _LEFT_BRACE else -1
        if self._depth < 0:
            self._depth = 0
            self._message.clear()
            raise FrameReset

    def _complete(self) -> bool:
        return self._message[:1] == b"{" and self._message[-1] == _RIGHT_BRACE

    def _enter_payload(self) -> bool:
        """Return whether the message announces bytes to follow, as `{"RAW":12,...}` does."""
        kind = bytes(self._message[:7])
        if kind not in (b'{"RAW":', b'{"BON":') or len(self._message) <= 7:
            return False
        self._mode = _Mode.RAW if kind == b'{"RAW":' else _Mode.BON
        self._left = 0
        # stoi throws here, with the mode already changed: observed as a reset, then a crash
        count = re.match(rb'[\s"]*([+-]?\d+)', self._message[7:])
        if not count:
            raise FrameReset
        self._left = int(count.group(1))
        if self._left == 0:
            raise GatewayCrash("RAW of length 0 underflows the base64 encoder")
        return True

    def _swallow(self, chunk: bytes, at: int) -> tuple[int, bytes]:
        """Take payload from `at`; return where to go on and the message, if it is complete."""
        if self._left == 0:
            raise GatewayCrash("RAW without a number underflows the base64 encoder")
        if self._left < 0:
            return len(chunk), b""
        part = chunk[at : at + self._left]
        self._payload += part
        self._left -= len(part)
        at += len(part)
        if self._left:
            return at, b""
        return at + 1, self._leave_payload()  # + 1: the byte after it in this chunk is lost

    def _leave_payload(self) -> bytes:
        raw, self._mode = self._mode, _Mode.NORMAL
        payload = base64.b64encode(self._payload)
        self._payload.clear()
        if raw is _Mode.BON:  # not compiled in: swallowed
            self._message.clear()
            return b""
        if b'"data"' in self._message:  # observed: silence, then a poisoned connection
            return b""
        return bytes(self._message[:-1]) + b',"data":"' + payload + b'"}'
