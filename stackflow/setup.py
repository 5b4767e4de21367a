"""Setting up a task: the one reply that may come late, and what is owed then."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from errors import ConnectionLost, DeviceTimeout, UnitSilent
from stackflow.connection import Inbox
from stackflow.encoding import Value
from stackflow.link import Channel
from stackflow.messages import Request, failure
from stackflow.session import Home, UnitSession

_LOGGER = logging.getLogger(__name__)


class LateSetup(Exception):
    """A setup was not answered in time. Its task may still come to life; `settled` waits for that."""

    def __init__(self, home: Home, unit: str, channel: Channel, inbox: Inbox) -> None:
        super().__init__(f"{unit} left setup unanswered for {home.deadlines.setup:g} s")
        self._home, self._unit, self._channel, self._inbox = home, unit, channel, inbox

    async def settled(self, patience: float) -> bool:
        """Wait for the late reply and exit the task it names.

        False when none came: the unit may still hold it. Raises ConnectionLost.
        """
        try:
            reply = await self._inbox.get(patience)
            if reply.error.code == 0:
                request = Request(self._home.ids(), reply.work_id, "exit")
                await self._channel.connection.ask(request, self._home.deadlines.exit)
            return True
        except DeviceTimeout:
            return False
        finally:
            self._channel.connection.forget(self._inbox)
            await self._channel.aclose()


async def open_session(home: Home, unit: str, setup: Mapping[str, Value]) -> UnitSession:
    """Set up a task of `unit` on a channel of its own and return its session.

    Raises ModelLoadFailed, TaskFull, UnitError, UnitSilent, ConnectFailed, ConnectionLost, and LateSetup,
    which then owns the channel. Cancelled, it forgets the task: the caller's book must know that a setup was
    under way.
    """
    if unit in home.silent:
        raise UnitSilent(f"the {unit} unit does not answer; it is being probed")
    channel = await home.channel()
    request = Request(home.ids(), unit, "setup", f"{unit}.setup", setup)
    inbox = channel.connection.listen(request)
    home.loading.add(unit)
    try:
        await channel.connection.send(request)
        reply = await inbox.get(home.deadlines.setup)
    except DeviceTimeout as err:
        raise LateSetup(home, unit, channel, inbox) from err
    except BaseException:
        channel.connection.forget(inbox)
        await channel.aclose()
        raise
    finally:
        home.loading.discard(unit)
    channel.connection.forget(inbox)
    if error := failure(unit, reply):
        await channel.aclose()
        raise error
    if reply.work_id in channel.connection.tasks:  # work_ids begin anew only when the gateway does (1.5)
        channel.connection.lose(ConnectionLost("the module's gateway was restarted"))
        raise ConnectionLost("the module's gateway was restarted")
    _LOGGER.debug("%s: set up with %s", reply.work_id, setup.get("model"))
    return UnitSession(home, channel, reply.work_id)
