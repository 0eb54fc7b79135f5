"""What a runner does with what Serve says, and how it judges an install command."""

import json
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote import model, package, package_format, runner, verdict, wire
from shell_runner.remote.manifest import BadEntry
from shell_runner.remote.model import Execution, Problem, Setup
from shell_runner.remote.runner import Done, Feed, Log, Trouble, install_words


class Session:
    """A Feed, and in place of Serve what it says to it."""

    def __init__(self, folder: Path) -> None:
        self.done: list[Done] = []
        self.notes: list[str] = []
        self.said: list[list[Any]] = []
        tests = [model.Test(number, f"test_{number}") for number in range(2)]
        self.feed = Feed(Setup("/"), tests, lambda test, number: f"{folder}/{test}.{number}")
        self.feed.on_done = self._take
        self.feed.on_note = self.notes.append

    def _take(self, done: list[Done]) -> list[model.Test]:
        self.done += done
        again = [each.test for each in done if each.execution.exit and each.test.attempt == 1]
        return [test._replace(attempt=2) for test in again]

    def listen(self) -> None:
        self.feed.setcallback(lambda frame: self.said.extend(wire.unpack(frame or b"")), None)

    def names(self) -> list[str]:
        return [message[0] for message in self.said]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def piece(path: str, body: bytes, test: int = 0, last: bool = True) -> bytes:
    return wire.pack_blob(["artefact", test, 1, path, last], body)


def done(*executions: Execution) -> bytes:
    return wire.pack([["done", each] for each in executions])


def test_serve_is_told_what_a_controller_would_tell(session: Session) -> None:
    session.listen()
    assert session.names() == ["open", "run"]
    assert [row[1] for row in session.said[1][1]] == ["test_0", "test_1"]
    session.feed.send(done(Execution(0, exit=0)))
    assert session.names() == ["open", "run"]
    session.feed.send(done(Execution(1, exit=0)))
    assert session.names() == ["open", "run", "stop"]


def test_an_answer_counts_once(session: Session) -> None:
    session.listen()
    session.feed.send(done(Execution(0, exit=0), Execution(7, exit=0)))
    session.feed.send(done(Execution(0, exit=1), Execution(1, attempt=2, exit=0)))
    assert [(each.test.id, each.execution.exit) for each in session.done] == [(0, 0)]


def test_a_test_that_runs_again_is_awaited(session: Session) -> None:
    session.listen()
    session.feed.send(done(Execution(0, exit=1), Execution(1, exit=0)))
    assert session.said[-1][0] == "run"
    assert session.said[-1][1][0][:2] == [0, "test_0"]
    session.feed.send(done(Execution(0, attempt=1, exit=0)))
    assert len(session.done) == 2, "the first try is over"
    session.feed.send(done(Execution(0, attempt=2, exit=1)))
    assert session.names()[-1] == "stop"


def test_a_stop_before_the_start_starts_nothing(session: Session) -> None:
    session.feed.stop()
    session.listen()
    assert session.names() == ["stop"]


def test_credit_is_given_back(session: Session) -> None:
    session.listen()
    size = 0
    while "credit" not in session.names():
        frame = piece("a", bytes(1 << 20))
        session.feed.send(frame)
        size += len(frame)
        assert size < wire.CREDIT
    assert session.said[-1] == ["credit", size]


def test_what_is_no_execution_is_an_error_of_the_slot(session: Session) -> None:
    session.listen()
    row = json.loads(json.dumps(Execution(0, exit=0)))
    row[11] = ["out", 1, 99]
    session.feed.send(wire.pack([["done", row]]))
    assert session.done[0].execution.problem == Problem.SLOT_DIED
    assert session.done[0].outcome == "error"


def many_cases() -> Execution:
    cases = [model.Case("", "passed")] * 1_000_000
    return Execution(0, exit=0, parsed=model.Parsed("tap", cases))


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        (many_cases(), "1000000 results are more than a package can hold; none is kept"),
        (Execution(0, exit=1, out=model.Stream("[1,2],\n" * 1_000_000, 7_000_000)), "exit 1"),
        (Execution(0, exit=1, err=model.Stream("," * 8_000_000, 9_000_000, 500_000)), "exit 1"),
    ],
)
def test_what_no_package_can_hold_is_left_out(execution: Execution, words: str) -> None:
    found, text = runner.fitting(execution)
    restored = package._restored(package._parse(text.encode(), package_format.LIMITS))
    assert restored == found
    assert (found.exit, found.out.total) == (execution.exit, execution.out.total)
    assert verdict.judge(model.Test(0, "test_a"), found).words == words
    for now, before in ((found.out, execution.out), (found.err, execution.err)):
        if now != before:
            assert before.text.startswith(now.text[: now.cut_at])
            assert before.text.endswith(now.text[now.cut_at :])
            assert len(now.text) == 512 << 10


def test_what_a_package_can_hold_stays_as_it_is() -> None:
    streams = [model.Stream("\0" * n, n) for n in (1 << 20, 8 << 20)]
    execution = Execution(0, exit=0, out=streams[0], err=streams[1])
    assert runner.fitting(execution)[0] is execution


def test_trouble_ends_the_attempt(session: Session) -> None:
    session.listen()
    with pytest.raises(Trouble, match="a slot cannot be started"):
        session.feed.send(wire.pack([["trouble", "a slot cannot be started"]]))


def test_artefacts_come_in_pieces(session: Session, tmp_path: Path) -> None:
    for body, last in ((b"one ", False), (b"two", True)):
        session.feed.send(piece("deep/er/file", body, last=last))
    assert (tmp_path / "0.1/deep/er/file").read_bytes() == b"one two"


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a//b", "a\0b"])
def test_no_artefact_leads_out_of_its_folder(session: Session, tmp_path: Path, path: str) -> None:
    with pytest.raises(BadEntry):
        session.feed.send(piece(path, b"x"))
    assert list(tmp_path.rglob("*")) == []


def test_no_link_is_written_through(session: Session, tmp_path: Path) -> None:
    (tmp_path / "0.1").mkdir()
    (tmp_path / "0.1/link").symlink_to(tmp_path / "target")
    session.feed.send(piece("link", b"x"))
    assert not (tmp_path / "target").exists()
    assert session.notes[0].startswith("artefact link: ")


def test_a_log_is_lines_and_no_more_than_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shell_runner.remote.runner._LOG", 50)
    log = Log(str(tmp_path / "log"))
    log.write("a\nb", ["\udcff", "two\nlines"])
    for _ in range(9):
        log.note("12345678901234567890")
    log.close()
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert lines[:2] == [b"a?b | \xff", b"a?b | two lines"]
    assert lines[-1] == b"nosejobs | the log ends here: it is full"
    assert len(lines) < 6


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        (Execution(0, exit=0), ""),
        (Execution(0, exit=77), "exit 77"),
        (Execution(0, signal=9), "killed by SIGKILL"),
        (Execution(0, exit=0, timed_out=True), "timed out after 5 s"),
        (Execution(0, problem=Problem.SLOT_DIED, detail="x"), "its slot died: x"),
    ],
)
def test_only_zero_is_a_success_of_an_install_command(execution: Execution, words: str) -> None:
    assert install_words(model.Test(0, "x", timeout=5.0), execution) == words
