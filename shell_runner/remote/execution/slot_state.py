"""The state of a slot that its tests inherit or share, and that a test can change for later ones.

Responsible for the output pipes, which serve all tests of a slot, and for noticing changes of them
and of the attributes that a process inherits from its parent: a test can change those of its
parent by prlimit(2), setpriority(2), sched_setaffinity(2), /proc and others.
"""

import array
import ctypes
import fcntl
import os
import resource
import termios
from typing import Any, Callable, List, NamedTuple, Tuple

#: Bytes of one read of an output pipe.
READ_BYTES = 1 << 18
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
#: Options of fcntl(2) whose values belong to an open file, not to a process.
_FILE_OPTIONS = tuple(
    getattr(fcntl, name) for name in ("F_GETFL", "F_GETOWN", "F_GETSIG") if hasattr(fcntl, name)
)
_LIMITS = tuple(
    sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
)
#: Attributes of a process that its children inherit and that others can write.
_ATTRIBUTE_FILES = ("oom_score_adj", "timerslack_ns", "coredump_filter", "cgroup")
#: Maximum bytes of such a file.
_MAX_ATTRIBUTE_BYTES = 1 << 14
#: Numbers of ioprio_get(2), which has no function in the C library.
_IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31}
_IOPRIO_WHO_PROCESS = 1


class OutputPipe(NamedTuple):
    """The descriptors of a pipe."""

    read: int
    write: int

    def count_unread(self) -> int:
        """Return the number of bytes that can be read."""
        count = array.array("i", [0])
        fcntl.ioctl(self.read, termios.FIONREAD, count)
        return count[0]

    def restore_blocking(self) -> None:
        """Make the writing end blocking again, since many programs leave it otherwise."""
        flags = fcntl.fcntl(self.write, fcntl.F_GETFL)
        if flags & os.O_NONBLOCK:
            fcntl.fcntl(self.write, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)


def open_output_pipe() -> OutputPipe:
    """Create an output pipe that can hold as much as one read."""
    pipe = OutputPipe(*os.pipe())
    os.set_blocking(pipe.read, False)
    try:
        fcntl.fcntl(pipe.write, _F_SETPIPE_SZ, READ_BYTES)
    except OSError:
        pass  # not Linux, or the user is at the kernel's limit: the default size suffices
    return pipe


class InheritedState:
    """The state that the next test inherits, as it was before the first one."""

    def __init__(self, pipes: Tuple[OutputPipe, ...]) -> None:
        self._readers: List[Callable[[], Any]] = [_read_limits, _read_priority]
        self._readers += map(_create_attribute_reader, _ATTRIBUTE_FILES)
        self._readers += map(_create_pipe_reader, pipes)
        if hasattr(os, "sched_getaffinity"):
            self._readers += [_read_scheduling, _create_io_priority_reader()]
        self._initial = self._read()

    def is_unchanged(self) -> bool:
        """Return whether no test has changed anything."""
        return self._read() == self._initial

    def _read(self) -> List[Any]:
        return [read() for read in self._readers]


def _read_limits() -> List[Tuple[int, int]]:
    return [resource.getrlimit(number) for number in _LIMITS]


def _read_priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def _read_scheduling() -> Tuple[Any, ...]:
    priority = os.sched_getparam(0).sched_priority
    return os.sched_getaffinity(0), os.sched_getscheduler(0), priority


def _create_io_priority_reader() -> Callable[[], int]:
    number = _IOPRIO_GET.get(os.uname().machine)
    if number is None:
        return int
    call = ctypes.CDLL(None).syscall
    return lambda: int(call(number, _IOPRIO_WHO_PROCESS, 0))


def _create_attribute_reader(name: str) -> Callable[[], bytes]:
    """Return a function that reads a file of this process in /proc; empty if there is none."""
    try:
        descriptor = os.open("/proc/self/" + name, os.O_RDONLY)
    except OSError:
        return bytes
    return lambda: os.pread(descriptor, _MAX_ATTRIBUTE_BYTES, 0)


def _create_pipe_reader(pipe: OutputPipe) -> Callable[[], List[Any]]:
    """Return a function that reads what a test can change on a pipe, by either end."""

    def read() -> List[Any]:
        values: List[Any] = [_read_pipe_size(pipe)]
        for descriptor in pipe:
            values += [_read_file_option(descriptor, option) for option in _FILE_OPTIONS]
            values.append(os.fstat(descriptor)[:6])  # mode, owner and group among them
        return values

    return read


def _read_pipe_size(pipe: OutputPipe) -> int:
    return _read_file_option(pipe.write, _F_GETPIPE_SZ)


def _read_file_option(descriptor: int, option: int) -> int:
    try:
        return int(fcntl.fcntl(descriptor, option))
    except OSError:
        return -1  # not Linux
