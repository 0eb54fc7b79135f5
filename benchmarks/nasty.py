"""Nasty programs under us and under other runners: outcome, time, memory, leftovers.

``python benchmarks/nasty.py`` writes the whole table to docs/nasty.md.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shell_runner.remote.processes import process_tree  # noqa: E402
from tests.nasty import corpus, corpus_table, process_watch  # noqa: E402
from tests.nasty.corpus import NastyProgram  # noqa: E402

NAME = "nasty"

#: Seconds after which a run counts as hung, on top of what the program may take.
_PATIENCE = 15.0
_SMOKE = ("hold_stdout.sh", "daemon.py", "ignore_term.sh", "bytes.py", "kill_slot.sh")
_OURS = "nosejobs"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one program under one runner."""

    #: ``right``, ``wrong`` or ``hung``.
    verdict: str
    seconds: float
    #: MiB of all processes together at one moment.
    memory: float
    #: Processes that lived on when the runner had ended.
    left: int

    def __str__(self) -> str:
        words = f"{self.verdict}, {self.seconds:.1f} s, {self.memory:.0f} MB"
        return f"{words}, **{self.left} left**" if self.left else words


# -- runners ----------------------------------------------------------------------


def _seconds(case: NastyProgram) -> int:
    """Return the time limit given to all runners, in whole seconds."""
    return max(round(min(case.timeout, 10.0 if case.heavy else 5.0)), 1)


def _nosejobs(folder: Path, program: Path, case: NastyProgram) -> list[str]:
    options = [f"--rootdir={folder}", "-p", "no:cacheprovider", "-o", "nosejobs_grace=0.3"]
    options.append(f"--nosejobs-timeout={_seconds(case)}")
    return [sys.executable, "-m", "pytest", "-q", "--nosejobs=popen", *options]


def _lit(folder: Path, program: Path, case: NastyProgram) -> list[str]:
    (folder / "lit.cfg").write_text(
        "import lit.formats\nconfig.name = 'nasty'\nconfig.suffixes = ['.lit']\n"
        "config.test_format = lit.formats.ShTest()\n"
    )
    (folder / "one.lit").write_text(f"# RUN: {shlex.quote(str(program))}\n")
    return [_beside("lit"), f"--timeout={_seconds(case)}", "-v", str(folder)]


def _prove(folder: Path, program: Path, case: NastyProgram) -> list[str]:
    (folder / "one.t").write_text(
        f"#!/bin/sh\necho 1..1\nif {shlex.quote(str(program))}; "
        "then echo; echo 'ok 1'; else echo; echo 'not ok 1'; fi\n"
    )
    return ["prove", "--exec", "sh", str(folder / "one.t")]


def _bats(folder: Path, program: Path, case: NastyProgram) -> list[str]:
    (folder / "one.bats").write_text(f"@test one {{\n  {shlex.quote(str(program))}\n}}\n")
    return ["env", f"BATS_TEST_TIMEOUT={_seconds(case)}", "bats", str(folder / "one.bats")]


def _ctest(folder: Path, program: Path, case: NastyProgram) -> list[str]:
    (folder / "CTestTestfile.cmake").write_text(f'add_test(one "{program}")\n')
    junit = ["--output-junit", str(folder / "ctest.xml")]
    return ["ctest", "--test-dir", str(folder), "--timeout", str(_seconds(case)), *junit]


def _xdist(folder: Path, program: Path, case: NastyProgram) -> list[str]:
    (folder / "test_one.py").write_text(
        "import subprocess\n\n\ndef test_one():\n"
        f"    subprocess.run([{str(program)!r}], check=True, timeout={_seconds(case)})\n"
    )
    options = [f"--rootdir={folder}", "-p", "no:nosejobs", "-p", "no:cacheprovider", "-n", "2"]
    module = str(folder / "test_one.py")
    return [sys.executable, "-m", "pytest", "-q", *options, module]


Runner = Callable[[Path, Path, NastyProgram], list[str]]
RUNNERS: Mapping[str, tuple[str, Runner]] = {
    _OURS: ("pytest", _nosejobs),
    "lit": ("lit", _lit),
    "prove": ("prove", _prove),
    "bats": ("bats", _bats),
    "ctest": ("ctest", _ctest),
    "xdist": ("pytest", _xdist),
}


def _beside(name: str) -> str:
    """Return a program of our environment, else of the PATH; empty if there is none."""
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else shutil.which(name) or ""


def _has(name: str) -> bool:
    if name == "xdist":
        return subprocess.call([sys.executable, "-c", "import xdist"], stderr=-3) == 0
    return bool(_beside(RUNNERS[name][0]))


# -- one run ----------------------------------------------------------------------


def run(name: str, case: NastyProgram, start: float = 0.0) -> Outcome:
    """Run one program under one runner in a contained process that starts in ``start``."""
    folder = Path(tempfile.mkdtemp(prefix="nasty-"))
    try:
        inside = folder / "tests"
        corpus.write_tree(inside, [case])
        command = RUNNERS[name][1](inside, inside / case.path, case)
        (folder / "tmp").mkdir()
        return _contain(command, inside, folder / "tmp", case, start)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _contain(
    command: Sequence[str], folder: Path, tmp: Path, case: NastyProgram, start: float
) -> Outcome:
    """Run in a child that inherits all orphans, and kills what is left."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            process_tree.become_subreaper()
            found = _watch(command, folder, tmp, case, start)
            os.write(write, json.dumps(found).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return Outcome(*json.loads(text))


class _ReapingWatch(process_watch.PeakMemory):
    """Peak memory of a process, which also reaps orphans: chains of them exhaust process ids."""

    def sample(self, root: int) -> None:
        super().sample(root)
        for pid in process_tree.list_children(os.getpid()):
            if pid != root:
                os.waitpid(pid, os.WNOHANG)


def _watch(
    command: Sequence[str], folder: Path, tmp: Path, case: NastyProgram, start: float
) -> list[Any]:
    env = {**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(ROOT)}
    begin = time.monotonic()
    with open(os.devnull, "r+b") as null:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=null, stdout=null, stderr=null,
            start_new_session=True,
        )  # fmt: skip
    hung, memory = False, _ReapingWatch()
    patience = start + _PATIENCE * (2 if case.heavy else 1)
    try:
        process_watch.watch_until_exit(process, patience, memory)
    except TimeoutError:
        hung = True
    seconds = time.monotonic() - begin
    left = 0 if hung else _living()
    _end_all()
    passed = process.returncode == 0
    right = passed == (case.outcome == corpus.PASSED)
    verdict = "hung" if hung else "right" if right else "wrong"
    return [verdict, seconds, memory.total / 1024, left]


def _living() -> int:
    """Return the descendants that are not zombies, a moment after the end."""
    time.sleep(0.2)
    return sum(
        not process_tree.is_dead(pid) for pid in process_tree.DescendantLister(os.getpid())()
    )


def _end_all() -> None:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        found = process_tree.freeze(process_tree.DescendantLister(os.getpid()), _reap)
        if not found:
            return
        process_tree.signal_groups(found, signal.SIGKILL)
        time.sleep(0.01)


def _reap() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


# -- memory under a flood -----------------------------------------------------------


def flood() -> dict[str, float]:
    """Return the peak memory of controller and host above idle, in MiB."""
    idle = _parts(NastyProgram("late_output.sh", corpus.PASSED))
    busy = _parts(corpus.FLOODS[0])
    return {
        f"flood_{part}_mb": round((getattr(busy, part) - getattr(idle, part)) / 1024, 1)
        for part in ("controller", "host", "slot")
    }


def _parts(case: NastyProgram) -> process_watch.PeakMemory:
    with tempfile.TemporaryDirectory(prefix="nasty-") as name:
        corpus.write_tree(Path(name), [case])
        command = _nosejobs(Path(name), Path(), case)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=name, env=env, stdout=subprocess.DEVNULL)
        return process_watch.watch_until_exit(process, 120.0)


# -- all --------------------------------------------------------------------------


def compared() -> list[NastyProgram]:
    """Return the cases of the table."""
    return [case for case in corpus.filter_runnable(_all()) if case.compared]


def _all() -> Iterable[NastyProgram]:
    return (*corpus.PROCESSES, *corpus.OUTPUT, *corpus.FILES, *corpus.FLOODS)


def main(smoke: bool) -> dict[str, Any]:
    """Measure our own column; count the right outcomes."""
    cases = [case for case in compared() if not smoke or case.file in _SMOKE]
    found = {case.file: run(_OURS, case) for case in cases}
    numbers: dict[str, Any] = {
        "cases": len(found),
        "right": sum(each.verdict == "right" for each in found.values()),
        "left": sum(each.left for each in found.values()),
    }
    return numbers if smoke else {**numbers, **flood()}


def write(path: Path) -> None:
    """Write the whole table, one line for each case."""
    names = [name for name in RUNNERS if _has(name)]
    memory = flood()
    harmless = NastyProgram("named.sh", corpus.PASSED, name="test_harmless.sh")
    starts = {name: run(name, harmless).seconds for name in names}
    light = [case for case in compared() if not case.heavy]
    heavy = [case for case in compared() if case.heavy]
    # Who hangs does nothing: several at a time.
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        rows = list(zip(light, pool.map(_row, light, [starts] * len(light)), strict=True))
    rows += [(case, _row(case, starts)) for case in heavy]
    path.write_text(_page(names, rows, memory))


def _row(case: NastyProgram, starts: Mapping[str, float]) -> dict[str, Outcome]:
    found = {name: run(name, case, start) for name, start in starts.items()}
    print(case.file, *map(str, found.values()), sep=" | ", flush=True)
    return found


def _page(
    names: Sequence[str], rows: Sequence[tuple[NastyProgram, Mapping[str, Outcome]]],
    memory: Mapping[str, float],
) -> str:  # fmt: skip
    def total(name: str) -> str:
        found = [each[name] for _, each in rows]
        verdicts = [each.verdict for each in found]
        left = sum(each.left > 0 for each in found)
        words = f"{verdicts.count('right')} right, {verdicts.count('wrong')} wrong"
        return f"{words}, {verdicts.count('hung')} hung, {left} left something"

    lines = [
        _INTRODUCTION.format(
            cores=os.cpu_count(),
            system=platform.system(),
            python=platform.python_version(),
            patience=_PATIENCE,
            **memory,
        ),
        f"| program | should | {' | '.join(names)} |",
        f"| --- | --- |{' --- |' * len(names)}",
    ]
    for case, found in rows:
        should = "pass" if case.outcome == corpus.PASSED else "fail"
        cells = " | ".join(str(found[name]) for name in names)
        lines.append(
            f"| {corpus_table.describe_program(case)} (`{case.file}`) | {should} | {cells} |"
        )
    lines.append(f"| **all {len(rows)}** | | {' | '.join(total(name) for name in names)} |")
    lines += ["", _CORPUS_INTRODUCTION, corpus_table.build_corpus_table()]
    return "\n".join(lines).rstrip("\n") + "\n"


_INTRODUCTION = """\
# Nasty programs

Results of programs that harm the process that runs them, under nosejobs and under other test
runners. `python benchmarks/nasty.py` writes this page. The programs are in
`tests/nasty/programs`; the test suite runs [all of them](#the-whole-corpus).

Each runner runs each program alone, with its default settings and with the timeout of the program
if the runner has timeouts (prove has none). *right*: the runner reports pass or fail as expected.
*wrong*: it reports the opposite. *hung*:
it has not ended {patience:g} s after a harmless program would have ended (twice that for the
floods). The other values are the seconds from start to end, the peak memory of all processes
together, including the program, and the number of processes that were still alive when the runner
had ended. Measured on {cores} cores, {system}, Python {python}.

With a gigabyte of output, the controller of nosejobs peaks at {flood_controller_mb} MB above
idle, the process that serves it at {flood_host_mb} MB, the slot that runs the program at
{flood_slot_mb} MB.
"""

_CORPUS_INTRODUCTION = """\
## The whole corpus

The test suite checks the outcome of each program, the words of its report, and that no process and
no temporary file is left. *All places* means: as root locally, as root on `popen` hosts, as another
user locally, over an agent of root, and over an agent of another user. *Here* means: as root
locally and on `popen` hosts. A program that needs a permission, such as to mount, runs only where
it has it. Programs that could detach file systems or kill other processes run in namespaces of
their own.

*Outcome* is that of the test; *words* must be in the message of a failure or an error; *leftovers*
are the processes that the report must name, all of which are killed.
"""


if __name__ == "__main__":
    ctypes.CDLL(None).setpriority(0, 0, 5)
    write(ROOT / "docs" / "nasty.md")
