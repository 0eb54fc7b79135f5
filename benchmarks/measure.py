"""Measuring commands in turn: wall time, processor time and memory of the whole process tree.

Standard library only.  A benchmark says what it compares (``Contender``), ``in_turn``
runs all of them round by round (A B C A B C ...), so that a machine that slows down slows
all, and ``table`` makes medians and ratios, each ratio from runs of the same round.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds between two looks at the process tree.
_EVERY = 0.1
#: Seconds after which a run counts as hung.
_LIMIT = 900.0
#: Variables that change what Python and pytest do.
_DISTORTING = ("PYTHON", "PYTEST_", "LIT_", "PERL5", "HARNESS_", "NOSEJOBS_")


class RunFailed(Exception):
    """A run failed, or did not do what it should."""


def environment(**more: str) -> dict[str, str]:
    """Return the caller's environment without variables that distort; only named plugins load."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_DISTORTING)}
    return {**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more}


# -- one run ----------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The cost of one run of a command."""

    #: Seconds from start to exit.
    wall: float
    #: User and system seconds of the command and all its descendants.
    cpu: float
    #: Peak resident memory of the command itself, bytes.
    controller: int
    #: The same of the interpreters below it, added up: gateways, slots, workers.
    below: int
    #: Seconds until the awaited words appeared in its output.
    first: float = 0.0
    #: The finding of the contender's own check: a makespan.
    found: float = 0.0
    #: Most threads of the command itself, as far as they were looked at.
    threads: int = 0


def run(argv: Sequence[str], cwd: Path, stdin: Path | None = None, until: bytes = b"") -> Run:
    """Run a command to its end.  Raises RunFailed if it fails."""
    become_subreaper()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile() as output, _open(stdin) as source:
        begin = time.perf_counter()
        process = subprocess.Popen(
            argv, cwd=cwd, env=environment(), stdin=source, stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE if until else output,
        )  # fmt: skip
        watch = _TreeSampler(process.pid)
        watch.start()
        try:
            first = _await_text(process, until, output) - begin if until else 0.0
            status = _wait(process)
        finally:
            watch.stop()
        wall = time.perf_counter() - begin
        _reap()
        if status:
            raise RunFailed(f"exit {status}: {' '.join(argv[:12])}\n{_tail(output)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, watch.controller, watch.below, first, threads=watch.threads)


def _open(stdin: Path | None) -> Any:
    return open(stdin or os.devnull, "rb")


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_LIMIT)
    except BaseException:
        for pid in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        raise


def _await_text(process: subprocess.Popen[bytes], words: bytes, output: Any) -> float:
    """Read all output of the command; return the time at which the text appeared."""
    assert process.stdout is not None
    seen, when = bytearray(), 0.0
    while data := os.read(process.stdout.fileno(), 65536):
        seen += data
        if not when and words in seen:
            when = time.perf_counter()
    process.stdout.close()
    output.write(seen)
    if not when:
        process.kill()
        process.wait()
        raise RunFailed(f"{words!r} is not in the output of {process.args}\n{_tail(output)}")
    return when


def _tail(output: Any) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - 3000))
    return output.read().decode("utf-8", "replace")  # type: ignore[no-any-return]


def become_subreaper() -> None:
    """Adopt grandchildren whose parent ends early, so that their processor time counts, too."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# -- memory -----------------------------------------------------------------------


class _TreeSampler(threading.Thread):
    """Samples the memory of a process tree; peaks are the kernel's own high-water marks."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.controller = self.threads = 0
        self._pid = pid
        self._peaks: dict[int, int] = {}
        self._seen: set[int] = set()
        self._most = 0
        self._ended = threading.Event()

    @property
    def below(self) -> int:
        """Return the largest sum over interpreters that lived at the same time."""
        return self._most

    def run(self) -> None:
        pause = _EVERY / 4
        while not self._ended.wait(pause):
            pause = _EVERY
            self._look()

    def _look(self) -> None:
        self.controller = max(self.controller, _peak(self._pid))
        self.threads = max(self.threads, status(self._pid, "Threads:"))
        below = set(descendants(self._pid))
        # A process between fork and exec still looks like its parent: count from the second look.
        lasting = [pid for pid in below & self._seen if _is_interpreter(pid)]
        self._seen = below
        self._most = max(self._most, sum(_peak(pid) for pid in lasting))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in _children(parent)]
        found += level
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _is_interpreter(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("python")
    except OSError:
        return False


def _peak(pid: int) -> int:
    return status(pid, "VmHWM:") * 1024


def status(pid: int, name: str) -> int:
    """Return a number of /proc/PID/status; 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            for line in lines:
                if line.startswith(name):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


# -- contenders -------------------------------------------------------------------


def _nothing() -> None:
    pass


def _no_finding() -> float:
    return 0.0


@dataclass(frozen=True)
class Contender:
    """One of the commands that are compared."""

    name: str
    argv: Sequence[str]
    cwd: Path
    stdin: Path | None = None
    #: Words of the output whose time counts.
    until: bytes = b""
    #: Called before each run, untimed.
    before: Callable[[], None] = _nothing
    #: Called after each run; raises RunFailed, or gives a figure of its own.
    check: Callable[[], float] = _no_finding

    def run(self) -> Run:
        """Run it once and check the result."""
        self.before()
        done = run(self.argv, self.cwd, self.stdin, self.until)
        return Run(**{**vars(done), "found": self.check()})


_chosen_rounds: list[int] = []


def set_rounds(rounds: int | None) -> None:
    """Let all benchmarks run this many rounds instead of their own number; None: their own."""
    _chosen_rounds[:] = [] if rounds is None else [rounds]


def _choose_rounds(rounds: int) -> int:
    return next(iter(_chosen_rounds), rounds)


def in_turn(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Run]]:
    """Run all contenders in turn, round by round."""
    rounds = _choose_rounds(rounds)
    runs: dict[str, list[Run]] = {each.name: [] for each in contenders}
    for number in range(rounds):
        for each in contenders:
            runs[each.name].append(each.run())
            wall = runs[each.name][-1].wall
            print(f"  round {number + 1}/{rounds}  {each.name}: {wall:.2f} s", file=sys.stderr)
    return runs


# -- tables -----------------------------------------------------------------------


def wall(done: Run) -> float:
    """Return the wall time in seconds, the figure that most tables compare."""
    return done.wall


@dataclass(frozen=True)
class Table:
    """A comparison to be rendered; ``rows`` are as in ``table``."""

    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {"title": self.title, "rows": self.rows, "notes": self.notes}


def table(
    title: str,
    runs: Mapping[str, Sequence[Run]],
    base: str | float,
    notes: Sequence[str] = (),
    figure: Callable[[Run], float] = wall,
    memory: bool = False,
    inverse: bool = False,
) -> dict[str, Any]:
    """Median, least and most of a figure, and its ratio to ``base``.

    ``base`` is one of the contenders, or a number.  ``inverse`` turns the ratio over, for
    figures where less is better and a rate is asked for.
    """
    rows = []
    for name, done in runs.items():
        values = [figure(each) for each in done]
        bases = [base] * len(done) if isinstance(base, float) else map(figure, runs[base])
        pairs = zip(values, bases, strict=True)
        ratios = [b / v if inverse else v / b for v, b in pairs]
        row: dict[str, Any] = {"what": name, **spread(values), "ratio": spread(ratios)}
        row["cpu"] = statistics.median(each.cpu for each in done)
        if memory:
            row["controller_rss"] = max(each.controller for each in done)
            row["below_rss"] = max(each.below for each in done)
        rows.append(row)
    return Table(title, rows, list(notes)).as_dict()


def format_rounds(rounds: int) -> str:
    """Return ``1 round`` or ``5 rounds``; ``rounds``: a benchmark's own number."""
    rounds = _choose_rounds(rounds)
    return f"{rounds} round{'s' if rounds > 1 else ''}"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum as text."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# -- what benchmarks share --------------------------------------------------------


#: The place where files cost least: on ext4, creating many just after many were deleted takes
#: 1 ms each.
_MEMORY = Path("/dev/shm")
_ROOM = 1 << 28


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """Yield a private folder for all temporary files, in memory if possible."""
    base = _MEMORY if _is_usable(_MEMORY) else None
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=base)).resolve()
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder / "tmp")
    tempfile.tempdir = None  # it remembers: the next benchmark has another folder
    (folder / "tmp").mkdir()
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        tempfile.tempdir = None  # Python remembers the folder that goes now
        shutil.rmtree(folder, ignore_errors=True)


def _is_usable(folder: Path) -> bool:
    """Return whether there is room, and programs may be executed there."""
    try:
        if shutil.disk_usage(folder).free < _ROOM:
            return False
        with tempfile.TemporaryDirectory(dir=folder) as name:
            script = Path(name, "probe.sh")
            write_script(script, "exit 0")
            return subprocess.run([script]).returncode == 0
    except OSError:
        return False


def pytest(*arguments: str, plugins: Sequence[str] = ("nosejobs",)) -> list[str]:
    """Return the command line of a pytest that loads these plugins and no others."""
    chosen = [word for name in plugins for word in ("-p", name)]
    return [sys.executable, "-m", "pytest", *chosen, *arguments]


#: Plugins that users have beside ours: module names for a check, and names for ``-p``.
COMMON_PLUGINS: Mapping[str, tuple[str, ...]] = {
    "xdist": ("xdist",),
    "pytest_timeout": ("timeout",),
    "pytest_rerunfailures": ("rerunfailures",),
    "pytest_metadata": ("metadata",),
    "pytest_html": ("html",),
}


def list_common_plugins() -> list[str]:
    """Return the names for ``-p`` of those common plugins that are installed."""
    return [each for name, names in COMMON_PLUGINS.items() if has_module(name) for each in names]


def write_script(path: Path, body: str) -> None:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def check_junit(path: Path, count: int) -> float:
    """Raise RunFailed unless the report has ``count`` tests that all passed."""
    seen = bad = 0
    for _, element in ElementTree.iterparse(path):
        seen += element.tag == "testcase"
        bad += element.tag in ("failure", "error", "skipped")
        if element.tag == "testcase":
            element.clear()
    path.unlink()
    if seen != count or bad:
        raise RunFailed(f"JUnit: {seen} tests of {count}, {bad} of them not passed")
    return 0.0


def has_module(name: str) -> bool:
    """Return whether a Python module is installed."""
    import importlib.util

    return importlib.util.find_spec(name) is not None


#: lit's configuration that runs files as they are: no shell syntax of its own, no substitutions.
_LIT = """\
import lit.formats
config.name = "bench"
config.test_format = lit.formats.ExecutableTest()
config.suffixes = [".sh"]
config.test_exec_root = {root!r}
"""


def write_lit_config(folder: Path, root: Path) -> None:
    """Make ``folder`` a suite of lit; what lit writes goes to ``root``."""
    root.mkdir(exist_ok=True)
    (folder / "lit.cfg").write_text(_LIT.format(root=str(root)))


def lit(slots: int, folder: Path, junit: Path) -> list[str]:
    """Return the command line of lit."""
    code = "import sys; from lit.main import main; sys.argv[0] = 'lit'; sys.exit(main())"
    options = ["-q", f"-j{slots}", f"--xunit-xml-output={junit}"]
    return [sys.executable, "-c", code, *options, str(folder)]


#: The same scripts as ordinary Python tests.
_MODULE = """\
import subprocess
from pathlib import Path
import pytest

PATHS = {paths!r}

@pytest.mark.parametrize("path", PATHS)
def test_script(path):
    done = subprocess.run([path], capture_output=True, cwd=Path(path).parent)
    assert done.returncode == 0
"""


def write_python_module(path: Path, scripts: Sequence[Path]) -> None:
    """Write a test module that runs each script by subprocess."""
    path.write_text(_MODULE.format(paths=[str(each) for each in scripts]))
