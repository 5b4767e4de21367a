from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackflow.units import TASK_LIMITS, InstalledModel, installed_model, unit_of

QWEN: dict[str, Any] = {  # stackflow-protocol 4.1, a real entry
    "capabilities": ["text_generation", "chat"],
    "compile_flage": "pulsar2 llm_build ... --kv_cache_len 1023 --prefill_len 256 --chip AX620E",
    "homepage": "https://example.com/Qwen/Qwen2.5-0.5B-Instruct",
    "input_type": ["llm.utf-8", "llm.utf-8.stream", "llm.chat_completion", "llm.chat_completion.stream"],
    "mode": "qwen2.5-0.5B-p256-ax630c",
    "mode_param": {
        "axmodel_num": 24,
        "b_use_mmap_load_embed": True,
        "ext_scripts": ["tokenizer_qwen2.5-0.5B-p256-ax630c.py"],
        "filename_tokenizer_model": "http://localhost:8080",
        "tokenizer_type": 2,
    },
    "output_type": ["llm.utf-8", "llm.utf-8.stream"],
    "pulsar_version": "3.4-983bb35e",
    "type": "llm",
}


def read(**entry: Any) -> InstalledModel:
    model = installed_model({"mode": "some-llm", "type": "llm"} | entry)
    assert model is not None
    return model


def test_the_real_entry_is_read_whole() -> None:
    model = installed_model(QWEN)
    assert model is not None
    assert (model.name, model.unit, model.kind) == ("qwen2.5-0.5B-p256-ax630c", "llm", "llm")
    assert (model.input_window, model.context_window, model.stateful) == (256, 1023, False)
    assert model.memory_kib == 560_460
    assert model.load_seconds == pytest.approx(5 + 560_460 / 51_200)
    assert model.capabilities == ("text_generation", "chat")


@pytest.mark.parametrize(
    ("mode", "kind", "unit"),
    [
        ("qwen2.5-0.5B-p256-ax630c", "llm", "llm"),
        ("internvl2.5-1B-364-ax630c", "vlm", "vlm"),
        ("whisper-tiny", "asr", "whisper"),
        ("sense-voice-small-10s", "asr", "asr"),
        ("sherpa-ncnn-streaming-zipformer-20M-2023-02-17", "asr", "asr"),
        ("melotts-zh-cn", "tts", "melotts"),
        ("single-speaker-fast", "tts", "tts"),
        ("CosyVoice2-0.5B-ax650", "tts", "cosy_voice"),
        ("yolo11n-pose", "cv", "yolo"),
        ("depth-anything-ax630c", "cv", "depth_anything"),
        ("silero-vad", "vad", "vad"),
    ],
)
def test_the_name_says_the_unit_where_the_type_does_not(mode: str, kind: str, unit: str) -> None:
    assert unit_of(mode, kind) == unit


def test_windows_come_from_the_build_line_else_the_name_else_the_usual() -> None:
    assert read(compile_flage="--prefill_len 64 --kv_cache_len 512").input_window == 64
    assert read(compile_flage="--prefill_len=64 --kv_cache_len=512").context_window == 512
    assert read(compile_flage="--kv_cache_len 1280").context_window == 1023  # what setup asks for
    assert read(mode="deepseek-r1-1.5B-p256-ax630c").input_window == 256
    assert (read().input_window, read().context_window) == (128, 1023)


def test_ctx_models_keep_the_conversation_and_have_one_window() -> None:
    model = read(
        mode="qwen2.5-HA-0.5B-ctx-ax630c", mode_param={"precompute_len": 1024, "cmm_size": 1_840_108}
    )
    assert (model.stateful, model.input_window, model.context_window) == (True, 1024, 1024)
    assert model.memory_kib == 1_840_108
    assert not read(mode_param={"precompute_len": 0}).stateful


@pytest.mark.parametrize(
    ("mode", "kind", "kib"),
    [
        ("qwen2.5-1.5B-ax630c", "llm", 1_782_579),
        ("llama3.2-1B-prefill-ax630c", "llm", 1_363_148),
        ("qwen2.5-0.5B-Int4-ax630c", "llm", 560_460),
        ("qwen3-0.6B-ax630c", "llm", 1_363_148),
        ("smolvlm-256M-ax630c", "vlm", 1_363_148),
        ("melotts-en-us", "tts", 59_764),
        ("whisper-base", "asr", 448_212),
        ("whisper-small", "asr", 1_132_748),
        ("single-speaker-fast", "tts", None),
    ],
)
def test_memory_is_guessed_by_name(mode: str, kind: str, kib: int | None) -> None:
    assert read(mode=mode, type=kind).memory_kib == kib
    assert read(mode=mode, type=kind, cmm_size=4711).memory_kib == 4711


def test_old_firmware_names_it_model() -> None:
    model = installed_model({"model": "old", "type": "llm"})
    assert model is not None
    assert model.name == "old"


@pytest.mark.parametrize(
    "entry",
    [
        None,
        5,
        "x",
        [],
        {},
        {"mode": "x"},
        {"type": "llm"},
        {"mode": 5, "type": "llm"},
        {"mode": "", "type": ""},
    ],
)
def test_what_names_no_model_is_skipped(entry: Any) -> None:
    assert installed_model(entry) is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from([*QWEN, "cmm_size", "compile_flags", "description", "model"]), JUNK))
def test_any_type_in_any_key_does_no_harm(junk: dict[str, Any]) -> None:
    model = installed_model(junk | {"mode": "m", "type": "llm"})
    assert model is not None
    assert model.input_window > 0
    assert 0 < model.context_window <= max(1023, model.input_window)
    assert model.load_seconds > 0


def test_every_unit_we_set_up_has_a_limit() -> None:
    assert TASK_LIMITS == {"llm": 2, "vlm": 2, "asr": 1, "whisper": 1, "tts": 1, "melotts": 1}
