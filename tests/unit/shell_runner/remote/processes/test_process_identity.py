"""A process is known by its number, its start and the boot."""

import os
import subprocess
import sys

from shell_runner.remote.processes import process_identity


def test_a_process_knows_itself() -> None:
    own = process_identity.own()
    assert own.pid == os.getpid()
    assert own.start.isdigit()
    assert len(own.boot) == 36
    assert process_identity.is_alive(own)


def test_one_that_has_ended_is_not_alive() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        found = process_identity.of(process.pid)
        assert found is not None
        assert process_identity.is_alive(found)
    assert process_identity.of(process.pid) is None
    assert not process_identity.is_alive(found)


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_identity.of(process.pid) is None
    finally:
        process.wait()


def test_the_same_number_with_another_start_is_somebody_else() -> None:
    own = process_identity.own()
    assert not process_identity.is_alive(own._replace(start=str(int(own.start) - 1)))


def test_the_same_number_and_start_after_another_boot_is_somebody_else() -> None:
    own = process_identity.own()
    assert not process_identity.is_alive(own._replace(boot="0" * 8 + own.boot[8:]))


def test_a_name_with_blanks_and_brackets_hides_nothing() -> None:
    script = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a) Z 1 (', 0, 0, 0); print(flush=1)"
    command = [sys.executable, "-c", script + "; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = process_identity.of(process.pid)
        assert found is not None
        assert found.start.isdigit()
        assert process_identity.is_alive(found)


def test_no_number_is_nobody() -> None:
    assert not process_identity.is_alive(process_identity.own()._replace(pid=0))
    assert not process_identity.is_alive(process_identity.own()._replace(pid=-1))
