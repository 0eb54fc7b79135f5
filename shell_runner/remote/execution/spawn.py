"""Starting one program, and saying why it cannot be started.

Owns the spawn and the reading of a file's first bytes.  Must not know slots,
deadlines or output.
"""

import errno
import functools
import os
import resource
import shutil
import signal
import subprocess
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

from ..protocol.model import Problem

_HEAD = 512
#: Magic numbers of programs that some machine can run.
_BINARIES = (
    b"\x7fELF",
    b"MZ",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\x00asm",
)
#: Tests start with no signal blocked and none ignored, whatever we ourselves do.
_ALL = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_SPAWN_KNOWS_SETSID = hasattr(os, "posix_spawn")


class NotStarted(Exception):
    """A program could not be started: ``problem`` (a Problem) and ``detail``."""

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(problem, detail)
        self.problem = problem
        self.detail = detail


class World(NamedTuple):
    """What a program finds when it starts."""

    env: Dict[str, str]
    out: int
    err: int
    #: Names and values of its resource limits.
    limits: Tuple[Tuple[str, int], ...] = ()


def start(path: str, argv: Tuple[str, ...], world: World) -> int:
    """Start ``path`` (through ``argv``, if any) in a session of its own; its process id.

    Raises NotStarted.  The working directory is the caller's.
    """
    if argv:
        interpreter = shutil.which(argv[0], path=world.env.get("PATH"))
        if interpreter is None:
            raise NotStarted(Problem.NO_INTERPRETER, "%s is not installed" % argv[0])
        return _start([interpreter, *argv[1:], path], path, world)
    try:
        return _spawn([path], world)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            return _start_text(path, world)
        raise explain(path, error) from None


def _start(argv: List[str], path: str, world: World) -> int:
    if not os.path.lexists(path):
        raise NotStarted(Problem.VANISHED, path)
    try:
        return _spawn(argv, world)
    except OSError as error:
        raise explain(argv[0], error) from None


def _start_text(path: str, world: World) -> int:
    """The kernel does not know the format: text is a shell script, as execvp(3) has it."""
    if is_binary(head(path)):
        detail = "the kernel of this %s machine cannot run it" % os.uname().machine
        raise NotStarted(Problem.FOREIGN, detail)
    return _start(["/bin/sh", path], path, world)


def _spawn(argv: List[str], world: World) -> int:
    for _ in range(20):
        try:
            return _spawn_once(argv, world)
        except OSError as error:
            # A file that was written a moment ago can still be open in a child of the writer;
            # another slot's fork storm passes.
            if error.errno not in (errno.ETXTBSY, errno.EAGAIN):
                raise
            time.sleep(0.01)
    return _spawn_once(argv, world)


def _spawn_once(argv: List[str], world: World) -> int:
    if _SPAWN_KNOWS_SETSID and not world.limits:
        try:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, world.out, 1),
                (os.POSIX_SPAWN_DUP2, world.err, 2),
            ]
            return os.posix_spawn(
                argv[0], argv, world.env, file_actions=actions, setsid=True,
                setsigmask=[], setsigdef=_ignored(),
            )  # fmt: skip
        except NotImplementedError:
            pass
    return _fork(argv, world)


@functools.lru_cache(maxsize=None)
def _ignored() -> List[int]:
    """What a program would inherit: exec(2) itself ends handlers.

    Each signal is a system call in each child, so the other fifty are not named.  Asked
    once, for a slot changes nothing when its first test has begun.
    """
    return [number for number in _ALL if signal.getsignal(number) == signal.SIG_IGN]


def _fork(argv: List[str], world: World) -> int:
    """For limits, which posix_spawn does not know, and where it cannot make a session."""
    try:
        child = subprocess.Popen(
            argv, env=world.env, stdin=subprocess.DEVNULL, stdout=world.out, stderr=world.err,
            start_new_session=True, preexec_fn=lambda: _in_child(world.limits),
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        raise NotStarted(Problem.SPAWN, str(error)) from None
    child.returncode = 0  # reaped by the slot, never by Popen
    return child.pid


def _in_child(limits: Tuple[Tuple[str, int], ...]) -> None:
    """Between fork and exec; the slot has one thread, so that nothing is locked here."""
    for number in _ALL:
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for name, value in dict(limits).items():  # the last one of a name wins
        number = getattr(resource, "RLIMIT_" + name.upper())
        _, hard = resource.getrlimit(number)
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # At the hard limit of processor time comes SIGKILL: let SIGXCPU come first.
        spare = 1 if name == "cpu" and least == value != hard else 0
        resource.setrlimit(number, (least, least + spare))


def explain(path: str, error: OSError) -> NotStarted:
    """Why the kernel refused to execute ``path``."""
    if error.errno == errno.ENOENT and os.path.exists(path):
        return NotStarted(Problem.NO_INTERPRETER, describe_shebang(head(path)))
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotStarted(Problem.VANISHED, path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotStarted(Problem.DENIED, _why_denied(path))
    return NotStarted(Problem.SPAWN, error.strerror or str(error))


def _why_denied(path: str) -> str:
    if not os.access(path, os.X_OK):
        return "not executable (chmod +x)"
    return "its interpreter is not executable, or its file system is mounted noexec"


def head(path: str) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def is_binary(start: bytes) -> bool:
    """Whether a file that starts so is a program for some machine, and not a text."""
    return start.startswith(_BINARIES) or b"\0" in start


def shebang(start: bytes) -> Optional[str]:
    """The line behind ``#!``, with its line end if that is a CR; None without one."""
    if not start.startswith(b"#!"):
        return None
    return start[2:].split(b"\n", 1)[0].decode("utf-8", "replace")


def describe_shebang(start: bytes) -> str:
    """Which interpreter is missing, and whether a CR is at fault."""
    line = shebang(start)
    if line is None:
        return "the program's loader is not installed"
    if line.endswith("\r"):
        return "%r: the line ends in a CR; convert the file to Unix line ends" % line.strip(" ")
    return "%s is not installed" % (line.split() or ["(nothing)"])[0]
