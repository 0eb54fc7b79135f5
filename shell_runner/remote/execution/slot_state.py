"""The state of a slot that its tests inherit or share, and that a test can change for later ones.

Responsible for the output pipes, which serve all tests of a slot, and for noticing changes of them
and of the attributes that a process inherits from its parent: a test can change those of its
parent by prlimit(2), setpriority(2), sched_setaffinity(2), /proc and others.  It can do the same
to the process of the slot pool, whose attributes are restored before another slot starts.
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
#: Numbers of ioprio_set(2) and ioprio_get(2), which have no function in the C library.
_IOPRIO_CALLS = {"x86_64": (251, 252), "aarch64": (30, 31), "riscv64": (30, 31)}
_IOPRIO_WHO_PROCESS = 1
#: Numbers of keyctl(2), its operation that returns the id of a keyring, and the session's keyring.
_KEYCTL_CALLS = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_KEYCTL_GET_KEYRING_ID, _SESSION_KEYRING = 0, -3


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


class _Attribute(NamedTuple):
    """A reader of one attribute, and a function that restores a value that was read."""

    read: Callable[[], Any]
    restore: Callable[[Any], Any] = bool


class InheritedState:
    """The state that the next test inherits, as it was before the first one."""

    def __init__(self, pipes: Tuple[OutputPipe, ...] = ()) -> None:
        self._attributes = [_Attribute(_read_limits, _restore_limits), _PRIORITY]
        self._files = [_AttributeFile(name) for name in _ATTRIBUTE_FILES]
        self._attributes += [_Attribute(file.read, file.restore) for file in self._files]
        self._attributes += [_Attribute(_create_pipe_reader(pipe)) for pipe in pipes]
        if hasattr(os, "sched_getaffinity"):
            self._attributes.append(_Attribute(_read_scheduling, _restore_scheduling))
            self._attributes += [_create_io_priority(), _create_session_keyring()]
        self._initial = self._read()

    def is_unchanged(self) -> bool:
        """Return whether no test has changed anything."""
        return self._read() == self._initial

    def restore(self) -> bool:
        """Restore what a test has changed; return whether all of it could be restored.

        Only the kernel's superuser can raise a limit or a priority again.
        """
        for attribute, value in zip(self._attributes, self._initial):
            try:
                if attribute.read() != value:
                    attribute.restore(value)
            except (OSError, ValueError):
                pass  # not permitted
        return self.is_unchanged()

    def close(self) -> None:
        """Close the files of the attributes."""
        for file in self._files:
            file.close()

    def _read(self) -> List[Any]:
        return [attribute.read() for attribute in self._attributes]


def _read_limits() -> List[Tuple[int, int]]:
    return [resource.getrlimit(number) for number in _LIMITS]


def _restore_limits(values: List[Tuple[int, int]]) -> None:
    for number, value in zip(_LIMITS, values):
        if resource.getrlimit(number) != value:
            resource.setrlimit(number, value)


_PRIORITY = _Attribute(
    lambda: os.getpriority(os.PRIO_PROCESS, 0),
    lambda value: os.setpriority(os.PRIO_PROCESS, 0, value),
)


def _read_scheduling() -> Tuple[Any, ...]:
    priority = os.sched_getparam(0).sched_priority
    return os.sched_getaffinity(0), os.sched_getscheduler(0), priority


def _restore_scheduling(value: Tuple[Any, ...]) -> None:
    processors, policy, priority = value
    os.sched_setaffinity(0, processors)
    os.sched_setscheduler(0, policy, os.sched_param(priority))


def _create_io_priority() -> _Attribute:
    if os.uname().machine not in _IOPRIO_CALLS:
        return _Attribute(int)
    set_number, get_number = _IOPRIO_CALLS[os.uname().machine]
    call = ctypes.CDLL(None).syscall
    return _Attribute(
        lambda: int(call(get_number, _IOPRIO_WHO_PROCESS, 0)),
        lambda value: call(set_number, _IOPRIO_WHO_PROCESS, 0, value),
    )


def _create_session_keyring() -> _Attribute:
    """Return the id of the session keyring, which a test can replace in its parent."""
    number = _KEYCTL_CALLS.get(os.uname().machine)
    if number is None:
        return _Attribute(int)
    call = ctypes.CDLL(None).syscall
    return _Attribute(lambda: int(call(number, _KEYCTL_GET_KEYRING_ID, _SESSION_KEYRING, 0)))


class _AttributeFile:
    """An attribute in a file of this process in /proc; always empty if there is none."""

    def __init__(self, name: str) -> None:
        self._path = "/proc/self/" + name
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        except OSError:
            self._descriptor = -1

    def read(self) -> bytes:
        if self._descriptor < 0:
            return b""
        return os.pread(self._descriptor, _MAX_ATTRIBUTE_BYTES, 0)

    def restore(self, value: bytes) -> None:
        is_hexadecimal = self._path.endswith("coredump_filter")
        with open(self._path, "wb") as file:
            file.write(b"0x" + value if is_hexadecimal else value)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


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
