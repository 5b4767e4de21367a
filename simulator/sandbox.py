"""The folder that stands for the module's disk, and its files in sys.pull's form."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .mishaps import GatewayCrash

FRAME = 1024  # base64 characters in one streamed part


def in_sandbox(root: str | None, path: str) -> Path | None:
    """Return the file that an absolute module path stands for; None if it leads outside.

    Without a `root` the disk is empty.
    """
    if not path.startswith("/"):
        return None
    folder = Path(root or os.devnull).resolve()
    try:
        file = (folder / path.lstrip("/")).resolve()
    except (OSError, ValueError):
        return None
    return file if file.is_relative_to(folder) else None


def pieces(content: bytes, *, streamed: bool) -> Iterator[Any]:
    """Yield the data of the replies that carry `content`. Raises GatewayCrash for an empty file."""
    if not content:
        raise GatewayCrash("pull of an empty file underflows the base64 encoder")
    text = base64.b64encode(content).decode()
    if not streamed:
        yield text
        return
    for index, at in enumerate(range(0, len(text), FRAME)):
        yield {"delta": text[at : at + FRAME], "finish": False, "index": index}
    yield {"delta": "", "finish": True, "index": -(-len(text) // FRAME)}
