"""Fitting a conversation into the few tokens a unit reads: the oldest turns go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import Message
from backends.templates import Template, defused, rendered
from backends.tokens import estimate
from errors import ContextTooLong

LONGEST_TOKEN = 16  # characters; no text is estimated at fewer tokens than one in so many
USUAL_TOKEN = 4  # characters of a token in prose, for counts that only an error message shows


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is sent, how many tokens the unit reads with its own wrapping, how many messages were left out."""

    text: str
    tokens: int
    dropped: int


def fit(
    template: Template, messages: Sequence[Message], window: int, *, setup_prompt: str, trim: bool, model: str
) -> Prompt:
    """Render what fits `window` tokens: all system messages, the last message, the most recent turns.

    Raises ContextTooLong when the rest cannot fit, or anything is too long and `trim` is off.
    """
    room = window - template.overhead - (estimate(setup_prompt) if template.reads_prompt else 0)
    if messages[0].role != "user":
        room -= template.mark_tokens  # the empty user turn in front
    if messages[-1].role != "user":
        room -= template.mark_tokens
    costs = _Costs(template, messages, window)
    must_stay = [i for i, m in enumerate(messages) if m.role == "system" or i == len(messages) - 1]
    wanted = must_stay if trim else list(range(len(messages)))
    needed = costs.total(wanted, room)
    if needed > room:
        raise ContextTooLong(
            f"'{model}' reads at most {window} tokens, of which {max(room, 0)} are left for messages; "
            f"these need about {needed}" + ("" if trim else ", and trimming is switched off"),
            param="messages",
        )
    kept = _newest(messages, must_stay, costs, room - needed) if trim else wanted
    tokens = window - room + costs.total(kept, room)
    return Prompt(rendered(template, [messages[i] for i in kept]), tokens, len(messages) - len(kept))


class _Costs:
    """Tokens of each message, counted only for those that are asked for: a history may have thousands."""

    def __init__(self, template: Template, messages: Sequence[Message], window: int) -> None:
        self._messages = messages
        self._marks = template.mark_tokens
        self._hopeless = window * LONGEST_TOKEN  # characters
        self._known: dict[int, int] = {}

    def of(self, index: int) -> int:
        """Return the tokens of one message with its marks; of one that can never fit, only roughly."""
        if index not in self._known:
            text = self._messages[index].text
            hopeless = len(text) > self._hopeless
            tokens = len(text) // USUAL_TOKEN if hopeless else estimate(defused(text))
            self._known[index] = self._marks + tokens
        return self._known[index]

    def total(self, indexes: Sequence[int], room: int) -> int:
        """Return the tokens of several messages, only roughly of those after `room` is used up."""
        total = 0
        for index in indexes:
            if total <= room:
                total += self.of(index)
            else:
                total += self._marks + len(self._messages[index].text) // USUAL_TOKEN
        return total


def _newest(messages: Sequence[Message], must_stay: list[int], costs: _Costs, room: int) -> list[int]:
    """Return the indexes of what stays, in order: no gap among the turns, none starting with an answer."""
    stay = set(must_stay)
    for i in range(len(messages) - 2, -1, -1):
        if i in stay:
            continue
        if costs.of(i) > room:
            break
        room -= costs.of(i)
        stay.add(i)
    turns = [i for i in sorted(stay) if messages[i].role != "system"]
    if len(stay) < len(messages):
        while len(turns) > 1 and messages[turns[0]].role == "assistant":
            stay.remove(turns.pop(0))
    return sorted(stay)
