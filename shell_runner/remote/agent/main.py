"""The program ``nosejobs-agent``: opens a host to the controllers of its fleet.

Owns the command line, the listening socket, signals, and the systemd unit.  Must not know
who gets in, nor what happens then.

    nosejobs-agent host1.pem
    nosejobs-agent host1.pem --connect controller.example.org:7423
"""

import argparse
import asyncio
import getpass
import os
import shlex
import signal
import socket
import sys
from typing import List, Optional, Tuple

from .. import entry_point
from ..jobs import worker_launcher
from ..processes import process_tree
from .connection import Kept
from .credentials import BadCredentials
from .listener import Door, Options, Peer, log
from .tcp import PORT
from .worker_supervisor import Porter

_BACKLOG = 1024
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


def parse_address(text: str, port: int, host: str = "") -> Tuple[str, int]:
    """``host:port``, ``[v6]:port``, ``host`` or ``:port``; raises ArgumentTypeError."""
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in name and not name.startswith("[")):
        name, number = text, ""
    found = port if not number else int(number) if number.isdecimal() else -1
    name = name.strip("[]") or host
    if not name or not 0 <= found < 65536:
        raise argparse.ArgumentTypeError("%r is not an address; write HOST:PORT" % text)
    return name, found


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
    if os.path.basename(script) == "__main__.py" or not os.path.isfile(script):
        return entry_point.command("agent")
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


def _porter() -> Optional[Porter]:
    """Who starts the worker of durable jobs; without them an agent is an agent still."""
    try:
        from ..jobs import queue  # needs sqlite3, which a stripped Python lacks

        return Porter(queue.folder(), Kept.alive)
    except (ImportError, OSError) as error:
        log("trouble", reason="no durable jobs here: %s" % error)
        return None


async def _run(options: Options) -> None:
    loop = asyncio.get_event_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    door = Door(options)
    if options.connect:
        log("dialling", peer="%s:%d" % options.connect, pid=os.getpid())
        work = door.dial(*options.connect)
    else:
        listener = _listener(options)
        host, port = listener.getsockname()[:2]
        log("listening", address=Peer(host, str(port)), port=port, pid=os.getpid())
        if options.port_file:
            _write_port(options.port_file, port)
        work = door.listen(listener)
    door.warn()
    porter = _porter()
    if porter is not None:
        porter.begin()
    tasks = [loop.create_task(work), loop.create_task(stopped.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    trouble = (await asyncio.gather(*tasks, return_exceptions=True))[0]
    await door.stop()
    if porter is not None:
        porter.close()
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
    process_tree.become_subreaper()
    os.environ[worker_launcher.BEHIND] = "1"
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        asyncio.run(_run(_options(arguments)))
    except (BadCredentials, OSError) as error:
        sys.stderr.write("nosejobs-agent: %s\n" % error)
        return 1
    return 0
