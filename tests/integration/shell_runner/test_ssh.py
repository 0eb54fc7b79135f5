"""Tests of hosts that are reached by ssh: a real daemon, a bare Python, and error messages."""

import hashlib
import os
import queue
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shell_runner.config import HostEntry
from shell_runner.errors import HostOpenError
from shell_runner.hosts import spec as hosts
from shell_runner.hosts.fleet import Fleet, HostReady
from shell_runner.hosts.gateway import Gateway
from shell_runner.remote.protocol import frames as wire
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.model import Setup
from shell_runner.shipping.tree_scan import scan
from shell_runner.shipping.upload import ship
from tests.helpers.single_host_run import HostRun, wait_until_gone, write_program
from tests.helpers.sshd import Sshd
from tests.integration.shell_runner.test_old_pythons import interpreters, versions

SH = "#!/bin/sh\n"


def refusal(root: Path, spec: str) -> HostOpenError:
    """Open a host that cannot be opened; return the error."""
    with pytest.raises(HostOpenError) as caught, HostRun(root, spec):
        pass
    return caught.value


def test_programs_run_over_there(sshd: Sshd, tmp_path: Path) -> None:
    write_program(tmp_path / "data" / "x.txt", "shipped\n", 0o644)
    (tmp_path / "link").symlink_to("data/x.txt")
    programs = {"test_a": f"{SH}pwd; cat link data/x.txt; exit 3", "d/test_b": f"{SH}cat ../link"}
    for name, text in programs.items():
        write_program(tmp_path / name, text)
    with HostRun(tmp_path, sshd.spec(slots=2)) as bench:
        test = bench.new_test(SH)
        there = bench.host.facts.root
        first = bench.run_test(test._replace(path="test_a"))
        second = bench.run_test(test._replace(path="d/test_b"))
    assert (first.exit_status, second.exit_status) == (3, 0)
    assert first.stdout.text == f"{there}\nshipped\nshipped\n"
    assert second.stdout.text == "shipped\n"
    assert there.startswith(f"{sshd.folder}/tmp/")
    assert not os.path.exists(there)


def test_a_cold_host_gets_all_and_a_warm_one_nothing(sshd: Sshd, tmp_path: Path) -> None:
    shutil.rmtree(sshd.cache, ignore_errors=True)
    for number in range(5):
        write_program(tmp_path / f"test_{number}", f"{SH}exit {number}\n# {tmp_path}")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    for files, bytes_ in ((5, size), (0, 0)):
        with HostRun(tmp_path, sshd.spec(slots=1)) as bench:
            assert (bench.host.shipped.files, bench.host.shipped.bytes) == (files, bytes_)
    codes = list((sshd.cache / "nosejobs" / "code").iterdir())
    assert len(codes) == 1


def test_a_changed_file_is_sent_alone(sshd: Sshd, tmp_path: Path) -> None:
    for number in range(5):
        write_program(tmp_path / f"test_{number}", f"{SH}exit {number}\n# {tmp_path}")
    with HostRun(tmp_path, sshd.spec(slots=1)):
        pass
    write_program(tmp_path / "test_3", f"{SH}exit 33")
    with HostRun(tmp_path, sshd.spec(slots=1)) as bench:
        assert (bench.host.shipped.files, bench.host.shipped.bytes) == (1, len(f"{SH}exit 33"))
        execution = bench.run_test(bench.new_test(SH)._replace(path="test_3"))
    assert execution.exit_status == 33


class _Broken(Exception):
    """Raised when the connection is closed in the middle of a file."""


def _ship_in_part(root: Path, spec: str, frames: int, arrived: Callable[[], None]) -> None:
    """Send some frames of file contents, wait for ``arrived``, then close the connection.

    Frames that are still on their way when the connection is closed are lost with it.
    """
    answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    (parsed,) = hosts.parse_specs([spec], {})
    gateway = Gateway(parsed, answers.put)
    left = [frames]

    def send(frame: bytes) -> None:
        left[0] -= frame[:1] == b"B"
        if left[0] < 0:
            raise _Broken
        gateway.send(frame)

    def wait(name: str) -> list[object]:
        while True:
            frame = answers.get(timeout=30)
            assert frame is not None
            for message in wire.unpack_frame(frame):
                if message[0] != "received":
                    assert message[0] == name
                    return list(message[1:])

    try:
        with pytest.raises(_Broken):
            ship(scan(root, []), send, wait)
        arrived()
    finally:
        gateway.close()


def _await_pieces(folder: Path, size: int) -> None:
    """Wait until ``size`` bytes of an incomplete file are stored."""
    deadline = time.monotonic() + 20
    while sum(path.stat().st_size for path in folder.glob("*.partial")) < size:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_broken_transfer_goes_on_where_it_stopped(sshd: Sshd, tmp_path: Path) -> None:
    shutil.rmtree(sshd.cache, ignore_errors=True)  # what others have broken off waits there
    data = random.Random(str(tmp_path)).randbytes(6 << 20)
    write_program(tmp_path / "large", data)
    write_program(tmp_path / "test_a", f"{SH}sha256sum large")
    # The manifest comes first, in two frames; the small file waits for the large one.
    blobs = sshd.cache / "nosejobs" / "blobs"
    _ship_in_part(
        tmp_path, sshd.spec(slots=1), 2 + 4, arrived=lambda: _await_pieces(blobs, 4 << 20)
    )
    with HostRun(tmp_path, sshd.spec(slots=1)) as bench:
        sent = (tmp_path / "test_a").stat().st_size
        assert bench.host.shipped.bytes == sent + (2 << 20)
        execution = bench.run_test(bench.new_test(SH)._replace(path="test_a"))
    assert execution.stdout.text.split()[0] == hashlib.sha256(data).hexdigest()
    assert list(blobs.glob("*.partial")) == []


def test_controllers_that_bring_the_same_at_once_do_not_meet(sshd: Sshd, tmp_path: Path) -> None:
    shutil.rmtree(sshd.cache, ignore_errors=True)
    data = random.Random(str(tmp_path)).randbytes(8 << 20)
    write_program(tmp_path / "large", data)
    write_program(tmp_path / "test_a", f"{SH}sha256sum large")
    benches = [HostRun(tmp_path, sshd.spec(slots=1)) for _ in range(3)]
    tree = scan(tmp_path, [])
    for bench in benches:
        bench.fleet.open()
    for bench in benches:
        bench.fleet.provide_tree(tree)
    try:
        for bench in benches:
            assert isinstance(bench.fleet.events.get(timeout=60), HostReady)
            execution = bench.run_test(model.Test(1, "test_a", timeout=30.0))
            assert execution.stdout.text.split()[0] == hashlib.sha256(data).hexdigest()
    finally:
        for bench in benches:
            bench.fleet.close()
    left = [path for path in (sshd.cache / "nosejobs" / "blobs").iterdir() if path.is_file()]
    assert left == []


def test_a_host_keeps_what_it_may(sshd: Sshd, tmp_path: Path) -> None:
    shutil.rmtree(sshd.cache, ignore_errors=True)
    write_program(tmp_path / "test_a", SH)
    entries = {"there": HostEntry("there", sshd.spec(slots=1), cache=0)}
    fleet = Fleet(hosts.parse_specs(["there"], entries), Setup(str(tmp_path)))
    fleet.open()
    fleet.provide_tree(scan(tmp_path, []))
    try:
        assert isinstance(fleet.events.get(timeout=60), HostReady)
        deadline = time.monotonic() + 20
        while list((sshd.cache / "nosejobs" / "blobs").glob("*/*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        fleet.close()


def test_code_that_others_can_write_to_is_not_run(sshd: Sshd, tmp_path: Path) -> None:
    with HostRun(tmp_path, sshd.spec(slots=1)):
        pass
    (code,) = (sshd.cache / "nosejobs" / "code").iterdir()
    write_program(code / "nosejobs_host" / "serve.py", "raise SystemExit('spoilt')")
    code.chmod(0o777)
    try:
        with HostRun(tmp_path, sshd.spec(slots=1)) as bench:
            assert bench.host.facts.cores
    finally:
        shutil.rmtree(code)
        for fallback in (sshd.folder / "tmp").glob("nosejobs-code-*"):
            shutil.rmtree(fallback)


def test_nothing_stays_behind_over_there(sshd: Sshd, tmp_path: Path) -> None:
    write_program(tmp_path / "test_a", f"{SH}setsid sleep 60 & sleep 61")
    with HostRun(tmp_path, sshd.spec(slots=1)) as bench:
        root = bench.host.facts.root
        bench.start(bench.new_test(SH)._replace(path="test_a"))
    assert wait_until_gone(root, 3)
    assert list((sshd.folder / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("stranger", {}, ["key refused", "ssh-copy-id"]),
        ("nowhere", {}, ["the name no-such-host.invalid cannot be resolved", "spelling"]),
        ("closed", {}, ["Connection refused", "is sshd running?"]),
        (
            "there",
            {"python": "no-such-python"},
            ["no-such-python not found on the host", "//python="],
        ),
        (
            "there",
            {"python": "/no/such/python"},
            ["/no/such/python not found on the host", "//python="],
        ),
    ],
)
def test_a_host_that_cannot_be_opened_says_why_and_what_to_try(
    sshd: Sshd, tmp_path: Path, name: str, options: dict[str, str], words: list[str]
) -> None:
    error = refusal(tmp_path, sshd.spec(name, **options))
    assert error.host == name
    for text in [*words, "try: "]:
        assert text in str(error)


def test_a_missing_ssh_config_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path, "ssh=host//ssh_config=/no/such")
    assert "cannot read the ssh configuration /no/such: No such file or directory" in str(error)
    assert "//ssh_config=FILE" in error.hint
    assert "python" not in str(error)
    assert "\\r" not in str(error)


def test_a_host_without_python3_says_so(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "sshd").mkdir()
    with Sshd(tmp_path / "sshd", path=str(tmp_path / "empty")) as daemon:
        error = refusal(tmp_path / "tree", daemon.spec())
    assert "python3 not found on the host" in str(error)
    assert "install python3" in error.hint


@pytest.mark.parametrize("version", versions(good=False))
def test_a_python_that_is_too_old_is_named(
    sshd: Sshd, tmp_path: Path, version: tuple[int, int]
) -> None:
    error = refusal(tmp_path, sshd.spec(python=interpreters()[version]))
    assert "Python >= 3.8 is needed, this is Python {}.{}.".format(*version) in str(error)


@pytest.mark.parametrize("version", versions(good=True)[:1])
def test_the_oldest_python_does_over_there(
    sshd: Sshd, tmp_path: Path, version: tuple[int, int]
) -> None:
    write_program(tmp_path / "test_a", f"{SH}echo hello; exit 4")
    with HostRun(tmp_path, sshd.spec(python=interpreters()[version], slots=1)) as bench:
        execution = bench.run_test(bench.new_test(SH)._replace(path="test_a"))
    assert (execution.exit_status, execution.stdout.text) == (4, "hello\n")


def test_no_file_of_complaints_stays_here(sshd: Sshd, tmp_path: Path, scratch: Path) -> None:
    refusal(tmp_path, sshd.spec("closed"))
    with HostRun(tmp_path, sshd.spec(slots=1)):
        pass
    assert list((scratch / "tmp").glob("nosejobs-ssh-*")) == []
