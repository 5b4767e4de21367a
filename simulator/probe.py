"""A bare client for testing the simulator itself: it sends what it is told and guards against nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import TracebackType
from typing import Any

PATIENCE_S = 5.0
SETUP = {
    "model": "qwen2.5-0.5B-p256-ax630c",
    "response_format": "llm.utf-8.stream",
    "input": "llm.utf-8",
    "enoutput": True,
    "prompt": "You are",
}


class Probe:
    """One TCP connection to a module. Use it as `async with Probe(sim.url) as probe`."""

    def __init__(self, url: str) -> None:
        self._host, _, self._port = url.removeprefix("tcp://").rpartition(":")
        self._ids = itertools.count(1)
        self._text = ""

    async def __aenter__(self) -> Probe:  # noqa: PYI034 - Self needs 3.11
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def raw(self, data: bytes) -> None:
        """Send bytes in one write."""
        self._writer.write(data)
        await self._writer.drain()

    async def say(self, work_id: str, action: str, object_: str = "None", data: Any = "None") -> str:
        """Send one request; return its request_id."""
        request_id = f"p{next(self._ids)}"
        message = {"request_id": request_id, "work_id": work_id, "action": action}
        if object_ != "None":
            message |= {"object": object_, "data": data}
        await self.raw(b"\n" + json.dumps(message, ensure_ascii=False).encode() + b"\n")
        return request_id

    async def call(self, work_id: str, action: str, object_: str = "None", data: Any = "None") -> Any:
        """Send one request; return the next reply."""
        await self.say(work_id, action, object_, data)
        return await self.read()

    async def setup(self, **fields: Any) -> str:
        """Set an llm task up; return its work_id."""
        reply = await self.call("llm", "setup", "llm.setup", {**SETUP, **fields})
        if reply["error"]["code"]:
            raise AssertionError(reply)
        return str(reply["work_id"])

    async def infer(self, work_id: str, text: str) -> str:
        """Send one text; return its request_id."""
        return await self.say(work_id, "inference", "llm.utf-8", text)

    async def read(self, timeout: float = PATIENCE_S) -> Any:
        """Return the next JSON object, wherever lines end. Raises TimeoutError, ConnectionError."""
        while True:
            self._text = self._text.lstrip()
            try:
                value, end = json.JSONDecoder().raw_decode(self._text)
            except ValueError:
                self._text += await self._more(timeout)
                continue
            self._text = self._text[end:]
            return value

    async def _more(self, timeout: float) -> str:
        try:
            data = await asyncio.wait_for(self._reader.read(65536), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"nothing more after {self._text!r}") from None
        if not data:
            raise ConnectionError("the module hung up")
        return data.decode()

    async def answer(self) -> tuple[list[str], Any]:
        """Return the deltas of a whole streamed answer and its last frame."""
        deltas = []
        while True:
            frame = await self.read()
            deltas.append(frame["data"]["delta"])
            if frame["data"]["finish"]:
                return deltas, frame

    async def quiet(self, seconds: float = 0.15) -> bool:
        """Return whether nothing arrives for so long."""
        try:
            await self.read(seconds)
        except TimeoutError:
            return True
        return False
