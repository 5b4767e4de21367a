#!/usr/bin/env python3
"""Start here: arguments, logging, configuration, app, run."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web

from api.app import create_app
from api.server import Runner
from bridge import open_bridge
from config import VERSION, Config, load_config, parse_module_url
from errors import ConfigError
from launch import resolve
from notify import notify, watchdog

_LOGGER = logging.getLogger("api_server")

CONFIG_FILE = Path(__file__).with_name("config.yaml")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TOKENIZER_PORTS = range(8080, 8100)  # on the module, llm's and vlm's (stackflow-protocol 5.1)
CONNECTIONS_END = 5.0  # seconds that idle keep-alive connections may delay the end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT. Returns the exit status: 2 for a wrong configuration."""
    args = parse_arguments(arguments)
    try:
        config = load_config(args.config, overrides(args))
    except ConfigError as err:
        for mistake in err.mistakes:
            print(mistake, file=sys.stderr)
        return 2
    if args.check:
        print(f"{args.config}: ok")
        return 0
    set_up_logging(config)
    try:
        if args.resolve_module:
            if not config.modules:  # several have no one address
                print(asyncio.run(resolve(config.module, config)))
            return 0
        return asyncio.run(serve(config))
    except KeyboardInterrupt:
        return 130


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="OpenAI's API for M5Stack's StackFlow modules.")
    parser.add_argument(
        "--config", type=Path, default=CONFIG_FILE, help="settings (default: config.yaml beside this file)"
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="the only port to listen on")
    parser.add_argument(
        "--module", help="tcp://HOST:10001, serial:///dev/ttyUSB0?baud=115200, simulator or auto"
    )
    parser.add_argument("--state-dir", help="folder for what is remembered across restarts")
    parser.add_argument("--max-concurrent-models", type=int, help="models loaded at once")
    parser.add_argument("--check", action="store_true", help="check the settings and exit")
    parser.add_argument(
        "--resolve-module", action="store_true", help="print which module would be used and exit"
    )
    parser.add_argument("--version", action="version", version=VERSION)
    return parser.parse_args(arguments)


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line fixes."""
    given: dict[str, Any] = {"host": args.host, "module": args.module, "state_dir": args.state_dir}
    given["max_concurrent_models"] = args.max_concurrent_models
    if args.port is not None:
        given["listen"] = [args.port]
    if args.module is not None:
        given["modules"] = []
    return given


def set_up_logging(config: Config) -> None:
    """Log to standard error; journald adds its own time, people get one."""
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


async def serve(config: Config) -> int:
    """Serve until told to stop; then end running answers, exit our tasks, stop the simulator."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(open_bridge(config))
        app = create_app(config, bridge.catalog)
        runner = Runner(app, shutdown_timeout=CONNECTIONS_END)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        port = await listen(runner, config)
        if port is None:
            return 1
        local = config.host in LOOPBACK
        if not config.keys and not local:
            _LOGGER.warning(
                "no keys are configured: everyone who reaches %s:%d may use the module", config.host, port
            )
        _LOGGER.info("listening: http://%s:%d/v1 (version %s)", shown(config.host), port, VERSION)
        await stack.enter_async_context(watchdog())
        if config.mdns.advertise and not local:
            import discovery  # zeroconf is heavy; only where it is used

            await stack.enter_async_context(discovery.advertise(port, VERSION))
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        _LOGGER.info("stopping")
    _LOGGER.info("stopped")
    return 0


async def listen(runner: Runner, config: Config) -> int | None:
    """Listen on the configured ports; return the first, or None, having said why it cannot be had."""
    first, *others = config.listen
    try:
        await web.TCPSite(runner, config.host, first).start()
    except OSError as err:
        _LOGGER.critical(
            "cannot listen on %s:%d: %s. Choose another with --port",
            config.host,
            first,
            os.strerror(err.errno or 0),
        )
        return None
    for port in others:
        if on_the_module(config) and port in TOKENIZER_PORTS:
            _LOGGER.warning("not listening on port %d: it belongs to the module's tokenizers", port)
            continue
        try:
            await web.TCPSite(runner, config.host, port).start()
        except OSError as err:
            _LOGGER.warning(
                "not listening on %s:%d as well: %s", config.host, port, os.strerror(err.errno or 0)
            )
    return first


def on_the_module(config: Config) -> bool:
    """Return whether a configured module is, or may be, this very machine."""
    urls = [parse_module_url(module.url) for module in config.module_list()]
    return any(url.target in LOOPBACK or url.scheme == "auto" for url in urls)


def shown(host: str) -> str:
    """Return an address that people can open."""
    return "localhost" if host in ("0.0.0.0", "::", "") else host


if __name__ == "__main__":
    sys.exit(main())
