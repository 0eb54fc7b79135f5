"""The table of nasty programs: what each is, and what has to come of it.

Owns the expectations and the laying out of the programs as a tree of tests.  Who runs
the tree, and how, is not its matter: the suite runs it through the plugin, the
benchmark runs it through other runners, too.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shell_runner.text import printable

PROGRAMS = Path(__file__).parent / "programs"
#: Where a run puts its temporary files: in memory, if that is possible.
TMP = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

PASSED, FAILED, SKIPPED, ERROR = "passed", "failed", "skipped", "error"


@dataclass(frozen=True)
class Case:
    """One program under one name."""

    #: In ``programs``.
    file: str
    outcome: str
    #: Part of the words that a person reads first.
    words: str = ""
    #: Part of the output that is shown.
    output: str = ""
    #: Part of the ``leftovers`` property; empty: nothing may be left behind.
    leftovers: str = ""
    timeout: float = 20.0
    #: Takes seconds, or much memory, disk or processor.
    heavy: bool = False
    #: Programs, and what one may do, without which it cannot be tried.
    needs: tuple[str, ...] = ()
    #: The name that it gets, when that is the point; may have folders.
    name: str | bytes = ""
    #: Tried on the runners that we are compared with.
    compared: bool = False

    @property
    def path(self) -> str:
        """Where it lies in the tree; undecodable bytes are surrogates."""
        if self.name:
            return os.fsdecode(self.name)
        stem, _, suffix = self.file.rpartition(".")
        if suffix in ("py", "c"):  # Python files are pytest's own, C is compiled
            return f"test_{stem}"
        return f"test_{self.file}"

    @property
    def id(self) -> str:
        """The name that reports show."""
        return printable(self.path)


_LATE = "timed out after 0.5 s"
_CC = ("cc",)


def late(file: str, **more: object) -> Case:
    """One that is stopped when its time is over."""
    return Case(file, FAILED, _LATE, timeout=0.5, **more)  # type: ignore[arg-type]


PROCESSES = (
    Case("hold_stdout.sh", PASSED, output="started", leftovers="sleep", compared=True),
    Case("late_output.sh", PASSED, output="late"),
    Case("daemon.py", PASSED, leftovers="1 process", compared=True),
    Case("daemons.pl", PASSED, leftovers="20 processes", compared=True),
    Case("respawn.py", PASSED, leftovers="1 process", compared=True),
    Case("comet.c", PASSED, needs=_CC, leftovers="comet", compared=True),
    Case("comet_sessions.c", PASSED, needs=_CC, leftovers="comet", compared=True),
    late("ignore_term.sh", compared=True),
    late("ignore_all.py"),
    late("timeout_tree.sh", compared=True),
    late("stop_self.sh", compared=True),
    late("stop_group.sh", compared=True),
    Case("stop_child.sh", PASSED, leftovers="sleep"),
    Case("stop_slot.sh", FAILED, "exit 3", compared=True),
    Case("signal_slot.sh", PASSED, output="still here", compared=True),
    Case("trace_slot.c", ERROR, "stopped from outside", timeout=0.5, needs=("cc", "ptrace")),
    Case("kill_slot.sh", ERROR, "its slot died: killed by SIGKILL", compared=True),
    Case("kill_others.py", PASSED),
    late("fork_storm.pl", compared=True),
    Case("storm_left.pl", PASSED, leftovers="perl", compared=True),
    Case("zombies.pl", PASSED, output="done"),
    late("zombies_kept.pl", compared=True),
    Case("term_group.sh", FAILED, "killed by SIGTERM", compared=True),
    Case("subreaper.py", PASSED, leftovers="4 processes"),
    Case("pid_namespace.sh", PASSED, leftovers="sleep", needs=("pidns",)),
    Case("user_namespace.sh", PASSED, leftovers="sleep", needs=("userns",)),
    Case("hidden.py", PASSED, leftovers="2 processes", compared=True),
    late("vfork.c", needs=_CC),
    late("groups.py"),
    Case("traced_child.c", PASSED, needs=_CC, leftovers="2 processes"),
    late("waking.py", compared=True),
    late("thread_left.c", needs=_CC),
    Case("many_descriptors.py", PASSED, leftovers="1 process"),
    Case("slot_limits.py", PASSED),
    Case("signals_clean.py", PASSED),
)

OUTPUT = (
    Case("read_stdin.sh", PASSED, output="end of file", compared=True),
    Case("no_tty.sh", PASSED, compared=True),
    Case("stdout_closed.sh", FAILED, "exit 3", compared=True),
    Case("all_closed.py", FAILED, "exit 4", compared=True),
    Case("reopen_stderr.sh", PASSED, output="to stderr", compared=True),
    Case("descriptors.py", PASSED),
    late("flood_stderr.sh"),
    late("flood_for_ever.sh", output="y\ny\n", compared=True),
    Case("flood_left.sh", PASSED, leftovers="yes", compared=True),
    late("partial_line.sh", output="waiting for the database", compared=True),
    Case("bytes.py", FAILED, "exit 5", output="the end", compared=True),
    Case("zeros.sh", FAILED, "exit 1", output="the end"),
    Case("crash_words.sh", FAILED, "exit 1", output="1000 passed", compared=True),
    Case("nonblocking.py", PASSED),
    Case("blocking.py", PASSED),
    Case("closed_pipe.sh", PASSED, output="yes ended with 141", compared=True),
)

#: In a run of their own, where memory is measured.
FLOODS = (
    Case("flood.sh", PASSED, output="the end", heavy=True, timeout=60.0, compared=True),
    Case("long_line.sh", PASSED, output="the end", heavy=True, timeout=60.0, compared=True),
)

FILES = (
    Case("empty", PASSED),
    Case("no_shebang.sh", PASSED, output="by the shell", compared=True),
    Case("crlf.sh", ERROR, "the line ends in a CR", compared=True),
    Case("no_interpreter.sh", ERROR, "/no/such/interpreter is not installed", compared=True),
    Case("interpreter_folder.sh", ERROR, "permission denied"),
    Case("interpreter_arguments.sh", FAILED, "exit 1"),
    Case("env_split.sh", PASSED),
    Case("foreign", ERROR, "built for another machine", compared=True),
    Case("named.sh", PASSED, name="setuid/test_setuid.sh"),
    Case("read_only.sh", PASSED, output="read_only", name="read_only/test_here.sh"),
    Case("file_size.sh", FAILED, "killed by SIGXFSZ"),
    Case("no_permissions.sh", PASSED, compared=True),
    Case("deep_tree.py", PASSED),
    Case("core_dump.sh", FAILED, "killed by SIGSEGV", compared=True),
    Case("lost_cwd.sh", PASSED, output="nowhere"),
    Case("remove_tmp.sh", PASSED),
    Case("tmp_link.sh", PASSED),
    Case("tmp_file.sh", PASSED),
    Case("ulimits.sh", PASSED, output="little left"),
    Case("modify_tree.sh", PASSED, name="modify/test_modify.sh"),
    Case("remove_self.sh", PASSED, name="alone/test_alone.sh"),
    Case("huge_environment.py", PASSED),
    Case("many_files.py", PASSED, heavy=True),
    Case("immutable.sh", PASSED, needs=("chattr",)),
    Case("bind_mount.sh", PASSED, needs=("mount",), name="bound/test_bind_mount.sh"),
    Case("busy_tmp.py", PASSED, leftovers="1 process"),
)

_NAMES: tuple[str | bytes, ...] = (
    "test_two words.sh",
    "test_'single'.sh",
    'test_"double".sh',
    "test_new\nline.sh",
    "test_a::b.sh",
    "test_::",
    "test_[x].sh",
    "test_[a-b",
    "test_100%s%d{0}.sh",
    b"test_\xff\xfe.sh",
    b"fold\xe9r/test_latin.sh",
    "-rf_test",
    "-/--help_test.sh",
    "test_$(reboot)`reboot`;reboot&.sh",
    "test_\\n\\x41.sh",
    "test_\x1b[31mred.sh",
    "test_tab\there.sh",
    "test_<&>]]>.sh",
    "test_ünï☃😀.sh",
    "test_\u202egnp.sh",
    "test_*?.sh",
    "test_#hash=1,2.sh",
    "test_~",
    "new\nfolder/test_x.sh",
    "a::b/[c]/test_x.sh",
    "test_" + "x" * 250,
)
NAMES = tuple(Case("named.sh", PASSED, output="no matter", name=name) for name in _NAMES)


def _exit(status: int) -> Case:
    outcome = {0: PASSED, 77: SKIPPED, 99: ERROR}.get(status, FAILED)
    words = "" if outcome in (PASSED, SKIPPED) else f"exit {status}"
    return Case("exit.sh", outcome, words, name=f"exits/test_exit_{status}.sh")


#: What a signal does whose default is not to end: nothing, or (20 to 22) nothing in an
#: orphaned group.
_HARMLESS = frozenset([17, 18, 20, 21, 22, 23, 28])


def _signal(number: int) -> Case:
    name = f"signals/test_{number}"
    if number in _HARMLESS:
        return Case("signal.py", PASSED, name=name)
    words = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return Case("signal.py", FAILED, f"killed by {words}", name=name)


EXITS = tuple(_exit(status) for status in (0, 1, 2, 77, 99, 125, 126, 127, 128, 130, 255))
SIGNALS = tuple(_signal(number) for number in (*range(1, 19), *range(20, 32), 34, 40, 64))

#: All that share a run.  The files come first: storms are hard on the neighbours.
TOGETHER = (*FILES, *NAMES, *EXITS, *SIGNALS, *OUTPUT, *PROCESSES)
#: Kills its host; in a run of its own.
KILL_HOST = Case("kill_host.sh", ERROR, "host")
#: Fills the temporary file system, which is a small one of its own.
FULL = Case("full_tmp.sh", PASSED, output="no room left", needs=("mount",))


_PYTHON = f"#!{os.path.realpath(sys.executable)} -IS".encode()


def possible(cases: Iterable[Case]) -> list[Case]:
    """Those for which all is here that they need."""
    return [case for case in cases if all(_is_here(name) for name in case.needs)]


#: Shell commands that succeed where something may be done.
_PROBES = {
    "mount": "unshare --mount true",
    "pidns": "unshare --pid --fork true",
    "userns": "unshare --user --map-root-user true",
    "chattr": "t=$(mktemp) && chattr +i $t && chattr -i $t && rm $t",
    "ptrace": "test $(id -u) = 0 || ! grep -q [123] /proc/sys/kernel/yama/ptrace_scope",
}


@functools.cache
def _is_here(name: str) -> bool:
    if name not in _PROBES:
        return shutil.which(name) is not None
    env = {**os.environ, **({"TMPDIR": TMP} if TMP else {})}
    done = subprocess.run(["sh", "-c", _PROBES[name]], env=env, capture_output=True, check=False)
    return done.returncode == 0


def lay_out(root: Path, cases: Iterable[Case]) -> None:
    """The tree of these cases below ``root``, with the deadlines in its nosejobs.toml."""
    lines = []
    for case in cases:
        _install(case, root / case.path)
        if case.timeout != Case.timeout:
            lines.append(f'[tests."{case.path}"]\ntimeout = {case.timeout}\n')
    (root / "nosejobs.toml").write_text("".join(lines))


def _install(case: Case, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = PROGRAMS / case.file
    if source.suffix == ".c":
        subprocess.run(["cc", "-O1", "-w", "-pthread", "-o", path, source], check=True)
        return
    text = source.read_bytes()
    # The interpreter itself: a wrapper on PATH may take a second to find it.
    path.write_bytes(text.replace(b"#!/usr/bin/env python3", _PYTHON, 1))
    path.chmod(0o4755 if "setuid" in case.path else 0o755)
    if case.file == "modify_tree.sh":
        (path.parent / "neighbour").write_text("moved by the test\n")
    if case.file == "read_only.sh":
        path.parent.chmod(0o555)
