"""Which models this module has, and which engine serves each."""

from __future__ import annotations

import logging

from simulator.models import Model, vendor_models
from simulator.settings import Settings

from . import cpu, llama
from .base import Engine
from .script import ScriptEngine

_LOGGER = logging.getLogger(__name__)


def stock(settings: Settings) -> tuple[dict[str, Model], dict[str, Engine], dict[str, str]]:
    """Return the models by mode, the engines by name, and why models are missing, by mode."""
    models: list[Model] = []
    disabled: dict[str, str] = {}
    if settings.engine in ("auto", "cpu"):
        if reason := llama.missing():
            disabled[cpu.SMOLLM2.mode] = reason
            _LOGGER.warning("%s is not offered: %s", cpu.SMOLLM2.mode, reason)
        else:
            models.append(cpu.SMOLLM2)
    if settings.engine in ("auto", "script"):
        models += vendor_models()
    engines: dict[str, Engine] = {"script": ScriptEngine(settings), "cpu": cpu.CpuEngine()}
    return {model.mode: model for model in models}, engines, disabled
