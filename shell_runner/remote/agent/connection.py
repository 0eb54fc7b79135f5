"""One connection of the agent: the hello, a keeper with an interpreter, and bytes both ways.

Owns what happens between a finished handshake and the death of the interpreter's tree.
Must not know listening or limits.
"""

import asyncio
import json
import os
import shlex
import socket
import subprocess
from typing import Any, Awaitable, Dict, Optional, Set

from .. import entry_point
from ..processes import kill, process_tree
from . import interpreter_supervisor
from .tcp import SILENCE, tune
from .tls_stream import Stream

#: What the controller says first, and what we understand.
PROTOCOL = 1
_HELLO = 1 << 16
_CHUNK = 1 << 16
#: Seconds for a keeper to start its interpreter.
_START = 20.0
#: Seconds for a keeper to end its tree; then it is killed, and the tree by us.
_END = 12.0
#: Seconds for the last words of an interpreter to reach the controller.
_LAST_WORDS = 20.0


class Refused(Exception):
    """The peer cannot be served; the text goes to it and into the log."""


def parse_hello(line: bytes) -> Dict[str, Any]:
    """The order for a keeper; raises Refused."""
    try:
        hello = json.loads(line.decode("utf-8"))
        protocol, python, bootstrap = hello["nosejobs"], hello["python"], hello["bootstrap"]
        words, silence = shlex.split(python), float(hello.get("silence", SILENCE))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused("the first line was not a hello") from None
    if protocol != PROTOCOL:
        raise Refused("this agent speaks version %d: use the same release here" % PROTOCOL)
    if not isinstance(bootstrap, str) or "\0" in bootstrap + python:
        raise Refused("the first line was not a hello")
    if not 1 <= silence <= 3600:
        raise Refused("silence must be from 1 to 3600 s")
    return {"python": words, "bootstrap": bootstrap, "silence": silence}


class Kept:
    """A keeper process, its control socket, and the interpreter's end of stdin and stdout."""

    #: All that live, and the worker of durable jobs: another child of ours has lost its keeper.
    alive: "Set[int]" = set()

    def __init__(self) -> None:
        self._loop = asyncio.get_event_loop()
        self.data, theirs = socket.socketpair()
        self._control, far = socket.socketpair()
        with theirs, far:
            self._process = _spawn(theirs, far)
        self.alive.add(self._process.pid)
        for sock in (self.data, self._control):
            sock.setblocking(False)

    async def start(self, order: Dict[str, Any]) -> None:
        """Raises Refused, with what is wrong with the wanted Python."""
        await self._loop.sock_sendall(self._control, json.dumps(order).encode("ascii") + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            data = await self._loop.sock_recv(self._control, 1 << 16)
            if not data:
                raise Refused("the interpreter could not be started")
            answer += data
        problem = json.loads(answer.decode("ascii")).get("error")
        if problem:
            raise Refused(problem)

    async def ended(self) -> bool:
        """Return when the keeper is gone; whether it had done its work."""
        while await self._loop.sock_recv(self._control, 1):
            pass
        # It closes the socket by its death: this does not wait.
        return self._process.wait() == 0

    def let_go(self) -> None:
        """The connection has ended: the interpreter's input does, and its time runs."""
        for sock in (self.data, self._control):
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    async def close(self) -> None:
        """Return when nothing of it is left."""
        self.let_go()
        try:
            await asyncio.wait_for(self.ended(), _END)
        except (OSError, asyncio.TimeoutError):
            self._process.kill()
        status = self._process.wait()
        self.alive.discard(self._process.pid)
        self._control.close()
        self.data.close()
        if status != 0:
            kill_strays()


def kill_strays() -> None:
    """Without its keeper a tree is inherited by us, and nobody else would end it."""
    kill.kill_all(process_tree.Lister(os.getpid(), Kept.alive))


def _spawn(theirs: socket.socket, far: socket.socket) -> "subprocess.Popen[bytes]":
    command = entry_point.command("interpreter-supervisor", str(far.fileno()))
    return subprocess.Popen(
        command, stdin=theirs.fileno(), stdout=theirs.fileno(), pass_fds=[far.fileno()],
        start_new_session=True,
    )


class Connection:
    """An authenticated peer and what it asked for."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._loop = asyncio.get_event_loop()
        self._rest = b""

    async def hello(self) -> Dict[str, Any]:
        """Read the first line; raises Refused, ConnectionError."""
        text = b""
        while b"\n" not in text:
            data = await self._stream.read()
            if not data:
                raise ConnectionError("the peer hung up before its hello")
            text += data
            if len(text) > _HELLO and b"\n" not in text[:_HELLO]:
                raise Refused("the first line was too long")
        line, _, self._rest = text.partition(b"\n")
        order = parse_hello(line)
        tune(self._stream.sock, order["silence"])
        return order

    async def answer(self, problem: str = "") -> None:
        """The one line that we say ourselves."""
        answer = {"error": problem} if problem else {"ok": True}
        await self._stream.write(json.dumps(answer).encode("ascii") + b"\n")

    async def serve(self, order: Dict[str, Any]) -> str:
        """Run the interpreter until it or the connection has ended; which of them.

        Raises Refused.  Nothing of the interpreter is left when this returns, whatever happens.
        """
        kept = Kept()
        try:
            try:
                await asyncio.wait_for(kept.start(order), _START)
            except asyncio.TimeoutError:
                raise Refused("the interpreter did not start within %d s" % _START) from None
            await self.answer()
            return await self._pump(kept)
        finally:
            await _finish(kept.close())

    async def _pump(self, kept: Kept) -> str:
        up = self._loop.create_task(self._up(kept.data))
        down = self._loop.create_task(self._down(kept.data))
        gone = self._loop.create_task(kept.ended())
        tasks = (up, down, gone)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reason = _reason(up, down)
            kept.let_go()
            if gone.done() and not gone.result():
                return "the keeper was killed"
            if not _failed(down):
                limit = _LAST_WORDS if gone.done() else interpreter_supervisor.GRACE
                await asyncio.wait([down], timeout=limit)
            return reason
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _up(self, sock: socket.socket) -> None:
        data, self._rest = self._rest, b""
        while True:
            if data:
                await self._loop.sock_sendall(sock, data)
            # A peer that always has more must not keep the others waiting.
            await asyncio.sleep(0)
            data = await self._stream.read()
            if not data:
                return

    async def _down(self, sock: socket.socket) -> None:
        while True:
            data = await self._loop.sock_recv(sock, _CHUNK)
            if not data:
                return
            await self._stream.write(data)
            await asyncio.sleep(0)


def _reason(up: "asyncio.Task[None]", down: "asyncio.Task[None]") -> str:
    for task in (up, down):
        if _failed(task):
            return "connection lost: %s" % task.exception()
    return "closed by the peer" if up.done() else "the interpreter ended"


def _failed(task: "asyncio.Task[None]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _finish(work: Awaitable[None]) -> None:
    """Do it to its end, even if we are cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: Optional[asyncio.CancelledError] = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
