"""Bytes that are no request: an answer in our words, nothing of them in the log."""

from __future__ import annotations

import json
import socket

import pytest

from tests.e2e.conftest import MODEL, Server

SECRET = "my secret prompt"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": SECRET}]})
POST = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
MALFORMED = {
    "bad chunk size": f"{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n{BODY}\r\n0\r\n\r\n",
    "length and chunks": f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{BODY}",
    "bad length": f"{POST}Content-Length: many\r\n\r\n{BODY}",
    "length too short": f"{POST}Content-Length: 10\r\n\r\n{BODY}",
    "not HTTP": "\x16\x03\x01 hello\r\n\r\n",
    "unknown version": f"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n{SECRET}",
    "long header": f"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: {SECRET}{'x' * 20_000}\r\n\r\n",
    "not gzip": f"{POST}Content-Encoding: gzip\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}",
}


def answer_to(server: Server, data: str) -> bytes:
    """Return the last answer to raw bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(data.encode())
        received = sock.recv(65536)
        try:
            sock.settimeout(0.3)
            while more := sock.recv(65536):
                received += more
        except OSError:
            pass
    return received


def test_malformed_http_gets_an_error_object_and_leaves_no_words_in_the_log(server: Server) -> None:
    for name, data in MALFORMED.items():
        head, _, body = answer_to(server, data).rpartition(b"\r\n\r\n")
        assert b" 400 " in head.splitlines()[-20:][0] or b" 400 " in head, name
        assert b"x-request-id" in head.lower(), name
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, name
        assert SECRET not in error["message"], name
    assert server.get("/health/live")
    log = server.log.read_text()
    assert SECRET not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("encoding", ["br", "zstd", "nonsense"])
def test_an_encoding_nobody_reads_here_is_no_server_error(server: Server, encoding: str) -> None:
    data = f"{POST}Content-Encoding: {encoding}\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
    status = int(answer_to(server, data).split()[1])
    assert status in (200, 400, 415)
