"""The door of a host: whom the fleet's authority has signed gets an interpreter.

Owns listening, dialling out, the limits on those who are not yet known, and the log.
Must not know what the bytes behind a hello mean.

    nosejobs-agent host1.pem
    nosejobs-agent host1.pem --connect controller.example.org:7423
"""

import argparse
import asyncio
import collections
import getpass
import os
import random
import select
import shlex
import signal
import socket
import ssl
import sys
import time
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

from . import credentials, tree
from .connection import Connection, Refused, addresses
from .credentials import BadCredentials, Credentials
from .secured import Stream

PORT = 7422
#: Seconds between two attempts to dial out: from the first on, and at most.
_BACKOFF = (1.0, 10.0)
_BACKLOG = 1024
_DAY = 86400.0
#: After so much silence of the network a connection is dead, in milliseconds.
_USER_TIMEOUT = 30_000
_KEEPALIVE = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)
_UNIT = """\
[Unit]
Description=nosejobs agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command}
User={user}
Restart=always
RestartSec=2
KillMode=process

[Install]
WantedBy=multi-user.target
"""


class Options(NamedTuple):
    """What the command line says."""

    bundle: str
    crl: str = ""
    host: str = "0.0.0.0"
    port: int = PORT
    connect: Optional[Tuple[str, int]] = None
    port_file: str = ""
    handshakes: int = 64
    handshake_time: float = 10.0
    connections: int = 32


_lost_lines = 0


def log(event: str, **fields: object) -> None:
    """One line to stderr; peers cannot put anything else into it.

    Who reads it slowly loses lines: a full pipe must not stop the agent.
    """
    global _lost_lines
    words = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), event]
    for name, value in fields.items():
        text = "".join(c if c.isprintable() and c != '"' else "?" for c in str(value))[:300]
        words.append('%s="%s"' % (name, text) if " " in text or not text else name + "=" + text)
    text = " ".join(words) + "\n"
    if _lost_lines:
        words[1:] = ["trouble", 'reason="%d lines of the log are lost"\n%s' % (_lost_lines, text)]
        text = " ".join(words)
    try:
        # Room for a write that does not block: POSIX promises 512 bytes, Linux 4096.
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode("utf-8", "replace"))
            _lost_lines = 0
        else:
            _lost_lines += 1
    except OSError:
        pass  # a log that cannot be written is no reason to refuse work


def tune(sock: socket.socket) -> None:
    """Notice a dead network, and send small messages at once."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, _USER_TIMEOUT)


class Peer(NamedTuple):
    """Who is at the other end of a socket."""

    host: str
    port: str

    def __str__(self) -> str:
        return ("[%s]:%s" if ":" in self.host else "%s:%s") % (self.host, self.port)


class Agent:
    """Takes sockets, and makes connections of those whose peers are signed."""

    def __init__(self, options: Options) -> None:
        """Raises BadCredentials."""
        self._options = options
        self._credentials = Credentials(options.bundle, options.crl)
        #: Who has not yet shown a certificate, the oldest first.
        self._unknown: "Dict[asyncio.Task[bool], str]" = {}
        self._tasks: "Set[asyncio.Task[bool]]" = set()
        self._open = 0
        self._count = 0
        self._stopping = False
        self._warned = -_DAY

    def warn(self) -> None:
        """Say once a day that our certificate ends soon."""
        if time.monotonic() - self._warned >= _DAY:
            self._warned = time.monotonic()
            warning = credentials.expiry_warning(self._options.bundle)
            if warning:
                log("trouble", reason=warning)

    # -- sockets ----------------------------------------------------------------

    async def listen(self, listener: socket.socket) -> None:
        """Take connections for ever."""
        loop = asyncio.get_event_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the peer is gone already
                log("trouble", reason=error)
                await asyncio.sleep(0.1)
                continue
            self.take(sock)
            # The new task takes hold of its socket before it can be cancelled.
            await asyncio.sleep(0)

    async def dial(self, host: str, port: int) -> None:
        """Connect and be served, for ever."""
        delay, said = _BACKOFF[0], ""
        while True:
            try:
                sock = await asyncio.wait_for(_connect(host, port), 10.0)
            except (OSError, asyncio.TimeoutError) as error:
                reason = str(error) or "no answer"
                if reason != said:
                    log("waiting", peer="%s:%d" % (host, port), reason=reason)
                said = reason
            else:
                task, said = self.take(sock), ""
                if task is not None:
                    await asyncio.wait([task])
                    if _got_in(task):
                        delay = _BACKOFF[0]
            await asyncio.sleep(delay * random.uniform(0.75, 1.0))
            delay = min(delay * 2, _BACKOFF[1])

    def take(self, sock: socket.socket) -> "Optional[asyncio.Task[bool]]":
        """Serve the peer of a socket in a task of its own; its result: whether it got in."""
        try:
            tune(sock)
            peer = Peer(*addresses(sock))
        except OSError:
            sock.close()
            return None
        self._make_room()
        task = asyncio.get_event_loop().create_task(self._serve(sock, peer))
        self._unknown[task] = peer.host
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[bool]") -> None:
        self._tasks.discard(task)
        self._unknown.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log("trouble", reason=repr(task.exception()))

    def _make_room(self) -> None:
        """Where too many are silent, the oldest of the address with the most goes."""
        if len(self._unknown) < self._options.handshakes:
            return
        busiest = collections.Counter(self._unknown.values()).most_common(1)[0][0]
        victim = next(task for task, host in self._unknown.items() if host == busiest)
        del self._unknown[victim]
        victim.cancel()

    # -- one peer ---------------------------------------------------------------

    async def _serve(self, sock: socket.socket, peer: Peer) -> bool:
        begin = time.monotonic()
        name = ""
        try:
            context = self._credentials.context(lambda why: log("trouble", reason=why))
            stream = Stream(sock, context)
            name = await self._handshake(stream)
            return await self._converse(stream, peer, name)
        except (ssl.SSLError, OSError, Refused, asyncio.TimeoutError) as error:
            log("refused", peer=peer, name=name, reason=_why(error), seconds=_since(begin))
            return False
        except asyncio.CancelledError:
            if not name:
                words = "the agent stops" if self._stopping else "too many handshakes"
                log("refused", peer=peer, name=name, reason=words, seconds=_since(begin))
            raise
        finally:
            sock.close()

    async def _handshake(self, stream: Stream) -> str:
        try:
            await asyncio.wait_for(stream.handshake(), self._options.handshake_time)
        except asyncio.TimeoutError:
            limit = self._options.handshake_time
            raise Refused("no handshake within %g s" % limit) from None
        self._unknown.pop(_this_task(), None)
        return stream.peer().get("commonName", "?")

    async def _converse(self, stream: Stream, peer: Peer, name: str) -> bool:
        connection = Connection(stream)
        try:
            if self._open >= self._options.connections:
                raise Refused("%d connections are open already" % self._open)
            self._open += 1
            try:
                return await self._work(connection, stream, peer, name)
            finally:
                self._open -= 1
        except Refused as error:
            await _tell(connection, stream, str(error))
            raise

    async def _work(self, connection: Connection, stream: Stream, peer: Peer, name: str) -> bool:
        try:
            order = await asyncio.wait_for(connection.hello(), self._options.handshake_time)
        except asyncio.TimeoutError:
            limit = self._options.handshake_time
            raise Refused("no hello within %g s" % limit) from None
        begin, reason = time.monotonic(), "the agent stops"
        self._count += 1
        number = self._count
        log("open", id=number, peer=peer, name=name)
        self.warn()
        try:
            reason = await connection.serve(order)
            await stream.finish()
        except (Refused, OSError) as error:
            reason = _why(error)
            if isinstance(error, Refused):
                await _tell(connection, stream, reason)
        finally:
            log("close", id=number, peer=peer, name=name, reason=reason, seconds=_since(begin))
        return True

    async def stop(self) -> None:
        """End all connections, and what is behind them."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _got_in(task: "asyncio.Task[bool]") -> bool:
    return not task.cancelled() and task.exception() is None and task.result()


async def _tell(connection: Connection, stream: Stream, problem: str) -> None:
    try:
        await asyncio.wait_for(connection.answer(problem), 1.0)
        await stream.finish()
    except (OSError, asyncio.TimeoutError):
        pass  # who does not listen is not told


def _this_task() -> "asyncio.Task[bool]":
    task = asyncio.current_task()
    assert task is not None
    return task


def _since(begin: float) -> str:
    return "%.3f" % (time.monotonic() - begin)


#: What OpenSSL says, and what it means.
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate",
    "WRONG_VERSION_NUMBER": "not TLS",
    "HTTP_REQUEST": "not TLS, but HTTP",
    "HTTPS_PROXY_REQUEST": "not TLS, but HTTP",
    "UNSUPPORTED_PROTOCOL": "TLS older than 1.3",
    "UNEXPECTED_EOF_WHILE_READING": "the peer hung up during the handshake",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not accept our certificate: another authority",
}


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate refused: %s" % error.verify_message
    if isinstance(error, ssl.SSLEOFError):
        return "the peer hung up during the handshake"
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason or "", error.reason or str(error))
    return str(error) or type(error).__name__


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_event_loop()
    problem: Exception = OSError("no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
    raise problem


# -- the program ------------------------------------------------------------------


def parse_address(text: str, port: int, host: str = "") -> Tuple[str, int]:
    """``host:port``, ``[v6]:port``, ``host`` or ``:port``; raises ValueError."""
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in name and not name.startswith("[")):
        name, number = text, ""
    if not name.strip("[]") and not host:
        raise ValueError(text)
    found = int(number) if number else port
    if not 0 <= found < 65536:
        raise ValueError(text)
    return name.strip("[]") or host, found


def _listen_address(text: str) -> Tuple[str, int]:
    if text.isdecimal():
        text = ":" + text
    return parse_address(text, PORT, "0.0.0.0")


def _dial_address(text: str) -> Tuple[str, int]:
    return parse_address(text, PORT + 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nosejobs-agent", description="Opens this host to the controllers of its fleet."
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="what `nosejobs ca issue HOST` wrote")
    add("--listen", type=_listen_address, default=("0.0.0.0", PORT), metavar="ADDR:PORT",
        help="default 0.0.0.0:%d; port 0: any free one" % PORT)
    add("--connect", type=_dial_address, metavar="HOST:PORT",
        help="dial out to a controller instead of listening")
    add("--crl", default="", metavar="FILE", help="revocation list; read again when it changes")
    add("--port-file", default="", metavar="FILE", help="write the port to this file")
    add("--max-connections", type=int, default=32, metavar="N", help="default 32")
    add("--max-handshakes", type=int, default=64, metavar="N", help="default 64")
    add("--handshake-timeout", type=float, default=10.0, metavar="SECONDS", help="default 10")
    add("--print-unit", action="store_true", help="print a systemd unit for this command")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    host, port = arguments.listen
    return Options(
        arguments.bundle, arguments.crl, host, port, arguments.connect,
        arguments.port_file, max(arguments.max_handshakes, 1), arguments.handshake_timeout,
        max(arguments.max_connections, 1),
    )


def unit(argv: List[str]) -> str:
    """A systemd unit that runs this very program with these arguments."""
    parser = _parser()
    paths = {os.path.abspath(value): value for value in argv if os.path.exists(value)}
    known = {value: path for path, value in paths.items()}
    words = [known.get(word, word) for word in argv if word != "--print-unit"]
    parser.parse_args(words)
    command = " ".join(_systemd_word(word) for word in [*_program(), *words])
    return _UNIT.format(command=command, user=_user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody has that number here
        return str(os.getuid())


def _systemd_word(word: str) -> str:
    """systemd expands ``%`` and ``$``, and knows quotes nearly as a shell does."""
    return shlex.quote(word.replace("%", "%%").replace("$", "$$"))


def _program() -> List[str]:
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "agent.py" or not os.path.isfile(script):
        return [sys.executable, "-m", "%s.agent" % __package__]
    return [sys.executable, script]


def _listener(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    if not _is_literal(options.host, family):
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
        family = found[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_literal(host: str, family: int) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True


def _write_port(path: str, port: int) -> None:
    temporary = "%s.%d" % (path, os.getpid())
    with open(temporary, "w") as file:
        file.write("%d\n" % port)
    os.replace(temporary, path)


async def _run(options: Options) -> None:
    loop = asyncio.get_event_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    agent = Agent(options)
    if options.connect:
        log("dialling", peer="%s:%d" % options.connect, pid=os.getpid())
        work = agent.dial(*options.connect)
    else:
        listener = _listener(options)
        host, port = listener.getsockname()[:2]
        log("listening", address=Peer(host, str(port)), port=port, pid=os.getpid())
        if options.port_file:
            _write_port(options.port_file, port)
        work = agent.listen(listener)
    agent.warn()
    tasks = [loop.create_task(work), loop.create_task(stopped.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    trouble = (await asyncio.gather(*tasks, return_exceptions=True))[0]
    await agent.stop()
    if isinstance(trouble, Exception):
        raise trouble
    log("stopped")


def main(argv: Optional[List[str]] = None) -> int:
    """The command ``nosejobs-agent``."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(words)
    if arguments.print_unit:
        sys.stdout.write(unit(words))
        return 0
    tree.become_subreaper()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        asyncio.run(_run(_options(arguments)))
    except (BadCredentials, OSError) as error:
        sys.stderr.write("nosejobs-agent: %s\n" % error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
