"""Run a simulated module: `python -m simulator`. Prints one line of JSON when it is ready."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading

from .control import Control
from .settings import ENGINES, Settings
from .simulator import Simulator
from .sysactions import FIRMWARE


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line; ends the process on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator", description="An M5Stack AX630C StackFlow module made of software."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=int, default=0, help="TCP port; 0, the default, takes any free one")
    add(
        "--serial",
        nargs="?",
        const=True,
        default=False,
        metavar="LINK",
        help="also a UART, as a symlink to a pty",
    )
    add("--serial-baud", type=int, metavar="N", help="give the UART a real speed (default: none)")
    add("--control", type=int, metavar="PORT", help="take orders for faults on this port; 0: any")
    add("--engine", choices=ENGINES, default="auto", help="real models, scripted ones, or both (default)")
    add("--limits", type=_limits, default={}, metavar="UNIT=N,...", help="tasks per unit, e.g. llm=64")
    add("--cmm-kib", type=int, default=Settings.cmm_kib, metavar="N", help="NPU memory (default %(default)s)")
    add("--no-kv-limit", action="store_true", help="scripted prompts and answers may have any length")
    add("--time-scale", type=float, default=1.0, metavar="X", help="0.01 is a hundred times faster")
    add("--rate", type=float, metavar="N", help="tokens per second of every scripted model")
    add("--ttft-ms", type=float, metavar="N", help="time to the first token of every scripted model")
    add("--load-s", type=float, metavar="S", help="load time of every scripted model")
    add("--firmware", choices=FIRMWARE, default="dev", help="what sys.version says (default %(default)s)")
    add("--sandbox", metavar="DIR", help="what sys.pull reads as the module's disk")
    add(
        "--slow-joiner-ms", type=float, default=1.0, metavar="N", help="lose inferences this soon after setup"
    )
    add("--rpc-stall-s", type=float, default=4.0, metavar="S", help="how long a dead unit holds the gateway")
    add("--lifeline", action="store_true", help="exit when stdin ends")
    add("--verbose", action="store_true", help="log what comes in")
    return parser.parse_args(argv)


def _limits(text: str) -> dict[str, int]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if any(not number.isdigit() for _, _, number in pairs):
        raise argparse.ArgumentTypeError("want unit=number,...")
    return {unit.strip(): int(number) for unit, _, number in pairs}


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the command line as settings."""
    same = (
        "host port serial serial_baud control engine limits cmm_kib time_scale rate ttft_ms load_s"
        " firmware sandbox slow_joiner_ms rpc_stall_s"
    )
    return Settings(kv_limit=not args.no_kv_limit, **{name: getattr(args, name) for name in same.split()})


async def run(settings: Settings, lifeline: bool) -> None:
    """Run a module until a signal or the end of stdin."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(settings) as sim:
        control = Control(sim)
        if settings.control is not None:
            await control.open(settings.control)
        ready = {
            "tcp": sim.url,
            "serial": sim.serial_path,
            "control": control.port or None,
            "engine": settings.engine,
            "models": sim.models,
            "disabled": sim.disabled,
        }
        print(json.dumps(ready, separators=(",", ":")), flush=True)
        if lifeline:
            threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
        await stop.wait()
        control.close()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)


def main() -> None:
    """Parse, run, and leave without waiting for llama.cpp's threads."""
    args = parse_arguments()
    level = logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=level, format="simulator: %(message)s", stream=sys.stderr)
    try:
        asyncio.run(run(settings_of(args), args.lifeline))
    except (OSError, ValueError) as err:
        sys.exit(f"simulator: {err}")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
