"""The table of nasty programs and their expected results.

Responsible for the expectations and for writing the programs to a tree of tests.  Must not depend
on how the tree is run: the test suite runs it through the plugin, the benchmark also through other
test runners.
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

from shell_runner.text import escape_unprintable

PROGRAMS = Path(__file__).parent / "programs"
#: The folder for temporary files of a run: in memory if possible.
TMP = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

PASSED, FAILED, SKIPPED, ERROR = "passed", "failed", "skipped", "error"


@dataclass(frozen=True)
class NastyProgram:
    """One program, its name in the tree and its expected result."""

    #: File name in ``programs``.
    file: str
    outcome: str
    #: Expected part of the failure message.
    message: str = ""
    #: Expected part of the output.
    output: str = ""
    #: Expected part of the ``leftovers`` property; empty: no process may be left.
    leftovers: str = ""
    timeout: float = 20.0
    #: Needs seconds, or much memory, disk or CPU time.
    heavy: bool = False
    #: Commands and permissions that it requires.
    needs: tuple[str, ...] = ()
    #: Path in the tree if that is what is tested; may contain folders.
    name: str | bytes = ""
    #: Also run by the benchmark with other test runners.
    compared: bool = False

    @property
    def path(self) -> str:
        """The path in the tree; undecodable bytes are surrogates."""
        if self.name:
            return os.fsdecode(self.name)
        stem, _, suffix = self.file.rpartition(".")
        if suffix in ("py", "c"):  # pytest collects Python files itself; C is compiled
            return f"test_{stem}"
        return f"test_{self.file}"

    @property
    def id(self) -> str:
        """The name in reports."""
        return escape_unprintable(self.path)


_TIMED_OUT = "timed out after 0.5 s"
_CC = ("cc",)


def expect_timeout(file: str, **more: object) -> NastyProgram:
    """Return a program that is stopped after its timeout of 0.5 seconds."""
    return NastyProgram(file, FAILED, _TIMED_OUT, timeout=0.5, **more)  # type: ignore[arg-type]


PROCESSES = (
    NastyProgram("hold_stdout.sh", PASSED, output="started", leftovers="sleep", compared=True),
    NastyProgram("late_output.sh", PASSED, output="late"),
    NastyProgram("daemon.py", PASSED, leftovers="1 process", compared=True),
    NastyProgram("daemons.pl", PASSED, leftovers="20 processes", compared=True),
    NastyProgram("respawn.py", PASSED, leftovers="1 process", compared=True),
    NastyProgram("comet.c", PASSED, needs=_CC, leftovers="comet", compared=True),
    NastyProgram("comet_sessions.c", PASSED, needs=_CC, leftovers="comet", compared=True),
    expect_timeout("ignore_term.sh", compared=True),
    expect_timeout("ignore_all.py"),
    expect_timeout("timeout_tree.sh", compared=True),
    expect_timeout("stop_self.sh", compared=True),
    expect_timeout("stop_group.sh", compared=True),
    NastyProgram("stop_child.sh", PASSED, leftovers="sleep"),
    NastyProgram("stop_slot.sh", FAILED, "exit 3", compared=True),
    NastyProgram("signal_slot.sh", PASSED, output="still here", compared=True),
    NastyProgram(
        "trace_slot.c", ERROR, "stopped from outside", timeout=0.5, needs=("cc", "ptrace")
    ),
    NastyProgram("kill_slot.sh", ERROR, "its slot died: killed by SIGKILL", compared=True),
    *(
        NastyProgram(
            "garbage_frame.py",
            ERROR,
            f"sent an invalid message ({message}",
            timeout=timeout,
            needs=("getfd",),
            name=f"test_{name}_frame",
        )
        for name, message, timeout in (
            ("garbage", "not a message", 20.0),
            ("huge", "a frame of 4294967295 bytes", 20.0),
            ("empty", "", 20.0),
            ("binary", "not a message", 20.0),
            ("partial", "", 0.5),
            ("nested", "nested too deeply", 20.0),
            ("other", "", 20.0),
            ("retired", "", 0.5),
        )
    ),
    NastyProgram("kill_others.py", PASSED),
    expect_timeout("fork_storm.pl", compared=True),
    NastyProgram("storm_left.pl", PASSED, leftovers="perl", compared=True),
    NastyProgram("zombies.pl", PASSED, output="done"),
    expect_timeout("zombies_kept.pl", compared=True),
    NastyProgram("term_group.sh", FAILED, "killed by SIGTERM", compared=True),
    NastyProgram("subreaper.py", PASSED, leftovers="4 processes"),
    NastyProgram("pid_namespace.sh", PASSED, leftovers="sleep", needs=("pidns",)),
    NastyProgram("user_namespace.sh", PASSED, leftovers="sleep", needs=("userns",)),
    NastyProgram("hidden.py", PASSED, leftovers="2 processes", compared=True),
    expect_timeout("vfork.c", needs=_CC),
    expect_timeout("groups.py"),
    NastyProgram("traced_child.c", PASSED, needs=_CC, leftovers="2 processes"),
    expect_timeout("waking.py", compared=True),
    expect_timeout("thread_left.c", needs=_CC),
    NastyProgram("many_descriptors.py", PASSED, leftovers="1 process"),
    NastyProgram("slot_limits.py", PASSED),
    NastyProgram("signals_clean.py", PASSED),
    NastyProgram("slot_state.py", PASSED),
    NastyProgram("pipe_signal.py", PASSED),
    NastyProgram("slot_priorities.py", PASSED),
    NastyProgram("pool_state.py", PASSED),
    NastyProgram("pipe_packets.py", PASSED, output="the end"),
    NastyProgram("pipe_size.py", PASSED),
    *(NastyProgram("state_clean.py", PASSED, name=f"test_state_clean_{n}") for n in range(4)),
)

OUTPUT = (
    NastyProgram("read_stdin.sh", PASSED, output="end of file", compared=True),
    NastyProgram("no_tty.sh", PASSED, compared=True),
    NastyProgram("stdout_closed.sh", FAILED, "exit 3", compared=True),
    NastyProgram("all_closed.py", FAILED, "exit 4", compared=True),
    NastyProgram("reopen_stderr.sh", PASSED, output="to stderr", compared=True),
    NastyProgram("descriptors.py", PASSED),
    expect_timeout("flood_stderr.sh"),
    expect_timeout("flood_for_ever.sh", output="y\ny\n", compared=True),
    NastyProgram("flood_left.sh", PASSED, leftovers="yes", compared=True),
    expect_timeout("partial_line.sh", output="waiting for the database", compared=True),
    NastyProgram("bytes.py", FAILED, "exit 5", output="the end", compared=True),
    NastyProgram("zeros.sh", FAILED, "exit 1", output="the end"),
    NastyProgram("crash_words.sh", FAILED, "exit 1", output="1000 passed", compared=True),
    NastyProgram("nonblocking.py", PASSED),
    NastyProgram("blocking.py", PASSED),
    NastyProgram("closed_pipe.sh", PASSED, output="yes ended with 141", compared=True),
)

#: Programs that run separately, with their memory measured.
FLOODS = (
    NastyProgram("flood.sh", PASSED, output="the end", heavy=True, timeout=60.0, compared=True),
    NastyProgram("long_line.sh", PASSED, output="the end", heavy=True, timeout=60.0, compared=True),
)

FILES = (
    NastyProgram("empty", PASSED),
    NastyProgram("no_shebang.sh", PASSED, output="by the shell", compared=True),
    NastyProgram("crlf.sh", ERROR, "the line ends in a CR", compared=True),
    NastyProgram(
        "no_interpreter.sh", ERROR, "/no/such/interpreter is not installed", compared=True
    ),
    NastyProgram("interpreter_folder.sh", ERROR, "permission denied"),
    NastyProgram("interpreter_arguments.sh", FAILED, "exit 1"),
    NastyProgram("env_split.sh", PASSED),
    NastyProgram("foreign", ERROR, "built for another machine", compared=True),
    NastyProgram("named.sh", PASSED, name="setuid/test_setuid.sh"),
    NastyProgram("read_only.sh", PASSED, output="read_only", name="read_only/test_here.sh"),
    NastyProgram("file_size.sh", FAILED, "killed by SIGXFSZ"),
    NastyProgram("no_permissions.sh", PASSED, compared=True),
    NastyProgram("deep_tree.py", PASSED),
    NastyProgram("core_dump.sh", FAILED, "killed by SIGSEGV", compared=True),
    NastyProgram("lost_cwd.sh", PASSED, output="nowhere"),
    NastyProgram("remove_tmp.sh", PASSED),
    NastyProgram("tmp_link.sh", PASSED),
    NastyProgram("tmp_file.sh", PASSED),
    NastyProgram("ulimits.sh", PASSED, output="little left"),
    NastyProgram("modify_tree.sh", PASSED, name="modify/test_modify.sh"),
    NastyProgram("remove_self.sh", PASSED, name="alone/test_alone.sh"),
    NastyProgram("huge_environment.py", PASSED),
    NastyProgram("many_files.py", PASSED, heavy=True),
    NastyProgram("immutable.sh", PASSED, needs=("chattr",)),
    NastyProgram("bind_mount.sh", PASSED, needs=("mount",), name="bound/test_bind_mount.sh"),
    NastyProgram("busy_tmp.py", PASSED, leftovers="1 process"),
)

#: Programs whose results reach a limit; they run separately, with artifacts.
RESULTS = (
    NastyProgram("deep_outputs.py", PASSED),
    NastyProgram("odd_outputs.py", PASSED),
    NastyProgram("large_streams.py", FAILED, "exit 1"),
)
#: Each reports many cases: the number of those that failed, and of those that passed.
CASES = {
    NastyProgram("large_failures.py", FAILED): (300, 0),
    NastyProgram("many_cases.py", FAILED): (0, 2000),
}

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
NAMES = tuple(NastyProgram("named.sh", PASSED, output="no matter", name=name) for name in _NAMES)


def _expect_exit(status: int) -> NastyProgram:
    outcome = {0: PASSED, 77: SKIPPED, 99: ERROR}.get(status, FAILED)
    message = "" if outcome in (PASSED, SKIPPED) else f"exit {status}"
    return NastyProgram("exit.sh", outcome, message, name=f"exits/test_exit_{status}.sh")


#: Signals that do not end a process by default, or (20 to 22) not in an orphaned group.
_HARMLESS_SIGNALS = frozenset([17, 18, 20, 21, 22, 23, 28])


def _expect_signal(number: int) -> NastyProgram:
    name = f"signals/test_{number}"
    if number in _HARMLESS_SIGNALS:
        return NastyProgram("signal.py", PASSED, name=name)
    description = (
        signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    )
    return NastyProgram("signal.py", FAILED, f"killed by {description}", name=name)


EXITS = tuple(_expect_exit(status) for status in (0, 1, 2, 77, 99, 125, 126, 127, 128, 130, 255))
SIGNALS = tuple(_expect_signal(number) for number in (*range(1, 19), *range(20, 32), 34, 40, 64))

#: Programs that could detach or remove what belongs to the machine: they run in namespaces of
#: their own, each followed by one that finds its directories in order.
DIRECTORIES = (
    NastyProgram("home_link.sh", PASSED),
    NastyProgram("home_parent_link.sh", PASSED),
    NastyProgram("home_swap.py", PASSED, leftovers="1 process", name="base/test_home_swap"),
    NastyProgram("tmp_loop.sh", PASSED),
    NastyProgram("tmp_mounted_link.sh", PASSED),
    NastyProgram("mount_on_link.sh", PASSED, needs=("mount",), name="links/test_mount_on_link.sh"),
    NastyProgram("bind_root.sh", PASSED, needs=("mount",)),
    NastyProgram("bind_over_tmp.sh", PASSED, needs=("mount",), name="over/test_bind_over.sh"),
    NastyProgram("base_link.sh", PASSED, name="base/test_link.sh"),
    NastyProgram("base_dangling.sh", PASSED),
    NastyProgram("base_file.sh", PASSED),
    NastyProgram("base_mode.sh", PASSED),
    NastyProgram("base_immutable.sh", PASSED, needs=("chattr",)),
    NastyProgram("base_mount.sh", PASSED, needs=("mount",), name="base/test_mount.sh"),
    NastyProgram("base_read_only.sh", PASSED, needs=("mount",)),
)

#: Programs that share a run.  Files come first, since fork storms slow down the others.
TOGETHER = (*FILES, *NAMES, *EXITS, *SIGNALS, *OUTPUT, *PROCESSES)
#: Kill their hosts, and so run separately; the second one in namespaces.
KILL_ALL = NastyProgram("kill_all.sh", ERROR, "host lost: lost with")
KILL_HOST = NastyProgram("kill_host.sh", ERROR, "host")
#: Fills the temporary file system, which is a small one for this purpose.
FULL = NastyProgram("full_tmp.sh", PASSED, output="no room left", needs=("mount",))


_PYTHON = f"#!{os.path.realpath(sys.executable)} -IS".encode()


def filter_runnable(programs: Iterable[NastyProgram], user: str = "") -> list[NastyProgram]:
    """Return the programs whose requirements this machine meets, for another user if given."""
    return [
        program for program in programs if all(_is_available(name, user) for name in program.needs)
    ]


def build_user_prefix(user: str) -> tuple[str, ...]:
    """Return the command that executes a command as another user; empty for this user.

    The user may read all files, since the interpreter may be below the home directory of root.
    """
    if not user:
        return ()
    capability = "+dac_read_search"
    return (
        "setpriv", f"--reuid={user}", "--regid=65534", "--clear-groups",
        f"--inh-caps={capability}", f"--ambient-caps={capability}", "--",
    )  # fmt: skip


#: Takes standard input of the parent process.
_TAKE_DESCRIPTOR = """
import ctypes, os
call = ctypes.CDLL(None).syscall
raise SystemExit(call(438, call(434, os.getppid(), 0), 0, 0) < 0)
"""
#: Shell commands that succeed if something is permitted.
_PROBES = {
    "mount": "unshare --mount true",
    "pidns": "unshare --pid --fork true",
    "userns": "unshare --user --map-root-user true",
    "chattr": "t=$(mktemp) && chattr +i $t && chattr -i $t && rm $t",
    "getfd": f"{sys.executable} -c '{_TAKE_DESCRIPTOR}'",
    "ptrace": "test $(id -u) = 0 || ! grep -q [123] /proc/sys/kernel/yama/ptrace_scope",
}


@functools.cache
def _is_available(name: str, user: str = "") -> bool:
    if name not in _PROBES:
        return shutil.which(name) is not None
    env = {**os.environ, **({"TMPDIR": TMP} if TMP else {})}
    command = [*build_user_prefix(user), "sh", "-c", _PROBES[name]]
    result = subprocess.run(command, env=env, capture_output=True, check=False)
    return result.returncode == 0


def write_tree(root: Path, programs: Iterable[NastyProgram]) -> None:
    """Write the tree of these programs below ``root``, with their timeouts in nosejobs.toml."""
    lines = []
    for program in programs:
        _install(program, root / program.path)
        if program.timeout != NastyProgram.timeout:
            lines.append(f'[tests."{program.path}"]\ntimeout = {program.timeout}\n')
    (root / "nosejobs.toml").write_text("".join(lines))


def _install(program: NastyProgram, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = PROGRAMS / program.file
    if source.suffix == ".c":
        subprocess.run(["cc", "-O1", "-w", "-pthread", "-o", path, source], check=True)
        return
    text = source.read_bytes()
    # Name the interpreter itself: a wrapper on PATH may take a second to find it.
    path.write_bytes(text.replace(b"#!/usr/bin/env python3", _PYTHON, 1))
    path.chmod(0o4755 if "setuid" in program.path else 0o755)
    if program.file == "modify_tree.sh":
        (path.parent / "neighbor").write_text("moved by the test\n")
    if program.file == "read_only.sh":
        path.parent.chmod(0o555)
