"""The models of a module: what lsmode tells of them, what they cost and how fast they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .settings import Settings

LOAD_KIB_PER_S = 51200  # an assumption: reading from eMMC; nobody published load times
UNKNOWN_KIB = 120000  # an assumption, for models whose use of CMM nobody stated
UNLIMITED = 1048575  # tokens; what --no-kv-limit advertises


@dataclass(frozen=True)
class Model:
    """One installed model. Lengths in tokens, memory in KiB, ttft in seconds, rate in tokens/s."""

    mode: str
    unit: str
    prefill: int
    kv: int
    layers: int = 24
    template: str = "chatml"
    tokenizer: str = "http"  # "http": a Python process beside the unit; "local": inside it
    capabilities: tuple[str, ...] = ("text_generation", "chat")
    precompute: int | None = None  # a number: the conversation lives on the module
    cmm_size: int | None = None
    ttft: float = 0.5
    rate: float = 8.0
    thinks: bool = False
    engine: str = "script"
    extra: dict[str, Any] = field(default_factory=dict)  # more members of lsmode's entry
    defaults: dict[str, Any] = field(default_factory=dict)  # setup values from the model's JSON

    @property
    def is_ctx(self) -> bool:
        """Whether the conversation lives on the module."""
        return bool(self.precompute)

    @property
    def input_limit(self) -> int:
        """Tokens of the rendered prompt beyond which the answer is garbage."""
        return self.precompute or self.prefill

    def limited(self, settings: Settings) -> bool:
        """Return whether token limits hold; a real model's always do."""
        return settings.kv_limit or self.engine != "script"

    @property
    def cost(self) -> int:
        """KiB of CMM that a task of this model takes."""
        return self.cmm_size or _cost_by_name(self.mode, self.unit)


def _cost_by_name(mode: str, unit: str) -> int:
    """Return KiB of CMM by the vendor plugin's name rules (services/model_list.py)."""
    if unit not in ("llm", "vlm"):
        return UNKNOWN_KIB
    sizes = {"-1.5B-": 1782579, "-1B-": 1363148, "-0.5B-": 560460}
    return next((kib for part, kib in sizes.items() if part in mode), 1363148)


# mode, prefill, layers, ttft ms, tokens/s: StackFlow's model JSONs and benchmark/RESULTS.md.
# Where the benchmark has no row the figures of the nearest sibling stand in.
_VENDOR_LLM = (
    ("qwen2.5-0.5B-prefill-20e", 128, 24, 359.8, 10.32),
    ("qwen2.5-0.5B-p256-ax630c", 256, 24, 1126.19, 10.30),
    ("qwen2.5-0.5B-Int4-ax630c", 128, 24, 442.95, 12.52),
    ("qwen2.5-HA-0.5B-ctx-ax630c", 128, 24, 400.0, 10.3),
    ("qwen2.5-coder-0.5B-ax630c", 128, 24, 361.81, 10.28),
    ("qwen2.5-1.5B-ax630c", 128, 28, 1029.41, 3.59),
    ("qwen2.5-1.5B-Int4-ax630c", 128, 28, 1219.54, 4.63),
    ("qwen2.5-1.5B-p256-ax630c", 256, 28, 3056.54, 3.57),
    ("qwen3-0.6B-ax630c", 128, 28, 500.0, 8.0),
    ("llama3.2-1B-prefill-ax630c", 128, 16, 891.0, 4.48),
    ("llama3.2-1B-p256-ax630c", 256, 16, 2601.11, 4.49),
    ("openbuddy-llama3.2-1B-ax630c", 128, 16, 891.02, 4.52),
    ("deepseek-r1-1.5B-ax630c", 128, 28, 1075.04, 3.57),
    ("deepseek-r1-1.5B-p256-ax630c", 256, 28, 3056.86, 3.57),
)
_TEMPLATES = {"llama3": "llama3", "openbuddy": "openbuddy", "deepseek": "deepseek"}
_EMBEDDINGS = {"qwen": (151936, 896), "deepseek": (151936, 1536), "llama3": (128256, 2048)}
_CTX_SAMPLING = {"enable_temperature": True, "temperature": 0.7, "enable_top_k_sampling": True, "top_k": 40}


def vendor_models() -> Iterator[Model]:
    """Yield the llm models that exist for the AX630C."""
    for mode, prefill, layers, ttft_ms, rate in _VENDOR_LLM:
        ctx, coder = "-ctx-" in mode, "-coder-" in mode
        local = mode == "qwen2.5-0.5B-prefill-20e"
        yield Model(
            mode=mode,
            unit="llm",
            prefill=prefill,
            kv=1280 if ctx else 1023,
            layers=layers,
            template=_by_prefix(_TEMPLATES, mode, "qwen-local" if local else "chatml"),
            tokenizer="local" if local else "http",
            capabilities=("text_generation", "code_generation" if coder else "chat"),
            precompute=1024 if ctx else None,
            cmm_size=1840108 if ctx else None,
            ttft=ttft_ms / 1000,
            rate=rate,
            thinks=mode.startswith(("qwen3", "deepseek-r1")),
            defaults=dict(_CTX_SAMPLING) if ctx else {},
        )


def _by_prefix(table: dict[str, Any], mode: str, default: Any) -> Any:
    return next((value for prefix, value in table.items() if mode.startswith(prefix)), default)


def entry(model: Model, settings: Settings) -> dict[str, Any]:
    """Return the model's JSON as lsmode shows it, in the shape of the vendor's files."""
    limited = model.limited(settings)
    prefill, kv = (model.prefill, model.kv) if limited else (UNLIMITED, UNLIMITED)
    flags = f"--kv_cache_len {kv} --hidden_state_type bf16 --prefill_len {prefill} --chip AX620E"
    result: dict[str, Any] = {
        "mode": model.mode,
        "type": model.unit,
        "capabilities": list(model.capabilities),
        "compile_flage": f"pulsar2 llm_build --input_path {model.mode} {flags}",
        "input_type": [
            "llm.utf-8",
            "llm.utf-8.stream",
            "llm.chat_completion",  # listed by the vendor, implemented by no unit
            "llm.chat_completion.stream",
        ],
        "output_type": ["llm.utf-8", "llm.utf-8.stream"],
        "mode_param": _mode_param(model),
        "pulsar_version": "3.4-983bb35e",
        **model.extra,
    }
    if model.cmm_size:
        result["cmm_size"] = model.cmm_size
    return result


def _mode_param(model: Model) -> dict[str, Any]:
    vocabulary, width = _by_prefix(_EMBEDDINGS, model.mode, (128256, 2048))
    family = "qwen2" if model.template in ("chatml", "qwen-local") else model.template
    param: dict[str, Any] = {
        "axmodel_num": model.layers,
        "b_bos": False,
        "b_dynamic_load_axmodel_layer": False,
        "b_eos": False,
        "b_use_mmap_load_embed": True,
        "b_use_topk": False,
        "filename_post_axmodel": f"{family}_post.axmodel",
        "filename_tokens_embed": "model.embed_tokens.weight.bfloat16.bin",
        "template_filename_axmodel": f"{family}_p{model.prefill}_l%d_together.axmodel",
        "tokenizer_type": 1 if model.tokenizer == "local" else 2,
        "tokens_embed_num": vocabulary,
        "tokens_embed_size": width,
        **model.defaults,
    }
    if model.tokenizer == "http":
        param["ext_scripts"] = [f"tokenizer_{model.mode}.py"]
        param["url_tokenizer_model" if model.is_ctx else "filename_tokenizer_model"] = "http://localhost:8080"
    if model.precompute is not None:
        param["precompute_len"] = model.precompute
    if model.cmm_size:
        param["cmm_size"] = model.cmm_size
    return param


def load_seconds(model: Model, settings: Settings, kib: int) -> float:
    """Return how long loading `kib` of `model` takes here; the assumption of the top of this file."""
    if settings.load_s is not None:
        return settings.scaled(settings.load_s)
    start = 15.0 if settings.firmware == "v1.7.0" else 5.0  # the tokenizer's fixed sleep
    return settings.scaled((start if model.tokenizer == "http" else 0.0) + kib / LOAD_KIB_PER_S)


def speed(model: Model, settings: Settings) -> tuple[float, float]:
    """Return (seconds to the first token, seconds per further token) as they last here."""
    ttft = model.ttft if settings.ttft_ms is None else settings.ttft_ms / 1000
    return settings.scaled(ttft), settings.scaled(1 / (settings.rate or model.rate))
