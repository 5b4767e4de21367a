"""A real small language model on the CPU: SmolLM2-135M-Instruct through llama.cpp (xllamacpp).

Nothing is imported, read or hashed before the first setup asks for the model.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from simulator.mishaps import LoadFailed
from simulator.models import Model

from .base import Sampling
from .llama import SLOTS, Server

_LOGGER = logging.getLogger(__name__)
SMOLLM2 = Model(
    mode="smollm2-135m-cpu",
    unit="llm",
    prefill=1024,
    kv=2047,
    layers=30,
    cmm_size=98304,
    rate=40.0,
    engine="cpu",
    extra={
        "compile_flage": "xllamacpp --kv_cache_len 2047 --prefill_len 1024",
        "description": "SmolLM2-135M-Instruct (Q4_1) computed on this machine's CPU, not on an NPU. "
        "A very small model: good for trying things out, not for answers to rely on.",
    },
)


class CpuEngine:
    """One server for all tasks; in memory only while a task uses it."""

    artificial = False

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._users = 0

    async def load(self, _model: Model) -> CpuModel:
        """Return the model, loaded in a thread. Raises LoadFailed."""
        self._threads = self._threads or ThreadPoolExecutor(2 * SLOTS + 2, "cpu-engine")
        self._users += 1
        try:
            server = await asyncio.get_running_loop().run_in_executor(self._threads, self._open)
        except BaseException as err:
            self.release()
            if isinstance(err, LoadFailed) or not isinstance(err, Exception):
                raise
            raise LoadFailed(repr(err)) from err
        return CpuModel(self, server, self._threads)

    def _open(self) -> Server:
        with self._lock:
            self._server = self._server or Server()
            return self._server

    def release(self) -> None:
        """One task less; the last one takes the model out of memory."""
        self._users -= 1
        if not self._users and self._threads:
            self._threads.submit(self._drop)

    def _drop(self) -> None:
        with self._lock:
            if not self._users and self._server:
                self._server.close()
                self._server = None

    async def aclose(self) -> None:
        """Wait for the threads; their work has been stopped by the tasks' end."""
        if self._threads:
            await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)


class CpuModel:
    """One task's share of the server."""

    def __init__(self, engine: CpuEngine, server: Server, threads: ThreadPoolExecutor) -> None:
        self._engine: CpuEngine | None = engine
        self._server, self._threads = server, threads

    async def count(self, prompt: str) -> int:
        """Return the prompt's true length."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._server.count, prompt)

    def generate(self, prompt: str, _text: str, sampling: Sampling, room: int) -> CpuGeneration:
        """Begin to compute."""
        request = {
            "prompt": prompt,
            "n_predict": room,
            "stream": True,
            "return_progress": True,
            "timings_per_token": True,
            **_sampler(sampling),
        }
        return CpuGeneration(self._server, request, self._threads)

    def close(self) -> None:
        """Give the model back; a second call does nothing."""
        if self._engine:
            self._engine.release()
            self._engine = None


def _sampler(sampling: Sampling) -> dict[str, Any]:
    """Return llama.cpp's settings for the unit's, as main_llm/src/runner/LLMPostprocess.hpp reads them.

    Top p wins over top k; with neither the likeliest token is taken, whatever the temperature.
    """
    options: dict[str, Any] = {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}
    if sampling.enable_repetition_penalty:
        options["repeat_penalty"] = sampling.repetition_penalty
        options["repeat_last_n"] = sampling.penalty_window
    if not (sampling.enable_top_p_sampling or sampling.enable_top_k_sampling):
        return options
    options["temperature"] = (sampling.temperature or 0.01) if sampling.enable_temperature else 1.0
    if sampling.enable_top_p_sampling:
        return {**options, "top_k": 0, "top_p": sampling.top_p}
    return {**options, "top_k": max(1, sampling.top_k)}


class CpuGeneration:
    """One answer, computed in a thread."""

    def __init__(self, server: Server, request: dict[str, Any], threads: ThreadPoolExecutor) -> None:
        self._loop = asyncio.get_running_loop()
        self._tokens: list[bytes] = []
        self._counted = 0
        self._ended = False
        self._stop = threading.Event()
        self._changed = asyncio.Event()
        threads.submit(self._run, server, request)

    def _run(self, server: Server, request: dict[str, Any]) -> None:
        try:
            if not self._stop.is_set():
                server.complete(request, self._on_chunk)
        except Exception:
            _LOGGER.exception("llama.cpp failed")
        self._tell([], ended=True)

    def _on_chunk(self, chunk: dict[str, Any]) -> bool:
        """Take a part; it is one token, or several if only together they are whole characters."""
        if "choices" not in chunk:
            _LOGGER.error("llama.cpp: %s", chunk)
            return True
        text = chunk["choices"][0].get("text", "")
        if text:
            counted = chunk.get("timings", {}).get("predicted_n", self._counted + 1)
            self._tell([b""] * (counted - self._counted - 1) + [text.encode()], ended=False)
            self._counted = counted
        return self._stop.is_set()

    def _tell(self, tokens: list[bytes], ended: bool) -> None:
        try:
            self._loop.call_soon_threadsafe(self._take_in, tokens, ended)
        except RuntimeError:  # the loop is closed: nobody is interested any more
            self._stop.set()

    def _take_in(self, tokens: list[bytes], ended: bool) -> None:
        self._tokens += tokens
        self._ended |= ended
        self._changed.set()

    async def take(self, count: int) -> list[bytes]:
        """Return the next tokens as they are computed."""
        while len(self._tokens) < count and not self._ended and not self._stop.is_set():
            self._changed.clear()
            await self._changed.wait()
        part, self._tokens = self._tokens[:count], self._tokens[count:]
        return part

    def stop(self) -> None:
        """Abort; the thread notices at its next token or batch."""
        self._stop.set()
        self._changed.set()

    def delay(self, _seconds: float) -> None:
        """A real computation is not paced."""
