"""Tests of the command line: what it prints, writes and refuses."""

import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from shell_runner.cli import main as cli


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run ``nosejobs`` in an empty folder with an empty configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("NOSEJOBS_CA", raising=False)

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli.main, words)

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bulds"], "No such command 'bulds'; did you mean 'builds'?"),
        (["jbo"], "No such command 'jbo'; did you mean 'job'?"),
        (["agnet"], "No such command 'agnet'; did you mean 'agent'?"),
        (["xyzzy"], "No such command 'xyzzy'; known: agent, approve, builds, ca, "),
        (["job", "lst"], "did you mean 'list'?"),
        (["ca", "int"], "did you mean 'init'?"),
        (["hosts", "drian"], "did you mean 'drain'?"),
        (["hosts", "--jsno"], "--json"),
    ],
)
def test_the_command_that_was_meant_is_named(run, arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["agent", "zipapp", "no/x"],
            "cannot write the agent to no/x: No such file or directory\n  try: a file in an",
        ),
        (["agent", "zipapp", "file/x"], "cannot write the agent to file/x: Not a directory"),
        (["agent", "zipapp", "folder"], "cannot write the agent to folder: Is a directory"),
        (["agent", "zipapp", "/proc/x"], "cannot write the agent to /proc/x: "),
        (["ca", "init", "--dir", "file/ca"], "file/ca: Not a directory"),
        (["ca", "init", "--dir", "/proc/nope"], "/proc/nope: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert "Errno" not in done.output
    assert not list(tmp_path.glob("**/.*"))


def test_trust_in_three_commands(run, tmp_path: Path) -> None:
    for arguments in (["init"], ["issue", "web1"], ["issue", "--client", "laptop"]):
        done = run("ca", *arguments)
        assert done.exit_code == 0, done.output
        if arguments == ["issue", "web1"]:
            assert "start there: python3 nosejobs-agent.pyz web1.pem\n" in done.output
            assert "nosejobs agent zipapp nosejobs-agent.pyz writes that file" in done.output
    for path in (tmp_path / "web1.pem", tmp_path / "config" / "nosejobs" / "client.pem"):
        assert "PRIVATE KEY" in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE" not in done.output


def test_a_bundle_is_not_overwritten_and_nothing_is_issued_in_vain(run, tmp_path: Path) -> None:
    run("ca", "init")
    run("ca", "issue", "web1")
    before = (tmp_path / "web1.pem").read_text()
    for arguments in (["issue", "web1"], ["renew", "web1"]):
        done = run("ca", *arguments)
        assert done.exit_code == 2
        assert "web1.pem exists\n  try: --force, or --out another file" in done.output
    assert (tmp_path / "web1.pem").read_text() == before
    assert run("ca", "list").output.count("web1") == 1
    assert run("ca", "renew", "web1", "--force").exit_code == 0
    assert (tmp_path / "web1.pem").read_text() != before


def test_list_revoke_and_crl(run, tmp_path: Path) -> None:
    run("ca", "init")
    assert run("ca", "list").output == "no certificates have been issued\n"
    run("ca", "issue", "web1", "--address", "10.0.0.1")
    run("ca", "issue", "--client", "laptop", "--days", "10")
    assert "web1: 1 revoked" in run("ca", "revoke", "web1").output
    lines = run("ca", "list").output.splitlines()
    assert lines[0].startswith("host   web1 (10.0.0.1): revoked on ")
    assert "client laptop: EXPIRES in 9 days" in lines[1]
    assert "nosejobs ca renew laptop" in lines[1]
    assert run("ca", "crl", "--out", "crl.pem").exit_code == 0
    assert run("ca", "crl").output.startswith("-----BEGIN X509 CRL-----")
    assert "X509 CRL" in (tmp_path / "crl.pem").read_text()


def test_the_folder_is_chosen_by_option_and_variable(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("ca", "init", "--dir", "one").exit_code == 0
    monkeypatch.setenv("NOSEJOBS_CA", str(tmp_path / "two"))
    assert run("ca", "init").exit_code == 0
    assert (tmp_path / "one" / "ca.key").exists()
    assert (tmp_path / "two" / "ca.key").exists()


def test_errors_are_words_and_not_tracebacks(run) -> None:
    done = run("ca", "list")
    assert done.exit_code == 2
    assert done.output.startswith("Error: no authority in ")
    assert "try: nosejobs ca init" in done.output
    run("ca", "init")
    done = run("ca", "init")
    assert done.exit_code == 2
    assert "already contains an authority\n  try: nosejobs ca list, or --dir" in done.output


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from shell_runner.cli.main import main; main(['ca', 'list'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'pytest-nosejobs[fleet]'" in done.stderr


def test_the_agent_as_one_file(run, tmp_path: Path) -> None:
    for name in ("agent.pyz", "again.pyz"):
        done = run("agent", "zipapp", name)
        assert done.exit_code == 0, done.output
    path = tmp_path / "agent.pyz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert path.read_bytes() == (tmp_path / "again.pyz").read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert "nosejobs_host/agent/main.py" in archive.namelist()
        assert archive.testzip() is None


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("ca issue", "default NAME.pem, for a client ~/.config/nosejobs/client.pem"),
        ("ca renew", "default NAME.pem, for a client ~/.config/nosejobs/client.pem"),
        ("job submit", "Default: $NOSEJOBS_HOST, else the only host with jobs of yours."),
        ("job limits", "Default: $NOSEJOBS_HOST, else the only host with jobs of yours."),
        ("job list", "Default: $NOSEJOBS_HOST, else all hosts with jobs of yours."),
        ("job list", "Maximum number of jobs."),
        ("job show", "Default: the host of the job, else $NOSEJOBS_HOST."),
        ("job harvest", "2 if the command is invalid or was refused"),
    ],
)
def test_help_names_defaults_and_statuses(run, command: str, text: str) -> None:
    assert text in " ".join(run(*command.split(), "--help").output.split())


def test_other_packages_add_commands(run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        names = {"other", "broken"}

        def __getitem__(self, name: str):
            return self

        def load(self) -> click.Command:
            if self.bad:
                raise ImportError("no module named x")
            return click.Command("other", callback=lambda: click.echo("hello"))

        bad = False

    other = Other()
    monkeypatch.setattr(cli, "_find_entry_points", lambda: other)
    hosts, _, others = run("--help").output.partition("Dispatcher:\n")
    assert {"agent", "ca", "job"} <= set(hosts.partition("Hosts:\n")[2].split())
    assert "other" in others.split()
    assert run("other").output == "hello\n"
    other.bad = True
    done = run("other")
    assert done.exit_code == 2
    assert "the command 'other' cannot be loaded: no module named x" in done.output
