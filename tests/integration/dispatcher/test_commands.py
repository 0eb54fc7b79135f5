"""Tests of the dispatcher's commands with a real API."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from dispatcher import model
from dispatcher.cli import commands as cli
from dispatcher.cli import common, stage_log
from dispatcher.cli.api_client import ApiClient
from dispatcher.model import BuildEvent, Job, StageEvent
from dispatcher.store import builds, changes, jobs, stage_runs
from shell_runner.remote.jobs.result_package_format import Member
from shell_runner.remote.jobs.result_package_writer import write_package
from tests.helpers.git_repository import Repository
from tests.helpers.job_hosts import write_script

from . import api_server
from .api_server import RunningApi

ROOT = Path(__file__).parents[3]
COMMANDS = click.Group("nosejobs", commands=list(cli.ALL_COMMANDS))
Run = Callable[..., Result]


@pytest.fixture
def run(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command with the URL of the API."""
    monkeypatch.setenv("NOSEJOBS_URL", api.url)
    monkeypatch.setenv("LOGNAME", "ann")
    return invoke


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(COMMANDS, list(arguments))


def add(api: RunningApi, **change: Any) -> int:
    with api.store.write() as connection:
        return api_server.add_build(connection, **change)


@pytest.fixture(scope="module")
def fake_server() -> Iterator[tuple[str, list[bytes]]]:
    """Yield the URL of an HTTP server that is no dispatcher, and a list that holds its response."""
    responses = [b""]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(responses[0])))
            self.end_headers()
            self.wfile.write(responses[0])

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{server.server_port}", responses
        server.shutdown()


# -- reading ------------------------------------------------------------------------


def test_builds_are_printed_as_table_or_json(api: RunningApi, run: Run) -> None:
    assert run("builds").stderr == "there are no builds yet\n"
    add(api, subject="make it fast")
    done = run("builds")
    assert done.exit_code == 0
    assert "make it fast" in done.stdout
    (row,) = json.loads(run("builds", "--json").stdout)
    assert row["number"] == 1
    assert json.loads(run("builds", "--json", "--level", "ship").stdout) == []
    done = run("builds", "--level", "ship", "--branch", "b")
    assert (done.exit_code, done.stderr) == (0, "no builds match --level ship --branch b\n")


def test_errors_of_sources_are_shown_with_builds(api: RunningApi, run: Run) -> None:
    with api.store.write() as connection:
        key = changes.ensure_source(connection, "app", "git")
        changes.record_poll(connection, key, time.time(), "/srv/app.git cannot be read: gone")
    done = run("builds")
    assert done.stderr == "there are no builds yet\nsource app: /srv/app.git cannot be read: gone\n"
    assert run("builds", "--json").output == "[]\n"


def test_show_names_reasons_and_the_next_step(api: RunningApi, run: Run) -> None:
    build = add(api)
    with api.store.write() as connection:
        api_server.finish_stage(connection, build, "unit", failed="tests/test_b.sh")
    done = run("show", str(build))
    assert done.exit_code == 0
    for text in (
        "stopped at unit", "FAILED tests/test_b.sh - exit 3 (on h1)", "rate = 1234.5 1/s",
        "nosejobs rerun 1 unit --failed",
    ):  # fmt: skip
        assert text in done.stdout


@pytest.mark.parametrize("text", ["1", "abcd", "abcd" * 10, "latest"])
def test_a_build_has_several_names(api: RunningApi, run: Run, text: str) -> None:
    add(api)
    assert json.loads(run("show", text, "--json").stdout)["number"] == 1


def test_text_of_commits_and_hosts_cannot_control_the_terminal(api: RunningApi, run: Run) -> None:
    evil = "\x1b]0;gone\x07\x1b[2Jok\nbuild 9\r\u202e"
    build = add(api, subject=evil, author=evil)
    with api.store.write() as connection:
        api_server.finish_stage(connection, build, "unit", failed=f"tests/{evil}.sh")
        api_server.add_host(connection, f"h{evil}", reason=evil)
    for command in (["builds"], ["show", "1"], ["hosts"]):
        done = run(*command)
        assert done.exit_code == 0, done.output
        assert not {c for c in done.output if not c.isprintable()} - {"\n"}
        assert not [line for line in done.stdout.splitlines() if line.startswith("build 9")]
        assert run(*command, "--json").stdout.isascii()


# -- actions -------------------------------------------------------------------------


def test_actions_are_recorded_with_the_name_of_the_user(api: RunningApi, run: Run) -> None:
    build = add(api)
    for arguments, message in (
        (["hold", "1", "unit"], "unit of build 1 is held"),
        (["approve", "1", "unit", "--reason", "it is fine"], "unit of build 1 is approved"),
        (["tag", "1", "unit", "--reason", "seen"], "build 1 is tagged unit by hand"),
        (["untag", "1", "unit", "--reason", "not so"], "the tag unit of build 1 is revoked"),
        (["tag", "1", "unit", "--reason", "seen"], "build 1 is tagged unit by hand"),
        (["tag", "1", "unit", "--revoke", "--reason", "no"], "the tag unit of build 1 is revoked"),
        (["cancel", "1", "unit"], "unit of build 1 is canceled"),
        (["rerun", "1", "unit", "--actor", "bob"], "run 2 of unit"),
        (["cancel", "1"], "build 1 is canceled: smoke, regression, audit, unit"),
        (["poke", "app"], "polling app now"),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (0, f"{message}\n"), done.output
    audit = json.loads(run("show", str(build), "--json").stdout)["audit"]
    assert {entry["actor"] for entry in audit} == {"ann", "bob"}
    assert api.service.poked == ["app"]


def test_hosts_are_drained_and_resumed(api: RunningApi, run: Run) -> None:
    with api.store.write() as connection:
        api_server.add_host(connection)
    assert run("hosts", "drain", "h1", "--reason", "new disk").exit_code == 0
    done = run("hosts")
    assert "draining" in done.stdout
    assert "new disk" in done.stdout
    assert run("hosts", "resume", "h1").stdout == "host h1 gets jobs again\n"
    done = run("hosts", "--json", "quarantine", "h1")
    assert json.loads(done.stdout)["changed"] is True
    done = run("hosts", "resume", "h1", "--json")
    assert json.loads(done.stdout)["message"] == "host h1 gets jobs again"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "7"], "there is no build 7"),
        (["show", "beef"], "there is no build beef"),
        (["show", "no"], "'no' is not a build; give a build number"),
        (["tag", "1", "unit"], "Missing option '--reason'"),
        (["approve", "1", "unti"], "did you mean 'unit'?"),
        (["approve", "1", "../../x"], "unknown path"),
        (["rerun", "1", "smoke"], "run 1 of smoke is waiting: it has not run yet"),
        (["hosts", "drain", "h\x1b[31m9"], "there is no host 'h\\x1b[31m9'; there is none yet"),
        (["poke", "nix"], "there is no source 'nix'"),
        (
            ["builds", "--state", "odd"],
            "state must be one of new, building, built, failed, invalid, superseded, not 'odd'",
        ),
        (
            ["builds", "--level", "shipp"],
            "no level 'shipp'; did you mean 'ship'?\n  levels: goop, published, ship",
        ),
        (["builds", "--level", "x", "--json"], "no level 'x'\n  levels: goop, published, ship"),
        (["builds", "--source", "nope", "--branch", "b"], "no source 'nope'\n  sources: app"),
        (["logs", "1", "unit"], "unit of build 1 has no job on a host yet: it is"),
        (["logs", "1", "unit", "--run", "5"], "build 1 has no run 5 of unit; its runs: 1"),
        (["logs", "1", "unit", "--run", "5", "-f"], "build 1 has no run 5 of unit; its runs: 1"),
        (["builds", "--url", "file:///etc/passwd"], "is not a URL"),
    ],
)
def test_invalid_requests_exit_2_with_a_message(
    api: RunningApi, run: Run, arguments: list[str], words: str
) -> None:
    add(api)
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_no_dispatcher_exits_6(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = invoke("builds", "--url", f"http://127.0.0.1:{port}")
    assert done.exit_code == 6
    assert f"no dispatcher answers at http://127.0.0.1:{port}" in done.stderr
    assert "nosejobs up" in done.stderr


def test_a_password_in_an_address_is_not_shown(fake_server: tuple[str, list[bytes]]) -> None:
    url, fake_server[1][:] = fake_server[0].replace("//", "//ann:hunter2@"), [b"<html>"]
    for where in (url, "http://ann:hunter2@127.0.0.1:1"):
        done = invoke("builds", "--url", where)
        assert done.exit_code == 6
        assert "127.0.0.1" in done.stderr
        assert "hunter2" not in done.stderr


def test_the_url_is_read_from_the_data_folder(
    api: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOSEJOBS_URL", raising=False)
    (tmp_path / "dispatcher.toml").write_text('[dispatcher]\ndata = "data"\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "url").write_text(f"{api.url}\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert invoke("hosts", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    "answer",
    [b"null", b"7", b"[7]", b"{}", b'[{"number": NaN}]', b'{"outcome": "x"}', b"[" * 100_000],
    ids=lambda answer: str(answer[:20]),
)
def test_a_malformed_response_exits_6(fake_server: tuple[str, list[bytes]], answer: bytes) -> None:
    url, fake_server[1][:] = fake_server[0], [answer]
    for arguments in (
        ["show", "1"],
        ["show", "1", "--wait"],
        ["rerun", "1", "unit"],
        ["poke", "x"],
    ):
        done = invoke(*arguments, "--url", url)
        assert done.exit_code == 6, (arguments, done.output)
        assert done.stderr.startswith(("Error: what ", "Error: the response ")), done.stderr
        assert done.stdout == ""


def test_a_closed_pipe_has_its_own_exit_status(api: RunningApi) -> None:
    with api.store.write() as connection:
        api_server.add_host(connection)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dispatcher", "hosts", "--url", api.url]
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=30)
    assert (done.returncode, done.stderr) == (common.OUTPUT_CLOSED, b"")


# -- waiting ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "status"), [(StageEvent.PASS, 0), (StageEvent.FAIL, 1), (StageEvent.GIVE_UP, 6)]
)
def test_wait_exits_with_the_status_of_the_build(
    api: RunningApi, run: Run, event: StageEvent, status: int
) -> None:
    tree = '[stages.unit]\n[levels]\npublished = ["unit", "smoke"]\n'
    with api.store.write() as connection:
        build = api_server.add_build(connection, tree=tree)
        number = api_server.newest_run(connection, build, "unit").id
        api_server.start_stage(connection, build, "unit", "h1")
    done: list[Result] = []
    waiting = threading.Thread(target=lambda: done.append(run("show", str(build), "--wait")))
    waiting.start()
    while api.store.changed.count() == 0:
        time.sleep(0.01)
    with api.store.write() as connection:
        if event is StageEvent.PASS:
            stage_runs.apply_event(connection, number, event, ended_at=time.time())
            stage_run = api_server.newest_run(connection, build, "unit")
            api_server.add_tag(connection, build, stage_run, "u1")
        else:
            stage_runs.apply_event(connection, number, event, detail="gone", ended_at=time.time())
    waiting.join(20)
    assert done[0].exit_code == status, done[0].output


@pytest.mark.parametrize("option", ["--wait", "--follow"])
def test_wait_does_not_succeed_where_nothing_was_tested(
    api: RunningApi, run: Run, option: str
) -> None:
    build = add(api, tree="[levels]\nship = ['unit']\n")
    done = run("show", str(build), option)
    assert done.exit_code == 1
    assert "it has no stages, so that nothing was tested" in done.stdout


def test_wait_waits_for_the_build_of_a_pushed_revision(
    api: RunningApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(common, "print_message", messages.put)
    done: list[Result] = []
    thread = threading.Thread(target=lambda: done.append(run("show", "--wait", "abcdabcd")))
    thread.start()
    assert messages.get(timeout=20).startswith("no build of abcdabcd yet; waiting for it")
    add(api, tree="")
    thread.join(20)
    # The build has no stages, so that it does not pass.
    assert (done[0].exit_code, messages.qsize()) == (1, 0), done[0].output
    assert "build     1 of app" in done[0].stdout
    monkeypatch.setattr(common, "_MAX_BUILD_WAIT", 0.0)
    late = run("show", "-f", "beef")
    assert (late.exit_code, late.stderr.splitlines()[0]) == (2, "Error: there is no build beef")


# -- logs ---------------------------------------------------------------------------


def add_stored_logs(api: RunningApi, build: int, *logs: bytes) -> list[str]:
    """Add a passed stage with a host and a stored package for each log; return the UUIDs of its
    jobs.
    """
    names = [f"h{number}" for number, _ in enumerate(logs, 1)]
    with api.store.write() as connection:
        job_ids = api_server.start_stage(connection, build, "unit", *names)
        for job, log in zip(job_ids, logs, strict=True):
            path = api.service.settings.data / f"p-{job[-3:]}"
            manifest = {"attempt": {"number": 1}}
            write_package(str(path), manifest, [Member("log.txt", log)])
            api_server.harvest_job(connection, job, path.name)
        run = api_server.newest_run(connection, build, "unit")
        stage_runs.apply_event(connection, run.id, StageEvent.PASS, ended_at=time.time())
    return job_ids


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_missing_log_is_explained(api: RunningApi, run: Run, follow: list[str]) -> None:
    with api.store.write() as connection:
        source = changes.ensure_source(connection, "app", "git")
        change = model.Change(source, "main", "abcd" * 10, seen_at=1.0)
        build = builds.add(connection, changes.add(connection, change), 1.0)
        why = "nosejobs.toml:3: no"
        assert builds.apply_event(connection, build, BuildEvent.REJECT, detail=why, ended_at=1.0)
    done = run("logs", *follow, "1", "unit")
    assert done.exit_code == 2
    assert why in done.stderr


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_log_is_printed_from_its_package(api: RunningApi, run: Run, follow: list[str]) -> None:
    build = add(api)
    big = b"x" * 300_000 + b"\n"
    add_stored_logs(api, build, b"a.sh | \x1b[31mred\xff \xe2\x82\xac\n" + big)
    done = run("logs", *follow, str(build), "unit")
    assert done.exit_code == 0, done.output
    assert done.stdout == "a.sh | red\\xff €\n" + big.decode()


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_lines_of_several_hosts_start_with_the_host(
    api: RunningApi, run: Run, follow: list[str]
) -> None:
    build = add(api)
    add_stored_logs(api, build, b"one\ntwo\n", b"three")
    done = run("logs", *follow, str(build), "unit")
    assert sorted(done.stdout.splitlines()) == ["h1 | one", "h1 | two", "h2 | three"]


def test_a_removed_log_is_reported(api: RunningApi, run: Run) -> None:
    build = add(api)
    (job,) = add_stored_logs(api, build, b"one\n")
    (api.service.settings.data / f"p-{job[-3:]}").unlink()
    done = run("logs", str(build), "unit")
    assert done.exit_code == 2
    assert "its package was removed, as it is older" in done.stderr
    done = run("logs", "-f", str(build), "unit")
    assert done.exit_code == 2
    assert done.stderr.count("was removed") == 1


def test_following_waits_for_the_job(api: RunningApi, run: Run) -> None:
    build = add(api)
    with api.store.write() as connection:
        number = api_server.newest_run(connection, build, "unit").id
        stage_runs.apply_event(connection, number, StageEvent.READY)
        stage_runs.apply_event(connection, number, StageEvent.PLACE, started_at=1.0)
        jobs.plan(connection, [Job(api_server.uuid(5), number, "h1", planned_at=1.0)])
    done: list[Result] = []
    thread = threading.Thread(target=lambda: done.append(run("logs", "-f", "1", "unit")))
    thread.start()
    path = api.service.settings.data / "p5"
    write_package(str(path), {"attempt": {"number": 1}}, [Member("log.txt", b"now\n")])
    with api.store.write() as connection:
        api_server.harvest_job(connection, api_server.uuid(5), "p5")
        stage_runs.apply_event(connection, number, StageEvent.PASS, ended_at=2.0)
    thread.join(20)
    assert (done[0].exit_code, done[0].stdout) == (0, "now\n"), done[0].output


def test_following_a_held_stage_suggests_approval(api: RunningApi) -> None:
    build = add(api)
    with api.store.write() as connection:
        number = api_server.newest_run(connection, build, "unit").id
        stage_runs.apply_event(connection, number, StageEvent.HOLD, detail="held by ann")
    messages: queue.Queue[str] = queue.Queue()
    arguments = (ApiClient(api.url), build, "unit", None, True, messages.put)
    thread = threading.Thread(target=stage_log.print_logs, args=arguments)
    thread.start()
    assert messages.get(timeout=20) == "unit: held by ann\n  next: nosejobs approve 1 unit"
    with api.store.write() as connection:
        stage_runs.apply_event(connection, number, StageEvent.CANCEL, ended_at=2.0)
    thread.join(20)
    assert not thread.is_alive()


# -- without a dispatcher -----------------------------------------------------------


def test_check_explains_both_files(tmp_path: Path) -> None:
    assert invoke("check", str(tmp_path)).exit_code == 2
    (tmp_path / "nosejobs.toml").write_text(api_server.TREE)
    (tmp_path / "dispatcher.toml").write_text(api_server.SETTINGS)
    done = invoke("check", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "stage smoke: needs unit, and an approval" in done.stdout
    assert "source app: git /srv/app.git" in done.stdout
    explained = json.loads(invoke("check", str(tmp_path), "--json").stdout)
    assert [Path(name).name for name in explained] == ["nosejobs.toml", "dispatcher.toml"]


@pytest.mark.parametrize("name", ["nosejobs.toml", "dispatcher.toml"])
def test_check_names_file_line_and_key(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\n[odd]\n")
    for where in (tmp_path, path):
        done = invoke("check", str(where))
        assert done.exit_code == 2
        assert f"{name}:2: unknown key 'odd'" in done.stderr


def test_check_compares_both_files_and_the_tree(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "file").touch()
    Repository(tmp_path / "empty")
    Repository(tmp_path / "repository").commit()
    (tmp_path / "nosejobs.toml").write_text("""
[build]
command = "make"
output = "."
inputs = ["src", "lib/**"]
labels = ["compiler"]
[stages.unit]
tests = ["tests", "nowhere/test_x.sh", "test_*.sh"]
hosts = 3
[stages.smoke]
labels = ["gpu"]
hosts = 4
[stages.big]
labels = ["gpu"]
tags = ["slow"]
hosts = 5
[stages.spread]
mode = "shard"
labels = ["gpu"]
hosts = 9
[stages.none]
mode = "shard"
labels = ["gpuu"]
hosts = 9
[levels]
ready = ["unit", "smoke"]
""")
    (tmp_path / "dispatcher.toml").write_text(f"""
[sources.gone]
directory = "gone"
[sources.file]
git = "{tmp_path}/file"
[sources.good]
directory = "tests"
[sources.far]
git = "https://example.org/app.git"
[sources.plain]
git = "tests"
[sources.empty]
git = "empty"
[sources.trunk]
git = "repository"
branches = ["trunk", "rel-*"]
[sources.fine]
git = "repository"
branches = ["ma*"]
[hosts.h1]
spec = "popen"
labels = ["gpu"]
[pools.p]
labels = ["gpu"]
max_hosts = 3
[retention]
levels = ["ready", "redy"]
""")
    done = invoke("check", str(tmp_path))
    assert done.exit_code == 0, done.output
    warnings = [line.partition("warning: ")[2] for line in done.stdout.splitlines()]
    of = (
        "the dispatcher has host h1 (label gpu), pool p (label gpu, at most 3 hosts)",
        "add hosts or labels to dispatcher.toml and restart the dispatcher, or change",
    )
    assert [each for each in warnings if each] == [
        "stage unit: there is no 'nowhere/test_x.sh' in the tree; its tests cannot run",
        "stage smoke: there are no tests for it in the tree",
        "stage big: no test has the marker 'slow'; there are no markers",
        "stage spread: there are no tests for it in the tree",
        "stage none: there are no tests for it in the tree",
        "build: there is no 'src' in the tree; changes to it cannot be seen",
        f"source gone: {tmp_path}/gone does not exist",
        f"source file: {tmp_path}/file is no folder",
        f"source plain: {tmp_path}/tests is no git repository that can be read; "
        "use directory for a plain folder",
        f"source empty: {tmp_path}/empty has no branch yet",
        f"source trunk: no branch of {tmp_path}/repository matches trunk, rel-*; there are: main",
        "stage build: can never be placed: needs 1 host with label compiler, and there are none; "
        f"{of[0]}; nothing has the label 'compiler'; {of[1]} [build] in nosejobs.toml",
        "stage big: can never be placed: needs 5 hosts with label gpu, and there are 4; "
        f"{of[0]}; {of[1]} [stages.big] in nosejobs.toml",
        "stage none: can never be placed: needs 1 host with label gpuu, and there are none; "
        f"{of[0]}; nothing has the label 'gpuu', did you mean 'gpu'?; {of[1]} [stages.none] "
        "in nosejobs.toml",
        "[retention] levels: no level 'redy'; did you mean 'ready'?",
    ]


def test_check_names_tests_that_every_host_of_their_stage_skips(tmp_path: Path) -> None:
    (tmp_path / "nosejobs.toml").write_text('[stages.unit]\nlabels = ["gpu"]\n')
    (tmp_path / "dispatcher.toml").write_text("""
[hosts.h1]
spec = "popen"
labels = ["gpu"]
[hosts.h2]
spec = "ssh=h2"
labels = ["docker"]
[pools.p]
labels = ["gpu", "fast"]
""")
    requirements = {"no": "", "one": "gpu", "pool": "gpu,fast", "docker": "docker", "x": "gpu,xx"}
    for name, labels in requirements.items():
        script = f"# nosejobs: requires={labels}" if labels else ""
        write_script(tmp_path, f"test_{name}.sh", script)
    done = invoke("check", str(tmp_path))
    assert done.exit_code == 0, done.output
    warnings = [line.partition("warning: ")[2] for line in done.stdout.splitlines()]
    of = "; no host and no pool of the stage has all of these labels, so that it is always skipped"
    assert [each for each in warnings if each.startswith("stage")] == [
        f"stage unit: test_docker.sh requires docker{of}",
        f"stage unit: test_x.sh requires gpu, xx{of}",
    ]
    for number in range(30):
        write_script(tmp_path, f"test_{number}.sh", "# nosejobs: requires=docker")
    assert "warning: stage unit: and 12 more\n" in invoke("check", str(tmp_path)).stdout


def test_check_compares_files_in_two_folders(tmp_path: Path) -> None:
    tree, own = tmp_path / "tree", tmp_path / "own"
    for folder in (tree, own):
        folder.mkdir()
    (tree / "nosejobs.toml").write_text('[stages.unit]\nlabels = ["gpu"]\n')
    (own / "dispatcher.toml").write_text('[hosts.h1]\nspec = "popen"\n')
    for paths in ((tree, own), (own, tree), (own / "dispatcher.toml", tree / "nosejobs.toml")):
        done = invoke("check", *map(str, paths))
        assert done.exit_code == 0, done.output
        assert "stage unit: can never be placed: needs 1 host with label gpu" in done.stdout
    done = invoke("check", str(own), str(tmp_path))
    assert done.exit_code == 2
    assert f"no dispatcher.toml in {tmp_path}" in done.stderr


def test_check_names_the_folder_without_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("check")
    assert done.exit_code == 2
    assert f"there is no nosejobs.toml and no dispatcher.toml in {tmp_path}\n" in done.stderr


def test_check_finds_what_would_make_a_build_invalid(tmp_path: Path) -> None:
    path = tmp_path / "nosejobs.toml"
    path.write_text('[stages.unit]\n[tests]\ntimeout = "x"\n')
    done = invoke("check", str(tmp_path))
    assert done.exit_code == 2
    assert f"{path}:3: [tests]: timeout: must be" in done.stderr


def test_up_reports_errors_of_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no dispatcher.toml" in invoke("up").stderr
    (tmp_path / "dispatcher.toml").write_text('[dispatcher]\nlisten = "0.0.0.0:80"\n')
    done = invoke("up")
    assert done.exit_code == 2
    assert "dispatcher.toml:2: dispatcher.listen must be a loopback address" in done.stderr


def test_up_names_the_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dispatcher.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "dispatcher.up", raising=False)
    monkeypatch.delattr("dispatcher.up", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "dispatcher.web.server")
    done = invoke("up")
    assert done.exit_code == 2
    assert "warning: no [hosts.NAME] and no [pools.NAME]: every job will wait" in done.stderr
    assert "needs the package uvicorn" in done.stderr
    assert "pip install 'pytest-nosejobs[dispatcher]'" in done.stderr


def test_help_fits_a_terminal_and_explains_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from shell_runner.cli.main import main

    monkeypatch.setenv("COLUMNS", "80")
    every = click.Group("nosejobs", commands=[*cli.ALL_COMMANDS, *main.commands.values()])
    listed = CliRunner().invoke(every, ["--help"]).output.partition("Commands:")[2]
    assert len(listed.splitlines()) > len(COMMANDS.commands)
    assert "..." not in listed
    job = main.get_command(click.Context(main), "job")
    for group in (*main.commands.values(), cli.list_hosts, job):
        assert isinstance(group, click.Group)
        listed = CliRunner().invoke(group, ["--help"]).output.partition("Commands:")[2]
        assert group.commands
        assert "..." not in listed
    for name in ("show", "logs", "approve", "cancel", "rerun"):
        assert "BUILD is a number" in invoke(name, "--help").output


def test_every_command_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["nosejobs.commands"]
    entry_points = {}
    for name, place in points.items():
        module, _, attribute = place.partition(":")
        entry_points[name] = getattr(import_module(module), attribute)
    assert entry_points == {command.name: command for command in cli.ALL_COMMANDS}
