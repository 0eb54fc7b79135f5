"""A fleet of real agents, each in its own network namespace, and runs of pytest on it."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from shell_runner.hosts.ca import CertificateAuthority
from tests.helpers.network_namespaces import NamespaceNetwork
from tests.helpers.single_host_run import write_program

#: Seconds after which any wait fails.
TIMEOUT = 60.0


class AgentFleet:
    """A fleet of ``count`` agents, ``h1`` to ``hN``, and the credentials to reach them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.network = NamespaceNetwork(count)
        self.agents: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.network.__enter__()
        now = datetime.datetime.now(datetime.UTC)
        authority = CertificateAuthority.create(self.folder / "ca", now)
        for number in range(1, len(self.network.addresses)):
            bundle = authority.issue_host(f"h{number}", (f"h{number}",), now)
            write_program(self.folder / f"h{number}.pem", bundle, 0o600)
        write_program(self.folder / "client.pem", authority.issue_client("laptop", now), 0o600)
        for number in range(1, len(self.network.addresses)):
            self.start(number)
        return self

    def __exit__(self, *arguments: object) -> None:
        for number in list(self.agents):
            self.stop(number)
        self.network.__exit__(*arguments)

    def start(self, number: int) -> None:
        """Start the agent of a host, with its own home."""
        home = self.folder / f"home{number}"
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        ready = home / "port"
        ready.unlink(missing_ok=True)
        env = {
            "HOME": str(home), "TMPDIR": str(home / "tmp"), "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }  # fmt: skip
        command = [sys.executable, "-m", "shell_runner.remote", "agent"]
        command += [f"{self.folder}/h{number}.pem"]
        command += ["--listen", f"{self.network.addresses[number]}:7422", "--port-file", str(ready)]
        with open(home / "log", "ab") as log:
            self.agents[number] = subprocess.Popen(
                self.network.build_command(number, *command), env=env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(ready.exists, f"agent {number} listens")

    def stop(self, number: int) -> None:
        """Stop an agent, even if a test has stopped its process."""
        agent = self.agents.pop(number)
        agent.send_signal(signal.SIGCONT)
        agent.terminate()
        try:
            agent.wait(10)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()

    def make_host_specs(self, slots: int = 2, *numbers: int) -> str:
        """Return the value of ``--nosejobs`` for the given hosts, by default all."""
        chosen = numbers or range(1, len(self.network.addresses))
        return ",".join(
            f"agent={self.network.addresses[number]}//name=h{number}//id=h{number}//slots={slots}"
            f"//credentials={self.folder}/client.pem"
            for number in chosen
        )

    # -- what runs on a host ----------------------------------------------------------

    def list_processes(self, number: int) -> list[psutil.Process]:
        """Return all descendants of the agent of a host."""
        return psutil.Process(self.agents[number].pid).children(recursive=True)

    def list_interpreters(self, number: int) -> list[psutil.Process]:
        """Return the interpreters of connections, which are children of supervisors."""
        return [each for each in self.list_processes(number) if "-c" in _command(each)[:4]]

    def list_slots(self, number: int) -> list[psutil.Process]:
        """Return the slots, which are children of interpreters."""
        return [child for each in self.list_interpreters(number) for child in each.children()]


class PytestRun:
    """A run of pytest on the hosts of a fleet."""

    def __init__(self, root: Path, specs: str, *options: str) -> None:
        self.root = root
        self.junit = root / f"junit-{time.monotonic_ns()}.xml"
        command = [sys.executable, "-m", "pytest", "-p", "pytest_nosejobs.plugin", "-q"]
        command += [f"--nosejobs={specs}", f"--junitxml={self.junit}", *options]
        paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
        paths["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        self.process = subprocess.Popen(
            command, cwd=root, env={**os.environ, **paths}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.output = ""

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        try:
            self.output, _ = self.process.communicate(timeout=TIMEOUT * 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.output, _ = self.process.communicate()
            raise AssertionError(f"it hangs:\n{self.output}") from None
        return self.process.returncode

    def outcomes(self) -> dict[str, list[str]]:
        """Return the outcomes of each testcase; more than one if it was reported repeatedly."""
        outcomes: dict[str, list[str]] = {}
        for case in ET.parse(self.junit).iter("testcase"):
            marks = [each.tag for each in case if each.tag in ("failure", "error", "skipped")]
            outcomes.setdefault(case.get("name", ""), []).append("+".join(marks) or "passed")
        return outcomes


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition()`` is true; raise AssertionError after ``TIMEOUT``."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
