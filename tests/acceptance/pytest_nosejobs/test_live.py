"""Tests of live output: ``-s`` streams lines, and a terminal shows what each slot runs."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time

import pytest

from .conftest import Project

MODES = {"plain": (), "hosts": ("--nosejobs=4*popen",)}
each_mode = pytest.mark.parametrize("mode", MODES)
HOST = {"plain": "here", "hosts": "popen"}


def run_on_terminal(project: Project, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run pytest on a pseudo-terminal; return its exit status and output."""
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    environment |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_nosejobs.plugin", *arguments]
    ours, theirs = os.openpty()
    with subprocess.Popen(
        command, cwd=project.root, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        written = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # nobody holds the other end
                break
            if not data:
                break
            written += data
        else:
            process.kill()
        status = process.wait()
    os.close(ours)
    return status, written.decode("utf-8", "replace")


# -- lines -----------------------------------------------------------------------------


@each_mode
def test_lines_come_with_host_and_test(project: Project, mode: str) -> None:
    project.add("sub/test_a.sh", "echo one; echo two >&2; printf 'unfinished'; exit 1")
    done = project.run("-s", *MODES[mode])
    prefix = f"[{HOST[mode]}] sub/test_a.sh: "
    assert {f"{prefix}{word}" for word in ("one", "two", "unfinished")} <= set(done.outlines)
    done.assert_outcomes(failed=1)


@each_mode
def test_lines_come_while_the_test_runs(project: Project, mode: str) -> None:
    project.add("test_a.sh", "echo early; sleep 2; echo late")
    begin = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "pytest_nosejobs.plugin", "-s", *MODES[mode]],
        cwd=project.root, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout
        seconds_by_word = {}
        for line in process.stdout:
            for word in ("early", "late"):
                if line.rstrip().endswith(f": {word}"):
                    seconds_by_word[word] = time.monotonic() - begin
    assert seconds_by_word["late"] - seconds_by_word["early"] > 1.5


def test_four_slots_tear_no_line(project: Project) -> None:
    """Each test writes its lines in small pieces, on both streams."""
    script = """
        for i in $(seq 150); do
            printf '<%s ' "$NAME"; printf '%s ' "$i"; printf 'xxxxxxxxxx\\200>\\n'
            printf '<%s %s err>\\n' "$NAME" "$i" >&2
        done
    """
    names = [f"test_{letter}" for letter in "abcdefgh"]
    for name in names:
        project.add(name, f"NAME={name}{script}")
    done = project.run("-s", "--nosejobs=4*popen")
    done.assert_outcomes(passed=8)
    lines = [line.lstrip(".") for line in done.outlines if "<test" in line]
    pattern = re.compile(r"\[popen\] (\w+): <(\w+) (\d+) (xxxxxxxxxx\\x80|err)>")
    for line in lines:
        match = pattern.fullmatch(line)
        assert match, line
        assert match[1] == match[2]
    assert len(lines) == 8 * 150 * 2


@each_mode
def test_a_flood_is_bounded_and_the_deadline_holds(project: Project, mode: str) -> None:
    project.add("test_flood", "# nosejobs: timeout=2\nexec yes 'all work and no play'")
    begin = time.monotonic()
    done = project.run("-s", *MODES[mode])
    assert time.monotonic() - begin < 30
    done.assert_outcomes(failed=1)
    text = done.stdout.str()
    assert "timed out after 2 s" in text
    assert re.search(r"\[\.\.\. \d+ lines are not shown \.\.\.\]", text)
    assert len(text) < 8 << 20
    for line in done.outlines:
        if line.startswith(f"[{HOST[mode]}] "):
            assert re.fullmatch(
                r"\[\w+\] test_flood: (all work and no play|\[\.\.\. \d+ lines .*\])", line
            )


@each_mode
def test_output_cannot_drive_the_terminal(project: Project, mode: str) -> None:
    project.add("test_a", r"printf '\033]0;title\007\033[2Jx\rfake\n\033[31mred\033[0m\n'")
    text = project.run("-s", *MODES[mode]).stdout.str()
    assert "\x1b" not in text
    assert "\\x1b]0;title\\x07" in text
    assert "x\\x0dfake" in text
    assert "test_a: red" in text


@each_mode
def test_cases_are_still_told_with_s(project: Project, mode: str) -> None:
    project.add("test_a", "echo 1..2; echo ok 1 - a; echo not ok 2 - b")
    done = project.run("-s", *MODES[mode])
    done.assert_outcomes(passed=1, failed=1)
    assert f"[{HOST[mode]}] test_a: not ok 2 - b" in done.stdout.str()


# -- the view ------------------------------------------------------------------------------


@pytest.fixture
def slow(project: Project) -> Project:
    project.add("test_slow", "sleep 1.5")
    project.add("test_slower", "sleep 1.5; echo broken; exit 1")
    project.add("test_cases", "echo 1..2; echo ok 1 - a; echo not ok 2 - b")
    project.add("test_skip", "echo why; exit 77")
    return project


def test_a_terminal_shows_slots(slow: Project) -> None:
    status, text = run_on_terminal(slow, "--nosejobs=2*popen")
    assert status == 1
    assert re.search(r"popen/[01]\S*\s+\S*\d\.\d s\S*\s+\S*test_slow", text)
    assert re.search(r"FAILED +test_slower::test_slower - exit 1", text)
    assert re.search(r"FAILED +test_cases::b - not ok", text)
    assert "4/4" in text
    assert "2 failed" in text
    assert "broken" in text  # the failure's own section


def test_the_view_into_a_pipe(slow: Project) -> None:
    done = slow.run("--nosejobs=2*popen", "--nosejobs-view=yes")
    done.assert_outcomes(passed=2, failed=2, skipped=1)
    text = done.stdout.str()
    assert "FAILED test_slower::test_slower - exit 1" in text
    assert "\x1b" not in text
    last = next(line for line in done.outlines if line.startswith("4/4 "))
    assert sorted(re.findall(r"\d+ [a-z]{2,}", last)) == ["1 skipped", "2 failed", "2 passed"]


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["-q"], {}),
        (["-v"], {}),
        (["-s"], {}),
        (["--nosejobs-view=no"], {}),
        ([], {"CI": "true"}),
        ([], {"TERM": "dumb"}),
    ],
    ids=str,
)
def test_no_view_by_itself(
    project: Project, arguments: list[str], variables: dict[str, str]
) -> None:
    project.add("test_a", "sleep 0.5")
    project.add("test_b", "sleep 0.5")
    status, text = run_on_terminal(project, "--nosejobs=2*popen", *arguments, **variables)
    assert status == 0
    assert not re.search(r"popen/\d", text)
    assert "2/2" not in text


def test_no_view_in_a_pipe(project: Project) -> None:
    project.add("test_a", "sleep 0.5")
    done = project.run("--nosejobs=2*popen")
    assert "1/1" not in done.stdout.str()
    assert "[100%]" in done.stdout.str()
