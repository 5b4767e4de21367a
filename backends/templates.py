"""Chat templates as data: how turns are written inside the one user turn that a unit offers.

The llm unit wraps what it is sent as ``<system prompt><user turn open>TEXT<turn close><assistant turn
open>`` and takes special-token strings in TEXT for special tokens (stackflow-protocol 5.1), so earlier
turns, and a system text, can be written into TEXT. Nobody's words may contain such strings: they are
defused first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import Message
from stackflow.encoding import clean

# Anything shaped like a special token of any family: <|im_end|>, <|eot_id|>, <｜User｜>, <s>, </s>,
# <end_of_turn>.
_SPECIAL = re.compile(r"<(?=[|｜]|/?s>|/?(?:start|end)_of_turn>|/?(?:bos|eos|pad|unk)>)")


@dataclass(frozen=True, slots=True)
class Template:
    """The marks of one family. `overhead`: tokens of the unit's own wrapping, without the system prompt."""

    family: str
    models: str  # regular expression on the model's name
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    mark_tokens: int  # tokens of one turn's opening and closing together
    overhead: int
    reads_prompt: bool = True  # False: the unit's script ignores the setup prompt


_CHATML = (
    ("<|im_start|>system\n", "<|im_end|>\n"),
    ("<|im_start|>user\n", "<|im_end|>\n"),
    ("<|im_start|>assistant\n", "<|im_end|>\n"),
)
TEMPLATES = (
    Template(
        "deepseek-r1",
        "deepseek-r1",
        ("", "\n"),
        ("<｜User｜>", ""),
        ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        mark_tokens=3,
        overhead=6,
    ),
    Template(
        "openbuddy",
        "openbuddy",
        ("<|role|>system<|says|>", "<|end|>\n"),
        ("<|role|>user<|says|>", "<|end|>\n"),
        ("<|role|>assistant<|says|>", "<|end|>\n"),
        mark_tokens=6,
        overhead=20,
    ),
    Template(
        "llama3.2",
        "llama-?3",
        ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        mark_tokens=6,
        overhead=40,  # the template adds two date lines of its own
        reads_prompt=False,
    ),
    Template("chatml", "", *_CHATML, mark_tokens=6, overhead=16),
)


def template_for(model: str) -> Template:
    """Return the template of a model's family; ChatML, which Qwen and SmolLM2 speak, for unknown names."""
    return next(t for t in TEMPLATES if re.search(t.models, model, re.IGNORECASE))


def defused(text: str) -> str:
    """Return `text` with a space inside whatever a tokenizer could take for a special token."""
    return _SPECIAL.sub("< ", clean(text))  # clean first: without its NUL, "<\\0|" is one as well


def rendered(template: Template, messages: Sequence[Message]) -> str:
    """Return the messages as the inside of one user turn; the last one is answered, whoever spoke it.

    A first turn that is not the user's closes the unit's opened user turn empty. The unit itself closes the
    last turn and opens the assistant's.
    """
    text, open_role = "", "user"
    for index, message in enumerate(messages):
        if index or message.role != "user":
            text += _marks(template, open_role)[1] + _marks(template, message.role)[0]
        text += defused(message.text)
        open_role = message.role
    if open_role != "user":
        text += _marks(template, open_role)[1] + template.user[0]
    return text


def _marks(template: Template, role: str) -> tuple[str, str]:
    return {"system": template.system, "user": template.user, "assistant": template.assistant}[role]
