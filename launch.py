"""Where a module is: an address, a UART, the one that can be found, or the simulator started for it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from async_timeout import timeout

from config import Config, ModuleConfig, ModuleUrl, parse_module_url
from errors import BridgeError, ConnectFailed
from stackflow.connection import Connection
from stackflow.link import Link
from stackflow.messages import Request, RequestIds
from stackflow.transports.base import Transport
from stackflow.transports.serial import open_serial
from stackflow.transports.tcp import connect_tcp

_LOGGER = logging.getLogger(__name__)

LOCAL = "tcp://127.0.0.1:10001"  # the bridge runs on the module itself
NEARBY = "tcp://m5stack-LLM.local:10001"  # what a module announces as it is delivered
PROBE_CONNECT = 1.0  # seconds; it is this machine
PROBE = 6.0  # seconds to answer a ping; a dead unit stalls its gateway for 4
SIMULATOR_READY = 20.0  # seconds
SIMULATOR_STOP = 5.0  # seconds between asking and killing


async def resolve(url: str, config: Config) -> str:
    """Return the address that `url` stands for: itself, or for ``auto`` the first that is there."""
    if url != "auto":
        return url
    if await _answers(parse_module_url(LOCAL)):
        return LOCAL
    if config.mdns.find:
        import discovery  # zeroconf is heavy; only where it is used

        if await discovery.find_host(parse_module_url(NEARBY).target, config.mdns.find_timeout):
            return NEARBY
    return "simulator"


async def _answers(where: ModuleUrl) -> bool:
    """True if what listens there speaks StackFlow."""
    try:
        connection = Connection(await connect_tcp(where.target, where.number, PROBE_CONNECT))
    except BridgeError:
        return False
    try:
        reply = await connection.ask(Request(RequestIds()(), "sys", "ping"), PROBE)
        return reply.error.code == 0
    except BridgeError:
        return False
    finally:
        await connection.aclose()


class Source:
    """Opens pipes to one configured module, finding or starting it first where that is needed."""

    def __init__(self, module: ModuleConfig, config: Config) -> None:
        self.simulated = False
        self._config = config
        self._url = module.url
        self._found: str | None = None  # the address of a .local name
        self._simulator: Simulator | None = None
        self._starting = asyncio.Lock()
        parsed = parse_module_url(module.url)
        self.link = Link(
            self._open, lambda: self._url, baud=parsed.number if parsed.scheme == "serial" else 0
        )

    @property
    def address(self) -> str:
        """The module's address, once known; ``auto`` before."""
        return self._url

    async def _open(self) -> Transport:
        self._url = await resolve(self._url, self._config)
        where, deadline = parse_module_url(self._url), self._config.deadlines.connect
        if where.scheme == "simulator":
            where = await self._simulated()
        if where.scheme == "serial":
            return await open_serial(where.target, where.number, deadline)
        host = await self._looked_up(where.target)
        try:
            return await connect_tcp(host, where.number, deadline)
        except ConnectFailed:
            self._found = None  # it may have another address now
            raise

    async def _looked_up(self, host: str) -> str:
        """Return the address of a name ending in .local, which many hosts' own resolvers do not know."""
        if not host.endswith(".local") or not self._config.mdns.find:
            return host
        if self._found is None:
            import discovery

            self._found = await discovery.find_host(host, self._config.mdns.find_timeout)
        return self._found or host

    async def _simulated(self) -> ModuleUrl:
        """Return the simulator's port, starting it the first time and after it ended."""
        self.simulated = True
        async with self._starting:
            if self._simulator is None or self._simulator.ended:
                self._simulator = await Simulator.start(self._config.simulator.args)
                _announce(self._simulator)
        return parse_module_url(self._simulator.url)

    async def aclose(self) -> None:
        """Stop the simulator if one was started."""
        if self._simulator is not None:
            await self._simulator.stop()


def _announce(simulator: Simulator) -> None:
    _LOGGER.warning(
        "NO MODULE: answers come from the simulator at %s (%d models, such as %s). "
        "Name a module with --module tcp://HOST:10001",
        simulator.url,
        len(simulator.models),
        next(iter(simulator.models), "none"),
    )
    for model, reason in simulator.disabled.items():
        _LOGGER.warning("simulator: %s is not available: %s", model, reason)


@asynccontextmanager
async def open_source(module: ModuleConfig, config: Config) -> AsyncIterator[Source]:
    """Provide the source of one module; nothing is looked for or started before the first pipe is wanted."""
    source = Source(module, config)
    try:
        yield source
    finally:
        await source.aclose()


class Simulator:
    """A running simulator process. It ends when we close its standard input, so also when we are killed."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, object]) -> None:
        self.url = str(ready["tcp"])
        models, disabled = ready.get("models"), ready.get("disabled")
        self.models = [str(m) for m in models] if isinstance(models, list) else []
        self.disabled = {str(m): str(r) for m, r in disabled.items()} if isinstance(disabled, dict) else {}
        self._process = process

    @classmethod
    async def start(cls, extra: tuple[str, ...]) -> Simulator:
        """Start ``python -m simulator`` on a free port. Raises ConnectFailed."""
        command = [sys.executable, "-m", "simulator", "--lifeline", *extra]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parent, start_new_session=True
        )
        try:  # its first line says where it listens
            reader = cast(asyncio.StreamReader, process.stdout)
            async with timeout(SIMULATOR_READY):
                return cls(process, json.loads(await reader.readline()))
        except (asyncio.TimeoutError, ValueError, KeyError) as err:
            with suppress(ProcessLookupError):  # it may have ended by itself
                process.kill()
            await process.wait()
            raise ConnectFailed("the simulator did not start; `python -m simulator` says why") from err

    @property
    def ended(self) -> bool:
        """True once the process is gone."""
        return self._process.returncode is not None

    async def stop(self) -> None:
        """End the process, by force if it takes too long."""
        if self.ended:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with timeout(SIMULATOR_STOP):
                await self._process.wait()
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.wait()
