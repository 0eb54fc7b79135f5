"""The connection of a peer to the agent: reads the hello, runs an interpreter, relays its bytes.

Owns everything between the end of the handshake and the end of the interpreter's processes.  Must
not know listening or the limits of connections.
"""

import asyncio
import json
import os
import shlex
import socket
import subprocess
from typing import Any, Awaitable, Dict, Optional, Set

from .. import command_lines
from ..processes import descendant_reaper, process_tree
from . import interpreter_shim
from .tcp import DEFAULT_SILENCE, configure_socket
from .tls_stream import TlsStream

#: Version of the hello, which is the controller's first line.
PROTOCOL_VERSION = 2
_MAX_HELLO_BYTES = 1 << 16
#: Maximum characters of the command of a Python; splitting it into words stops all connections.
_MAX_PYTHON_CHARS = 4096
#: Maximum bytes of one receive from the interpreter.
_CHUNK_SIZE = 1 << 16
#: Seconds for a shim to start its interpreter.
_START_TIMEOUT = 20.0
#: Seconds for a shim to end its process tree; then it is killed, and the tree by the agent.
_STOP_TIMEOUT = 12.0
#: Seconds for the last output of an interpreter to reach the controller.
_FINAL_OUTPUT_TIMEOUT = 20.0


class PeerRefused(Exception):
    """An error: the peer is refused; the text is sent to it and logged."""


def parse_hello(line: bytes) -> Dict[str, Any]:
    """Return the launch request that a hello contains; raise PeerRefused.

    Its keys: "python" (a list of arguments), "bootstrap" (code), "silence" (seconds).
    """
    try:
        hello = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        hello = None
    if not isinstance(hello, dict):
        raise PeerRefused("the first line was not a hello: not a JSON object")
    if hello.get("nosejobs") != PROTOCOL_VERSION:
        raise PeerRefused(
            "this agent speaks version %d: use the same release of nosejobs" % PROTOCOL_VERSION
        )
    python = _get_text(hello, "python", _MAX_PYTHON_CHARS)
    bootstrap = _get_text(hello, "bootstrap", _MAX_HELLO_BYTES)
    try:
        command = shlex.split(python)
    except ValueError as error:
        raise PeerRefused("the first line was not a hello: python: %s" % error) from None
    return {"python": command, "bootstrap": bootstrap, "silence": _get_silence(hello)}


def _get_text(hello: Dict[str, Any], key: str, limit: int) -> str:
    """Return a text of the hello that can be an argument of a program; raise PeerRefused."""
    value = hello.get(key)
    # The type comes first: shlex.split(None) reads the agent's own standard input.
    if not isinstance(value, str):
        raise PeerRefused("the first line was not a hello: %s is not a text" % key)
    if len(value) > limit:
        raise PeerRefused("%s is longer than %d characters" % (key, limit))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PeerRefused("the first line was not a hello: %s is not Unicode" % key) from None
    if "\0" in value:
        raise PeerRefused("the first line was not a hello: %s contains a null character" % key)
    return value


def _get_silence(hello: Dict[str, Any]) -> float:
    value = hello.get("silence", DEFAULT_SILENCE)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PeerRefused("the first line was not a hello: silence is not a number")
    if not 1 <= value <= 3600:
        raise PeerRefused("silence must be from 1 to 3600 s")
    return float(value)


class SupervisedInterpreter:
    """A shim process, its control socket, and our end of the interpreter's streams."""

    #: Process ids of all running shims and of the worker of durable jobs.  Any other child of
    #: the agent is an orphan whose shim was killed.
    running_pids: "Set[int]" = set()

    def __init__(self) -> None:
        self._loop = asyncio.get_event_loop()
        self.data, stdio = socket.socketpair()
        self._control, control = socket.socketpair()
        with stdio, control:
            self._process = _spawn_shim(stdio, control)
        self.running_pids.add(self._process.pid)
        for sock in (self.data, self._control):
            sock.setblocking(False)

    async def start(self, request: Dict[str, Any]) -> None:
        """Start the interpreter; raise PeerRefused if the requested Python cannot be run."""
        await self._loop.sock_sendall(self._control, json.dumps(request).encode("ascii") + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            data = await self._loop.sock_recv(self._control, 1 << 16)
            if not data:
                raise PeerRefused("the interpreter could not be started")
            answer += data
        error = json.loads(answer.decode("ascii")).get("error")
        if error:
            raise PeerRefused(error)

    async def wait_until_ended(self) -> bool:
        """Wait for the end of the shim; return whether it ended normally."""
        while await self._loop.sock_recv(self._control, 1):
            pass
        # The socket is closed by the shim's exit, so this does not block.
        return self._process.wait() == 0

    def begin_shutdown(self) -> None:
        """Close the interpreter's input and start its grace period: the connection has ended."""
        for sock in (self.data, self._control):
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    async def close(self) -> None:
        """End the interpreter and all its processes; return when none is left."""
        self.begin_shutdown()
        try:
            await asyncio.wait_for(self.wait_until_ended(), _STOP_TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            self._process.kill()
        status = self._process.wait()
        self.running_pids.discard(self._process.pid)
        self._control.close()
        self.data.close()
        if status != 0:
            kill_adopted_processes()


def kill_adopted_processes() -> None:
    """Kill processes that the agent has inherited from a shim that was killed."""
    descendant_reaper.kill_all(
        process_tree.DescendantLister(os.getpid(), SupervisedInterpreter.running_pids)
    )


def _spawn_shim(stdio: socket.socket, control: socket.socket) -> "subprocess.Popen[bytes]":
    command = command_lines.build_command("interpreter-shim", str(control.fileno()))
    return subprocess.Popen(
        command,
        stdin=stdio.fileno(),
        stdout=stdio.fileno(),
        pass_fds=[control.fileno()],
        start_new_session=True,
    )


class Connection:
    """The connection of an authenticated peer."""

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream
        self._loop = asyncio.get_event_loop()
        self._unread = b""

    async def read_hello(self) -> Dict[str, Any]:
        """Read the first line; return its launch request.  Raise PeerRefused, ConnectionError."""
        text = b""
        while b"\n" not in text:
            data = await self._stream.read()
            if not data:
                raise ConnectionError("the peer hung up before its hello")
            text += data
            if len(text) > _MAX_HELLO_BYTES and b"\n" not in text[:_MAX_HELLO_BYTES]:
                raise PeerRefused("the first line was too long")
        line, _, self._unread = text.partition(b"\n")
        request = parse_hello(line)
        configure_socket(self._stream.sock, request["silence"])
        return request

    async def send_answer(self, error: str = "") -> None:
        """Send the answer to the hello; empty ``error``: the interpreter runs."""
        answer = {"error": error} if error else {"ok": True}
        await self._stream.write(json.dumps(answer).encode("ascii") + b"\n")

    async def serve(self, request: Dict[str, Any]) -> str:
        """Run the interpreter until it or the connection has ended; return which of them, and why.

        No process of the interpreter is left when this returns, even if it is canceled.  Raises
        PeerRefused.
        """
        interpreter = SupervisedInterpreter()
        try:
            try:
                await asyncio.wait_for(interpreter.start(request), _START_TIMEOUT)
            except asyncio.TimeoutError:
                raise PeerRefused(
                    "the interpreter did not start within %d s" % _START_TIMEOUT
                ) from None
            await self.send_answer()
            return await self._relay(interpreter)
        finally:
            await _run_to_completion(interpreter.close())

    async def _relay(self, interpreter: SupervisedInterpreter) -> str:
        upstream = self._loop.create_task(self._relay_to_interpreter(interpreter.data))
        downstream = self._loop.create_task(self._relay_to_peer(interpreter.data))
        ended = self._loop.create_task(interpreter.wait_until_ended())
        tasks = (upstream, downstream, ended)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reason = _describe_end(upstream, downstream)
            interpreter.begin_shutdown()
            if ended.done() and not ended.result():
                return "the shim was killed"
            if not _has_failed(downstream):
                limit = _FINAL_OUTPUT_TIMEOUT if ended.done() else interpreter_shim.GRACE_PERIOD
                await asyncio.wait([downstream], timeout=limit)
            return reason
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay_to_interpreter(self, sock: socket.socket) -> None:
        data, self._unread = self._unread, b""
        while True:
            if data:
                await self._loop.sock_sendall(sock, data)
            # Let other connections run: a peer may always have more data.
            await asyncio.sleep(0)
            data = await self._stream.read()
            if not data:
                return

    async def _relay_to_peer(self, sock: socket.socket) -> None:
        while True:
            data = await self._loop.sock_recv(sock, _CHUNK_SIZE)
            if not data:
                return
            await self._stream.write(data)
            await asyncio.sleep(0)


def _describe_end(up: "asyncio.Task[None]", down: "asyncio.Task[None]") -> str:
    for task in (up, down):
        if _has_failed(task):
            return "connection lost: %s" % task.exception()
    return "closed by the peer" if up.done() else "the interpreter ended"


def _has_failed(task: "asyncio.Task[None]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _run_to_completion(work: Awaitable[None]) -> None:
    """Await ``work`` to its end, even if this task is canceled meanwhile."""
    task = asyncio.ensure_future(work)
    canceled: Optional[asyncio.CancelledError] = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            canceled = error
    if canceled is not None:
        raise canceled
    task.result()
