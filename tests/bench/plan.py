"""How much is measured: the requirement's amount, or a quick look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """The amount of work, and how to call it in the table.

    Starts are per point, path and alternation; `long` is the frames of a long answer, by number of streams.
    """

    label: str
    alternations: int
    starts: int
    long: dict[int, int]
    launches: int
    reconnects: int


POINTS = (1, 8, 32)
QUICK = Plan(
    label="QUICK: fewer frames than the requirement asks for; `--full` measures what it says",
    alternations=3,
    starts=32,
    long={1: 250, 8: 200, 32: 200},
    launches=5,
    reconnects=3,
)
FULL = Plan(
    label="FULL: five alternations; CPU over at least 20 000 frames per point, first deltas over 200 starts",
    alternations=5,
    starts=40,
    long={1: 4000, 8: 500, 32: 500},
    launches=10,
    reconnects=5,
)
