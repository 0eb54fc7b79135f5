"""The program ``nosejobs-agent``: lets the controllers of its fleet run tests on a host.

Owns the command line, the listening socket, signals, and the systemd unit.  Must not know how peers
are authenticated and served.

    nosejobs-agent host1.pem
    nosejobs-agent host1.pem --connect controller.example.org:7423
"""

import argparse
import asyncio
import errno
import getpass
import os
import shlex
import signal
import socket
import sys
from typing import List, Optional, Tuple

from .. import command_lines
from ..jobs import worker_launcher
from ..processes import process_tree
from .connection import SupervisedInterpreter
from .credentials import BadCredentials
from .event_log import log
from .listener import AgentListener, AgentOptions, PeerAddress
from .tcp import DEFAULT_PORT
from .worker_supervisor import WorkerSupervisor

#: Connections that wait to be accepted.
_LISTEN_BACKLOG = 1024
_UNIT_TEMPLATE = """\
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


class _UnknownListenAddress(Exception):
    """An error: the host of --listen, its argument, cannot be resolved."""


class _CannotListen(Exception):
    """An error: the address of --listen is in use or not allowed."""


def parse_address(text: str, default_port: int, default_host: str = "") -> Tuple[str, int]:
    """Return host and port of ``host:port``, ``[v6]:port``, ``host`` or ``:port``.

    Raises ArgumentTypeError.
    """
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in name and not name.startswith("[")):
        name, number = text, ""
    port = default_port if not number else int(number) if number.isdecimal() else -1
    name = name.strip("[]") or default_host
    if not name or not 0 <= port < 65536:
        raise argparse.ArgumentTypeError("%r is not an address; write HOST:PORT" % text)
    return name, port


def _parse_listen_address(text: str) -> Tuple[str, int]:
    if text.isdecimal():
        text = ":" + text
    return parse_address(text, DEFAULT_PORT, "0.0.0.0")


def _parse_dial_address(text: str) -> Tuple[str, int]:
    return parse_address(text, DEFAULT_PORT + 1)


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nosejobs-agent",
        description="Let the controllers of this host's fleet run tests on it.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="credentials written by `nosejobs ca issue HOST`")
    add(
        "--listen",
        type=_parse_listen_address,
        default=("0.0.0.0", DEFAULT_PORT),
        metavar="ADDR:PORT",
        help="address to listen on; default 0.0.0.0:%d; port 0: any free port" % DEFAULT_PORT,
    )
    add(
        "--connect",
        type=_parse_dial_address,
        metavar="HOST:PORT",
        help="connect to a controller instead of listening",
    )
    add("--crl", default="", metavar="FILE", help="revocation list; reloaded when it changes")
    add("--port-file", default="", metavar="FILE", help="write the listening port to this file")
    add(
        "--max-connections",
        type=int,
        default=32,
        metavar="N",
        help="maximum open connections; default 32",
    )
    add(
        "--max-client-connections",
        type=int,
        metavar="N",
        help="maximum open connections of one client; default half of --max-connections",
    )
    add(
        "--max-handshakes",
        type=int,
        default=64,
        metavar="N",
        help="maximum peers that have not finished the handshake; default 64",
    )
    add(
        "--handshake-timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="time limit for the handshake and for the first line after it; default 10",
    )
    add("--print-unit", action="store_true", help="print a systemd unit for this command")
    return parser


def _make_options(arguments: argparse.Namespace) -> AgentOptions:
    host, port = arguments.listen
    max_connections = max(arguments.max_connections, 1)
    max_client_connections = arguments.max_client_connections
    if max_client_connections is None:
        max_client_connections = (max_connections + 1) // 2
    return AgentOptions(
        arguments.bundle,
        arguments.crl,
        host,
        port,
        arguments.connect,
        arguments.port_file,
        max(arguments.max_handshakes, 1),
        arguments.handshake_timeout,
        max_connections,
        max(max_client_connections, 1),
    )


def format_unit(argv: List[str]) -> str:
    """Return a systemd unit that runs this program with these arguments."""
    parser = _create_parser()
    paths = {os.path.abspath(value): value for value in argv if os.path.exists(value)}
    known = {value: path for path, value in paths.items()}
    arguments = [known.get(word, word) for word in argv if word != "--print-unit"]
    parser.parse_args(arguments)
    command = " ".join(_quote_for_systemd(word) for word in [*_build_own_command(), *arguments])
    return _UNIT_TEMPLATE.format(command=command, user=_get_user())


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id has no name
        return str(os.getuid())


def _quote_for_systemd(word: str) -> str:
    """Quote an argument for ExecStart of systemd, which expands ``%`` and ``$``."""
    return shlex.quote(word.replace("%", "%%").replace("$", "$$"))


def _build_own_command() -> List[str]:
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "__main__.py" or not os.path.isfile(script):
        return command_lines.build_command("agent")
    return [sys.executable, script]


def _open_listening_socket(options: AgentOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    if not _is_ip_address(options.host, family):
        try:
            addresses = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise _UnknownListenAddress(options.host) from error
        family = addresses[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(_LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _CannotListen(_explain_listen_error(error, options)) from error
    return listener


def _explain_listen_error(error: OSError, options: AgentOptions) -> str:
    address = PeerAddress(options.host, str(options.port))
    hint = "choose another address or port with --listen ADDR:PORT"
    if error.errno == errno.EADDRINUSE:
        hint = "is another agent running? stop it, or " + hint
    return "cannot listen on %s: %s; %s" % (address, error.strerror, hint)


def _describe_error(error: Exception) -> str:
    """Return the message of an error, with the file of an OSError but without its number."""
    if isinstance(error, OSError) and error.strerror:
        path = "%s: " % error.filename if error.filename else ""
        return path + error.strerror
    return str(error)


def _is_ip_address(host: str, family: int) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True


def _write_port(path: str, port: int) -> None:
    temporary = "%s.%d" % (path, os.getpid())
    try:
        with open(temporary, "w") as file:
            file.write("%d\n" % port)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _create_worker_supervisor() -> Optional[WorkerSupervisor]:
    """Return the supervisor of the worker; log a line and return None if jobs cannot run here."""
    try:
        from ..jobs import queue_location  # needs sqlite3, which a stripped Python lacks

        return WorkerSupervisor(
            queue_location.find_queue_folder(), SupervisedInterpreter.running_pids
        )
    except (ImportError, OSError) as error:
        log("error", reason="durable jobs are not available: %s" % error)
        return None


async def _run(options: AgentOptions) -> None:
    loop = asyncio.get_event_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    agent = AgentListener(options)
    if options.connect:
        log("dialing", peer="%s:%d" % options.connect, pid=os.getpid())
        work = agent.dial(*options.connect)
    else:
        listener = _open_listening_socket(options)
        host, port = listener.getsockname()[:2]
        log("listening", address=PeerAddress(host, str(port)), port=port, pid=os.getpid())
        if options.port_file:
            _write_port(options.port_file, port)
        work = agent.listen(listener)
    agent.warn_of_expiry()
    workers = _create_worker_supervisor()
    if workers is not None:
        workers.start()
    tasks = [loop.create_task(work), loop.create_task(stopped.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    error = (await asyncio.gather(*tasks, return_exceptions=True))[0]
    await agent.stop()
    if workers is not None:
        workers.close()
    if isinstance(error, Exception):
        raise error
    log("stopped")


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command ``nosejobs-agent``; return its exit status."""
    options = sys.argv[1:] if argv is None else argv
    parser = _create_parser()
    arguments = parser.parse_args(options)
    if arguments.print_unit:
        sys.stdout.write(format_unit(options))
        return 0
    process_tree.become_subreaper()
    os.environ[worker_launcher.UNDER_AGENT_VARIABLE] = "1"
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        asyncio.run(_run(_make_options(arguments)))
    except _UnknownListenAddress as error:
        message = "argument --listen: cannot resolve %s; must be ADDR:PORT, such as 0.0.0.0:%d"
        parser.error(message % (error, DEFAULT_PORT))
    except (BadCredentials, _CannotListen, OSError) as error:
        sys.stderr.write("nosejobs-agent: %s\n" % _describe_error(error))
        return 1
    return 0
