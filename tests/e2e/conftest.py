"""The server started as users start it, beside a simulated module whose inside the tests can see."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import pytest

ROOT = Path(__file__).parents[2]
MODEL = "qwen2.5-0.5B-p256-ax630c"
STARTED = 20.0  # seconds a process may take to answer; these machines are slow and shared


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Module:
    """A simulator process and its control channel."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any]) -> None:
        self.process = process
        self.url = str(ready["tcp"])
        self._sock = socket.create_connection(("127.0.0.1", ready["control"]), timeout=20)
        self._lines = self._sock.makefile("rb")

    def call(self, method: str, **params: Any) -> Any:
        """Give one order and return its result."""
        self._sock.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
        answer = json.loads(self._lines.readline())
        assert "error" not in answer, answer
        return answer["result"]

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks that hold memory now, by work_id."""
        return cast(dict[str, Any], self.call("state")["tasks"])

    def close(self) -> None:
        """End the process."""
        self._lines.close()
        self._sock.close()
        self.process.terminate()
        self.process.wait(10)
        cast(IO[bytes], self.process.stdout).close()


class Server:
    """A server process on a port of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def get(self, path: str) -> Any:
        """Return the JSON answer of a GET, whatever its status."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=STARTED) as answer:  # noqa: S310 - our own URL
                return json.load(answer)
        except urllib.error.HTTPError as err:
            with err:
                return json.load(err)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


@contextmanager
def simulated_module(*arguments: str, port: int = 0) -> Iterator[Module]:
    """Run a scripted module, a hundred times faster than a real one."""
    command = [sys.executable, "-m", "simulator", "--engine", "script", "--control", "0", "--port", str(port)]
    fast = [] if "--time-scale" in arguments else ["--time-scale", "0.01"]
    process = subprocess.Popen([*command, *fast, *arguments], cwd=ROOT, stdout=subprocess.PIPE)
    module = Module(process, json.loads(cast(IO[bytes], process.stdout).readline()))
    try:
        yield module
    finally:
        module.close()


@contextmanager
def running_server(folder: Path, *arguments: str, wait: bool = True, **environ: str) -> Iterator[Server]:
    """Start ``python api_server.py`` with its state in `folder`; at the end it is killed if it still runs."""
    port = free_port()
    command = [sys.executable, "api_server.py", "--port", str(port), "--host", "127.0.0.1"]
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--state-dir", str(folder / "state"), *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environ},
        )
        server = Server(process, port, log)
        try:
            if wait:
                until_it_answers(server)
            yield server
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(10)


def until_it_answers(server: Server) -> None:
    """Wait for /health. There is no event across processes to wait for instead of asking again."""
    ends = time.monotonic() + STARTED
    while True:
        assert server.process.poll() is None, server.log.read_text()
        try:
            server.get("/health/live")
        except OSError:
            assert time.monotonic() < ends, server.log.read_text()
            time.sleep(0.02)
        else:
            return


def gone(pid: int, patience: float = 10.0) -> bool:
    """Return whether a process that is not our child has ended in time."""
    ends = time.monotonic() + patience
    while time.monotonic() < ends:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # ended; whoever inherited it has not looked yet
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def module() -> Iterator[Module]:
    with simulated_module() as simulated:
        yield simulated


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration that leaves the network alone."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"mdns: {{advertise: false, find: false}}\nshutdown_grace: 0.5\naliases: {{qwen-0.5b: {MODEL}}}\n"
    )
    return path


@pytest.fixture
def server(module: Module, tmp_path: Path, config_file: Path) -> Iterator[Server]:
    with running_server(tmp_path, "--config", str(config_file), "--module", module.url) as running:
        yield running
