"""The control channel: every fault by a line of JSON, for benches in another process.

`{"id":1,"method":"kill","params":{"unit":"llm","restart_after":1.0}}` is answered by
`{"id":1,"result":null}` or `{"id":1,"error":"..."}`. Only ever on the loopback address.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
from typing import Any

from .journal import Event
from .simulator import Simulator

METHODS = {
    *("answer", "release", "mute", "stall_stream"),
    *("freeze", "thaw", "kill", "fail_setup", "hang_setup", "late_setup"),
    *("restart_gateway", "drop_connections", "unplug", "plug", "inject"),
    *("lie_about_memory", "hold_memory", "state", "mark", "until"),
}


class Control:
    """Serves the control channel of one simulator."""

    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._server: asyncio.AbstractServer | None = None
        self.port = 0

    async def open(self, port: int) -> None:
        """Listen on 127.0.0.1. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Refuse new callers."""
        if self._server:
            self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sim.world.background(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if line.strip():  # each on its own: `until` may take its time
                    self._sim.world.background(self._answer(line, writer))
        except (OSError, ValueError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        id_: Any = None
        try:
            request = json.loads(line)
            id_ = request.get("id")
            answer = {"id": id_, "result": await self._call(request["method"], request.get("params", {}))}
        except Exception as err:  # noqa: BLE001 - whatever it is, the caller asked for it
            answer = {"id": id_, "error": f"{type(err).__name__}: {err}"}
        writer.write(json.dumps(answer, default=str).encode() + b"\n")

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        if method == "log":
            return [dataclasses.asdict(event) for event in self._sim.log[-int(params.get("last", 1000)) :]]
        if method not in METHODS:
            raise ValueError(f"no method {method!r}; there are log, {', '.join(sorted(METHODS))}")
        if method == "inject":
            params = {"data": str(params["data"]).encode()}
        result = getattr(self._sim, method)(**params)
        if inspect.isawaitable(result):
            result = await result
        return dataclasses.asdict(result) if isinstance(result, Event) else result
