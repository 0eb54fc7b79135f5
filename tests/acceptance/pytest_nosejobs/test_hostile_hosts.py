"""Tests of hostile hosts: a run loses such a host, and nothing else."""

import os
import sys
from pathlib import Path

import pytest

from tests.helpers.agent_processes import AgentProcess, FleetAuthority
from tests.helpers.single_host_run import write_program
from tests.helpers.sshd import Sshd

from .conftest import Project

LIAR = Path(__file__).parents[2] / "helpers" / "hostile_host.py"
#: Message about the host by the trick that it plays.
ENDED = {
    "reconfigure": "sent a forbidden frame: RECONFIGURE",
    "exec": "sent a forbidden frame: CHANNEL_EXEC",
    "huge-list": "sent a message that is not a byte string",
    "huge-frame": "sent a message of 2147483647 bytes",
    "error": "boom",
    "no-json": "sent garbage",
    "deep-json": "sent garbage",
    "wide-json": "sent garbage",
    "no-frame": "sent garbage",
    "odd-types": "sent garbage",
    "not-a-number": "sent garbage",
    "path": "sent garbage",
    "absolute-path": "sent garbage",
    "deep-path": "sent garbage: the path has 2000 components; at most 200 are allowed: 'd/d/",
    "long-path": "sent garbage: the path has 1000000 bytes; at most 4096 are allowed: 'ddd",
    "flood": "sent garbage: a second 'running' message for one attempt",
    "unknown": "sent garbage",
    "half-a-frame": "the connection ended",
}
#: Tricks with messages about other tests, which are ignored; those about its own are accepted.
IGNORED = ("never-given", "twice", "of-no-attempt", "escapes")
#: MiB of memory that the controller may use at its peak.
_MEMORY = 300


@pytest.fixture
def hosts(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Add eight tests, and an ssh that runs its command on this machine."""
    ssh = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'
    write_program(project.root.parent / "bin" / "ssh", ssh)
    monkeypatch.setenv("PATH", f"{project.root.parent / 'bin'}:{os.environ['PATH']}")
    project.file(
        "conftest.py",
        # Not ru_maxrss, which includes that of the process that started it.
        "def pytest_unconfigure():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    print('\\npeak', next(line.split()[1] for line in lines if 'VmHWM' in line))\n",
    )
    for number in range(8):
        project.add(f"test_{number:02}.sh", "sleep 0.02")
    return project


def read_peak_memory(done: pytest.RunResult) -> float:
    """Return the peak memory of the controller in MiB, as it reports it."""
    (line,) = [line for line in done.outlines if line.startswith("peak ")]
    return int(line.split()[1]) / 1024


def assert_clean(text: str) -> None:
    """Check that a text of a host can neither control a terminal nor reverse other text."""
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)


def make_hostile_spec(trick: str) -> str:
    return f"ssh=liar//slots=1//python={sys.executable} {LIAR} {trick}"


@pytest.mark.parametrize("trick", ENDED)
def test_a_trick_ends_that_host_and_the_run_goes_on(hosts: Project, trick: str) -> None:
    art = hosts.root.parent / "artifacts"
    options = (f"--nosejobs-artifacts={art}", f"--junitxml={hosts.junit}")
    done = hosts.run(f"--nosejobs={make_hostile_spec(trick)},popen", *options)
    text = done.stdout.str()
    assert "8 passed" in text
    assert done.ret == 0
    assert hosts.junit.read_text().count('name="host" value="popen"') == 8
    assert "\x1b" not in text
    assert ENDED[trick] in text
    assert read_peak_memory(done) < _MEMORY
    assert not list(hosts.root.parent.rglob("escaped"))


@pytest.mark.parametrize("trick", IGNORED)
def test_lies_about_other_tests_change_nothing(hosts: Project, trick: str) -> None:
    for number in range(8, 500):
        hosts.add(f"test_{number:03}.sh")
    ret, cases = hosts.cases(f"--nosejobs={make_hostile_spec(trick)},2*popen")
    assert len(cases) == 500
    wrong = {"escapes": "error"}.get(trick)
    assert {case.outcome for case in cases.values()} <= {"passed", wrong}
    assert_clean("".join(case.text + case.message for case in cases.values()))
    assert_clean(hosts.junit.read_text())
    assert ret == (1 if wrong else 0)


@pytest.mark.parametrize("options", [("-v",), ("-q", "-rA"), ("-s",)])
def test_no_word_of_a_host_controls_the_terminal(hosts: Project, options: tuple[str, ...]) -> None:
    spec = make_hostile_spec("escapes-in-a-result")
    text = hosts.run(f"--nosejobs={spec},popen", f"--junitxml={hosts.junit}", *options).stdout.str()
    assert_clean(text + hosts.junit.read_text())
    assert "\\u202e" in text


@pytest.mark.parametrize(
    "trick", ["prints", "no-number-of-slots", "many-slots", "stderr", "complaint"]
)
def test_a_host_that_lies_from_the_start_is_refused(hosts: Project, trick: str) -> None:
    done = hosts.run(f"--nosejobs={make_hostile_spec(trick)},popen", "--nosejobs-allow-missing")
    assert done.ret == 0
    text = done.stdout.str()
    assert_clean(text)
    assert "8 passed" in text
    assert "liar: missing (" in text
    assert not any(line.strip().startswith("try: curl") for line in text.splitlines())


def test_a_real_ssh_is_guarded_too(project: Project, sshd: Sshd) -> None:
    project.add("test_a.sh", "sleep 0.2")
    project.add("test_b.sh", "sleep 0.2")
    spec = f"ssh=there//slots=1//ssh_config={sshd.config}//python={sys.executable} {LIAR}"
    done = project.run(f"--nosejobs={spec} huge-list,popen")
    done.assert_outcomes(passed=2)
    assert "not a byte string" in done.stdout.str()


@pytest.mark.parametrize("trick", [*ENDED, *IGNORED])
def test_a_liar_behind_tls_is_guarded_too(hosts: Project, tmp_path: Path, trick: str) -> None:
    """The agent is honest; the Python that it starts for connections is hostile."""
    lies = f'exec {sys.executable} {LIAR} {trick} "$@"'
    honest = f'[ "$1" = -c ] && exec {sys.executable} "$@"'
    python = write_program(tmp_path / "python", f"#!/bin/sh\n{honest}\n{lies}\n")
    authority = FleetAuthority(tmp_path / "ca")
    with AgentProcess(authority.issue_host()) as agent:
        spec = f"agent=localhost:{agent.port}//id=liar//slots=1//python={python}"
        spec += f"//credentials={authority.issue_client()}"
        art = tmp_path / "artifacts"
        done = hosts.run(f"--nosejobs={spec},popen", f"--nosejobs-artifacts={art}")
    text = done.stdout.str()
    assert "\x1b" not in text
    if trick in ENDED:
        assert "8 passed" in text
        assert ENDED[trick] in text
    else:
        assert sum(done.parseoutcomes().values()) == 8
