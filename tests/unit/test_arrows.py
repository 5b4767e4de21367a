"""Imports point down the list of rooms in style.md; a look at the syntax trees keeps it so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# room -> the rooms it may import from; itself is always allowed. A prefix stands for all below it.
ARROWS: dict[str, set[str]] = {
    "api_server": {"api", "bridge", "config", "launch", "notify", "discovery", "errors"},
    "bridge": {"catalog", "stackflow", "launch", "discovery", "state", "config", "errors"},
    "api": {"catalog", "backends.base", "config", "errors"},
    "api.app": {"bridge"},
    "catalog": {"backends", "stackflow", "launch", "config", "state", "errors"},
    "backends": {"stackflow", "audio", "media", "config", "errors"},
    "launch": {"stackflow", "discovery", "config", "errors"},
    "discovery": {"config", "errors"},
    "audio": {"errors"},
    "media": {"errors"},
    "stackflow": {"state", "config", "errors"},
    "notify": set(),
    "state": {"config", "errors"},
    "config": {"errors"},
    "errors": set(),
    "simulator": set(),
}
# stackflow/, from the top down: each may import what stands below it.
STACKFLOW = (
    *(
        "pool",
        "loader",
        "ticket",
        "scheduler",
        "planning",
        "decisions",
        "ledger",
        "setup",
        "client",
        "session",
        "link",
        "connection",
    ),
    *("framing", "messages", "encoding", "units", "transports"),
)
PURE = (
    "scheduler",
    "planning",
    "decisions",
    "ledger",
    "framing",
    "messages",
    "encoding",
    "units",
)  # no sockets, no clock
READ_ENVIRONMENT = {"config", "api_server", "notify", "launch"}
OPEN_YAML = {"config"}


def modules() -> dict[str, ast.Module]:
    """Return every module of ours by its dotted name, tests left out."""
    found = {}
    for room in ARROWS:
        if "." in room:
            continue
        files = (ROOT / room).rglob("*.py") if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]
        for file in files:
            if file.exists():
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Return what a module imports, by full dotted name; lazily or for types as well."""
    found: set[str] = set()
    package = name.split(".") if (ROOT / name.replace(".", "/")).is_dir() else name.split(".")[:-1]
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return found


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def test_every_python_file_at_the_top_is_a_room() -> None:
    there = {p.stem for p in ROOT.glob("*.py")} | {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert there - {"tests"} <= ARROWS.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    rooms = [room for room in ARROWS if within(name, room)]
    allowed = {room.split(".")[0] for room in rooms}.union(*(ARROWS[room] for room in rooms))
    ours = {other for other in imports(name) if other.split(".")[0] in ARROWS}
    assert {other for other in ours if not any(within(other, room) for room in allowed)} == set()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("stackflow.")))
def test_inside_stackflow_they_point_down_as_well(name: str) -> None:
    part = name.split(".")[1]
    below = STACKFLOW[STACKFLOW.index(part) :]
    inside = {other.split(".")[1] for other in imports(name) if other.startswith("stackflow.")}
    assert inside <= set(below)


@pytest.mark.parametrize("part", PURE)
def test_pure_parts_know_no_sockets_and_no_clock(part: str) -> None:
    assert not imports(f"stackflow.{part}") & {"asyncio", "socket", "time", "threading", "serial", "aiohttp"}


def test_nobody_but_tests_imports_the_simulator() -> None:
    others = [name for name in MODULES if not within(name, "simulator")]
    assert [name for name in others if any(within(i, "simulator") for i in imports(name))] == []


def test_only_some_read_the_environment() -> None:
    """The simulator is a program of its own."""
    readers = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {"environ", "getenv"} & {a.name for a in node.names}
        )
    }
    assert {name for name in readers if not within(name, "simulator")} <= READ_ENVIRONMENT


def test_only_the_configuration_opens_yaml() -> None:
    assert {name for name in MODULES if "yaml" in imports(name)} <= OPEN_YAML


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    """Start-up time and memory are features: nothing of these at the top of a module."""
    heavy = {
        "zeroconf",
        "av",
        "numpy",
        "soundfile",
        "PIL",
        "grpc",
        "tokenizers",
        "faster_whisper",
        "xllamacpp",
    }
    for name, tree in MODULES.items():
        top = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        named = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
        named |= {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
        found = {other.split(".")[0] for other in named} & heavy
        assert not found or name == "discovery" or within(name, "simulator"), (name, found)
