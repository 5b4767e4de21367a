"""Where the server's time goes: cProfile around api_server.py under the load of one point."""

from __future__ import annotations

import pstats
from pathlib import Path

from tests.bench import processes
from tests.bench.paths import bridge_lane
from tests.bench.streams import together

STREAMS, FRAMES = 32, 250
SHOWN = 35  # functions


async def measure() -> None:
    """Run the load and print the functions by their own time."""
    with processes.folder() as folder:
        result = folder / "profile"
        async with bridge_lane(folder, ("-m", "cProfile", "-o", str(result))) as lane:
            await together(lane.path, STREAMS, FRAMES)
        print(f"\nProfile of the server: start, warming, {STREAMS} streams of {FRAMES} frames, end.")
        print("cProfile slows calls of Python functions several times: read the ranking, not the seconds.")
        _show(result)


def _show(result: Path) -> None:
    pstats.Stats(str(result)).strip_dirs().sort_stats("tottime").print_stats(SHOWN)
