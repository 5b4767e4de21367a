"""What starts, what stops, and what is left: signals, hang-ups, crashes, seen from the module's side."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MODEL, Module, Server, gone, running_server, simulated_module


def ask(server: Server, text: str, *, stream: bool) -> socket.socket:
    """Send a chat request on a raw socket and leave it open."""
    body = json.dumps(
        {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": text}]}
    ).encode()
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_stops_the_generation_on_the_module(
    module: Module, server: Server, stream: bool
) -> None:
    sock = ask(server, "@frames=300", stream=stream)
    module.call("until", kind="inference", timeout=20)
    if stream:
        assert b"w0" in sock.recv(65536) + sock.recv(65536)
    sock.close()
    stopped = module.call("until", kind="stopped", timeout=10)
    assert module.call("until", kind="pause", work_id=stopped["work_id"])
    with ask(server, "@echo still here", stream=False) as again:
        assert b"still here" in again.recv(65536)
    assert list(module.tasks) == [stopped["work_id"]]  # the same session serves the next one


def test_sigterm_ends_a_running_stream_with_an_error_and_leaves_nothing_on_the_module(
    module: Module, server: Server
) -> None:
    sock = ask(server, "@frames=340", stream=True)
    module.call("until", kind="inference", timeout=20)
    server.process.send_signal(signal.SIGTERM)
    received = b""
    while data := sock.recv(65536):
        received += data
    sock.close()
    assert server.stop() == 0
    assert b'"error"' in received or b"[DONE]" in received
    assert module.tasks == {}


def test_after_kill_9_the_next_start_exits_what_was_left(
    module: Module, tmp_path: Path, config_file: Path
) -> None:
    arguments = ("--config", str(config_file), "--module", module.url)
    with running_server(tmp_path, *arguments) as first:
        with ask(first, "@echo hello", stream=False) as sock:
            assert b"hello" in sock.recv(65536)
        first.stop(signal.SIGKILL)
    orphans = set(module.tasks)
    assert len(orphans) == 1
    with running_server(tmp_path, *arguments) as second:
        second.get("/v1/models")  # answers once the module has been greeted
        assert module.tasks == {}
        assert "came back" in second.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_simulator_never_outlives_the_server(tmp_path: Path, config_file: Path, number: int) -> None:
    with running_server(tmp_path, "--config", str(config_file), "--module", "simulator") as server:
        assert server.get("/v1/models")["data"]
        (child,) = server.children()
        server.stop(number)
        assert gone(child)


def test_the_simulator_is_started_again_when_it_dies(tmp_path: Path, config_file: Path) -> None:
    with running_server(tmp_path, "--config", str(config_file), "--module", "simulator") as server:
        assert server.get("/v1/models")["data"]
        (child,) = server.children()
        signal_process(child)
        assert gone(child)
        ends = time.monotonic() + 15
        while not (server.children() and server.get("/health")["status"] == "healthy"):
            assert time.monotonic() < ends, server.log.read_text()
            time.sleep(0.05)


def signal_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_health_answers_before_the_module_does(tmp_path: Path, config_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts and never says a word
        url = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with running_server(tmp_path, "--config", str(config_file), "--module", url) as server:
            assert server.get("/health/live")


def test_a_module_that_comes_later_is_found_without_a_restart(tmp_path: Path, config_file: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("--config", str(config_file), "--module", f"tcp://127.0.0.1:{port}")
    with running_server(tmp_path, *arguments) as server, simulated_module(port=port):
        ends = time.monotonic() + 15
        while True:
            with ask(server, "@echo found", stream=False) as sock:
                answer = sock.recv(65536)
            if b"found" in answer:
                break
            assert b"503" in answer.split(b"\r\n", 1)[0], answer
            assert time.monotonic() < ends
            time.sleep(0.1)


def test_a_wrong_configuration_names_every_mistake_and_exits_2(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("listen: [0]\nqueue: {size: none}\nmodul: auto\n")
    with running_server(tmp_path, "--config", str(path), wait=False) as server:
        assert server.process.wait(20) == 2
        said = server.log.read_text()
    assert "queue.size" in said
    assert "modul: no such setting; did you mean module?" in said


def test_a_taken_port_is_a_sentence_and_exit_1(module: Module, server: Server, tmp_path: Path) -> None:
    arguments = ("--port", str(server.port), "--module", module.url)
    with running_server(tmp_path, *arguments, wait=False) as second:
        assert second.process.wait(20) == 1
        assert "cannot listen on" in second.log.read_text()
        assert "Traceback" not in second.log.read_text()
