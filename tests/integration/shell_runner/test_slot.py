"""Tests of programs in a real slot: outcomes, timeouts, leftovers, environment."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.model import ERROR, FAILED, PASSED, SKIPPED, Problem
from tests.helpers.single_host_run import HostRun, wait_until_gone, write_program

SH = "#!/bin/sh\n"


@pytest.fixture(scope="module")
def host_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostRun]:
    with HostRun(tmp_path_factory.mktemp("tree"), grace=0.2) as host_run:
        yield host_run


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert wait_until_gone(str(tmp_path), 5), "a process of the test is still there"


@pytest.mark.parametrize(
    ("script", "outcome", "words"),
    [
        ("exit 0", PASSED, "exit 0"),
        ("exit 1", FAILED, "exit 1"),
        ("exit 77", SKIPPED, "exit 77"),
        ("exit 99", ERROR, "exit 99"),
        ("exit 143", FAILED, "exit 143 (128 + SIGTERM)"),
        ("kill -SEGV $$", FAILED, "killed by SIGSEGV"),
        ("kill -KILL $$", FAILED, "killed by SIGKILL"),
        ("exec no-such-program", FAILED, "exit 127 (command not found)"),
    ],
)
def test_outcomes(host_run: HostRun, script: str, outcome: str, words: str) -> None:
    result = host_run.judge(SH + script)
    assert (result.outcome, result.message) == (outcome, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"#!/no/such/shell\n", "missing interpreter: /no/such/shell is not installed"),
        (b"#!/bin/sh\r\nexit 0\r\n", "CR"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "built for another machine"),
    ],
)
def test_programs_that_cannot_start_are_errors(host_run: HostRun, text: bytes, words: str) -> None:
    result = host_run.judge(text)
    assert result.outcome == ERROR
    assert words in result.message


def test_a_program_without_a_shebang_is_a_shell_script(host_run: HostRun) -> None:
    assert host_run.run("echo by-sh\nexit 3\n").exit_status == 3


def test_a_file_that_is_gone_is_an_error(host_run: HostRun) -> None:
    test = host_run.new_test(SH)
    (host_run.root / test.path).unlink()
    assert host_run.run_test(test).problem == Problem.NO_SUCH_FILE


def test_output_comes_apart_and_in_full(host_run: HostRun) -> None:
    execution = host_run.run(f"{SH}printf 'out\\377'; printf err >&2; exit 1")
    assert (execution.stdout.text, execution.stdout.total_bytes) == ("out\udcff", 4)
    assert (execution.stderr.text, execution.stderr.total_bytes) == ("err", 3)


def test_more_output_than_any_pipe_holds_is_taken(host_run: HostRun) -> None:
    execution = host_run.run(f"{SH}head -c 8000000 /dev/zero | tr '\\0' x; printf end")
    assert execution.exit_status == 0
    assert execution.stdout.total_bytes == 8_000_003
    assert len(execution.stdout.text) == 1 << 20
    assert execution.stdout.text.endswith("xend")
    assert execution.stdout.cut_index == 1 << 19


# -- time -------------------------------------------------------------------------


def test_a_timeout_ends_the_test_and_is_told(host_run: HostRun, folder: Path) -> None:
    execution = host_run.run(f"{SH}M={folder}; export M; echo before; sleep 60", timeout=0.3)
    assert (execution.timed_out, execution.signal, execution.stdout.text) == (
        True,
        signal.SIGTERM,
        "before\n",
    )
    assert 0.3 <= execution.duration < 20


def test_a_program_gets_a_term_and_may_clean_up(host_run: HostRun) -> None:
    script = f"{SH}trap 'echo cleaned; exit 0' TERM; sleep 60 & wait"
    execution = host_run.run(script, timeout=0.3)
    assert (execution.timed_out, execution.exit_status, execution.stdout.text) == (
        True,
        0,
        "cleaned\n",
    )
    assert host_run.judge(script, timeout=0.3).outcome == FAILED


def test_a_program_that_ignores_term_is_killed(host_run: HostRun, folder: Path) -> None:
    script = f"{SH}trap '' TERM; M={folder}; export M; while :; do sleep 1; done"
    execution = host_run.run(script, timeout=0.3)
    assert (execution.timed_out, execution.signal) == (True, signal.SIGKILL)


def test_a_stopped_program_times_out(host_run: HostRun, folder: Path) -> None:
    execution = host_run.run(f"{SH}: {folder}; kill -STOP $$", timeout=0.3)
    assert execution.timed_out


def test_a_fork_storm_ends(host_run: HostRun, folder: Path) -> None:
    script = f"{SH}M={folder}; export M\nf() {{ sleep 0.05; f & f & wait; }}\nf"
    assert host_run.run(script, timeout=0.3).timed_out


# -- leftovers --------------------------------------------------------------------


#: Wait until all processes that shall become ``sleep`` have its name.
WAIT_FOR_SLEEP = """
until [ "$(grep -lszx M=$M /proc/[0-9]*/environ | sed s/environ/comm/ | xargs cat 2>/dev/null |
    grep -cx sleep)" = %d ]; do sleep 0.02; done
"""


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("sleep 60 &", ("sleep",)),
        ("sleep 60 & sleep 61 &", ("sleep", "sleep")),
        ("setsid sleep 60 </dev/null >/dev/null 2>&1 &", ("sleep",)),
        ("(setsid sh -c 'trap \"\" TERM HUP; sleep 60; :' &)", ("sh", "sleep")),
        ("nohup sleep 60 >/dev/null 2>&1 &", ("sleep",)),
    ],
)
def test_what_outlives_a_program_is_named_and_killed(
    host_run: HostRun, folder: Path, command: str, names: tuple[str, ...]
) -> None:
    wait = WAIT_FOR_SLEEP % names.count("sleep")
    execution = host_run.run(f"{SH}M={folder}; export M; {command}\n{wait}exit 0")
    assert (execution.exit_status, tuple(sorted(execution.leftovers))) == (0, names)
    assert wait_until_gone(str(folder), 0), "it lives on after its test was reported"


def test_children_that_end_in_a_moment_are_no_leftovers(host_run: HostRun) -> None:
    assert host_run.run(f"{SH}sleep 0.01 &\nexit 0").leftovers == ()


def test_a_child_that_holds_the_pipe_does_not_hold_the_test(
    host_run: HostRun, folder: Path
) -> None:
    execution = host_run.run(f"{SH}M={folder}; export M; sleep 60 &\necho done", timeout=20)
    assert (execution.exit_status, execution.stdout.text) == (0, "done\n")
    assert execution.duration < 20


@pytest.mark.parametrize(
    "script",
    [
        "exec >&- 2>&-",
        "exec python3 -c 'import fcntl, os; fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)'",
        'cd /; rm -rf "$TMPDIR" "$HOME"',
        "ulimit -n 3; umask 777",
        "trap '' HUP INT QUIT PIPE ALRM TERM CHLD",
        "kill -9 0",
        "stty -echo; exec 0<&-",
        'chmod 0 "$TMPDIR" "$HOME"',
    ],
)
def test_no_program_spoils_the_slot_for_the_next(host_run: HostRun, script: str) -> None:
    host_run.run(f"{SH}{script}\n")
    execution = host_run.run(
        f"{SH}head -c 300000 /dev/zero && ls -A $TMPDIR $HOME >&2 && umask >&2"
    )
    assert (execution.exit_status, execution.stdout.total_bytes) == (0, 300_000)
    assert execution.stderr.text.split()[-1] == "0022"
    assert len(execution.stderr.text.split()) == 3  # two names of folders, nothing in them


def test_a_program_that_kills_its_slot_hurts_itself_alone(host_run: HostRun) -> None:
    killer, other = (
        host_run.new_test(f"{SH}kill -9 $PPID; sleep 60"),
        host_run.new_test(f"{SH}echo fine"),
    )
    killer, other = killer._replace(estimate=0.001), other._replace(estimate=0.001)
    host_run.start(killer, other)
    executions = host_run.finish(2)
    assert executions[killer.id].problem == Problem.SLOT_DIED
    assert "SIGKILL" in executions[killer.id].detail
    assert executions[other.id].stdout.text == "fine\n"


# -- environment --------------------------------------------------------------------


def variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())  # type: ignore[misc]


def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET", "MY_A", "MY_B", "BASH_ENV", "PYTHONPATH"):
        monkeypatch.setenv(name, "/x")
    monkeypatch.setenv("LC_TEST", "yes")
    with HostRun(tmp_path, pass_env=("MY_A",), env=(("ALL", "1"),)) as host_run:
        env = variables(host_run.run(f"{SH}env", env=(("ONE", "2"),)).stdout.text)
        more = variables(host_run.run(f"{SH}env", pass_env=("MY_*",)).stdout.text)
    assert env["TEST_SRCDIR"] == str(tmp_path)
    assert env["TMPDIR"] == env["TEST_TMPDIR"]
    assert env["PATH"] == os.environ["PATH"]
    assert (env["MY_A"], env["ALL"], env["ONE"], env["LC_TEST"]) == ("/x", "1", "2", "yes")
    assert not {"SECRET", "MY_B", "BASH_ENV", "PYTHONPATH", "XDG_CACHE_HOME"} & set(env)
    assert more["MY_B"] == "/x"
    assert "ONE" not in more


def test_tmpdir_and_home_are_private_and_clean_each_time(host_run: HostRun) -> None:
    script = (
        f'{SH}cd "$TMPDIR" && ls -A . "$HOME"; pwd; echo "$HOME"\n'
        'mkdir -p a/b; echo x > a/b/c; echo y > "$HOME/.profile"; chmod 0 a\n'
        'stat -c %a "$TMPDIR" "$HOME"'
    )
    outputs = [host_run.run(script).stdout.text.split("\n") for _ in range(3)]
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0][0] == ".:"
    assert outputs[0][-3:] == ["700", "700", ""]
    assert os.path.expanduser("~") not in outputs[0]


def test_home_is_kept_on_request(host_run: HostRun) -> None:
    home = os.path.expanduser("~")
    assert host_run.run(f"{SH}echo $HOME", home="keep").stdout.text == f"{home}\n"
    assert host_run.run(f"{SH}echo $HOME").stdout.text != f"{home}\n"


@pytest.mark.parametrize(("cwd", "expected"), [("dir", "deep/er"), ("root", ".")])
def test_a_program_starts_in_its_folder_or_in_the_root(
    host_run: HostRun, cwd: str, expected: str
) -> None:
    test = host_run.new_test(SH)
    path = host_run.write("deep/er/test_pwd", f"{SH}pwd -P; cd /")
    execution = host_run.run_test(test._replace(path=path, cwd=cwd))
    assert execution.stdout.text == f"{(host_run.root / expected).resolve()}\n"


def test_stdin_is_empty_and_there_is_no_terminal(host_run: HostRun) -> None:
    script = f"{SH}cat; (: </dev/tty) 2>/dev/null && exit 3; ps -o sid= -p $$ | tr -d ' '; echo $$"
    execution = host_run.run(script)
    sid, pid = execution.stdout.text.split()
    assert (execution.exit_status, sid) == (0, pid)


def test_no_descriptor_of_ours_is_open(host_run: HostRun) -> None:
    assert host_run.run(f"{SH}ls /proc/self/fd").stdout.text.split() == ["0", "1", "2", "3"]


def test_signals_are_as_they_should_be(host_run: HostRun) -> None:
    execution = host_run.run(f"{SH}exec grep -E '^Sig(Ign|Blk)' /proc/self/status")
    glibcs_own = 1 << 31 | 1 << 32  # 32 and 33, which nobody but libc can change
    masks = [int(line.split()[1], 16) for line in execution.stdout.text.splitlines()]
    assert [mask & ~glibcs_own for mask in masks] == [0, 0]


def test_core_files_are_off(host_run: HostRun) -> None:
    assert host_run.run(f"{SH}ulimit -c").stdout.text == "0\n"


def test_interpreters_of_the_rules_run_files_without_an_exec_bit(host_run: HostRun) -> None:
    test = host_run.new_test("print 1 + 1")
    (host_run.root / test.path).chmod(0o644)
    assert host_run.run_test(test._replace(argv=("perl",))).stdout.text == "2"


def test_figures_are_there(host_run: HostRun) -> None:
    before = time.time()
    execution = host_run.run(f"{SH}i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    assert before - 1 <= execution.started_at <= time.time() + 1
    assert 0 < execution.cpu_seconds <= execution.duration + 0.5
    assert execution.max_rss > 100


# -- settings ---------------------------------------------------------------------


def run_with(folder: Path, script: str, **setup: Any) -> Any:
    with HostRun(folder, **setup) as host_run:
        return host_run.run(script)


def test_merged_output_keeps_its_order(tmp_path: Path) -> None:
    script = f"{SH}for i in 1 2 3; do echo o$i; echo e$i >&2; done"
    execution = run_with(tmp_path, script, merge_output=True)
    assert execution.stdout.text.split() == ["o1", "e1", "o2", "e2", "o3", "e3"]
    assert execution.stderr.total_bytes == 0


def test_output_beyond_the_limit_keeps_both_ends(tmp_path: Path) -> None:
    execution = run_with(tmp_path, f"{SH}printf head; seq 100000; printf tail", output_limit=100)
    assert execution.stdout.cut_index == 50
    assert execution.stdout.text.startswith("head1\n")
    assert execution.stdout.text.endswith("100000\ntail")
    assert execution.stdout.total_bytes == 588_895 + 8


def test_a_read_only_tree_is_no_obstacle(tmp_path: Path) -> None:
    path = write_program(
        tmp_path / "ro" / "test_a", f"{SH}echo $TMPDIR > $TMPDIR/x && cat $TMPDIR/x"
    )
    path.parent.chmod(0o555)
    with HostRun(tmp_path / "ro") as host_run:
        execution = host_run.run_test(model.Test(1, path.name, timeout=30.0))
    path.parent.chmod(0o755)
    assert (execution.exit_status, execution.stderr.text) == (0, "")


def test_slots_run_side_by_side_and_no_more(tmp_path: Path) -> None:
    script = f'{SH}cd "$TEST_SRCDIR"; touch on.$$; ls on.* | wc -l; sleep 0.2; rm on.$$'
    with HostRun(tmp_path, "3*popen") as host_run:
        host_run.start(*(host_run.new_test(script) for _ in range(9)))
        executions = host_run.finish(9)
    assert max(int(each.stdout.text) for each in executions.values()) == 3
    assert {each.slot for each in executions.values()} == {0, 1, 2}


def test_stopping_ends_what_runs_and_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    before = set((scratch / "tmp").iterdir())
    script = f"{SH}M={tmp_path}; export M; touch up.$$; setsid sleep 60 & sleep 61"
    with HostRun(tmp_path, "2*popen") as host_run:
        host_run.start(*(host_run.new_test(script) for _ in range(4)))
        deadline = time.monotonic() + 20
        while len(list(tmp_path.glob("up.*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert wait_until_gone(str(tmp_path), 1)
    assert len(list(tmp_path.glob("up.*"))) == 2
    assert set((scratch / "tmp").iterdir()) == before


def test_more_output_than_the_window_comes_through(tmp_path: Path) -> None:
    """16 MB of output exceed the credit window of 8 MiB: nothing is lost and nothing blocks."""
    with HostRun(tmp_path, "2*popen") as host_run:
        first = host_run.new_test(f"{SH}head -c 400000 /dev/zero | tr '\\0' x")
        host_run.start(*(first._replace(id=number, estimate=0.01) for number in range(40)))
        executions = host_run.finish(40)
    assert {each.stdout.total_bytes for each in executions.values()} == {400_000}
