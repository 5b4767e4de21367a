"""The processes that are measured, started as users start them, and surely ended."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.bench.answer import MODEL, BenchError

ROOT = Path(__file__).parents[2]
SESSIONS = 64
MOST_TOKENS = 1_000_000
READY = 30.0  # seconds a process has to come up
END = 15.0  # seconds between SIGTERM and SIGKILL
SIMULATOR = (
    *("-m", "simulator", "--lifeline", "--engine", "script", "--limits", f"llm={SESSIONS}", "--no-kv-limit"),
    *("--cmm-kib", "268435456", "--rate", "150", "--ttft-ms", "20", "--load-s", "0"),
)
CONFIG = f"""\
host: 127.0.0.1
unit_limits: {{llm: {SESSIONS}}}
queue: {{size: 1000}}
keep_alive: -1
models:
  "*": {{max_tokens: {MOST_TOKENS}, pool_size: {SESSIONS}, system_prompt: You are a helpful assistant.}}
"""
NO_MDNS = "mdns: {advertise: false, find: false}\n"


@dataclass(frozen=True, slots=True)
class Running:
    """A process and the port it listens on."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """An answer to wait for."""

    path: str
    statuses: tuple[int, ...]


CONNECTED = Wanted("/health", (200,))


def free_port() -> int:
    """Return a port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def config_file(folder: Path, *, mdns: bool = False) -> Path:
    """Write the server's settings for a module of 64 tasks."""
    path = folder / "config.yaml"
    path.write_text(CONFIG + ("" if mdns else NO_MDNS), encoding="utf-8")
    return path


def server_command(python: str, folder: Path, port: int, module: str, *, mdns: bool = False) -> list[str]:
    """Return the command line that starts the server."""
    config = config_file(folder, mdns=mdns)
    where = ["--port", str(port), "--module", module, "--state-dir", str(folder / "state")]
    return [python, str(ROOT / "api_server.py"), "--config", str(config), *where]


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` for as long as the block lasts; stderr goes to `log`."""
    with log.open("wb") as errors:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for what does not obey."""
    child.terminate()
    try:
        child.wait(END)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


@contextmanager
def simulator(folder: Path, port: int = 0) -> Iterator[Running]:
    """Run a simulated module with 64 places that sends a frame per 20 ms and stream."""
    log = folder / "simulator.log"
    with process([sys.executable, *SIMULATOR, "--port", str(port)], log) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise BenchError(f"the simulator did not start: {last_line(log)}")
        yield Running(child.pid, int(json.loads(line)["tcp"].rpartition(":")[2]))


@contextmanager
def server(
    folder: Path, module: str, *, python: str = sys.executable, wrapper: tuple[str, ...] = ()
) -> Iterator[Running]:
    """Run the server and wait until it is connected to its module. `wrapper` goes before api_server.py."""
    port, log = free_port(), folder / "server.log"
    first, *rest = server_command(python, folder, port, module)
    with process([first, *wrapper, *rest], log) as child:
        wait_for_http(child, port, log, CONNECTED)
        yield Running(child.pid, port)


@contextmanager
def relay(folder: Path, module_port: int) -> Iterator[Running]:
    """Run the bare relay with all its sessions warm."""
    port, log = free_port(), folder / "relay.log"
    arguments = [str(module_port), str(port), str(SESSIONS), MODEL]
    with process([sys.executable, str(Path(__file__).with_name("relay.py")), *arguments], log) as child:
        wait_for_http(child, port, log, Wanted("/", (404,)))
        yield Running(child.pid, port)


def wait_for_http(
    child: subprocess.Popen[bytes], port: int, log: Path, wanted: Wanted, pause: float = 0.05
) -> None:
    """Ask until the answer is one of `wanted`. Raises BenchError."""
    ends = time.monotonic() + READY
    while time.monotonic() < ends:
        if child.poll() is not None:
            raise BenchError(f"it ended: {last_line(log)}")
        if http_get(port, wanted.path)[0] in wanted.statuses:
            return
        time.sleep(pause)
    raise BenchError(f"{wanted.path} was not answered as expected within {READY:g} s: {last_line(log)}")


def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET, (0, b"") when nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()


def last_line(log: Path) -> str:
    """Return the last thing a process said."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


@contextmanager
def folder() -> Iterator[Path]:
    """Provide a folder of one's own for logs and state."""
    with tempfile.TemporaryDirectory(prefix="stackflow-bench-") as name:
        yield Path(name)
