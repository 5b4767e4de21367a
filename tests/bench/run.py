"""The command line of the benchmark, and the order of its sections."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.bench import cpu, hotspots, integrity, latency, reconnect, startup
from tests.bench.answer import BenchError
from tests.bench.machine import description
from tests.bench.paths import all_lanes
from tests.bench.plan import FULL, QUICK, Plan

SECTIONS = ("latency", "cpu", "integrity", "startup", "reconnect")
INTRODUCTION = """\
How much the bridge costs, beside two others on the same simulated module (64 places, a frame of three tokens
per 20 ms and stream, first frame after 20 ms):
  (a) bare client  asyncio speaking StackFlow to the module, nothing between
  (b) bare relay   tests/bench/relay.py: aiohttp and the standard json copying frames into SSE chunks
  (c) bridge       api_server.py as users start it
All have 64 warm sessions. Simulator, server and load client (this process) share the machine's cores."""


def run() -> int:
    """Measure and print. Returns 0 whatever the figures are."""
    args = parse_arguments()
    plan = FULL if args.full else QUICK
    print(INTRODUCTION)
    print("\n" + "\n".join([*description(), f"amount    {plan.label}"]), flush=True)
    began = time.monotonic()
    asyncio.run(sections(args, plan))
    print(f"\nTook {time.monotonic() - began:.0f} s.")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the server and print tables.")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quick", action="store_true", help="a look in a few minutes (the default)")
    amount.add_argument("--full", action="store_true", help="what the requirement asks for, in half an hour")
    parser.add_argument("--only", type=_names, default=SECTIONS, metavar="NAME,...", help=", ".join(SECTIONS))
    parser.add_argument(
        "--pythons",
        type=_paths,
        default=[],
        metavar="PATH,...",
        help="more interpreters to measure idle memory on",
    )
    parser.add_argument("--profile", action="store_true", help="instead show where the server's time goes")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}"
        )
    return names


def _paths(text: str) -> list[str]:
    return [path for path in text.split(",") if path]


async def sections(args: argparse.Namespace, plan: Plan) -> None:
    """Run what was asked for; one that fails does not end the others."""
    if args.profile:
        await guarded("profile", hotspots.measure)
        return
    wanted = set(args.only)
    if wanted & {"latency", "cpu", "integrity"}:
        await guarded("the streams", lambda: streams(wanted, plan))
    if "startup" in wanted:
        await guarded("startup", lambda: asyncio.to_thread(startup.measure, plan, args.pythons))
    if "reconnect" in wanted:
        await guarded("reconnect", lambda: reconnect.measure(plan))


async def streams(wanted: set[str], plan: Plan) -> None:
    """Measure on one set of processes what belongs together."""
    async with all_lanes() as lanes:
        if "latency" in wanted:
            await guarded("latency", lambda: latency.measure(lanes, plan))
        if "cpu" in wanted:
            await guarded("cpu", lambda: cpu.measure(lanes, plan))
        if "integrity" in wanted:
            await guarded("integrity", lambda: integrity.measure(lanes))


async def guarded(name: str, measured: Callable[[], Awaitable[None]]) -> None:
    """Say why something could not be measured, and go on."""
    try:
        await measured()
    except BenchError as err:
        print(f"\n{name}: not measured: {err}", flush=True)
