"""Tests of the commands ``nosejobs job ...``, with this machine as the host."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from shell_runner.cli import main as cli
from shell_runner.hosts.spec import HostSpec
from shell_runner.jobs import submitted_jobs
from shell_runner.jobs.client import JobClient
from tests.helpers import job_hosts
from tests.helpers.job_hosts import write_script

pytestmark = pytest.mark.timeout(120)

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Run = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[3]


def command(*arguments: str) -> list[str]:
    code = "import sys; from shell_runner.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", code, "job", *arguments]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with job_hosts.isolate_state(tmp_path):
        yield tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in this process, which is faster than a new process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def call(*arguments: str, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as ended:
                cli.main(["job", *arguments])
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
        status = ended.value.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess(arguments, status, *texts)

    return call


@pytest.fixture
def tests(folder: Path) -> Path:
    write_script(folder / "tests", "test_a.sh", "echo hello $GREETING")
    write_script(folder / "tests", "test_b.sh", "echo broken >&2; exit 3")
    return folder / "tests"


def submitted(run: Run, *arguments: str) -> str:
    done = run("submit", "--host", "popen", "--tests", "tests", *arguments)
    assert done.returncode == 0, done.stderr
    assert UUID.fullmatch(done.stdout.strip()), "standard output is the UUID alone"
    return done.stdout.strip()


def test_the_life_of_a_job(run: Run, tests: Path, folder: Path) -> None:
    id = submitted(run, "--name", "night", "--label", "x", "--env", "GREETING=you")

    done = run("harvest", id[:8], "--wait", "--into", "got", "--junitxml", "got/j.xml")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "FAILED test_b.sh - exit 3",
        f"{id}.zip: completed, 2 tests: 1 failed, 1 passed",
    ]
    assert (folder / f"{id}.zip").is_file()
    assert b"hello you" in (folder / "got" / "log.txt").read_bytes()
    assert len(ET.parse(folder / "got" / "j.xml").findall(".//testcase")) == 2

    done = run("list", "--host", "popen")
    assert re.search(
        rf"^{id[:8]}  night \[x\]  completed, harvested +2 +1 +1 ", done.stdout, re.MULTILINE
    )
    assert "popen: 1 harvested" in done.stderr
    assert json.loads(run("list", "--json", "--label", "y").stdout)["jobs"] == []

    lines = run("show", id[:4]).stdout.splitlines()
    assert lines[:4] == [
        f"job       {id} (night)",
        "state     completed, harvested",
        "tests     2: 1 failed, 1 passed",
        "          FAILED test_b.sh - exit 3",
    ]
    assert lines[-1] == (
        f"next      nosejobs job rerun {id[:8]} --failed, or nosejobs job forget {id[:8]}"
    )
    assert json.loads(run("show", id, "--json").stdout)["job"]["outcomes"] == {
        "passed": 1, "failed": 1,
    }  # fmt: skip

    assert "test_a.sh | hello you\n" in run("logs", id[:8]).stdout
    done = run("logs", id[:8], "--from", "1:9:00000000")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--from 1:9:00000000" in done.stderr
    assert "to continue" not in done.stderr

    done = run("rerun", id[:8], "--test", "test_a.sh", "--wait")
    assert done.returncode == 0, done.stderr
    assert "1 test: 1 passed" in done.stderr

    assert run("forget", id).stdout == f"{id}: forgotten\n"
    done = run("show", id, "--host", "popen")
    assert done.returncode == 2
    assert f"this host has no job '{id}'" in done.stderr


@pytest.mark.parametrize(
    ("select", "status"), [(["test_a.sh"], 0), (["test_b.sh"], 1), ([], 1)], ids=str
)
def test_who_waits_exits_as_pytest_does(
    run: Run, tests: Path, select: list[str], status: int
) -> None:
    done = run("submit", "--host", "popen", "--tests", "tests", "--wait", *select)
    assert done.returncode == status, done.stderr
    assert UUID.fullmatch(done.stdout.strip())
    assert "nosejobs | attempt 1 of job" in done.stderr


def test_who_waits_for_json_gets_the_verdict(run: Run, folder: Path) -> None:
    """The result equals that of harvest; a test that passed in its second attempt is named."""
    write_script(folder / "tests", "test_a.sh", f"mkdir {folder}/tried && exit 1; exit 0")
    arguments = ["--tests", "tests", "--retries", "1", "--keep-workspace", "always"]
    done = run("submit", "--host", "popen", *arguments, "--wait", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["id"] in done.stderr.splitlines()
    assert (result["outcomes"], result["flaky"]) == ({"passed": 1}, ["test_a.sh"])
    again = json.loads(run("harvest", result["id"], "--json").stdout)
    assert again == result
    output = run("harvest", result["id"]).stdout
    assert output.endswith("1 test: 1 passed (1 flaky: test_a.sh)\n")
    shown = dict(line.split(None, 1) for line in run("show", result["id"]).stdout.splitlines())
    assert (Path(shown["workspace"]) / "tests" / "test_a.sh").is_file()
    assert run("forget", result["id"]).returncode == 0
    assert not Path(shown["workspace"]).exists()


def test_a_list_is_of_all_hosts_on_record(run: Run, tests: Path, folder: Path) -> None:
    """An unreachable host is reported on a line; the only host is used, and named."""
    id = submitted(run, "test_a.sh")
    assert run("harvest", id, "--wait").returncode == 0
    done = run("submit", "--tests", "tests", "test_a.sh", "--wait")
    assert "popen: no --host given" in done.stderr
    nowhere = HostSpec("nowhere.invalid", "ssh", 0, "nowhere.invalid")
    submitted_jobs.add(submitted_jobs.SubmittedJob(str(uuid.uuid4()), nowhere, time.time()))
    done = run("list")
    assert done.returncode == 6
    assert re.search(rf"^popen +{id[:8]} ", done.stdout, re.MULTILINE)
    assert "popen: 2 harvested" in done.stderr
    assert "nowhere.invalid" in done.stderr.splitlines()[-1]
    listing = json.loads(run("list", "--json").stdout)
    assert [each["host"] for each in listing["jobs"]] == ["popen", "popen"]
    assert list(listing["errors"]) == ["nowhere.invalid"]


def test_a_build_that_does_not_install_has_failed(run: Run, tests: Path, folder: Path) -> None:
    write_script(folder / "build", "install", "echo cannot; exit 4")
    arguments = ["--tests", "tests", "--build", "build", "--install", "./install", "--wait"]
    arguments += ["--junitxml", "j.xml"]
    done = run("submit", "--host", "popen", *arguments)
    assert done.returncode == 1, done.stderr
    assert "install | cannot" in done.stderr
    assert "install-failed, 2 tests: 2 error" in done.stderr
    (suite,) = ET.parse(folder / "j.xml").getroot()
    assert suite.findtext("system-err") == "cannot\n"
    assert abs(datetime.fromisoformat(suite.attrib["timestamp"]).timestamp() - time.time()) < 600
    assert "reason    the install command failed: exit 4" in done.stderr
    id = done.stdout.strip()
    assert re.search(r"install-failed, harvested +2 +0 +0 +2 ", run("list").stdout)
    assert "tests     2: 2 error\n" in run("show", id).stdout
    assert "2 tests of job" in run("rerun", id, "--failed", "--wait").stderr


def test_what_was_canceled_has_no_verdict(run: Run, tests: Path, folder: Path) -> None:
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"echo here >{folder}/gate; exec sleep 1000")
    id = submitted(run)
    (folder / "gate").read_text()
    assert run("harvest", id).returncode == 2, "it has not ended"
    assert "to be canceled" in run("cancel", id).stdout
    done = run("harvest", id, "--wait", "--json", "--no-ack")
    assert done.returncode == 6, done.stdout
    result = json.loads(done.stdout)
    assert (result["end_reason"], result["acknowledged"], result["exit_status"]) == (
        "canceled",
        False,
        6,
    )
    shown = run("show", id).stdout
    assert f"nosejobs job rerun {id[:8]} --failed" in shown
    assert "tests     2: 1 error, 1 passed\n" in shown
    titles, row = run("list").stdout.splitlines()[:2]
    assert titles.split()[3:7] == ["tests", "passed", "failed", "error"]
    assert re.search(r"canceled, ready +2 +1 +0 +1 ", row), "it is counted as show counts it"
    again = run("rerun", id, "--failed")
    assert ": 1 test of job" in again.stderr, "test_a has passed"
    run("cancel", again.stdout.strip())
    assert run("forget", id).returncode == 2
    assert run("forget", "--force", id).returncode == 0


def test_a_jobs_file_and_the_inventory(run: Run, tests: Path, folder: Path) -> None:
    (folder / "nosejobs.toml").write_text('[hosts.mine]\nspec = "popen"\n')
    (folder / "job.toml").write_text('tests = "tests"\nselect = ["test_a.sh"]\nname = "filed"\n')
    done = run("submit", "--host", "mine", "--config", "job.toml", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["host"] == "mine"
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    done = run("show", result["id"], cwd=elsewhere)
    assert "(filed)" in done.stdout, "the host is recorded"
    assert run("harvest", result["id"], "--wait", "--out", "x.zip").returncode == 0


def test_a_variable_names_the_usual_host(
    run: Run, tests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submitted(run)
    monkeypatch.setenv("NOSEJOBS_HOST", "ssh=nobody@nowhere.invalid")
    assert run("harvest", id, "--wait").returncode == 1, "the record takes precedence"
    done = run("list")
    assert done.returncode == 6
    assert "nowhere.invalid" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "--host", "popen"], "--tests is missing"),
        (["submit", "--tests", "tests"], "no host given"),
        (["submit", "--host", "popen,popen", "--tests", "tests"], "a job runs on one host, not 2"),
        (["submit", "--host", "popen", "--tests", "no"], "--tests: no does not exist"),
        (["submit", "--host", "popen", "--tests", "tests", "--slots", "-1"], "--slots must be"),
        (["submit", "--host", "popen", "--tests", "tests", "nothing*"], "nothing*"),
        (["submit", "--host", "popen", "--config", "no.toml"], "no.toml: No such file"),
        (["submit", "--host", "popen", "--tests", "tests", "--env", "X-Y=1"], "X-Y is not the"),
        (["submit", "--host", "popen", "--tests", "tests", "--out", "x"], "need --wait"),
        (
            ["submit", "--host", "popen", "--tests", "tests", "--build", "tests/test_a.sh"],
            "test_a.sh is not a zip or tar archive",
        ),
        (["show", "zz"], "'zz' is not a job"),
        (["show", "abcd1234"], "no local record of job abcd1234; name its host with --host"),
        (["submit", "--host", "ssh=me@h:22", "--tests", "tests"], "try: Port in ~/.ssh/config"),
        (
            ["submit", "--host", "popen", "--tests", "tests", "--wait", "--junitxml", "no/j.xml"],
            "the folder no does not exist",
        ),
        (
            [
                "submit",
                "--host",
                "popen",
                "--tests",
                "tests",
                "--wait",
                "--into",
                "tests/test_a.sh/x",
            ],
            "cannot extract into",
        ),
        (
            ["show", "abcd1234", "--host", "popen"],
            "this host has no job 'abcd1234'; try: nosejobs job list",
        ),
        (["logs", "abcd1234", "--from", "x"], "'x' is not a position in a log"),
        (["limits", "--host", "popen", "kept_bytes"], "use NAME=VALUE"),
        (["limits", "--host", "popen", "waiting=2GiB"], "waiting must be a number of jobs, not"),
        (["limits", "--host", "popen", "linger=x"], "linger must be a whole number of seconds"),
        (["limits", "--host", "popen", "drop_unharvested=2"], "must be yes or no, not '2'"),
        (["limits", "--host", "popen", "kept_bytes=x"], "kept_bytes must be a size"),
        (["limits", "--host", "popen", "kept=1"], "limits: waiting, kept_bytes"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_and_exits_with_2(
    run: Run, tests: Path, arguments: list[str], words: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_never_left_is_not_on_record(run: Run, tests: Path) -> None:
    done = run("submit", "--host", "agent=127.0.0.1:1", "--tests", "tests")
    assert done.returncode in (2, 6)
    assert "may have been submitted" not in done.stderr
    assert submitted_jobs.list_all() == []


def test_a_job_of_a_host_that_is_gone_can_be_dropped(run: Run, tests: Path) -> None:
    id, nowhere = str(uuid.uuid4()), HostSpec("gone", "ssh", 0, "me@nowhere.invalid")
    submitted_jobs.add(submitted_jobs.SubmittedJob(id, nowhere, time.time()))
    done = run("forget", id[:8])
    assert done.returncode == 6
    assert f"nosejobs job forget {id[:8]} --force" in done.stderr
    assert submitted_jobs.find(id)
    done = run("forget", id[:8], "--force")
    assert done.returncode == 0, done.stderr
    assert "the local record is removed" in done.stdout
    assert submitted_jobs.list_all() == []


def test_hosts_on_record_are_named_so_that_they_can_be_typed(run: Run, tests: Path) -> None:
    submitted(run)
    there = HostSpec("there", "popen", 1)
    submitted_jobs.add(submitted_jobs.SubmittedJob(str(uuid.uuid4()), there, time.time()))
    done = run("limits")
    assert done.returncode == 2
    assert "\n  --host popen\n  --host popen//id=there\n" in done.stderr
    assert "there: 1 " in run("list", "--host", "there").stderr
    done = run("show", "deadbeef")
    assert "no local record of job deadbeef; name its host with --host" in done.stderr


def test_who_cannot_write_after_all_is_told_how_to_go_on(
    run: Run, tests: Path, folder: Path
) -> None:
    # The target can be written when the job is submitted.
    write_script(tests, "test_b.sh", f"mkdir {folder}/got {folder}/got/other")
    arguments = ["--tests", "tests", "--wait", "--into", "got"]
    done = run("submit", "--host", "popen", *arguments)
    assert done.returncode == 2
    assert f"next: nosejobs job harvest {done.stdout[:8]}\n" in done.stderr
    assert "got is not empty" in done.stderr


def test_news_that_did_not_arrive_are_shown(run: Run, tests: Path) -> None:
    id = submitted(run, "--notify", "http://127.0.0.1:1/")
    run("harvest", id, "--wait")
    # The first try is on its way, or the next one is awaited.
    shown = run("show", id).stdout
    while "not delivered yet, " not in shown:
        assert "notify    not delivered yet\n" in shown
        shown = run("show", id).stdout
    assert re.search(
        r"notify +not delivered yet, \d attempts?: cannot be reached: .* in \d s\n", shown
    )


def test_it_is_a_command_of_the_shell(run: Run, tests: Path, folder: Path) -> None:
    arguments = ["submit", "--host", "popen", "--tests", "tests", "--wait"]
    line = " ".join(map(_quoted, command(*arguments)))
    script = f"cd {folder} && JOB=$({line} 2>said); echo $? $JOB"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert re.fullmatch(rf"1 {UUID.pattern}\n", done.stdout), (folder / "said").read_text()
    assert done.stderr == ""


def test_who_stops_following_can_go_on(run: Run, tests: Path, folder: Path) -> None:
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"echo here; cat {folder}/gate; echo last")
    id = submitted(run)
    following = subprocess.Popen(
        command("logs", "-f", id), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    assert following.stderr is not None
    with following:
        log = ""
        while "here" not in log:
            log += following.stdout.readline()
        following.send_signal(signal.SIGINT)
        rest, message = following.communicate(timeout=60)
    assert following.returncode == 130
    assert "interrupted; submitted jobs continue" in message
    match = re.search(r"to continue: nosejobs job (logs -f \S+ --from \S+)", message)
    assert match, message
    (folder / "gate").write_text("now\n")
    more = run(*match[1].split()).stdout
    assert log + rest + more == run("logs", id).stdout
    assert "test_b.sh | last\n" in more


def test_who_stops_waiting_can_go_on(run: Run, tests: Path, folder: Path) -> None:
    """The printed command continues, writes the same files, and is printed again if interrupted."""
    os.mkfifo(folder / "gate")
    write_script(tests, "test_b.sh", f"echo here; cat {folder}/gate")
    files = ["--out", "x y.zip", "--junitxml", "j.xml"]
    arguments = command("submit", "--host", "popen", "--tests", "tests", "--wait", *files)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=folder) as waiting:
        assert waiting.stderr is not None
        while "here" not in waiting.stderr.readline():
            pass
        waiting.send_signal(signal.SIGINT)
        _, message = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    go_on = re.compile(r"^to continue: nosejobs job (.*)$", re.MULTILINE)
    (next_command,) = go_on.findall(message)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobClient, "wait", interrupted)
        done = run(*shlex.split(next_command))
    assert (done.returncode, go_on.findall(done.stderr)) == (130, [next_command])
    (folder / "gate").write_text("now\n")
    assert run(*shlex.split(next_command)).returncode == 0
    assert (folder / "x y.zip").is_file()
    assert (folder / "j.xml").is_file()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_reader_that_has_enough_is_no_trouble(run: Run, tests: Path, folder: Path) -> None:
    id = submitted(run, "test_a.sh")
    run("harvest", "--wait", id)
    job_hosts.find_log_file().write_bytes(b"more than a pipe holds\n" * 20_000)
    line = " ".join(["exec 3>&1;", "{", *map(_quoted, command("logs", id)), "; echo $? >&3; }"])
    done = subprocess.run(["sh", "-c", f"{line} | head -1 >&2"], capture_output=True, text=True)
    assert (done.stdout, done.stderr.count("\n")) == ("141\n", 1)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_escapes_of_a_test_reach_no_terminal(run: Run, tests: Path) -> None:
    write_script(tests, "test_a.sh", r"printf '\033[2Jx\r\n'")
    id = submitted(run, "test_a.sh")
    assert run("harvest", "--wait", id).returncode == 0
    shown = run("logs", id).stdout
    assert "\x1b" not in shown
    assert "test_a.sh | x" in shown
    assert "\x1b[2J" in run("logs", "--raw", id).stdout
