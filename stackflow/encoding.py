r"""Safe text for the module's parsers: any Python string, written so that every reader on the way agrees.

The gateway counts braces inside strings, the units find a string's end by looking at one byte before the
quote and decode escapes by hand. Rules 2.8 of the protocol reference avoid all of it: braces, backslashes,
quotes and controls as ``\u00XX``, everything else as raw UTF-8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

Value = str | int | float | bool | Sequence["Value"] | Mapping[str, "Value"]

_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(1, 0x20), 0x7F, *map(ord, '{}\\"'))}
_ESCAPES[0] = ""  # "NUL cuts the rest of that delta" (stackflow-observed, LLM unit)
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return `text` as a unit will see it: without NUL, lone surrogates replaced by U+FFFD."""
    if not text.isascii():
        text = _LONE_SURROGATES.sub("\ufffd", text)
    return text.replace("\0", "")


def quoted(text: str) -> str:
    """Return `text` as a JSON string literal that framer, extraction and unescaping all read alike."""
    return f'"{clean(text).translate(_ESCAPES)}"'


def encoded(value: Value) -> str:
    """Return `value` as compact JSON, strings and keys by `quoted`.

    Raises ValueError for NaN and infinity.
    """
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not JSON")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{quoted(key)}:{encoded(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(encoded(item) for item in value) + "]"
