"""config.yaml -> frozen dataclasses; every mistake named at once, in one ConfigError.

Settings travel as these dataclasses, handed in by `create_app`; nothing below it opens the file or reads the
environment. Values come from the command line, over the environment, over the file, over the defaults here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qs, urlsplit

import msgspec

from errors import ConfigError

VERSION = "0.1.0"
UNITS = ("llm", "vlm", "tts", "melotts", "asr", "whisper")  # the units a bridge sets up, in reclaim order

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


@dataclass(frozen=True, slots=True)
class ModuleConfig:
    """One module: a name for people, and where it is (see `parse_module_url`)."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """An API key. `name` stands for it in logs and in fair queueing; the key itself is never logged."""

    key: str
    name: str = ""
    role: Literal["user", "admin"] = "user"
    priority: Literal["normal", "low"] = "normal"


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The bridge's own waiting line, per module."""

    size: Count = 16
    wait: Seconds = 120.0
    fairness: Seconds = 30.0
    storm_guard: Seconds = 30.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Every wait on the module, in seconds.

    A dead unit stalls its gateway for 4 s, so nothing but tests goes below 5. Source: stackflow-protocol 1.3,
    7.2 and 11.1.
    """

    connect: Seconds = 5.0
    sys: Seconds = 5.0
    setup: Annotated[float, msgspec.Meta(gt=0, le=330)] = 60.0
    task: Seconds = 6.0
    first_frame: Seconds = 30.0
    between_frames: Seconds = 15.0
    pause: Seconds = 10.0
    exit: Seconds = 10.0
    probe_first: Seconds = 5.0
    probe_longest: Seconds = 60.0
    backoff_first: Seconds = 0.5
    backoff_longest: Seconds = 30.0
    settle: Seconds = 0.005
    still_there: Seconds = 2.0


@dataclass(frozen=True, slots=True)
class MdnsConfig:
    """What is announced to, and looked up on, the local network."""

    advertise: bool = True
    find: bool = True
    find_timeout: Seconds = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """How one model is used; ``"*"`` holds the defaults of all. None means the model's own value."""

    max_tokens: Count = 512
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=5)] | None = None
    system_prompt: str = "You are a helpful assistant."
    context: Literal["trim", "error"] = "trim"
    input_window: Count | None = None
    pool_size: Count | None = None
    keep_alive: Annotated[float, msgspec.Meta(ge=-1)] | None = None
    memory_kib: Count | None = None


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """Extra arguments for ``python -m simulator`` when the module is the simulator."""

    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; each is explained, with unit, default and range, in config.yaml."""

    host: str = "0.0.0.0"
    listen: tuple[Port, ...] = (8000,)
    module: str = "auto"
    modules: tuple[ModuleConfig, ...] = ()
    state_dir: str = ""
    keys: tuple[KeyConfig, ...] = ()
    open_admin: bool = False
    cors_origins: tuple[str, ...] = ()
    body_limit: Annotated[int, msgspec.Meta(ge=1024)] = 4 * 1024 * 1024
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    sse_commit_after: Annotated[float, msgspec.Meta(ge=0, le=60)] = 1.0
    shutdown_grace: Annotated[float, msgspec.Meta(ge=0, le=300)] = 5.0
    queue: QueueConfig = field(default_factory=QueueConfig)
    deadlines: Deadlines = field(default_factory=Deadlines)
    mdns: MdnsConfig = field(default_factory=MdnsConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    keep_alive: Annotated[float, msgspec.Meta(ge=-1)] = 300.0
    keep_alive_max: Seconds = 3600.0
    reclaim: Literal["own", "all"] = "own"
    sampling: Literal["exact", "sticky"] = "exact"
    eviction: Literal["value", "lru"] = "value"
    max_concurrent_models: Count = 3
    unit_limits: dict[str, Count] = field(default_factory=dict)
    models: dict[str, ModelConfig] = field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def model(self, name: str) -> ModelConfig:
        """Return the settings of model `name`; what it leaves out is already filled from ``"*"``."""
        return self.models.get(name) or self.models.get("*") or ModelConfig()

    def module_list(self) -> tuple[ModuleConfig, ...]:
        """Return `modules`, or the single `module` under the name ``module``."""
        return self.modules or (ModuleConfig("module", self.module),)


@dataclass(frozen=True, slots=True)
class ModuleUrl:
    """A parsed module address.

    For tcp, `target` is the host and `number` the port; for serial, the device path and the baud rate; empty
    for ``simulator`` and ``auto``.
    """

    scheme: Literal["tcp", "serial", "simulator", "auto"]
    target: str = ""
    number: int = 0


def parse_module_url(url: str) -> ModuleUrl:
    """Read the address of a module. Raises ValueError.

    ``tcp://host[:10001]``, ``serial:///dev/ttyUSB0[?baud=115200]``, ``simulator`` or ``auto``.
    """
    if url in ("simulator", "auto"):
        return ModuleUrl("simulator" if url == "simulator" else "auto")
    try:
        return _parsed(url)
    except ValueError as err:
        forms = "tcp://host:10001, serial:///dev/ttyUSB0?baud=115200, simulator or auto"
        raise ValueError(f"expected {forms}") from err


def _parsed(url: str) -> ModuleUrl:
    parts = urlsplit(url)
    port = 10001 if parts.port is None else parts.port  # raises ValueError, as `urlsplit` does
    if parts.scheme == "tcp" and parts.hostname and port and not (parts.path.strip("/") or parts.query):
        return ModuleUrl("tcp", parts.hostname, port)
    if parts.scheme == "serial" and parts.path and not parts.netloc:
        query = parse_qs(parts.query, keep_blank_values=True)
        (baud,) = query.pop("baud", ["115200"])
        if not query and baud.isascii() and baud.isdigit() and int(baud) > 0:
            return ModuleUrl("serial", parts.path, int(baud))
    raise ValueError(url)


def load_config(
    path: Path | None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Read and check everything. `path` None means defaults; `overrides` (command line) win over `environ`.

    Raises ConfigError naming every mistake, by its path in the file.
    """
    tree, mistakes = _read_yaml(path), list[str]()
    from_environment = _from_environment(environ)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    tree.update({**from_environment, **given})
    _fill_in(tree)
    config = _build(Config, tree, "", mistakes) or Config()
    mistakes += _cross_checks(config)
    if mistakes:
        raise ConfigError([_with_origin(m, path, from_environment, given) for m in mistakes])
    return config


def _with_origin(
    mistake: str, path: Path | None, environment: Mapping[str, Any], given: Mapping[str, Any]
) -> str:
    """Say where the setting at fault was made."""
    setting = re.split(r"[.\[:]", mistake, maxsplit=1)[0]
    if setting in given:
        return f"command line: {mistake}"
    if setting in environment:
        return f"environment: {mistake}"
    return f"{path}: {mistake}" if path else mistake


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml  # only at start

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError([f"{path}: {err.strerror}"]) from err
    except (UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError([f"{path}: {err}"]) from err
    except RecursionError as err:
        raise ConfigError([f"{path}: nested too deeply"]) from err
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected settings by name, got a {type(tree).__name__}"])
    return tree


_ENVIRONMENT = {  # variable -> setting; all optional
    "MAX_CONCURRENT_MODELS": "max_concurrent_models",
    "STACKFLOW_MODULE": "module",
    "STACKFLOW_HOST": "host",
    "STACKFLOW_LOG_LEVEL": "log_level",
}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, setting in _ENVIRONMENT.items():
        if text := environ.get(variable):
            whole = setting == "max_concurrent_models" and text.isascii() and text.isdigit()
            found[setting] = int(text) if whole else text
    if "module" in found:
        found["modules"] = []  # whoever names one means that one
    if keys := environ.get("STACKFLOW_API_KEYS"):
        found["keys"] = [key.strip() for key in keys.split(",") if key.strip()] or [""]  # "," is a mistake
    if text := environ.get("STATE_DIRECTORY"):  # systemd; a colon separates several
        found["state_dir"] = text.split(":")[0]
    return found


def _fill_in(tree: dict[str, Any]) -> None:
    """Let models inherit from ``"*"``, a key be a plain string, and an alias name a single model."""
    models = tree.get("models")
    if isinstance(models, dict):
        models = {name: {} if own is None else own for name, own in models.items()}  # only named
        shared = models.get("*")
        shared = shared if isinstance(shared, dict) else {}
        tree["models"] = {
            name: {**shared, **own} if isinstance(own, dict) else own for name, own in models.items()
        }
    aliases = tree.get("aliases")
    if isinstance(aliases, dict):
        tree["aliases"] = {name: [to] if isinstance(to, str) else to for name, to in aliases.items()}
    keys = tree.get("keys")
    if isinstance(keys, list):
        tree["keys"] = [{"key": key} if isinstance(key, str) else key for key in keys]


T = TypeVar("T")


def _build(cls: type[T], tree: Any, where: str, mistakes: list[str]) -> T | None:
    """Build dataclass `cls` from `tree`, adding to `mistakes`; None when nothing can be built.

    A field in error falls back to its default, so that later checks still find theirs.
    """
    if not isinstance(tree, dict):
        mistakes.append(f"{where.rstrip('.') or 'config'}: expected settings by name, got {_shown(tree)}")
        return None
    hints = get_type_hints(cls, include_extras=True)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            mistakes.append(f"{where}{key}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    values: dict[str, Any] = {}
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name in tree:
            value = _convert(tree[f.name], hints[f.name], f"{where}{f.name}", mistakes)
            if value is not _FAULTY:
                values[f.name] = value
        elif f.default is MISSING and f.default_factory is MISSING:
            mistakes.append(f"{where}{f.name}: missing")
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    return cls(**values) if required <= values.keys() else None


_FAULTY: Any = object()  # stands for a value that was named in `mistakes`


def _convert(value: Any, hint: Any, where: str, mistakes: list[str]) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        built = _build(hint, value, f"{where}.", mistakes)
        return _FAULTY if built is None else built
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list):
        items = (_convert(v, args[0], f"{where}[{i}]", mistakes) for i, v in enumerate(value))
        return tuple(item for item in items if item is not _FAULTY)
    if origin is dict and isinstance(value, dict):
        pairs = ((str(k), _convert(v, args[1], f"{where}.{k}", mistakes)) for k, v in value.items())
        return {k: v for k, v in pairs if v is not _FAULTY}
    if origin is Literal and value not in args:
        mistakes.append(f"{where}: expected {' or '.join(map(str, args))}, got {_shown(value)}")
        return _FAULTY
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as err:
        mistakes.append(f"{where}: {str(err).rstrip('.')}, got {_shown(value)}")
        return _FAULTY


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _cross_checks(config: Config) -> list[str]:
    mistakes = []
    for module in config.module_list():
        where = "modules" if config.modules else "module"
        try:
            parse_module_url(module.url)
        except ValueError as err:
            mistakes.append(f"{where}: {err}, got {_shown(module.url)}")
    names = [m.name for m in config.modules]
    mistakes += [
        f"modules: the name {name!r} is used twice" for name in {n for n in names if names.count(n) > 1}
    ]
    urls = [m.url for m in config.modules]
    mistakes += [
        f"modules: {_shown(url)} is listed twice" for url in sorted({u for u in urls if urls.count(u) > 1})
    ]
    mistakes += [f"unit_limits.{unit}: no such unit" for unit in config.unit_limits if unit not in UNITS]
    mistakes += [
        f"keys[{i}].key: white space around it"
        for i, key in enumerate(config.keys)
        if key.key != key.key.strip()
    ]
    if not config.listen:
        mistakes.append("listen: at least one port is needed")
    mistakes += [f"keys[{i}].key: empty" for i, key in enumerate(config.keys) if not key.key.strip()]
    if len({key.key for key in config.keys}) < len(config.keys):
        mistakes.append("keys: the same key is listed twice")
    return mistakes


def state_folder(config: Config, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for state: `state_dir`, else the XDG state folder."""
    if config.state_dir:
        return Path(config.state_dir).expanduser()
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "stackflow-openai"
