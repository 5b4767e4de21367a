"""How units read their messages: by searching the raw text, not by parsing JSON.

Source: ext_components/StackFlow/stackflow/StackFlowUtil.cpp; the rules were fuzzed against it.
"""

from __future__ import annotations

import binascii
import re

from .mishaps import BadInput, UnitCrash

_BRACE = re.compile(rb"[{}]")
_ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|([\s\S])|\Z)")
_NAMED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"u": b"\\u"}
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_NUMBER = re.compile(rb"\s*([+-]?\d+)")
_HIGH_SURROGATES = range(0xD800, 0xDC00)


def extract(text: bytes, key: str) -> bytes:
    """Return what follows the first `"key"` anywhere in `text`; b"" if there is nothing whole.

    sample_json_str_get: strings come without quotes and with their escapes, objects by counting
    braces, anything else up to the next comma or closing brace.
    """
    at = text.find(b'"' + key.encode() + b'"')
    if at < 0:
        return b""
    at += len(key) + 2
    taken = bytearray()
    open_ = False
    while at < len(text):
        byte = text[at : at + 1]
        at += 1
        if byte == b'"':
            return _rest_of_string(text, at, bytes(taken), open_)
        if byte == b"{":
            return _rest_of_object(text, at, bytes(taken))
        if byte == b":":
            open_ = True
        elif byte in (b",", b"}"):
            return bytes(taken)
        elif byte != b" " and open_:
            taken += byte
    return b"" if open_ else bytes(taken)


def _rest_of_string(text: bytes, start: int, taken: bytes, open_: bool) -> bytes:
    end = text.find(b'"', start)
    while end >= 0 and text[end - 1 : end] == b"\\":  # also after `\\`: the end is then missed
        end = text.find(b'"', end + 1)
    if end < 0:
        return b"" if open_ else taken + text[start:]
    return taken + text[start:end]


def _rest_of_object(text: bytes, start: int, taken: bytes) -> bytes:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == b"{" else -1
        if depth == 0:
            return taken + b"{" + text[start : brace.end()]
    return b""


def unescape(text: bytes) -> bytes:
    r"""Undo JSON's escapes the way units do; the result may be invalid UTF-8.

    sample_unescapeString: surrogate pairs are not joined, `\f` is the letter f. Raises UnitCrash for
    a backslash at the very end, where the original reads past it.
    """
    return _ESCAPE.sub(_unescaped, text) if b"\\" in text else text


def _unescaped(escape: re.Match[bytes]) -> bytes:
    digits, other = escape.groups()
    if digits:
        code = int(digits, 16)
        if code in _HIGH_SURROGATES:
            return b"\\u" + bytes(digits)
        return chr(code).encode("utf-8", "surrogatepass")
    if other is None:
        raise UnitCrash("a backslash ends the text")
    return _NAMED.get(other, bytes(other))


def decode_base64(text: bytes) -> bytes:
    """Decode as decode_base64 does: up to the first `=`.

    Raises BadInput -23 for a foreign byte and UnitCrash where padding is missing.
    """
    digits = text.split(b"=", 1)[0]
    if _NOT_BASE64.search(digits):
        raise BadInput(-23, "Base64 decoding error.")
    missing = -len(digits) % 4
    if missing == 3 or len(text) < len(digits) + missing:
        raise UnitCrash("base64 without padding")
    return binascii.a2b_base64(digits + b"=" * missing)


def stoi(text: bytes) -> int | None:
    """Return the number `text` begins with, as C's stoi reads it; None where that throws."""
    found = _NUMBER.match(text)
    number = int(found.group(1)) if found else None
    return number if number is not None and -(2**31) <= number < 2**31 else None


class StreamMap:
    """Parts of streamed input, by index. One per unit process, shared by all its tasks and clients.

    Source: decode_stream; the map is a static variable there, so leftovers reach the next stream.
    """

    def __init__(self) -> None:
        self._parts: dict[int, bytes] = {}

    def add(self, data: bytes) -> bytes | None:
        """Keep one part; return the joined text when it is the last. Raises BadInput -25."""
        index = stoi(extract(data, "index"))
        if index is None:
            self._fail()
        else:
            self._parts[index] = extract(data, "delta")
        if b"f" in extract(data, "finish"):
            return None
        if any(number not in self._parts for number in range(len(self._parts))):
            self._fail()
        whole = b"".join(self._parts[number] for number in range(len(self._parts)))
        self._parts.clear()
        return whole

    def _fail(self) -> None:
        self._parts.clear()
        raise BadInput(-25, "Stream data index error.")
