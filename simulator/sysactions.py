"""The actions of work_id "sys".

Source: projects/llm_framework/main_sys/src/event_loop.cpp
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .com import Com
from .envelope import Request, reply
from .mishaps import DispatchFailed, GatewayCrash
from .models import entry
from .sandbox import in_sandbox, pieces

if TYPE_CHECKING:
    from .gateway import Gateway

# What sys.version says, and the units' package versions (None: version2 does not exist yet).
FIRMWARE: dict[str, tuple[str | None, dict[str, str] | None]] = {
    "v1.0": (None, None),
    "v1.2.0": ("v1.2", None),
    "v1.3.0": ("v1.3", None),
    "v1.4.0": ("v1.4", None),
    "v1.5.0": ("v1.4", None),
    "v1.6.0": ("v1.4", None),
    "v1.7.0": ("v1.6", {"llm": "1.8", "sys": "1.6"}),
    "main": ("v1.6", {"llm": "1.12", "sys": "1.6"}),
    "dev": ("v1.6", {"llm": "1.12", "sys": "1.6"}),
}
WITHOUT_CMMINFO = ("v1.0", "v1.2.0", "v1.3.0", "v1.4.0")


class SysCall:
    """One request to sys, with the ways to answer it."""

    def __init__(self, gateway: Gateway, com: Com, request: Request) -> None:
        self.gateway, self.com, self.request = gateway, com, request
        self.world = gateway.world

    def parse(self) -> dict[str, Any]:
        """Return the whole message. Raises DispatchFailed: only here a syntax error is noticed."""
        try:
            body = json.loads(self.request.raw)
        except ValueError as err:
            raise DispatchFailed(str(err)) from err
        return body if isinstance(body, dict) else {}

    def text(self, name: str) -> str:
        """Return a string member. Raises DispatchFailed where the original reads a missing one."""
        value = self.parse().get(name)
        if not isinstance(value, str):
            raise DispatchFailed(f"{name} is missing")
        return value

    def answer(self, object_: str = "None", data: Any = "None", code: int = 0, message: str = "") -> None:
        """Reply; by default with an acknowledgement."""
        request = self.request
        self.com.send(reply(request.request_id, request.work_id, object_, data, code=code, message=message))

    def unknown(self) -> None:
        """Reply as to an action this firmware does not know."""
        self.answer(code=-3, message="action match false")


Run = Callable[[SysCall], Awaitable[None]]


@dataclass(frozen=True)
class SysAction:
    """What runs, and whether in a thread of its own, outside the global lock."""

    run: Run
    detached: bool = False


async def ping(call: SysCall) -> None:
    """Acknowledge."""
    call.parse()
    call.answer()


async def version(call: SysCall) -> None:
    """Tell the version of llm_sys."""
    call.parse()
    said = FIRMWARE[call.world.settings.firmware][0]
    call.answer("sys.utf-8", said) if said else call.unknown()


async def version2(call: SysCall) -> None:
    """Tell the packages of all units."""
    call.parse()
    packages = FIRMWARE[call.world.settings.firmware][1]
    if packages is None:
        call.unknown()
    else:
        call.answer("sys.utf-8.stream", [f"llm_{unit}-{number}" for unit, number in packages.items()])


async def lsmode(call: SysCall) -> None:
    """Tell the models, each with its JSON."""
    call.parse()
    settings = call.world.settings
    call.answer("sys.lsmode", [entry(model, settings) for model in call.world.models.values()])


async def lstask(call: SysCall) -> None:
    """Refuse, as the original always does."""
    call.parse()
    call.answer(code=-10, message="Not available at the moment.")


async def cmminfo(call: SysCall) -> None:
    """Tell the NPU's memory in KiB."""
    if call.world.settings.firmware in WITHOUT_CMMINFO:
        call.unknown()
    else:
        call.answer("sys.cmminfo", call.world.memory.info())


async def hwinfo(call: SysCall) -> None:
    """Tell load, memory and temperature."""
    await asyncio.sleep(call.world.settings.scaled(1.0))  # it measures the load for a second
    ports = [{"ip": "127.0.0.1", "name": "eth0", "speed": "-1"}]
    facts = {"cpu_loadavg": 7, "eth_info": ports, "mem": 31, "temperature": 45000}
    call.answer("sys.hwinfo", facts)


async def reset(call: SysCall) -> None:
    """Restart all services."""
    call.parse()
    call.answer(message="llm server restarting ...")
    call.gateway.machine.reset(reboot=False)


async def reboot(call: SysCall) -> None:
    """Restart the machine."""
    call.parse()
    call.answer(message="rebooting ...")
    call.gateway.machine.reset(reboot=True)


async def unit_call(call: SysCall) -> None:
    """Answer with what the RPC itself returns; only list_action returns anything of use."""
    object_ = call.text("object")
    name, _, action = object_.partition(".")
    unit = call.gateway.units.get(name)
    if not unit or not unit.socket or not await call.gateway.reaches(unit):
        call.answer(object_, "")
    elif action == "list_action":
        call.answer(object_, {"actions": list(unit.actions)})
    else:
        call.answer(object_, "None" if action in unit.actions else f"{action} NotAction")


async def uartsetup(call: SysCall) -> None:
    """Change the UART's parameters until the next restart."""
    data = call.parse().get("data")
    if not isinstance(data, dict):
        raise GatewayCrash("uartsetup without data")  # observed: nlohmann's assertion
    call.answer()
    baud = data.get("baud")
    if isinstance(baud, int) and baud > 0:  # a field of the wrong type keeps its old value
        call.gateway.machine.set_baud(baud)


async def pull(call: SysCall) -> None:
    """Send a file of the sandbox, which stands for the module's root folder."""
    call.parse()
    head, found, path = call.text("object").partition("file.")
    file = in_sandbox(call.world.settings.sandbox, path) if found else None
    if file is None:
        call.answer(code=-17, message="file path error")
    elif not file.is_file():
        call.answer(code=-17, message="file does not exist.")
    else:
        for data in pieces(file.read_bytes(), streamed="stream" in head):
            call.answer("sys.base64.stream", data)


async def refused(call: SysCall) -> None:
    """Answer what would hand out the machine as if the firmware had never heard of it."""
    call.parse()
    call.unknown()


ACTIONS: dict[str, SysAction] = {
    "ping": SysAction(ping),
    "version": SysAction(version),
    "version2": SysAction(version2),
    "lsmode": SysAction(lsmode),
    "lstask": SysAction(lstask),
    "cmminfo": SysAction(cmminfo, detached=True),
    "hwinfo": SysAction(hwinfo, detached=True),
    "reset": SysAction(reset),
    "reboot": SysAction(reboot),
    "unit_call": SysAction(unit_call, detached=True),
    "uartsetup": SysAction(uartsetup, detached=True),
    "pull": SysAction(pull),
    **{name: SysAction(refused) for name in ("bashexec", "push", "update", "upgrade", "rmmode")},
}
