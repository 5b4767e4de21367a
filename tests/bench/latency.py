"""Time to first delta: what the relay and the bridge add to the bare client of the same run."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.paths import Lane
from tests.bench.plan import POINTS, Plan
from tests.bench.streams import median, percentile, repeated, rotated
from tests.bench.table import added, ms, table, verdict

P50_WANTED, P95_WANTED = 0.002, 0.005  # seconds over (a)


@dataclass(frozen=True, slots=True)
class Times:
    """Percentiles of one run, in seconds."""

    p50: float
    p95: float


async def measure(lanes: dict[str, Lane], plan: Plan) -> None:
    """Measure all points and print the table."""
    rows = [await _point(lanes, plan, streams) for streams in POINTS]
    header = [
        "streams",
        "starts",
        "(a) p50",
        "p95",
        "(b) +p50",
        "+p95",
        "(c) +p50",
        "+p95",
        "others",
        "wanted",
        "",
    ]
    notes = [
        f"Medians of {plan.alternations} alternations, in changing order; `starts` is per path.",
        "From the request written to the first text received, by the load client's clock; (a): from the",
        "inference written to its first frame. 33.3 ms are the simulated module's: three tokens.",
    ]
    table("Time to first delta, in ms: (a) as it is, (b) and (c) as added to (a)", header, rows, notes)


async def _point(lanes: dict[str, Lane], plan: Plan, streams: int) -> list[str]:
    runs: dict[str, list[Times]] = {letter: [] for letter in lanes}
    starts, others = 0, []
    for turn in range(plan.alternations):
        for letter in rotated(list(lanes), turn):
            with lanes[letter].meter() as meter:
                times = await repeated(lanes[letter].path, streams, plan.starts)
            others.append(meter.spent.others)
            runs[letter].append(Times(percentile(times, 50), percentile(times, 95)))
        starts += len(times)
    base = runs["a"]
    cells = [ms(median([run.p50 for run in base])), ms(median([run.p95 for run in base]))]
    for letter in ("b", "c"):
        p50, p95 = _over(runs[letter], base)
        cells += [added(p50), added(p95)]
    wanted = f"<= {P50_WANTED * 1000:g} / {P95_WANTED * 1000:g}"
    busy = f"{median(others):.2f}"
    return [str(streams), str(starts), *cells, busy, wanted, verdict(p50 <= P50_WANTED, p95 <= P95_WANTED)]


def _over(runs: list[Times], base: list[Times]) -> tuple[float, float]:
    """Return the medians of what each run adds to the base run of its alternation."""
    pairs = list(zip(runs, base, strict=True))
    return median([run.p50 - its.p50 for run, its in pairs]), median(
        [run.p95 - its.p95 for run, its in pairs]
    )
