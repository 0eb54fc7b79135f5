"""One concurrent test on a host: a process that runs tests one after the other.

Owns the life of a test's processes, from spawn until nothing of them is left, and
the capture of their output.  Single-threaded, a child subreaper, in a session of
its own.  Must not know schedules, trees of files, or verdicts.

A test is done when its program has exited, not when its pipes are closed: a child
that holds them open proves nothing.  What outlives the program is stopped, named
and killed; the slot goes on when wait(2) says that it has no child left.  The pipes
are the slot's own and serve one test after the other.
"""

import collections
import fcntl
import json
import os
import resource
import select
import signal
import socket
import time
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..files.copy_tree import copy_tree
from ..files.remove_tree import remove_tree
from ..files.session_dirs import forsake
from ..formats.output_parser import Formats, Readers
from ..processes import process_tree
from ..protocol.frames import Unframer, frame, frame_encoded
from ..protocol.model import Execution, Problem, Setup, Test
from .artifacts import choose
from .environment import PASSED_ON, clean
from .live_output import Lines
from .output_capture import Capture
from .scratch_dirs import ScratchDirectories
from .spawn import NotStarted, World, start

#: Seconds after which a test that still runs is announced.
_ANNOUNCE = 0.1
#: Seconds that children of an exited program get to end by themselves.
_SETTLE = 0.1
#: Seconds of grace when the user has interrupted the run.
_HURRY = 0.5
#: Seconds after SIGKILL until a process counts as unkillable.
_UNKILLABLE = 10.0
#: A slot ends when it is told so, or when its control is closed; not because a test
#: signals its parent.
_DEAF = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM,
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGVTALRM, signal.SIGPROF, signal.SIGTSTP,
)  # fmt: skip
_LIMITS = tuple(
    getattr(resource, name)
    for name in ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_NPROC")
    if hasattr(resource, name)
)
_CHUNK = 1 << 18
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_F_SETPIPE_SZ = 1031


class _Pipe(NamedTuple):
    read: int
    write: int


class _Run:
    """The state of the test that runs now."""

    def __init__(self, test: Test, keep: int, readers: Readers, files: Dict[str, str]) -> None:
        self.test = test
        self.pid = 0
        self.readers = readers
        self.status: Optional[int] = None
        self.usage: Optional[resource.struct_rusage] = None
        self.timed_out = False
        self.out = Capture(keep, files.get("out", ""))
        self.err = Capture(keep, files.get("err", ""))


class Orphaned(Exception):
    """The process that feeds this slot is gone."""


class Slot:
    """Runs tests on behalf of who holds the other end of ``control``."""

    def __init__(self, number: int, control: socket.socket, setup: Setup, base: str) -> None:
        self.number = number
        self.setup = setup
        self.control = control
        self.place = ScratchDirectories(base, ("tmp", "home", "out"))
        self.formats = Formats(setup.formats)
        self._lines = Lines()
        self.environment = self._base_environment()
        self.todo: Deque[Test] = collections.deque()
        self.stopping = False
        self.broken = False
        self._unframer = Unframer()
        self._now: Optional[_Run] = None
        self._poller = select.poll()
        #: The outputs alone.
        self._pipes = select.poll()
        self._alone = True
        self._limits = _own_limits()
        self._out = self._open_pipe()
        self._err = self._out if setup.merge else self._open_pipe()
        self._wake = self._watch_children()
        self._poller.register(control, select.POLLIN)

    # -- one test ---------------------------------------------------------------

    def run(self, test: Test) -> Execution:
        """Run one test to its end; what happened."""
        readers = self.formats.readers(test.format)
        run = self._now = _Run(test, self.setup.keep, readers, self._output_files())
        wall, begin = time.time(), time.monotonic()
        try:
            root = self._make_room(test)
            # To remove what an earlier test left is not this one's time.
            wall, begin = time.time(), time.monotonic()
            self._start(test, root, run)
        except NotStarted as why:
            return Execution(
                test.id, test.attempt, self.number, wall, time.monotonic() - begin,
                problem=why.problem, detail=why.detail,
            )  # fmt: skip
        self._watch(test, run, begin)
        duration = time.monotonic() - begin
        leftovers = self._clear(run)
        self._drain()
        for line in self._lines.rest() if self.setup.live else ():
            self.control.sendall(frame(["line", test.id, line]))
        if test.isolation == "copy":
            remove_tree(root)
        return self._keep_artefacts(self._execution(test, run, wall, duration, leftovers), run)

    def _keep_artefacts(self, execution: Execution, run: _Run) -> Execution:
        """What the test wrote for us is set aside, for who feeds us to send."""
        run.out.close()
        run.err.close()
        if not self.setup.artefacts or not self.place.entries("out"):
            return execution
        chosen = choose(self.place.paths["out"], self.setup.artefacts)
        if chosen.files:
            kept = "%s-kept-%d-%d" % (self.place.base, execution.id, execution.attempt)
            os.rename(self.place.paths["out"], kept)
            self.control.sendall(frame(["kept", execution.id, kept, chosen.files]))
        return execution._replace(artefacts=chosen.files, artefacts_left=chosen.left)

    def _output_files(self) -> Dict[str, str]:
        """Where output goes that is longer than what is kept, if artefacts are wanted."""
        if not self.setup.artefacts:
            return {}
        folder = self.place.paths["out"]
        return {"out": folder + "/stdout.txt", "err": folder + "/stderr.txt"}

    def _make_room(self, test: Test) -> str:
        """All directories of the test exist; the root of its tree."""
        try:
            self.place.prepare()
            if test.isolation != "copy":
                return self.setup.root
            root = os.path.join(self.place.base, "tree")
            remove_tree(root)
            copy_tree(self.setup.root, root)
            return root
        except OSError as error:
            raise NotStarted(Problem.SPAWN, str(error)) from None

    def _start(self, test: Test, root: str, run: _Run) -> None:
        path = os.path.join(root, test.path)
        try:
            os.chdir(root if test.cwd == "root" else os.path.dirname(path))
        except FileNotFoundError:
            raise NotStarted(Problem.VANISHED, path) from None
        except OSError as error:
            raise NotStarted(Problem.SPAWN, str(error)) from None
        env = self._environment_of(test)
        if test.isolation == "copy":
            env["TEST_SRCDIR"] = root
        self._alone = False
        run.pid = start(path, test.argv, World(env, self._out.write, self._err.write, test.limits))

    def _watch(self, test: Test, run: _Run, begin: float) -> None:
        """Wait until the program has exited, by itself or by our hand."""
        deadline = begin + test.timeout
        self._turn(min(_ANNOUNCE, test.timeout))
        if run.status is None and not self.stopping:
            self._announce(test)
        while run.status is None and not self.stopping:
            left = deadline - time.monotonic()
            if left <= 0:
                run.timed_out = True
                return
            self._turn(min(left, 1.0))

    def _announce(self, test: Test) -> None:
        """Not if that could block: nobody may read for long, and the deadline comes."""
        if select.select([], [self.control], [], 0)[1]:
            self.control.sendall(frame(["running", test.id, time.time()]))

    def _clear(self, run: _Run) -> List[str]:
        """End all that is left of the test; the names of what its program left behind."""
        if run.status is not None and not self.stopping:
            self._turn_until_alone(_SETTLE)
        if self._alone:
            return []
        found = self._freeze()
        names = process_tree.names(found) if run.status is not None else []
        self._kill(found, _HURRY if self.stopping else self.setup.grace)
        return names

    def _freeze(self) -> List[int]:
        return process_tree.freeze(process_tree.Lister(os.getpid()), self._reap)

    def _kill(self, found: List[int], grace: float) -> None:
        """TERM to the frozen processes, grace, KILL until wait(2) finds no child."""
        process_tree.send(found, signal.SIGTERM)
        process_tree.send(found, signal.SIGCONT)
        self._turn_until_alone(grace)
        deadline = time.monotonic() + _UNKILLABLE
        while not self._alone and time.monotonic() < deadline:
            process_tree.send_groups(self._freeze(), signal.SIGKILL)
            self._turn_until_alone(0.05)
        self.broken = not self._alone

    def _execution(
        self, test: Test, run: _Run, wall: float, duration: float, leftovers: List[str]
    ) -> Execution:
        status = run.status
        cancelled = status is None or (self.stopping and not run.timed_out)
        usage = run.usage
        return Execution(
            test.id, test.attempt, self.number, wall, duration,
            exit=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            signal=os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            timed_out=run.timed_out,
            problem=Problem.CANCELLED if cancelled and not run.timed_out else "",
            out=run.out.stream(), err=run.err.stream(), leftovers=tuple(leftovers),
            max_rss=usage.ru_maxrss if usage else 0,
            cpu=usage.ru_utime + usage.ru_stime if usage else 0.0,
            parsed=run.readers.close(self.place.paths["out"], self.place.entries("out")),
        )  # fmt: skip

    # -- waiting ----------------------------------------------------------------

    def _turn(self, timeout: float) -> None:
        """Wait for anything to happen, and take it."""
        for fd, _ in self._poller.poll(max(timeout, 0.0) * 1000):
            if fd == self._wake:
                self._take_wake()
            elif fd == self.control.fileno():
                self._take_control()
            else:
                self._take_output(fd)
        self._reap()

    def _turn_until_alone(self, timeout: float) -> None:
        if self._alone:  # who has no child gets none by itself, not even as a subreaper
            return
        deadline = time.monotonic() + timeout
        self._reap()
        while not self._alone and time.monotonic() < deadline:
            self._turn(min(deadline - time.monotonic(), 0.05))

    def _take_wake(self) -> None:
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            pass

    def _take_output(self, fd: int) -> bool:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        run = self._now
        if run is not None and data:
            self._keep(run, fd, data)
        return bool(data)

    def _keep(self, run: _Run, fd: int, data: bytes) -> None:
        if fd == self._out.read:
            run.out.add(data)
            run.readers.feed(data)
        else:
            run.err.add(data)
        if self.setup.live:
            for line in self._lines.feed(fd, data):
                self.control.sendall(frame(["line", run.test.id, line]))

    def _reap(self) -> None:
        run = self._now
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self._alone = True
                return
            if pid == 0:
                self._alone = False
                return
            if run is not None and pid == run.pid:
                run.status, run.usage = status, usage

    def _drain(self) -> None:
        """Nobody writes any more (or nobody that we could stop): take what is in the pipes."""
        full = {fd for fd, _ in self._pipes.poll(0)}
        for pipe in {self._out, self._err}:
            limit = 64
            while pipe.read in full and self._take_output(pipe.read) and limit:
                limit -= 1
            flags = fcntl.fcntl(pipe.write, fcntl.F_GETFL)
            if flags & os.O_NONBLOCK:  # a test had set it on what is every test's stdout
                fcntl.fcntl(pipe.write, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)

    # -- who feeds us -----------------------------------------------------------

    def serve(self) -> None:
        """Run what comes until told to stop."""
        while not (self.stopping or self.broken):
            if self.todo:
                execution = self.run(self.todo.popleft())
                text = _ENCODE(execution).encode("ascii")
                self.control.sendall(frame_encoded(b'["done",' + text + b"]"))
                self.broken = self.broken or _own_limits() != self._limits
            else:
                self._now = None
                self._turn(3600)
        if self.broken:  # the tests that wait here have not been started
            self.control.sendall(frame(["retired"]))

    def _take_control(self) -> None:
        data = self.control.recv(1 << 16)
        if not data:
            self.stopping = True
            raise Orphaned()
        for text in self._unframer.feed(data):
            message: List[Any] = json.loads(text.decode("ascii"))
            if message[0] == "run":
                self.todo.extend(Test(*row) for row in message[1])
            elif message[0] in ("return", "recall"):
                self._give_back(message[0] + "ed", message[1])
            elif message[0] == "stop":
                self.stopping = True

    def _give_back(self, answer: str, numbers: List[int]) -> None:
        """Tests that have not been started go elsewhere; not if to say so could block."""
        if not select.select([], [self.control], [], 0)[1]:
            return
        back = [test.id for test in self.todo if test.id in numbers]
        self.todo = collections.deque(test for test in self.todo if test.id not in back)
        self.control.sendall(frame([answer, back]))

    def abandon(self) -> None:
        """Nobody wants the result: kill what runs, without grace."""
        self._reap()
        if not self._alone:
            process_tree.send_groups(self._freeze(), signal.SIGKILL)
            try:
                self._kill_orphaned()
            except Orphaned:
                pass

    def _kill_orphaned(self) -> None:
        self._poller.unregister(self.control)
        self._kill([], 0.0)

    # -- setting up -------------------------------------------------------------

    def _open_pipe(self) -> _Pipe:
        pipe = _Pipe(*os.pipe())
        os.set_blocking(pipe.read, False)
        try:
            fcntl.fcntl(pipe.write, _F_SETPIPE_SZ, _CHUNK)
        except OSError:
            pass  # another system, or a user at the kernel's limit: the default will do
        for poller in (self._poller, self._pipes):
            poller.register(pipe.read, select.POLLIN)
        return pipe

    def _watch_children(self) -> int:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._poller.register(read, select.POLLIN)
        return read

    def _base_environment(self) -> Dict[str, str]:
        env = clean(os.environ, PASSED_ON + self.setup.pass_env)
        env["TEST_SRCDIR"] = self.setup.root
        env.update(self.setup.env)
        return env

    def _environment_of(self, test: Test) -> Dict[str, str]:
        env = self.environment.copy()
        if test.pass_env:
            env.update(clean(os.environ, test.pass_env), PATH=env["PATH"])
        env["TMPDIR"] = env["TEST_TMPDIR"] = self.place.paths["tmp"]
        env["TEST_UNDECLARED_OUTPUTS_DIR"] = out = self.place.paths["out"]
        env["XML_OUTPUT_FILE"] = out + "/test.xml"
        env["GTEST_OUTPUT"] = "xml:" + out + "/test.xml"
        if test.home == "keep":
            env["HOME"] = os.path.expanduser("~")
        else:
            env["HOME"] = self.place.paths["home"]
        env.update(test.env)
        return env


def _own_limits() -> List[Tuple[int, int]]:
    """A test can change them (prlimit(2) of its parent), and the next one would inherit that."""
    return [resource.getrlimit(number) for number in _LIMITS]


def _limits() -> None:
    """No core file lands in the tree of tests, unless a test raises the limit itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _session() -> None:
    try:
        os.setsid()
    except PermissionError:
        pass  # leads one already
    process_tree.become_subreaper()
    os.umask(0o022)
    _limits()
    for number in _DEAF:
        signal.signal(number, signal.SIG_IGN)


def main(argv: Sequence[str]) -> None:
    """The slot process: ``argv`` is its number, the control socket and its directory."""
    number, descriptor, base = int(argv[0]), int(argv[1]), argv[2]
    _session()
    # Programs must not have it: they could speak in our name, or keep it open after our death.
    os.set_inheritable(descriptor, False)
    control = socket.socket(fileno=descriptor)
    # A test that held it would hide the death of its slot.
    control.set_inheritable(False)
    setup = _read_setup(control)
    if setup is None:
        forsake(os.path.dirname(base))
        return
    slot = Slot(number, control, setup, base)
    try:
        slot.serve()
    except (Orphaned, BrokenPipeError, ConnectionResetError):
        slot.abandon()
        os.chdir("/")
        remove_tree(base)
        forsake(os.path.dirname(base))
    finally:
        os.chdir("/")
        remove_tree(base)


def _read_setup(control: socket.socket) -> Optional[Setup]:
    """None if who started us is gone already."""
    unframer = Unframer()
    while True:
        data = control.recv(1)
        if not data:
            return None
        for text in unframer.feed(data):
            return setup_from_row(json.loads(text.decode("ascii")))


def setup_from_row(row: List[Any]) -> Setup:
    """Restore a Setup from its JSON row."""
    setup = Setup(*row)
    return setup._replace(
        pass_env=tuple(setup.pass_env),
        env=tuple((key, value) for key, value in setup.env),
        formats=tuple((name, source) for name, source in setup.formats),
    )
