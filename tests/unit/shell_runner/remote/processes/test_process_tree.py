"""Tests of the list of a process's descendants."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from shell_runner.remote.processes import process_tree


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """Return a shell with a running child."""
    script = "sleep 60 & echo $!; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        vars(shell)["child"] = int(shell.stdout.readline())
        yield shell
        process_tree.send_signal([vars(shell)["child"], shell.pid], 9)


@pytest.mark.parametrize("way", ["children", "scan", "ps"])
def test_children_are_found_whatever_the_system_offers(
    way: str, family: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = vars(family)["child"]
    if way == "scan":
        assert process_tree._children_by_scan()[family.pid] == [child]
        return
    if way == "ps":
        monkeypatch.setattr(process_tree, "PROC", "/nowhere")
    assert process_tree.list_children(family.pid) == [child]
    assert child in process_tree.list_descendants(os.getpid())


def test_an_ended_process_has_no_children() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert process_tree.list_children(gone.pid) == []
    assert process_tree.read_names([gone.pid]) == []
