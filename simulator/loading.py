"""From a setup message to a task with its model in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .engines.base import LoadedModel
from .memory import Lease
from .mishaps import BadInput, LoadFailed
from .models import Model, load_seconds
from .rpc import Rpc
from .task import Origin, Task, load_failed
from .text import extract

if TYPE_CHECKING:
    from .unit import Unit

_TEXTS = {-2: "json format error.", -5: "Model loading failed.", -21: "task full"}


async def load_task(unit: Unit, rpc: Rpc, work_id: str) -> Task:
    """Return the new task once its model is loaded. Raises BadInput for everything that goes wrong."""
    world = unit.world
    await _ordered_faults(unit)
    if len(unit.tasks) >= world.settings.limits.get(unit.name, unit.limit):
        raise BadInput(-21, _TEXTS[-21])
    setup = unit.parse(extract(rpc.raw, "data"))
    model = world.models.get(setup.model)
    if not model or model.unit != unit.name:
        raise load_failed()
    lease, loaded = await _load_model(unit, model)
    await unit.thawed()
    number = int(work_id.partition(".")[2])
    return unit.make_task(Origin(number, setup, model, loaded, lease, rpc.com_id, rpc.request_id))


async def _ordered_faults(unit: Unit) -> None:
    faults = unit.faults
    if faults.late:
        await asyncio.sleep(faults.late.popleft())
    if faults.take_hang():
        unit.world.journal.add("setup_hangs", unit.name)
        await faults.held()
    if faults.failures:
        code = faults.failures.popleft()
        raise BadInput(code, _TEXTS.get(code, "ordered failure"))


async def _load_model(unit: Unit, model: Model) -> tuple[Lease, LoadedModel]:
    """Return the model in memory after the time loading takes. Raises BadInput -5."""
    world = unit.world
    engine = world.engines[model.engine]
    fits = min(model.cost, world.memory.remain)  # loading goes on until the memory is full
    lease = world.memory.take(unit.name, model.cost)
    try:
        if engine.artificial:
            await asyncio.sleep(load_seconds(model, world.settings, fits))
        if not lease:
            raise load_failed()
        return lease, await engine.load(model)
    except BaseException as err:
        if lease:
            lease.free()
        if isinstance(err, LoadFailed):
            world.journal.add("load_failed", unit.name, text=str(err))
            raise load_failed() from err
        raise
