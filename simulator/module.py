"""The module as a computer: power, doors, restarts."""

from __future__ import annotations

import asyncio
import logging

from .doors import TcpDoor
from .engines import catalog
from .envelope import framer_line
from .gateway import Gateway
from .llm import LlmUnit
from .pipes import Pipe
from .serialport import CHUNK, COM_ID, SerialPort
from .settings import Settings
from .unit import Unit
from .world import World

_LOGGER = logging.getLogger(__name__)
RESET_S = 3.0  # an assumption: how long restarting all services takes on the module
REBOOT_S = 20.0  # an assumption
REPLY_S = 0.05  # until the service stops, the reply is out
BAUD_CHANGE_S = 0.1  # uartsetup answers at the old speed first


class Module:
    """A gateway and its units on one machine."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._tcp: TcpDoor | None = None
        self._serial: SerialPort | None = None
        self._up = False

    async def start(self) -> None:
        """Switch the module on and open its doors. Raises OSError for a port that is taken."""
        settings = self.settings
        models, engines, self.disabled = catalog.stock(settings)
        self.world = World(settings, models, engines)
        self._units: dict[str, Unit] = {unit.name: unit for unit in (LlmUnit(self.world),)}
        self._gateway = Gateway(self.world, self._units, self)
        if settings.tcp:
            self._tcp = TcpDoor(settings.host, settings.port, self.attach)
        if settings.serial:
            link = settings.serial if isinstance(settings.serial, str) else None
            self._serial = SerialPort(link, settings.serial_baud)
            self._serial.plug()
        await self._open()

    async def aclose(self) -> None:
        """Switch it off. A second call does nothing."""
        if not hasattr(self, "_gateway"):
            return
        if self._tcp:
            self._tcp.give_up()
        for unit in self._units.values():
            unit.stop()
        await self.world.stop()
        for engine in self.world.engines.values():
            await engine.aclose()
        if self._serial:
            self._serial.close()

    async def _open(self) -> None:
        self._up = True
        if self._serial:
            self._gateway.attach(self._serial, COM_ID, CHUNK)
        if self._tcp:
            await self._tcp.open()

    def attach(self, pipe: Pipe) -> int:
        """Serve an in-memory pipe as one more com; return its id."""
        return self._gateway.attach(pipe).id

    # -- restarts

    async def restart_gateway(self, down_s: float = 0.2) -> None:
        """Let llm_sys die and come back; units and tasks stay."""
        self._down()
        self.world.journal.add("gateway_down")
        await asyncio.sleep(down_s)
        if not self._up:  # nobody else was faster
            await self._open()
            self.world.journal.add("gateway_up")

    def _down(self) -> None:
        self._up = False
        if self._tcp:
            self._tcp.close()
        self._gateway.die()

    # -- what llm_sys can do to the machine

    def crashed(self, reason: str) -> None:
        """llm_sys has died; systemd brings it back."""
        if not self._up:
            return
        _LOGGER.warning("llm_sys crashed: %s", reason)
        self.world.journal.add("gateway_crash", reason=reason)
        self.world.background(self.restart_gateway(self.settings.restart_s))

    def reset(self, reboot: bool) -> None:
        """Restart gateway and units, after the reply is out."""
        self.world.journal.add("reboot" if reboot else "reset")
        self.world.background(self._reset(reboot))

    async def _reset(self, reboot: bool) -> None:
        await asyncio.sleep(REPLY_S)
        for unit in self._units.values():
            unit.stop()
            unit.restart_in(self.settings.scaled(REBOOT_S if reboot else RESET_S))
        await self.restart_gateway(self.settings.scaled(REBOOT_S if reboot else RESET_S))
        if COM_ID in self.world.coms:
            noise = b"V0EUEURS" if reboot else framer_line(0, "reset over")
            self.world.coms[COM_ID].send(noise)

    def set_baud(self, baud: int) -> None:
        """Change the UART's speed a little later, if its speed is simulated at all."""
        self.world.journal.add("uartsetup", baud=baud)
        self.world.background(self._set_baud(baud))

    async def _set_baud(self, baud: int) -> None:
        await asyncio.sleep(BAUD_CHANGE_S)
        if self._serial and self._serial.baud:
            self._serial.baud = baud
