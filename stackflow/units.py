"""Facts about the units and their models, read from the vendor's sources: limits, memory, windows.

Guesses are first guesses: what is measured on the module replaces them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

TASK_LIMITS = {"llm": 2, "vlm": 2, "asr": 1, "whisper": 1, "tts": 1, "melotts": 1}  # stackflow-protocol 5

DEFAULT_INPUT_WINDOW = 128  # tokens; p of the builds that do not say (4.2)
CONTEXT_WINDOW = (
    1023  # tokens of prompt and answer: --kv_cache_len of the recorded builds, and what setup asks for
)


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on a module, from its lsmode entry."""

    name: str
    unit: str
    kind: str  # the entry's `type`: llm, vlm, asr, tts, cv, kws, vad
    input_window: int  # rendered tokens the unit reads
    context_window: int  # tokens of prompt and answer together
    memory_kib: int | None  # first guess; None when nobody states any
    load_seconds: float  # first guess
    stateful: bool = False  # keeps the conversation on the module (ctx models)
    description: str | None = None
    capabilities: tuple[str, ...] = ()


_MEMORY_BY_NAME = (  # KiB; stackflow-protocol 7.1
    ("whisper-tiny", 263_860),
    ("whisper-base", 448_212),
    ("whisper-small", 1_132_748),
    ("melotts", 59_764),
    ("-1.5B-", 1_782_579),
    ("-1B-", 1_363_148),
    ("-0.5B-", 560_460),
)
_OTHER_LANGUAGE_MODEL_KIB = 1_363_148
_READING_KIB_PER_SECOND = 51_200  # labelled assumption: eMMC at 50 MiB/s
_TOKENIZER_SECONDS = 5.0  # fixed sleep after starting an http tokenizer (5.1)
UNKNOWN_KIB = 120_000  # for a model whose memory nobody states


def unit_of(mode: str, kind: str) -> str:
    """Return the unit that serves a model: `type` alone does not say (stackflow-protocol 4.1)."""
    for part, unit in (
        ("whisper", "whisper"),
        ("melotts", "melotts"),
        ("CosyVoice", "cosy_voice"),
        ("yolo", "yolo"),
        ("depth-anything", "depth_anything"),
    ):
        if part in mode:
            return unit
    return kind


def installed_model(entry: Any) -> InstalledModel | None:
    """Read one lsmode entry; None when it is not usable. Nearly every key may be missing."""
    if not isinstance(entry, dict):
        return None
    name, kind = entry.get("mode") or entry.get("model"), entry.get("type")  # `model` on very old firmware
    if not (isinstance(name, str) and isinstance(kind, str) and name and kind):
        return None
    params = entry.get("mode_param")
    params = params if isinstance(params, dict) else {}
    unit = unit_of(name, kind)
    memory = _whole(entry.get("cmm_size")) or _whole(params.get("cmm_size")) or _memory_guess(name, unit)
    context = _whole(params.get("precompute_len"))
    capabilities = entry.get("capabilities")
    return InstalledModel(
        name=name,
        unit=unit,
        kind=kind,
        input_window=context or _input_window(entry, name),
        context_window=context or min(_flag(entry, "kv_cache_len") or CONTEXT_WINDOW, CONTEXT_WINDOW),
        memory_kib=memory,
        load_seconds=_load_guess(memory, params),
        stateful=bool(context),
        description=entry["description"] if isinstance(entry.get("description"), str) else None,
        capabilities=tuple(c for c in capabilities if isinstance(c, str))
        if isinstance(capabilities, list)
        else (),
    )


def _input_window(entry: dict[str, Any], name: str) -> int:
    if window := _flag(entry, "prefill_len"):
        return window
    return 256 if "-p256-" in name else DEFAULT_INPUT_WINDOW


def _flag(entry: dict[str, Any], flag: str) -> int | None:
    """Read ``--prefill_len 256`` and the like from the recorded build line, whose name keeps a typo."""
    line = entry.get("compile_flage") or entry.get("compile_flags")
    found = re.search(rf"--{flag}[ =](\d+)", line) if isinstance(line, str) else None
    return int(found.group(1)) if found else None


def _memory_guess(name: str, unit: str) -> int | None:
    for part, kib in _MEMORY_BY_NAME:
        if part in name:
            return kib
    return _OTHER_LANGUAGE_MODEL_KIB if unit in ("llm", "vlm") else None


def _load_guess(memory: int | None, params: dict[str, Any]) -> float:
    tokenizer = str(params.get("filename_tokenizer_model", "")).startswith("http")
    return (_TOKENIZER_SECONDS if tokenizer else 0.0) + (memory or UNKNOWN_KIB) / _READING_KIB_PER_SECOND


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
