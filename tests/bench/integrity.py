"""64 streams at once: whether every frame arrives, once and in order."""

from __future__ import annotations

import time
from collections import Counter

from tests.bench.paths import Lane, sessions_held
from tests.bench.processes import SESSIONS
from tests.bench.sse_client import texts
from tests.bench.streams import together
from tests.bench.table import table, verdict

FRAMES = 500
TOKENS = 3  # a frame


async def measure(lanes: dict[str, Lane]) -> None:
    """Run the streams and print the table."""
    lane = lanes["c"]
    began = time.monotonic()
    with lane.meter() as meter:
        answers = await together(lane.path, SESSIONS, FRAMES, keep=True)
    took = time.monotonic() - began
    found: Counter[str] = Counter()
    for answer in answers:
        found.update(_faults(texts(answer.body)))
    held = sessions_held(lane.server.port) if lane.server is not None else 0
    total = SESSIONS * FRAMES
    wanted = [
        ["deltas received", str(found["deltas"]), str(total), verdict(found["deltas"] == total)],
        ["answers with their words complete and in order", str(found["whole"]), str(SESSIONS), ""],
        ["deltas that are not one frame each", str(found["recut"]), "0", verdict(found["recut"] == 0)],
        ["sessions the server holds", str(held), str(SESSIONS), verdict(held == SESSIONS)],
        ["deltas per second, as the simulator paced them", f"{total / took:.0f}", "-", ""],
        ["server's CPU per delta, us", f"{meter.spent.server / total * 1e6:.0f}", "-", ""],
        ["share of one core the server took", f"{meter.spent.server / took:.0%}", "-", ""],
    ]
    wanted[1][3] = verdict(found["whole"] == SESSIONS)
    table(f"{SESSIONS} streams of {FRAMES} frames", ["", "found", "wanted", ""], wanted)


def _faults(pieces: list[str]) -> Counter[str]:
    """Count the deltas of one answer, those that are not a frame, and whether the answer is whole."""
    words = [f" w{number}" if number else "w0" for number in range(FRAMES * TOKENS)]
    frames = ["".join(words[at : at + TOKENS]) for at in range(0, len(words), TOKENS)]
    recut = sum(piece != frame for piece, frame in zip(pieces, frames, strict=False)) + abs(
        len(pieces) - len(frames)
    )
    return Counter(deltas=len(pieces), whole=int("".join(pieces) == "".join(words)), recut=recut)
