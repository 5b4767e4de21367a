"""What keeps the project installable: scripts, requirements, the service unit, no trace of a machine."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(config.__file__).parent
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))
UNIT = ROOT / "systemd" / "stackflow-openai.service"
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")

# Distribution names that differ from what is imported.
DISTRIBUTIONS = {"serial": "pyserial", "yaml": "pyyaml"}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def tracked() -> list[Path]:
    """The files that belong to the project: what git would commit, or in an export all but hidden ones."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if listed.returncode == 0:
        return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]
    hidden = re.compile(r"(^|/)(\.|__pycache__)")
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not hidden.search(str(path.relative_to(ROOT)).replace(".ci/", "ci/"))
    ]


def requirements(path: Path) -> Iterator[Requirement]:
    """The packages that a requirements file names itself."""
    for line in path.read_text().splitlines():
        text = re.sub(r"(^|\s)(#|--hash=|-r |--).*", "", line).strip()
        if text:
            yield Requirement(text)


# scripts/ and .ci/run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_scripts_are_posix_sh(script: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    posix = ["--posix"] if shell == "bash" else []
    assert run(shell, *posix, "-n", script).stderr == ""
    if script.name == "env.sh":
        return  # sourced, not started
    assert script.read_text().startswith("#!/bin/sh\n")
    assert os.access(script, os.X_OK)


def test_ci_is_executable_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    if shutil.which("bash"):
        assert run("bash", "-n", script).stderr == ""


def test_a_python_that_is_too_old_is_refused_with_a_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = subprocess.run(
        [ROOT / "scripts" / "run"], env={**os.environ, "PYTHON": str(old)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "3.10 to 3.13" in result.stderr


# requirements and versions


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_are_bounded(path: Path) -> None:
    named = list(requirements(path))
    assert named
    for requirement in named:
        assert requirement.specifier, f"{requirement.name} may become anything"


def test_weights_are_pinned_by_hash() -> None:
    lines = [
        line
        for line in (ROOT / "requirements-weights.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line)


def test_what_is_installed_is_what_the_device_asks_for() -> None:
    for requirement in requirements(ROOT / "requirements.txt"):
        if requirement.marker is None or requirement.marker.evaluate():
            assert importlib.metadata.version(requirement.name) in requirement.specifier


def test_every_import_of_the_device_is_in_its_requirements() -> None:
    """A module imported only in tests or the simulator may come from elsewhere; the server's may not."""
    device = [
        path
        for path in tracked()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] not in ("simulator", "tests")
    ]
    assert device
    own = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in device} | {"simulator"}
    given = {
        requirement.name.lower().replace("-", "_") for requirement in requirements(ROOT / "requirements.txt")
    }
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in device
        for name in imported(path)
        if name not in own | set(sys.stdlib_module_names)
        and DISTRIBUTIONS.get(name, name).lower() not in given
    }
    assert unknown == set()


def imported(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports, wherever in it it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == config.VERSION


def test_this_python_is_supported() -> None:
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in SUPPORTED


# systemd/


def directives(unit: Path) -> list[tuple[str, str]]:
    lines = [line for line in unit.read_text().splitlines() if line and line[0] not in "#["]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_the_unit_verifies(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze on this machine")
    # It complains about programs that are not there, and this one is not installed here.
    text = UNIT.read_text().replace("/opt/stackflow-openai/.venv/bin/python", sys.executable)
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("WorkingDirectory=/opt/stackflow-openai", f"WorkingDirectory={tmp_path}"))
    result = run("systemd-analyze", "verify", "--man=no", copy)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_unit_is_hardened() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze on this machine")
    result = run("systemd-analyze", "security", "--offline=yes", "--threshold=20", UNIT)
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit file offline")
    assert result.returncode == 0, result.stdout  # at most 2.0, where 10 is no protection at all


def test_the_unit_says_what_the_server_needs() -> None:
    unit = directives(UNIT)
    for needed in (
        ("Type", "notify"),
        ("WatchdogSec", "30"),
        ("NotifyAccess", "main"),
        ("StateDirectory", "stackflow-openai"),
        ("RestartPreventExitStatus", "2"),
    ):
        assert needed in unit
    start = dict(unit)["ExecStart"]
    assert " --module tcp://127.0.0.1:10001" in start
    # getifaddrs asks the kernel by netlink; without it nothing would be announced.
    assert "AF_NETLINK" in dict(unit)["RestrictAddressFamilies"].split()


def test_the_install_note_copies_files_that_exist() -> None:
    note = (UNIT.parent / "README.md").read_text()
    for name in ("requirements.txt", "config.yaml", "systemd/stackflow-openai.service", "api_server.py"):
        assert name in note
        assert (ROOT / name).is_file()


# nothing of anyone's machine

# Put together here so that this file does not contain what it looks for.
PRIVATE = ["/" + folder for folder in ("root/", "work/", "opt/wheels", "opt/pypi")]
PRIVATE += [host + ".org" for host in ("pypi", "pythonhosted", "registry.npmjs")]


def test_no_file_names_a_machine_or_a_registry() -> None:
    home = str(Path.home())
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked()
        if b"\0" not in (content := path.read_bytes())
        for word in [*PRIVATE, f"{home}/"]
        if word.encode() in content
    ]
    assert found == []
