"""The app in process, before a catalog and a backend that follow a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from api.app import create_app
from backends.base import ChatEvent, ChatRequest, Done, Started, TextDelta, Timings, Usage
from catalog.models import ModelInfo, ModuleStatus, Status
from config import Config
from errors import CapabilityMismatch, ModelNotFound, ModelPathNotFound

Client = TestClient[web.Request, web.Application]
Step = ChatEvent | Exception | asyncio.Event
StartClient = Callable[..., Awaitable[Client]]

STARTED = Started("bench", Timings(queue=0.012, load=1.5, first_token=0.25), {"context": "dropped=3"})
DONE = Done("stop", Usage(prompt_tokens=7, completion_tokens=2))
HELLO: Sequence[Step] = (STARTED, TextDelta("Hel"), TextDelta("lo"), DONE)


class ScriptedBackend:
    """Plays `steps`: events are yielded, exceptions raised, asyncio events awaited."""

    def __init__(self) -> None:
        self.steps: Sequence[Step] = HELLO
        self.asked: list[ChatRequest] = []
        self.left = asyncio.Event()  # the last block was left

    @asynccontextmanager
    async def complete(self, chat: ChatRequest) -> AsyncIterator[AsyncIterator[ChatEvent]]:
        self.asked.append(chat)
        events = self._play()
        try:
            yield events
        finally:
            await events.aclose()  # a RuntimeError here: someone still runs the iterator
            self.left.set()

    async def _play(self) -> AsyncGenerator[ChatEvent, None]:
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                yield step


class ScriptedCatalog:
    """Knows the chat model ``qwen``, its alias ``team/qwen:small``, and a ``voice`` that cannot chat."""

    def __init__(self, backend: ScriptedBackend) -> None:
        self._backend = backend
        self._models = [
            ModelInfo("qwen", "qwen", 1700000000, capabilities=("chat", "completion"), context_window=128),
            ModelInfo("team/qwen:small", "qwen", 1700000000, capabilities=("chat", "completion")),
            ModelInfo("voice", "voice", 1700000001, capabilities=("text-to-speech",), ready=False),
        ]
        self.state = Status(True, (ModuleStatus("bench", "tcp://bench:10001", False, True),), (), 3, 3)

    def chat(self, model: str) -> ScriptedBackend:
        for info in self._models:
            if info.id == model:
                if "chat" not in info.capabilities:
                    raise CapabilityMismatch(model, "text generation")
                return self._backend
        raise ModelNotFound(model)

    async def settled(self) -> None:
        return

    def models(self) -> Sequence[ModelInfo]:
        return self._models

    def model(self, name: str) -> ModelInfo:
        for info in self._models:
            if info.id == name:
                return info
        raise ModelPathNotFound(name)

    def status(self) -> Status:
        return self.state


@pytest.fixture
async def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
async def catalog(backend: ScriptedBackend) -> ScriptedCatalog:
    return ScriptedCatalog(backend)


@pytest.fixture
async def start(catalog: ScriptedCatalog) -> AsyncIterator[StartClient]:
    """Start the app with settings of the test's choice; TestServer turns handler_cancellation on itself."""
    clients: list[Client] = []

    async def start_client(**settings: Any) -> Client:
        client: Client = TestClient(TestServer(create_app(Config(**settings), catalog)))
        clients.append(client)
        await client.start_server()
        return client

    yield start_client
    for client in clients:
        await client.close()


@pytest.fixture
async def client(start: StartClient) -> Client:
    return await start()


async def shut_down(client: Client) -> None:
    """Do to the app what stopping the server does first."""
    server = client.server
    assert isinstance(server, TestServer)
    await server.app.shutdown()


def chat_body(**fields: Any) -> dict[str, Any]:
    """Return the body of a small chat request."""
    return {"model": "qwen", "messages": [{"role": "user", "content": "Hi"}], **fields}


def events_of(body: str) -> list[Any]:
    """Return the parsed `data:` events of a stream, the end as ``[DONE]``."""
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
