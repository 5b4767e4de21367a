"""One task of a unit: setup, inference, pause, exit; one inference at a time."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from config import Deadlines
from errors import (
    BridgeError,
    ConnectionLost,
    DeviceTimeout,
    ProtocolError,
    TaskGone,
    UnitError,
    UnitSilent,
)
from stackflow.connection import Connection, Inbox
from stackflow.link import Channel
from stackflow.messages import Delta, Reply, Request, RequestIds, delta_of, failure

PAUSE_AGAIN = 2.0  # seconds; "A pause that arrives between dequeue and start of generation is lost" (5.1)


class Home(Protocol):
    """What a session needs of its module."""

    deadlines: Deadlines
    ids: RequestIds
    silent: set[str]  # units that left a call unanswered; nothing may be asked of them
    calls: defaultdict[str, asyncio.Lock]  # a unit has one thread for them; a dead one is asked once
    loading: set[str]  # units with a setup of ours under way; their other calls wait for it

    async def channel(self) -> Channel:
        """Return a channel of one's own, or the shared pipe."""
        ...

    def suspect(self, unit: str) -> None:
        """Take note that `unit` left an RPC call unanswered."""
        ...


class Stream:
    """The answer of one inference, delta by delta."""

    def __init__(self, session: UnitSession, inbox: Inbox) -> None:
        self.finished = False  # the unit has said its last word
        self.started = False
        self._session = session
        self._inbox = inbox
        self._deadlines = session.home.deadlines

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        if self.finished:
            raise StopAsyncIteration
        patience = self._deadlines.between_frames if self.started else self._deadlines.first_frame
        try:
            return self._read(await self._inbox.get(patience))
        except TaskGone as err:
            if err.code == -4:
                await self._session.doubt()
            raise

    def _read(self, reply: Reply) -> Delta:
        self.started = True
        session = self._session
        session.last_sign, session.fresh = time.monotonic(), False
        if error := failure(session.unit, reply):
            self.finished = True
            raise error
        delta = delta_of(reply)
        if delta is None:  # a whole answer, from a response_format without `stream`
            delta = Delta(reply.data if isinstance(reply.data, str) else "", finish=True)
        self.finished = delta.finish
        return delta

    async def drain(self, patience: float) -> None:
        """Read to the end and throw it away. Raises DeviceTimeout, ConnectionLost."""
        ends = time.monotonic() + patience
        while not self.finished:
            try:
                self._read(await self._inbox.get(max(ends - time.monotonic(), 0.001)))
            except UnitError:
                self.finished = True

    def fail(self, cause: BridgeError) -> None:
        """Make the reader's next step raise `cause`."""
        self._inbox.fail(cause)

    def close(self) -> None:
        """Take no more frames."""
        self._session.connection.forget(self._inbox)


class UnitSession:
    """One task of a unit, such as ``llm.1002``. Ask it one thing at a time."""

    def __init__(self, home: Home, channel: Channel, work_id: str) -> None:
        self.home = home
        self.work_id = work_id
        self.unit = work_id.partition(".")[0]
        self.fresh = True  # no inference has been answered since setup
        self.last_sign = time.monotonic()
        self._channel = channel
        self._ready_at = self.last_sign + home.deadlines.settle
        self._stream: Stream | None = None
        channel.connection.tasks.add(work_id)

    @property
    def connection(self) -> Connection:
        """The pipe it lives on."""
        return self._channel.connection

    @property
    def stream(self) -> Stream | None:
        """The latest inference's answer."""
        return self._stream

    @property
    def unfinished(self) -> bool:
        """True while the unit may still be sending an answer nobody reads."""
        return self._stream is not None and not self._stream.finished

    @asynccontextmanager
    async def inference(self, text: str) -> AsyncIterator[Stream]:
        """Run one inference on `text`, one user turn in the unit's own template.

        Leaving early leaves the session `unfinished`: its owner calls `quiet` before the next inference. A
        task keeps one request_id and answers everything under the last one it saw, so a second inference
        would steal the first one's stream. Source: ext_components/StackFlow/stackflow/StackFlow.cpp,
        subscriber_event_call
        """
        if self.unfinished:
            raise ProtocolError(f"{self.work_id} is still answering")
        self._not_silent()
        await self._settled()
        request = Request(self.home.ids(), self.work_id, "inference", f"{self.unit}.utf-8", text)
        inbox = self.connection.listen(request)
        stream = self._stream = Stream(self, inbox)
        idle = time.monotonic() - self.last_sign
        try:
            await self.connection.send(request)
        finally:
            if not inbox.sent:  # left while it waited for the pipe: there will be no answer
                stream.finished = True
                stream.close()
        prover = None
        if idle > self.home.deadlines.still_there:
            prover = asyncio.create_task(self._prove(stream), name=f"prove {self.work_id}")
        try:
            yield stream
        finally:
            if prover is not None:
                prover.cancel()
            if stream.finished:
                stream.close()

    async def quiet(self) -> None:
        """Stop what runs and read it to its end, so that the session can be used again.

        Raises DeviceTimeout when the unit acknowledges but never finishes, UnitSilent when it does not
        answer, TaskGone, ConnectionLost.
        """
        stream = self._stream
        if stream is None or stream.finished:
            return
        try:
            await self._call("pause", self.home.deadlines.pause)
            deadline = time.monotonic() + self.home.deadlines.pause
            try:
                await stream.drain(min(PAUSE_AGAIN, self.home.deadlines.pause))
            except DeviceTimeout:
                await self._call("pause", self.home.deadlines.pause)
                await self._drain_lost(stream, max(deadline - time.monotonic(), 0.1))
        finally:
            stream.close()

    async def _drain_lost(self, stream: Stream, patience: float) -> None:
        """Drain; a first inference that left no trace was lost on the way, see `_settled`."""
        try:
            await stream.drain(patience)
        except DeviceTimeout:
            if not self.fresh or stream.started:
                raise
            self.fresh, stream.finished = False, True

    async def exit(self) -> None:
        """End the task and free its memory; the channel is given back either way.

        Raises UnitSilent, ConnectionLost.
        """
        try:
            await self._call("exit", self.home.deadlines.exit)
        except TaskGone:
            pass  # which is what was wanted
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Give the channel back without a word to the module."""
        if self._stream is not None:
            self._stream.close()
        self.connection.tasks.discard(self.work_id)
        await self._channel.aclose()

    async def _settled(self) -> None:
        """Wait out the first milliseconds after setup.

        "first inference right after the setup reply: lost 3 of 40 (ZMQ slow joiner; silently), 0 of 40 with
        >= 1 ms delay" (stackflow-observed, LLM unit). There is no event to wait for.
        """
        left = self._ready_at - time.monotonic()
        if self.fresh and left > 0:
            await asyncio.sleep(left)

    async def _prove(self, stream: Stream) -> None:
        """Ask a task that was idle for a while whether it still exists.

        "unit restarted: inference on the old work_id: silence for ever" (stackflow-observed, connections).
        The question goes on the owning connection, which therefore keeps the stream.
        """
        try:
            await self._call("taskinfo", self.home.deadlines.task, suspect=False)
        except TaskGone as err:
            stream.fail(err)
        except UnitSilent as err:
            if not stream.started:
                self.home.suspect(self.unit)
                stream.fail(err)
        except UnitError as err:
            if err.code == -9:  # its process is gone, and every task with it
                stream.fail(TaskGone(self.unit, err.code, err.text))
        except BridgeError:
            pass  # the stream has its own view of a lost pipe

    async def _call(self, action: str, patience: float, *, suspect: bool = True) -> Reply:
        async with self.home.calls[self.unit]:
            self._not_silent()
            inbox = self.connection.listen(Request(self.home.ids(), self.work_id, action))
            try:
                await self.connection.send(inbox.request)
                reply = await self._heard(inbox, patience)
            except DeviceTimeout:
                if suspect:
                    self.home.suspect(self.unit)
                raise UnitSilent(f"the {self.unit} unit does not answer") from None
            finally:
                self.connection.forget(inbox)
        self.last_sign = time.monotonic()
        if error := failure(self.unit, reply):
            raise error
        return reply

    async def _heard(self, inbox: Inbox, patience: float) -> Reply:
        """Wait for a reply; the clock begins anew as long as a setup holds up the unit's only thread.

        "pause/exit/taskinfo of the SAME unit wait until the load ends" (stackflow-observed, LLM unit).
        """
        while True:
            held_up = self.unit in self.home.loading
            try:
                return await inbox.get(patience)
            except DeviceTimeout:
                if not held_up and self.unit not in self.home.loading:
                    raise

    async def doubt(self) -> None:
        """Ask after a task that the gateway does not know: if it lives, the gateway restarted without a word.

        "llm_sys restarted, units alive: inference -4; slots still taken if not exited" (stackflow-observed,
        connections). Over TCP the connection ends by itself, a UART has to be given up.
        Raises ConnectionLost.
        """
        if self._channel.shared:
            try:
                await self._call("taskinfo", self.home.deadlines.task)
            except (UnitError, UnitSilent):
                return
            cause = ConnectionLost("the module's gateway was restarted")
            self.connection.lose(cause)
            raise cause

    def _not_silent(self) -> None:
        if self.unit in self.home.silent:  # each further call would stall everybody's gateway
            raise UnitSilent(f"the {self.unit} unit does not answer; it is being probed")
