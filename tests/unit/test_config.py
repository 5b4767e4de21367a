from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from config import (
    Config,
    Deadlines,
    KeyConfig,
    ModelConfig,
    ModuleConfig,
    ModuleUrl,
    load_config,
    parse_module_url,
    state_folder,
)
from errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "config.yaml"


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **overrides: Any) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides, environ or {})


def mistakes(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environ)
    return [mistake.removeprefix(f"{tmp_path / 'config.yaml'}: ") for mistake in caught.value.mistakes]


# --- the shipped file


def test_the_shipped_file_loads() -> None:
    config = load_config(SHIPPED, {}, {})
    assert config.module == "auto"
    assert config.aliases["gpt-4o-mini"][0] == "smollm2-135m-cpu"


def test_the_shipped_file_says_what_the_code_does_without_it() -> None:
    shipped, default = load_config(SHIPPED, {}, {}), load_config(None, {}, {})
    for name in (f.name for f in fields(Config) if f.name not in ("aliases", "models")):
        assert getattr(shipped, name) == getattr(default, name), name
    assert shipped.model("any") == default.model("any")


def names(cls: type) -> list[str]:
    return [f.name for f in fields(cls)]


def test_the_shipped_file_names_every_setting() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    assert list(set(names(Config)) - set(tree)) == []
    for name, hint in get_type_hints(Config).items():
        if is_dataclass(hint) and isinstance(hint, type):
            assert set(tree[name]) == set(names(hint)), name
    for cls in (ModelConfig, KeyConfig, ModuleConfig):
        assert [name for name in names(cls) if name not in text] == [], cls


def test_the_shipped_file_names_nothing_twice() -> None:
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: Strict, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return loader.construct_mapping(node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    yaml.load(SHIPPED.read_text(encoding="utf-8"), Strict)  # noqa: S506 - a SafeLoader


# --- precedence


def test_without_a_file_the_defaults_hold() -> None:
    assert load_config(None, {}, {}) == Config()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_no_mistake(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == Config()


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    text, environ = "host: 1.1.1.1\nmax_concurrent_models: 5", {"STACKFLOW_HOST": "2.2.2.2"}
    assert load(tmp_path, text).host == "1.1.1.1"
    assert load(tmp_path, text, environ).host == "2.2.2.2"
    assert load(tmp_path, text, environ, host="3.3.3.3").host == "3.3.3.3"
    assert load(tmp_path, text, environ, host=None).host == "2.2.2.2"
    assert load(tmp_path, text, {"MAX_CONCURRENT_MODELS": "2"}).max_concurrent_models == 2
    assert load(tmp_path, text, {"MAX_CONCURRENT_MODELS": ""}).max_concurrent_models == 5


def test_keys_may_come_from_the_environment() -> None:
    config = load_config(None, {}, {"STACKFLOW_API_KEYS": " sk-a, sk-b ,"})
    assert [key.key for key in config.keys] == ["sk-a", "sk-b"]


def test_a_host_or_key_of_digits_stays_text() -> None:
    assert load_config(None, {}, {"STACKFLOW_HOST": "0"}).host == "0"
    assert load_config(None, {}, {"STACKFLOW_API_KEYS": "12345"}).keys[0].key == "12345"


def test_a_number_from_the_environment_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="max_concurrent_models"):
        load_config(None, {}, {"MAX_CONCURRENT_MODELS": "many"})


# --- convenience


def test_models_inherit_from_the_star(tmp_path: Path) -> None:
    config = load(tmp_path, "models:\n  '*': {max_tokens: 9, top_k: 5}\n  q: {top_k: 7}\n  r:\n")
    assert (config.model("q").max_tokens, config.model("q").top_k) == (9, 7)
    assert config.model("never named").top_k == 5
    assert config.model("r").top_k == 5


def test_a_key_may_be_plain_and_an_alias_single(tmp_path: Path) -> None:
    config = load(tmp_path, "keys: [sk-1, {key: sk-2, role: admin}]\naliases: {a: m, b: [m, n]}")
    assert config.keys == (KeyConfig("sk-1"), KeyConfig("sk-2", role="admin"))
    assert config.aliases == {"a": ("m",), "b": ("m", "n")}


def test_one_module_or_several(tmp_path: Path) -> None:
    assert load(tmp_path, "module: tcp://h").module_list() == (ModuleConfig("module", "tcp://h"),)
    several = load(tmp_path, "modules: [{name: a, url: tcp://h}, {name: b, url: simulator}]")
    assert [m.name for m in several.module_list()] == ["a", "b"]


# --- mistakes


def test_every_mistake_is_named_at_once_by_its_place(tmp_path: Path) -> None:
    text = """
hots: 1.2.3.4
module: ftp://x
listen: [0, 8000]
queue: {size: 0, wiat: 3}
deadlines: {setup: 331}
keys: [{role: king}, "", sk, sk]
models: {q: {temperature: 3, context: drop}}
unit_limits: {llm: none}
log_level: loud
mdns: maybe
"""
    found = mistakes(tmp_path, text)
    for place, detail in {
        "hots": "did you mean host?",
        "module": "got 'ftp://x'",
        "listen[0]": ">= 1, got 0",
        "queue.size": ">= 1",
        "queue.wiat": "did you mean wait?",
        "deadlines.setup": "330",
        "keys[0].key": "missing",
        "keys[0].role": "'king'",
        "models.q.temperature": "<= 2",
        "models.q.context": "'drop'",
        "unit_limits.llm": "'none'",
        "log_level": "'loud'",
        "mdns": "expected settings by name",
    }.items():
        assert any(m.startswith(f"{place}: ") and detail in m for m in found), (place, found)
    assert any("empty" in m for m in found)
    assert any("listed twice" in m for m in found)


def test_a_mistake_says_where_it_was_made(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "", {"STACKFLOW_MODULE": "nowhere"})[0].startswith("environment: module: ")
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"listen": [70_000]}, {})
    assert caught.value.mistakes[0].startswith("command line: listen[0]: ")


def test_keys_from_the_environment_never_open_the_server(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "keys: [secret]", {"STACKFLOW_API_KEYS": ","}) == [
        "environment: keys[0].key: empty"
    ]
    assert mistakes(tmp_path, "keys: ['secret ']") == ["keys[0].key: white space around it"]


def test_what_nobody_could_have_meant_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "unit_limits: {lmm: 1}") == ["unit_limits.lmm: no such unit"]
    assert mistakes(tmp_path, "log_level: loud")[0].startswith("log_level: expected debug or info or warning")
    assert mistakes(tmp_path, "a: " + "[" * 5000) == ["nested too deeply"]
    same = "modules: [{name: a, url: 'tcp://h'}, {name: b, url: 'tcp://h'}]"
    assert mistakes(tmp_path, same) == ["modules: 'tcp://h' is listed twice"]


def test_two_modules_may_not_share_a_name(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "modules: [{name: a, url: simulator}, {name: a, url: auto}]") == [
        "modules: the name 'a' is used twice"
    ]


@pytest.mark.parametrize(
    "text", ["- a\n- b", "just words", "a: [", "\x00", "key: !!python/object:os.system x"]
)
def test_a_file_that_is_no_settings_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml: "):
        load(tmp_path, text, None)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml", {}, {})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"bytes\.yaml"):
        load_config(tmp_path / "bytes.yaml", {}, {})


@pytest.mark.parametrize(
    "text",
    [
        "models: 5",
        "models: [a]",
        "models: {'*': 5, q: {}}",
        "aliases: [a]",
        "aliases: {a: {b: c}}",
        "keys: sk",
        "keys: {a: b}",
        "queue:",
        "listen: 8000",
        "listen: []",
        "host: [1]",
        "1: 2",
        "modules: {a: b}",
        "deadlines: {connect: .nan}",
        "deadlines: {connect: .inf}",
        "keep_alive: .nan",
        "models: {'*': {temperature: .nan}}",
        "state_dir: 5",
    ],
)
def test_wrong_shapes_are_mistakes_and_never_a_crash(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text)


def test_every_wait_has_a_bound() -> None:
    for name in names(Deadlines):
        with pytest.raises(ConfigError, match=rf"deadlines\.{name}"):
            load_config(None, {"deadlines": {name: 0}}, {})


# --- addresses and folders


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("tcp://192.168.1.5", ModuleUrl("tcp", "192.168.1.5", 10001)),
        ("tcp://m5stack-LLM.local:9999/", ModuleUrl("tcp", "m5stack-llm.local", 9999)),
        ("tcp://[fe80::1]:7", ModuleUrl("tcp", "fe80::1", 7)),
        ("serial:///dev/ttyUSB0", ModuleUrl("serial", "/dev/ttyUSB0", 115_200)),
        ("serial:///dev/ttyS1?baud=1500000", ModuleUrl("serial", "/dev/ttyS1", 1_500_000)),
        ("simulator", ModuleUrl("simulator")),
        ("auto", ModuleUrl("auto")),
    ],
)
def test_module_addresses_are_read(url: str, parsed: ModuleUrl) -> None:
    assert parse_module_url(url) == parsed


@pytest.mark.parametrize(
    "url",
    [
        *("", "tcp://", "tcp://h:0", "tcp://h:99999", "tcp://h:x", "tcp://h/path", "http://h", "h:10001"),
        *(
            "serial://dev/ttyUSB0",
            "serial:///dev/x?baud=fast",
            "serial:///dev/x?baud=0",
            "Simulator",
            "tcp://[::1",
        ),
        "serial:///dev/x?buad=9600",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected tcp"):
        parse_module_url(url)


def test_the_state_folder_is_the_given_one_else_systemds_else_xdgs() -> None:
    assert state_folder(Config(state_dir="/x/y"), {}) == Path("/x/y")
    systemd = load_config(None, {}, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"})
    assert state_folder(systemd, {}) == Path("/var/lib/a")
    assert state_folder(Config(), {"XDG_STATE_HOME": "/s"}) == Path("/s/stackflow-openai")
    assert state_folder(Config(), {}) == Path.home() / ".local/state/stackflow-openai"
