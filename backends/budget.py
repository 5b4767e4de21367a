"""Fitting a conversation into the few tokens a unit reads: the oldest turns go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.base import Message
from backends.templates import Template, defused, rendered
from backends.tokens import estimate
from errors import ContextTooLong


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
    fixed = template.overhead + (estimate(setup_prompt) if template.reads_prompt else 0)
    costs = [estimate(defused(m.text)) + template.mark_tokens for m in messages]
    room = window - fixed
    if messages[0].role != "user":
        room -= template.mark_tokens  # the empty user turn in front
    if messages[-1].role != "user":
        room -= template.mark_tokens
    kept = _newest(messages, costs, room)
    dropped = len(messages) - len(kept)
    needed = sum(costs if not trim else [costs[i] for i in _must_stay(messages)])
    if (dropped and not trim) or needed > room:
        raise ContextTooLong(
            f"'{model}' reads at most {window} tokens, of which {max(room, 0)} are left for messages; "
            f"these need about {needed}" + ("" if trim else ", and trimming is switched off"),
            param="messages",
        )
    tokens = window - room + sum(costs[i] for i in kept)
    return Prompt(rendered(template, [messages[i] for i in kept]), tokens, dropped)


def _must_stay(messages: Sequence[Message]) -> list[int]:
    last = len(messages) - 1
    return [i for i, m in enumerate(messages) if m.role == "system" or i == last]


def _newest(messages: Sequence[Message], costs: Sequence[int], room: int) -> list[int]:
    """Return the indexes of what stays, in order: no gap among the turns, none starting with an answer."""
    stay = set(_must_stay(messages))
    room -= sum(costs[i] for i in stay)
    for i in range(len(messages) - 2, -1, -1):
        if i in stay:
            continue
        if costs[i] > room:
            break
        room -= costs[i]
        stay.add(i)
    turns = [i for i in sorted(stay) if messages[i].role != "system"]
    if len(stay) < len(messages):
        while len(turns) > 1 and messages[turns[0]].role == "assistant":
            stay.remove(turns.pop(0))
    return sorted(stay)
