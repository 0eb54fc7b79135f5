"""Agents on this machine: connect and first result of 1 to 64, rate over TLS beside 2*popen.

Real agents on loopback, each with certificates, a home and a state folder of its own: what
hosts share when they are one machine, their slots and their caches, they do not share here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import measure  # noqa: E402
import ssh  # noqa: E402
from measure import Contender, Run, RunFailed  # noqa: E402

NAME = "fleet"
_ONE = "popen, 1 test"
_BASE = "2*popen"
#: Seconds for all agents to listen.
_PATIENCE = 60.0
_CONNECT_NOTES = (
    "One test for each host, which only that host may run: all must be reached. Agents run "
    "beforehand. Cold: the host has neither our code nor any file of the tree. All hosts are "
    "this one machine, so that their interpreters and slots compete with the controller. The "
    "processor time and the memory are those of the controller and its proxies alone; 'below' "
    "are the proxies, one for each host.",
)
_FIRST_NOTES = (
    "Until the first test has run, by a file that it touches, from the start of pytest.",
)
_RATE_NOTES = (
    "Ratio: tests per second beside popen, whole run with start-up and connection; target 0.95. "
    "Cold: the host has neither our code nor any file of the tree. Warm: it has both, and "
    "unpacks the tree anew. The processor time is that of the controller and its proxy, and of "
    "popen's and of xdist's local workers. xdist runs the same items; over ssh its host needs "
    "pytest and all plugins, and here has the tree in place, for nothing is shipped.",
)


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that it works."""
    if not measure.has_module("cryptography"):
        return {"tables": [], "skipped": ["cryptography is not installed"]}
    with measure.workspace() as folder:
        found = _connect(folder, (2,), 1) if smoke else _connect(folder, (1, 8, 64), 3)
    with measure.workspace() as folder:
        rate = _rate(folder, 0, {20: 1}) if smoke else _rate(folder, 200, {5000: 3})
    tables = [*found["tables"], *rate["tables"]]
    return {**found, "tables": tables, "skipped": rate["skipped"]}


# -- connect and first result -----------------------------------------------------


def _connect(folder: Path, counts: tuple[int, ...], rounds: int) -> dict[str, Any]:
    with agents(folder, max(counts)) as hosts:
        contenders = [_alone(folder / "alone")]
        for count in counts:
            contenders += _reaching(folder / str(count), hosts[:count])
        runs = measure.in_turn(contenders, rounds)
    words = f"one test on each of {', '.join(map(str, counts))} agents"
    title = f"{words}, {{}}, {measure.format_rounds(rounds)}"
    whole = measure.table(title.format("whole run"), runs, _ONE, _CONNECT_NOTES, memory=True)
    first = measure.table(title.format("first result"), runs, _ONE, _FIRST_NOTES, figure=_first)
    threads = {
        f"{name}: threads of the controller": max(run.threads for run in done)
        for name, done in runs.items()
    }
    return {"tables": [whole, first], **threads}


def _first(done: Run) -> float:
    return done.found


def _alone(folder: Path) -> Contender:
    tree, marks = _write(folder, [""])
    clock = _Clock(folder / "junit.xml", marks)
    argv = measure.pytest("-q", "--nosejobs=popen", f"--junitxml={clock.junit}")
    return Contender(_ONE, argv, tree, before=clock.start, check=clock.check)


def _reaching(folder: Path, hosts: list[Agent]) -> Iterator[Contender]:
    tree, marks = _write(folder, [f"# nosejobs: requires={host.name}\n" for host in hosts])
    clock = _Clock(folder / "junit.xml", marks)
    specs = ",".join(host.spec(1) for host in hosts)
    argv = measure.pytest("-q", f"--nosejobs={specs}", f"--junitxml={clock.junit}")
    words = f"{len(hosts)} agent{'s' if len(hosts) > 1 else ''}"

    def forget() -> None:
        for host in hosts:
            host.forget()
        clock.start()

    yield Contender(f"{words}, cold", argv, tree, before=forget, check=clock.check)
    yield Contender(f"{words}, warm", argv, tree, before=clock.start, check=clock.check)


def _write(folder: Path, heads: list[str]) -> tuple[Path, list[Path]]:
    tree, marks = folder / "scripts", []
    tree.mkdir(parents=True)
    (tree / "pytest.ini").touch()
    for number, head in enumerate(heads):
        marks.append(folder / f"{number}.mark")
        measure.write_script(tree / f"test_{number:02}.sh", f"{head}: > {marks[-1]}")
    return tree, marks


@dataclass
class _Clock:
    """Measures from the start of pytest to the first mark of a test."""

    junit: Path
    marks: list[Path]
    begin: int = 0

    def start(self) -> None:
        for mark in self.marks:
            mark.unlink(missing_ok=True)
        self.begin = time.time_ns()

    def check(self) -> float:
        measure.check_junit(self.junit, len(self.marks))
        return (min(mark.stat().st_mtime_ns for mark in self.marks) - self.begin) / 1e9


# -- rate -------------------------------------------------------------------------


def _rate(folder: Path, few: int, sizes: dict[int, int]) -> dict[str, Any]:
    """Measure the rate without the cost of runs of ``few`` scripts (0: only show that it works)."""
    tables: list[dict[str, Any]] = []
    skipped: list[str] = []
    with agents(folder, 1) as hosts, _sshd(folder, skipped) as config:
        make = functools.partial(_contenders, hosts[0], config, skipped)
        less = list(make(folder / "few", few)) if few else []
        small = measure.in_turn(less, max(sizes.values()))
        for many, rounds in sizes.items():
            contenders = list(make(folder / str(many), many))
            if not few:  # popen and a warm agent; the others are run elsewhere
                contenders = contenders[:3:2]
            runs = measure.in_turn(contenders, rounds)
            title = f"{many} scripts `exit 0`, 2 slots, {measure.format_rounds(rounds)}"
            tables.append(measure.table(title, runs, _BASE, _RATE_NOTES, inverse=True))
            further = ssh.steady(small, runs, few, many) if few else None
            if further is not None:
                tables.append(further)
            elif few:
                skipped.append(f"each script beyond {few} of {many}: lost in the machine's noise")
    return {"tables": tables, "skipped": list(dict.fromkeys(skipped))}


def _contenders(
    host: Agent, config: Path | None, skipped: list[str], folder: Path, count: int
) -> Iterator[Contender]:
    tree, junit = ssh.make_tree(folder / "scripts", count), folder / "junit.xml"
    check = functools.partial(measure.check_junit, junit, count)
    options = ("-q", f"--junitxml={junit}")
    popen = measure.pytest(*options, f"--nosejobs={_BASE}")
    yield Contender(_BASE, popen, tree, check=check)
    argv = measure.pytest(*options, f"--nosejobs={host.spec(2)}")
    yield Contender("agent, 2 slots, cold", argv, tree, before=host.forget, check=check)
    yield Contender("agent, 2 slots, warm", argv, tree, check=check)
    yield from _xdist(options, tree, check, config, skipped)


def _xdist(
    options: tuple[str, ...], tree: Path, check: Callable[[], float], config: Path | None,
    skipped: list[str],
) -> Iterator[Contender]:  # fmt: skip
    if not measure.has_module("xdist"):
        skipped.append("pytest-xdist is not installed")
        return
    both = ("nosejobs", "xdist")
    local = measure.pytest(*options, "-n2", plugins=both)
    yield Contender("xdist -n2, popen, the same items", local, tree, check=check)
    if config is not None:
        spec = f"2*ssh=bench//ssh_config={config}//python={sys.executable}//chdir={tree}"
        # Over there all plugins load by themselves; this one waits for a port that it lacks.
        alone = ("-p", "no:rerunfailures")
        far = measure.pytest(*options, *alone, "--dist=load", f"--tx={spec}", plugins=both)
        yield Contender("xdist --tx 2*ssh, the same items", far, tree, check=check)


@contextlib.contextmanager
def _sshd(folder: Path, skipped: list[str]) -> Iterator[Path | None]:
    """Start an sshd for xdist; yield None if there cannot be one."""
    if ssh.missing_program():
        skipped.append(f"xdist over ssh: {ssh.missing_program()} is not installed")
        yield None
        return
    with ssh.server(folder) as config:
        yield config


# -- agents -----------------------------------------------------------------------


class Agent:
    """One agent process with a home of its own."""

    def __init__(self, home: Path, name: str, client: Path) -> None:
        self.name = name
        self._home = home
        self._client = client
        self._port = home / "port"
        (home / "tmp").mkdir(parents=True)

    def start(self, bundle: Path) -> None:
        """Start the process; ``await_port`` waits until it listens."""
        argv = [sys.executable, "-m", "shell_runner.remote", "agent", str(bundle)]
        argv += ["--listen", "127.0.0.1:0", "--port-file", str(self._port)]
        given = {
            "HOME": "", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "XDG_STATE_HOME": "state"
        }  # fmt: skip
        env = {**os.environ, **{name: str(self._home / below) for name, below in given.items()}}
        with open(self._home / "log", "ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def await_port(self) -> None:
        """Wait until the agent listens."""
        deadline = time.monotonic() + _PATIENCE
        while not self._port.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = (self._home / "log").read_text()
                raise RunFailed(f"the agent {self.name} does not listen\n{words}")
            time.sleep(0.02)

    def spec(self, slots: int) -> str:
        """Return the host spec for ``--nosejobs``."""
        return (
            f"agent=127.0.0.1:{self._port.read_text().strip()}//name={self.name}"
            f"//id={self.name}//labels={self.name}//slots={slots}//credentials={self._client}"
        )

    def forget(self) -> None:
        """Remove the agent's state, so that it has never seen this client."""
        shutil.rmtree(self._home / "cache", ignore_errors=True)

    def end(self) -> None:
        """Kill the agent and all processes below it."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def agents(folder: Path, count: int) -> Iterator[list[Agent]]:
    """Yield the agents of one fleet, all listening."""
    from shell_runner.hosts import ca

    now = ca.utcnow()
    authority = ca.CertificateAuthority.create(folder / "ca", now)
    client = folder / "client.pem"
    ca.write_private_file(client, authority.issue_client("bench", now))
    hosts = [Agent(folder / "hosts" / f"h{n}", f"h{n}", client) for n in range(1, count + 1)]
    with contextlib.ExitStack() as stack:
        for host in hosts:
            bundle = folder / f"{host.name}.pem"
            ca.write_private_file(bundle, authority.issue_host(host.name, ("127.0.0.1",), now))
            host.start(bundle)
            stack.callback(host.end)
        for host in hosts:
            host.await_port()
        yield hosts
