"""The lines llm_sys and the units write, and what llm_sys checks before it passes one on."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

RAW_RESET = '{"request_id": "0","work_id": "sys","created": %d,"error":{"code":%d, "message":"%s"}}'
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+)', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")
_FIELDS = ("request_id", "work_id", "action")


def now() -> int:
    """Return the module's clock: seconds since 1970, possibly wrong (it has no RTC)."""
    return int(time.time())


def compact(value: Any) -> str:
    """Return `value` as the module's JSON: compact, keys sorted, non-ASCII raw."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def reply(
    request_id: str,
    work_id: str,
    object_: str = "None",
    data: Any = "None",
    *,
    code: int = 0,
    message: str = "",
) -> bytes:
    """Return one whole line; with the defaults, an acknowledgement."""
    body = {
        "created": now(),
        "data": data,
        "error": {"code": code, "message": message},
        "object": object_,
        "request_id": request_id,
        "work_id": work_id,
    }
    return encode(compact(body) + "\n")


def framer_line(code: int, message: str) -> bytes:
    """Return a line in the framer's own form: other spaces, no `object`, no newline."""
    return (RAW_RESET % (now(), code, message)).encode()


def encode(text: str) -> bytes:
    """Return UTF-8; bytes that were smuggled in by surrogateescape come out unchanged."""
    return text.encode("utf-8", "surrogateescape")


class ResultLine:
    """Renders the results of one inference target; the constant parts are made once."""

    def __init__(self, object_: str, request_id: str, work_id: str) -> None:
        ending = compact({"error": {"code": 0, "message": ""}, "object": object_})[1:-1]
        self._tail = f",{ending}," + compact({"request_id": request_id, "work_id": work_id})[1:] + "\n"

    def delta(self, text: str, index: int, finish: bool) -> bytes:
        """Return one streamed part. A NUL cuts the rest of it, as in the unit's C strings."""
        quoted = json.dumps(text.partition("\0")[0], ensure_ascii=False)
        end = "true" if finish else "false"
        head = f'{{"created":{now()},"data":{{"delta":{quoted},"finish":{end},"index":{index}}}'
        return encode(head + self._tail)

    def whole(self, data: Any) -> bytes:
        """Return a result that is not streamed."""
        return encode(f'{{"created":{now()},"data":{compact(data)}{self._tail}')


@dataclass(frozen=True)
class Request:
    """What llm_sys itself reads of a message."""

    request_id: str
    work_id: str
    action: str
    raw: bytes

    @property
    def unit(self) -> str:
        """The first dotted part of the work_id."""
        return self.work_id.partition(".")[0]


def check(raw: bytes) -> Request | None:
    """Return the message's address, or None where llm_sys answers -2.

    simdjson on demand: UTF-8 and strings are checked everywhere, the three fields must be strings,
    other syntax is nobody's business until a sys action parses all of it.
    """
    try:
        text = raw.decode()
        fields = json.loads(text)
    except UnicodeDecodeError:
        return None
    except ValueError:
        fields = _top_level_strings(text)
    values = [fields.get(name) for name in _FIELDS] if isinstance(fields, dict) else [None]
    if not all(isinstance(value, str) for value in values):
        return None
    return Request(str(values[0]), str(values[1]), str(values[2]), raw)


def _top_level_strings(text: str) -> dict[str, Any]:
    """Return the top-level members before the first syntax error; {} if a string is broken."""
    tokens = _tokens(text)
    members: dict[str, Any] = {}
    at = 1
    while at + 2 < len(tokens) and tokens[at].startswith('"') and tokens[at + 1] == ":":
        members.setdefault(_string(tokens[at]) or "", _string(tokens[at + 2]))
        at = _after_value(tokens, at + 2)
        if at >= len(tokens) or tokens[at] != ",":
            break
        at += 1
    return members


def _string(token: str) -> str | None:
    try:
        value = json.loads(token)
    except ValueError:  # an unknown escape hurts only whoever reads this string
        return None
    return value if isinstance(value, str) else None


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    while found := _TOKEN.match(text, at):
        token = found.group(1)
        if token.startswith('"') and _CONTROL.search(token):
            return []
        tokens.append(token)
        at = found.end()
    return [] if text[at:].strip() else tokens  # what is left is an unclosed string


def _after_value(tokens: list[str], at: int) -> int:
    depth = 0
    while at < len(tokens):
        depth += (tokens[at] in ("{", "[")) - (tokens[at] in ("}", "]"))
        at += 1
        if depth <= 0:
            break
    return at
