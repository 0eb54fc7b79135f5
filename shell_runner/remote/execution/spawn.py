"""The start of one program, and the reasons for which it cannot be started.

Responsible for the spawn and for reading the first bytes of a file.  Must not depend on slots,
timeouts or output.
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

from ..protocol.command_words import build_command, expand_placeholders
from ..protocol.model import Problem, Test

_HEAD_BYTES = 512
#: The first bytes of executable formats: ELF, PE, Mach-O (five variants) and WebAssembly.
_BINARY_MAGICS = (
    b"\x7fELF",
    b"MZ",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\x00asm",
)
#: All signals whose disposition can be set: a test starts with none blocked and none ignored,
#: whatever the slot does.
_SETTABLE_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_HAS_POSIX_SPAWN = hasattr(os, "posix_spawn")


class ProgramStartError(Exception):
    """A program could not be started; ``problem`` is a Problem, ``detail`` is for the report."""

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(problem, detail)
        self.problem = problem
        self.detail = detail


class SpawnContext(NamedTuple):
    """The environment, the output descriptors and the resource limits of a program."""

    env: Dict[str, str]
    stdout_fd: int
    stderr_fd: int
    #: Pairs of a resource limit's name (``nofile``) and its value.
    limits: Tuple[Tuple[str, int], ...] = ()


def start_test(test: Test, path: str, root: str, context: SpawnContext) -> int:
    """Start the program ``path`` of ``test`` and return its process id.

    ``root``: the root of its tree, for its command and its variables, which are changed in
    ``context``.  Raises ProgramStartError.
    """
    for name, value in test.env:
        context.env[name] = expand_placeholders(value, path, root)
    words = build_command(test, path, root)
    if "/" in words[0] and test.run and words[0] != path:
        if not os.path.lexists(path):
            raise ProgramStartError(Problem.NO_SUCH_FILE, path)
        return start_program(words[0], (), context, tuple(words[1:]))
    if words[0] == path:
        return start_program(path, (), context, tuple(words[1:]))
    return _start_interpreter(words, path, context)


def start_program(
    path: str, argv: Tuple[str, ...], context: SpawnContext, args: Tuple[str, ...] = ()
) -> int:
    """Start ``path`` in a new session and return its process id.

    If ``argv`` is not empty, it is the interpreter with its options, and ``path`` is its last
    argument.  ``args``: arguments after ``path``.  The program inherits the working directory of
    the caller.  Raises ProgramStartError.
    """
    if argv:
        return _start_interpreter([*argv, path, *args], path, context)
    try:
        return _spawn_with_retries([path, *args], context)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            return _spawn_shell_script(path, args, context)
        raise explain_start_error(path, error) from None


def _start_interpreter(words: List[str], path: str, context: SpawnContext) -> int:
    interpreter = shutil.which(words[0], path=context.env.get("PATH"))
    if interpreter is None:
        raise ProgramStartError(Problem.NO_INTERPRETER, "%s is not installed" % words[0])
    return _spawn_checked([interpreter, *words[1:]], path, context)


def _spawn_checked(argv: List[str], path: str, context: SpawnContext) -> int:
    if not os.path.lexists(path):
        raise ProgramStartError(Problem.NO_SUCH_FILE, path)
    try:
        return _spawn_with_retries(argv, context)
    except OSError as error:
        raise explain_start_error(argv[0], error) from None


def _spawn_shell_script(path: str, args: Tuple[str, ...], context: SpawnContext) -> int:
    """Run a file whose format the kernel does not know as a shell script, as execvp(3) does.

    Raises ProgramStartError for a binary.
    """
    if is_binary(read_head(path)):
        detail = "the kernel of this %s machine cannot run it" % os.uname().machine
        raise ProgramStartError(Problem.FOREIGN_BINARY, detail)
    return _spawn_checked(["/bin/sh", path, *args], path, context)


def _spawn_with_retries(argv: List[str], context: SpawnContext) -> int:
    for _ in range(20):
        try:
            return _spawn_once(argv, context)
        except OSError as error:
            # ETXTBSY: a file that has just been written can still be open in a child of the
            # writer.  EAGAIN: too many processes, such as those of a test in another slot.
            if error.errno not in (errno.ETXTBSY, errno.EAGAIN):
                raise
            time.sleep(0.01)
    return _spawn_once(argv, context)


def _spawn_once(argv: List[str], context: SpawnContext) -> int:
    if _HAS_POSIX_SPAWN and not context.limits:
        try:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, context.stdout_fd, 1),
                (os.POSIX_SPAWN_DUP2, context.stderr_fd, 2),
            ]
            return os.posix_spawn(
                argv[0], argv, context.env, file_actions=actions, setsid=True,
                setsigmask=[], setsigdef=_list_ignored_signals(),
            )  # fmt: skip
        except NotImplementedError:
            pass
    return _spawn_by_fork(argv, context)


@functools.lru_cache(maxsize=None)
def _list_ignored_signals() -> List[int]:
    """Return the signals that a program would inherit as ignored; exec(2) resets handlers.

    Resetting a signal costs one system call in each child, so the other fifty are left out.
    Cached, because a slot does not change its signals once the first test has started.
    """
    return [number for number in _SETTABLE_SIGNALS if signal.getsignal(number) == signal.SIG_IGN]


def _spawn_by_fork(argv: List[str], context: SpawnContext) -> int:
    """Start a program with limits, or where posix_spawn cannot create a session."""
    try:
        child = subprocess.Popen(
            argv, env=context.env, stdin=subprocess.DEVNULL,
            stdout=context.stdout_fd, stderr=context.stderr_fd,
            start_new_session=True, preexec_fn=lambda: _prepare_child(context.limits),
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        raise ProgramStartError(Problem.NOT_STARTED, str(error)) from None
    child.returncode = 0  # the slot reaps it; Popen must not
    return child.pid


def _prepare_child(limits: Tuple[Tuple[str, int], ...]) -> None:
    """Reset the signals and set the limits, between fork and exec.

    This is safe because the slot has a single thread: no lock can be held here.
    """
    for number in _SETTABLE_SIGNALS:
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for name, value in dict(limits).items():  # the last value for a name wins
        number = getattr(resource, "RLIMIT_" + name.upper())
        _, hard = resource.getrlimit(number)
        soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # At the hard limit of CPU time the kernel sends SIGKILL: let SIGXCPU come first.
        margin = 1 if name == "cpu" and soft == value != hard else 0
        resource.setrlimit(number, (soft, soft + margin))


def explain_start_error(path: str, error: OSError) -> ProgramStartError:
    """Return an error that says why the kernel did not execute ``path``."""
    if error.errno == errno.ENOENT and os.path.exists(path):
        return ProgramStartError(
            Problem.NO_INTERPRETER, describe_missing_interpreter(read_head(path))
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ProgramStartError(Problem.NO_SUCH_FILE, path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return ProgramStartError(Problem.PERMISSION_DENIED, _explain_denied(path))
    return ProgramStartError(Problem.NOT_STARTED, error.strerror or str(error))


def _explain_denied(path: str) -> str:
    if not os.access(path, os.X_OK):
        return "not executable (chmod +x)"
    return "its interpreter is not executable, or its file system is mounted noexec"


def read_head(path: str) -> bytes:
    """Return the first bytes of a file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def is_binary(start: bytes) -> bool:
    """Return whether a file with these first bytes is a binary and not text."""
    return start.startswith(_BINARY_MAGICS) or b"\0" in start


def parse_shebang(start: bytes) -> Optional[str]:
    """Return the line after ``#!``, with a trailing CR if it has one; None without a shebang."""
    if not start.startswith(b"#!"):
        return None
    return start[2:].split(b"\n", 1)[0].decode("utf-8", "replace")


def describe_missing_interpreter(start: bytes) -> str:
    """Return which interpreter is missing, and whether a CR at the line end is the cause."""
    line = parse_shebang(start)
    if line is None:
        return "the program's loader is not installed"
    if line.endswith("\r"):
        return "%r: the line ends in a CR; convert the file to Unix line ends" % line.strip(" ")
    return "%s is not installed" % (line.split() or ["(nothing)"])[0]
