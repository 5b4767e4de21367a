"""What a stream shows while there is nothing to show, and how it ends early."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from aiohttp import web

import api.sse
from api.app import create_app
from backends.base import TextDelta, Waiting
from config import Config
from errors import QueueTimeout
from tests.api.conftest import (
    DONE,
    STARTED,
    ScriptedBackend,
    ScriptedCatalog,
    StartClient,
    chat_body,
    shut_down,
)

CHAT = "/v1/chat/completions"
QUEUED = Waiting(2, "loading", "qwen2.5-0.5B")


async def test_waiting_shows_in_comments_and_times_close_the_stream(
    start: StartClient, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.sse, "COMMENT_EVERY", 0.001)
    turn, loaded = asyncio.Event(), asyncio.Event()
    backend.steps = [
        QUEUED,
        turn,
        Waiting(0, "loading", "qwen2.5-0.5B"),
        loaded,
        STARTED,
        TextDelta("x"),
        DONE,
    ]
    client = await start(sse_commit_after=0.0)
    response = await client.post(CHAT, json=chat_body(stream=True, seed=1))
    assert response.status == 200
    assert response.headers["x-queue-status"] == "queued 2, loading qwen2.5-0.5B"
    assert response.headers["x-stackflow-ignored"] == "seed"
    assert "Server-Timing" not in response.headers
    for _ in range(3):
        assert await response.content.readuntil(b"\n\n") == b": queued 2, loading qwen2.5-0.5B\n\n"
    turn.set()
    while (line := await response.content.readuntil(b"\n\n")) != b": loading qwen2.5-0.5B\n\n":
        assert line == b": queued 2, loading qwen2.5-0.5B\n\n"
    loaded.set()
    rest = (await response.read()).split(b"\n\n")
    rest = [part for part in rest if part != b": loading qwen2.5-0.5B"]
    assert rest[0].startswith(b'data: {"id":"chatcmpl-')
    assert rest[-5:] == [
        b": Server-Timing: queue;dur=12.0, load;dur=1500.0, first_token;dur=250.0",
        b": x-stackflow-module: bench",
        b": x-stackflow-context: dropped=3",
        b"data: [DONE]",
        b"",
    ]


async def test_signs_of_life_come_even_when_the_backend_says_nothing(
    start: StartClient, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.sse, "COMMENT_EVERY", 0.001)
    go, prompt_read = asyncio.Event(), asyncio.Event()
    backend.steps = [go, STARTED, prompt_read, TextDelta("x"), DONE]
    client = await start(sse_commit_after=0.0)
    response = await client.post(CHAT, json=chat_body(stream=True))
    for _ in range(2):
        assert await response.content.readuntil(b"\n\n") == b": waiting\n\n"
    go.set()
    while await response.content.readuntil(b"\n\n") != b": reading the prompt\n\n":
        pass
    prompt_read.set()
    assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def test_failure_after_waiting_is_the_last_event(start: StartClient, backend: ScriptedBackend) -> None:
    go = asyncio.Event()
    backend.steps = [QUEUED, go, QueueTimeout("nothing came free within 120 s")]
    client = await start(sse_commit_after=0.0)
    response = await client.post(CHAT, json=chat_body(stream=True))
    go.set()
    text = await response.text()
    assert text.startswith(": queued 2, loading qwen2.5-0.5B\n\n")
    assert text.endswith(
        'data: {"error":{"message":"nothing came free within 120 s","type":"server_error","param":null,'
        '"code":"queue_timeout"}}\n\n'
    )


async def test_headers_wait_for_the_first_delta(start: StartClient, backend: ScriptedBackend) -> None:
    go = asyncio.Event()
    backend.steps = [QUEUED, go, STARTED, TextDelta("x"), DONE]
    client = await start(sse_commit_after=60.0)
    request = asyncio.ensure_future(client.post(CHAT, json=chat_body(stream=True)))
    while not backend.asked:
        await asyncio.sleep(0)
    go.set()
    response = await request
    assert response.headers["x-queue-status"] == "queued"
    assert response.headers["Server-Timing"].startswith("queue;dur=12.0")
    text = await response.text()
    assert not [line for line in text.split("\n\n") if line.startswith(":")]


async def test_failure_after_a_short_wait_is_a_plain_http_error(
    start: StartClient, backend: ScriptedBackend
) -> None:
    backend.steps = [QUEUED, QueueTimeout("nothing came free within 120 s")]
    client = await start(sse_commit_after=60.0)
    response = await client.post(CHAT, json=chat_body(stream=True))
    assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert (await response.json())["error"]["code"] == "queue_timeout"


@pytest.mark.parametrize("commit_after", [0.0, 60.0])
async def test_hanging_up_while_waiting_leaves_the_backend(
    start: StartClient, backend: ScriptedBackend, commit_after: float
) -> None:
    backend.steps = [QUEUED, asyncio.Event()]
    client = await start(sse_commit_after=commit_after)
    request = asyncio.ensure_future(client.post(CHAT, json=chat_body(stream=True)))
    while not backend.asked:
        await asyncio.sleep(0)
    if commit_after:
        request.cancel()
    else:
        (await request).close()
    await asyncio.wait_for(backend.left.wait(), 5)


async def test_hanging_up_leaves_the_backend_on_the_app_run_as_users_run_it(
    catalog: ScriptedCatalog, backend: ScriptedBackend
) -> None:
    backend.steps = [STARTED, TextDelta("x"), asyncio.Event()]
    runner = web.AppRunner(create_app(Config(), catalog), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        reader, writer = await asyncio.open_connection(host, port)
        body = b'{"model":"qwen","stream":true,"messages":[{"role":"user"}]}'
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        assert not backend.left.is_set()
        writer.close()
        await asyncio.wait_for(backend.left.wait(), 5)
        await writer.wait_closed()
    finally:
        await runner.cleanup()


async def test_client_that_does_not_read_is_dropped(
    start: StartClient, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.sse, "WRITE_DEADLINE", 0.05)
    backend.steps = [STARTED, *(TextDelta("x" * 100_000) for _ in range(200)), asyncio.Event()]
    client = await start()
    with socket.socket() as plug:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plug.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(plug, (client.host, client.port))
        body = b'{"model":"qwen","stream":true,"messages":[{"role":"user"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        await loop.sock_sendall(plug, head + body)
        await asyncio.wait_for(backend.left.wait(), 5)


@pytest.mark.parametrize("stream", [True, False])
async def test_stopping_server_lets_answers_finish_in_time(
    start: StartClient, backend: ScriptedBackend, stream: bool
) -> None:
    go = asyncio.Event()
    backend.steps = [STARTED, TextDelta("x"), go, DONE]
    client = await start(shutdown_grace=10.0)
    request = asyncio.ensure_future(client.post(CHAT, json=chat_body(stream=stream)))
    while not backend.asked:
        await asyncio.sleep(0)
    stop = asyncio.ensure_future(shut_down(client))
    await asyncio.sleep(0)
    go.set()
    await stop
    response = await request
    assert response.status == 200
    await response.read()
    refused = await client.post(CHAT, json=chat_body())
    assert (refused.status, (await refused.json())["error"]["code"]) == (503, "device_unavailable")


async def test_stopping_server_ends_late_answers_with_an_error(
    start: StartClient, backend: ScriptedBackend
) -> None:
    backend.steps = [STARTED, TextDelta("x"), asyncio.Event()]
    client = await start(shutdown_grace=0.01)
    stream = await client.post(CHAT, json=chat_body(stream=True))
    whole = asyncio.ensure_future(client.post(CHAT, json=chat_body()))
    while len(backend.asked) < 2:
        await asyncio.sleep(0)
    began = time.monotonic()
    await shut_down(client)
    assert time.monotonic() - began < 1.5  # both said their last words at once
    assert (await stream.text()).endswith('"code":"device_unavailable"}}\n\n')
    answer = await whole
    assert answer.status == 503
    assert (await answer.json())["error"]["message"] == "The server is shutting down"
