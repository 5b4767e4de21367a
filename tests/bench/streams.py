"""Many streams at once: how they start, and what their times come to."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.bench.answer import FRAME_SECONDS, Answer, Path

SPREAD = 1.0  # seconds over which starts are spread
SHORTEST = 3  # frames of an answer that is only asked for its first


async def together(path: Path, streams: int, frames: int, *, keep: bool = False) -> list[Answer]:
    """Let `streams` slots ask for one answer each, their starts spread over a second."""

    async def one(slot: int) -> Answer:
        await asyncio.sleep(SPREAD * (slot + random.random()) / streams)
        return await path.ask(slot, frames, keep=keep)

    with without_collector():
        return list(await asyncio.gather(*(one(slot) for slot in range(streams))))


async def repeated(path: Path, streams: int, starts: int) -> list[float]:
    """Keep `streams` answers running, each followed by another, and return the times to first text.

    Answers last a second, so that as many start each second as there are streams, at no fixed distance; those
    of a single stream are shorter, for the number of starts.
    """
    frames = SHORTEST if streams == 1 else round(SPREAD / FRAME_SECONDS)
    rounds = max(-(-starts // streams), 2)

    async def one(slot: int) -> list[float]:
        await asyncio.sleep(SPREAD * (slot + random.random()) / streams)
        times = []
        for _ in range(rounds):
            times.append((await path.ask(slot, frames)).first)
            await asyncio.sleep(random.random() * FRAME_SECONDS)
        return times

    with without_collector():
        return [
            time for times in await asyncio.gather(*(one(slot) for slot in range(streams))) for time in times
        ]


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's garbage collector from stopping the load client in the middle of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that `percent` percent of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(-(-len(ranked) * percent // 100) - 1, 0)]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return `names` beginning elsewhere each turn, so that none is always first."""
    at = turn % len(names)
    return [*names[at:], *names[:at]]
