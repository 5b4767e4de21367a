"""CPU per frame: user and system time of the server process, bridge beside relay."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.answer import BenchError
from tests.bench.machine import Spent
from tests.bench.paths import Lane
from tests.bench.plan import POINTS, Plan
from tests.bench.streams import median, rotated, together
from tests.bench.table import table, us, verdict

RATIO_WANTED = 1.5


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took."""

    frames: int
    spent: Spent

    @property
    def per_frame(self) -> float:
        """Server seconds per frame."""
        return self.spent.server / self.frames


async def measure(lanes: dict[str, Lane], plan: Plan) -> None:
    """Measure all points and print the table."""
    rows = [await _point(lanes, plan, streams) for streams in POINTS]
    header = [
        "streams",
        "frames",
        "(b) relay",
        "(c) bridge",
        "ratio",
        "simulator",
        "client",
        "others",
        "wanted",
        "",
    ]
    notes = [
        f"Medians of {plan.alternations} alternations; `frames` is per path, over all of them.",
        "Beside (c): what the simulator and the load client took per frame on the same cores, and how many",
        "cores everything else on this machine kept busy meanwhile (above 0 it disturbs).",
    ]
    table("CPU per frame, in us", header, rows, notes)


async def _point(lanes: dict[str, Lane], plan: Plan, streams: int) -> list[str]:
    frames = plan.long[streams]
    runs: dict[str, list[Cost]] = {"b": [], "c": []}
    for turn in range(plan.alternations):
        for letter in rotated(list(runs), turn):
            runs[letter].append(await _run(lanes[letter], streams, frames))
    relay, bridge = (median([cost.per_frame for cost in runs[letter]]) for letter in ("b", "c"))
    ratio = median([c.per_frame / b.per_frame for b, c in zip(runs["b"], runs["c"], strict=True)])
    beside = [
        us(median([getattr(c.spent, who) / c.frames for c in runs["c"]])) for who in ("simulator", "client")
    ]
    others = median([cost.spent.others for cost in runs["c"]])
    count = sum(cost.frames for cost in runs["c"])
    cells = [str(streams), str(count), us(relay), us(bridge), f"{ratio:.2f}", *beside, f"{others:.2f}"]
    return [*cells, f"<= {RATIO_WANTED:g}", verdict(ratio <= RATIO_WANTED)]


async def _run(lane: Lane, streams: int, frames: int) -> Cost:
    with lane.meter() as meter:
        answers = await together(lane.path, streams, frames)
    if any(answer.events < frames for answer in answers):
        raise BenchError("frames were lost on the way")
    return Cost(streams * frames, meter.spent)
