"""The floor: what copying frames into SSE chunks costs at least, with aiohttp and the standard json module.

One model, no errors, no queue, no cancelling, no limits, and the module's sessions opened beforehand. Started
as `python relay.py MODULE_PORT PORT SESSIONS MODEL`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from typing import Any

from aiohttp import web

Session = tuple[asyncio.StreamReader, asyncio.StreamWriter, str]

idle: list[Session] = []
numbers = itertools.count(1)


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer one streamed chat completion."""
    body = await request.json()
    reader, writer, work_id = session = idle.pop()
    send(writer, work_id, "inference", "llm.utf-8", body["messages"][-1]["content"])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    head = {"id": f"c{next(numbers)}", "object": "chat.completion.chunk", "created": int(time.time())}
    async for line in reader:
        data = json.loads(line)["data"]
        choice = {"index": 0, "delta": {"content": data["delta"]}, "finish_reason": None}
        chunk = {**head, "model": body["model"], "choices": [choice]}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        if data["finish"]:
            break
    await response.write(b"data: [DONE]\n\n")
    idle.append(session)
    return response


def send(writer: asyncio.StreamWriter, work_id: str, action: str, tag: str, data: Any) -> None:
    """Write one message to the module."""
    message = {
        "request_id": f"b{next(numbers)}",
        "work_id": work_id,
        "action": action,
        "object": tag,
        "data": data,
    }
    writer.write(json.dumps(message).encode() + b"\n")


async def open_session(port: int, model: str) -> Session:
    """Set up one task on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    setup = {"model": model, "response_format": "llm.utf-8.stream", "input": "llm.utf-8", "enoutput": True}
    send(
        writer,
        "llm",
        "setup",
        "llm.setup",
        {**setup, "max_token_len": 1023, "prompt": "You are a helpful assistant."},
    )
    return reader, writer, json.loads(await reader.readline())["work_id"]


async def create_app(module_port: int, sessions: int, model: str) -> web.Application:
    """Open the sessions, then serve."""
    idle.extend([await open_session(module_port, model) for _ in range(sessions)])
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    return app


if __name__ == "__main__":
    made = create_app(int(sys.argv[1]), int(sys.argv[3]), sys.argv[4])
    web.run_app(made, host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=lambda *_: None)
