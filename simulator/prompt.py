"""From a user's text to the prompt a model reads, by the template of its family."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """The strings around the parts of a conversation."""

    begin: str
    system: str  # has {system}; "" where the family's script ignores the system prompt
    user: str  # what stands before a user's text
    turn_end: str
    assistant: str
    answer_end: str

    def opening(self, system: str) -> str:
        """Return what stands before the first turn."""
        return self.begin + self.system.replace("{system}", system)

    def turn(self, text: str) -> str:
        """Return one user turn, up to where the answer begins."""
        return self.user + text + self.turn_end + self.assistant


_CHATML = Template(
    begin="",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n",
    turn_end="<|im_end|>\n",
    assistant="<|im_start|>assistant\n",
    answer_end="<|im_end|>\n",
)

TEMPLATES = {
    "chatml": _CHATML,
    # The tokenizer inside the unit adds a full stop. Source: main_llm/src/main.cpp, prompt_complete
    "qwen-local": Template(
        begin="",
        system="<|im_start|>system\n{system}.<|im_end|>\n",
        user=_CHATML.user,
        turn_end=_CHATML.turn_end,
        assistant=_CHATML.assistant,
        answer_end=_CHATML.answer_end,
    ),
    # Both llama3.2 scripts drop the system prompt. Source: main_llm/scripts
    "llama3": Template(
        begin="<|begin_of_text|>",
        system="",
        user="<|start_header_id|>user<|end_header_id|>\n\n",
        turn_end="<|eot_id|>",
        assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer_end="<|eot_id|>",
    ),
    "openbuddy": Template(
        begin="",
        system="<|role|>system<|says|>{system}<|end|>\n",
        user="<|role|>user<|says|>",
        turn_end="<|end|>\n",
        assistant="<|role|>assistant<|says|>",
        answer_end="<|end|>\n",
    ),
    "deepseek": Template(
        begin="<｜begin▁of▁sentence｜>",
        system="{system}",
        user="<｜User｜>",
        turn_end="",
        assistant="<｜Assistant｜>",
        answer_end="<｜end▁of▁sentence｜>",
    ),
}

_LAST_USER = re.compile("|".join(re.escape(t.user) for t in TEMPLATES.values()))
_TURN_END = re.compile(r"<\|im_end\|>|<\|eot_id\|>|<\|end\|>|<｜Assistant｜>|<｜end▁of▁sentence｜>")


def last_user_turn(text: str) -> str:
    """Return the last user turn of a text that may hold rendered turns; all of it if it holds none."""
    starts = list(_LAST_USER.finditer(text))
    turn = text[starts[-1].end() :] if starts else text
    return _TURN_END.split(turn, maxsplit=1)[0] if starts else turn
