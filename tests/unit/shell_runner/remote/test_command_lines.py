"""Tests of the stable entry point, which starts programs of this and of other versions."""

from __future__ import annotations

import importlib
import io
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shell_runner import remote
from shell_runner.hosts import agent_zipapp, gateway
from shell_runner.remote import command_lines

ENTRY = importlib.import_module("shell_runner.remote.__main__")
SOURCE = Path(remote.__file__).parent
PYTHON = [sys.executable, "-I", "-S"]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """Return the package, unpacked as on a host."""
    folder = tmp_path / "code"
    zipfile.ZipFile(io.BytesIO(gateway.pack_host_code()[1])).extractall(folder)
    return folder / command_lines.PACKAGE


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def run(command: list[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


def run_slot(command: list[str], folder: Path) -> tuple[int, str]:
    """Return exit status and standard error of a slot whose owner has already exited."""
    control, theirs = socket.socketpair()
    control.close()
    with theirs:
        number = theirs.fileno()
        done = subprocess.run(
            [*command, "0", str(number), str(folder / "work" / "0")], cwd=folder,
            pass_fds=[number], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ENTRY.PROGRAMS)
def test_every_program_can_be_loaded(name: str) -> None:
    assert callable(ENTRY.load_program(name))


@pytest.mark.parametrize("name", ENTRY.SESSIONS)
def test_every_session_can_be_loaded(name: str) -> None:
    assert callable(ENTRY.load_session(name))


def test_the_names_are_those_that_other_versions_use() -> None:
    programs = {"agent", "interpreter-shim", "launch-worker", "slot", "worker"}
    assert set(ENTRY.PROGRAMS) == programs
    assert set(ENTRY.SESSIONS) == {"jobs", "live"}


@pytest.mark.parametrize("script", ["__main__.py", ""])
@pytest.mark.parametrize("place", ["unpacked", "source"])
def test_programs_run_without_site_packages(
    place: str, script: str, unpacked: Path, empty: Path
) -> None:
    package = unpacked if place == "unpacked" else SOURCE
    command = [*PYTHON, str(package / script)]
    assert run_slot([*command, "slot"], empty) == (0, "")
    # The agent imports much of the standard library, which our modules must not hide.
    done = run(command, empty, "agent", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: nosejobs-agent" in done.stdout


def test_a_relative_path_works(unpacked: Path) -> None:
    done = run([*PYTHON, "__main__.py"], unpacked, "agent", "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_it_runs_as_a_module(empty: Path) -> None:
    done = run([sys.executable, "-m", "shell_runner.remote"], empty, "agent", "--help")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [["nothing"], [], ["supervisor"], ["live"]])
def test_an_unknown_name_is_refused(arguments: list[str], unpacked: Path, empty: Path) -> None:
    done = run([*PYTHON, str(unpacked / "__main__.py")], empty, *arguments)
    assert done.returncode == 2
    name = arguments[0] if arguments else ""
    assert done.stderr.startswith(f"nosejobs: unknown program {name!r}; use one of: agent, ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["job", "", "worker"])
def test_an_unknown_session_is_refused(name: str) -> None:
    with pytest.raises(ENTRY.UnknownName, match=r"unknown session '.*'; use one of: jobs, live"):
        ENTRY.load_session(name)


def test_the_command_runs_the_code_of_this_process(empty: Path) -> None:
    command = command_lines.build_command("slot")
    assert command == [*PYTHON, str(SOURCE / "__main__.py"), "slot"]
    assert run_slot(command, empty) == (0, "")


def test_the_command_of_other_code(unpacked: Path, empty: Path) -> None:
    command = command_lines.build_command_for(str(unpacked.parent), "slot")
    assert command == [*PYTHON, str(unpacked / "__main__.py"), "slot"]
    with pytest.raises(FileNotFoundError):
        command_lines.build_command_for(str(empty), "slot")


def test_the_agent_as_one_file_starts_programs(tmp_path: Path, empty: Path) -> None:
    path = tmp_path / "agent.pyz"
    agent_zipapp.write(path)
    ask = f"import sys; sys.path.insert(0, {str(path)!r}); "
    ask += f"from {command_lines.PACKAGE} import command_lines as lines; "
    ask += "print(lines.build_command('slot'))"
    command = [*PYTHON, str(path), command_lines.ZIPAPP_OPTION, "slot"]
    assert run([*PYTHON, "-c", ask], empty).stdout == f"{command}\n"
    assert run_slot(command, empty) == (0, "")
    done = run([*PYTHON, str(path)], empty, command_lines.ZIPAPP_OPTION, "nothing")
    assert (done.returncode, done.stderr[:26]) == (2, "nosejobs: unknown program ")
    # Without the option all arguments are the agent's, also the name of a program.
    done = run([str(path)], empty, "slot")
    assert done.returncode == 1
    assert "slot: No such file" in done.stderr


def test_no_module_is_loaded_that_the_slot_does_not_need(unpacked: Path, empty: Path) -> None:
    command = [*PYTHON, "-X", "importtime", str(unpacked / "__main__.py"), "slot"]
    _, lines = run_slot(command, empty)
    loaded = {line.rpartition("|")[2].strip() for line in lines.splitlines()}
    assert "nosejobs_host.processes.process_tree" in loaded
    ours = {name.partition(".")[2] for name in loaded if name.startswith("nosejobs_host.")}
    unneeded = {
        "agent.main", "execution.slot_pool", "execution.slot_handle", "jobs.queue", "jobs.worker",
        "jobs.worker_launcher", "sessions.job_session", "sessions.live_session",
    }  # fmt: skip
    assert ours.isdisjoint(unneeded)
