"""Tests of malformed responses of a host: each is an error, and is safe to show on a terminal."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.errors import HostError, HostLost, JobRefused, UsageError
from shell_runner.hosts.frame_guard import MAX_PAYLOAD_BYTES
from shell_runner.hosts.spec import HostSpec
from shell_runner.jobs import session
from shell_runner.jobs.client import JobClient
from shell_runner.jobs.log_position import LogPosition
from shell_runner.remote.protocol import frames as wire
from tests.helpers.job_responses import ID, JOB

HOST = HostSpec("h1", "ssh", 1, address="h1")
OTHER = "11234567-89ab-cdef-0123-456789abcdef"
ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e\r"

REPORT: dict[str, Any] = {
    **JOB, "jobs_ahead": 0, "attempt_reports": [], "failed": {"count": 0, "first": []},
    "config": {}, "build": None, "contents": ["tree", "a" * 64, 3, "t"], "worker_error": "",
}  # fmt: skip
LOG: dict[str, Any] = {
    "mark": ["running", 1, "testing"], "end_reason": "", "attempt": 1, "attempts": 1,
    "is_attempt_over": False,
    "offset": 0, "crc": 0, "size": 0,
}  # fmt: skip

#: A function that returns the frames that a host sends for a request.
Answers = Callable[[str, dict[str, Any]], list[bytes]]


def answer(value: Any) -> list[bytes]:
    return [wire.pack_messages([["answer", value]])]


def blob(value: Any, body: bytes) -> list[bytes]:
    return [wire.pack_blob(["answer", value], body)]


class FakeGateway:
    """A fake gateway that answers each request at once with the result of a function."""

    answers: Answers
    latency = last_heard = sending_since = 0.0
    has_answered = True

    def __init__(self, spec: HostSpec, on_frame: Any, **_: Any) -> None:
        self._on_frame = on_frame
        self.killed = False
        self.last_heard = time.monotonic() + 3600

    def send(self, frame: bytes) -> None:
        for message in wire.unpack_frame(frame):
            if message[0] != "call":
                continue
            frames = answer({}) if message[1] == "hello" else type(self).answers(*message[1:])
            for response in frames:
                self._on_frame(response)

    def send_if_room(self, frame: bytes, timeout: float) -> bool:
        return True

    def ping(self) -> None:
        pass

    def close_reason(self) -> str:
        return "the host hung up" + ESCAPE

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobClient]:
    monkeypatch.setattr(session, "Gateway", FakeGateway)
    monkeypatch.setattr("shell_runner.jobs.reconnecting_client.backoff", lambda number: 0.0)
    with JobClient(HOST) as job_client:
        yield job_client


def set_answers(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    monkeypatch.setattr(FakeGateway, "answers", staticmethod(answers), raising=False)


def assert_message_is_safe(error: BaseException) -> None:
    """Check that the message names the host and is safe to show."""
    message = str(error)
    assert message.startswith("host h1: ")
    assert "\x1b" not in message
    assert "\r" not in message
    assert len(message) < 2000


def test_what_is_true_is_believed(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    set_answers(monkeypatch, lambda name, arguments: answer(REPORT))
    report = client.get_job(ID)
    assert (report.job.id, report.job.outcomes, report.tests) == (
        ID, {"passed": 1}, ("tree", "a" * 64, 3, "t"),
    )  # fmt: skip


def test_an_answer_in_parts_is_joined(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    (frame,) = answer(REPORT)
    parts = [b"P" + frame[:7], b"P", b"P" + frame[7:90], b"E" + frame[90:]]
    set_answers(monkeypatch, lambda name, arguments: parts)
    assert [client.get_job(ID).job.id, client.get_job(ID).job.id] == [ID, ID]


def test_an_answer_whose_last_part_does_not_come_is_ended_in_time(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.open()
    monkeypatch.setattr(session, "_REQUEST_TIMEOUT", 0.2)

    def send_parts(on_frame: Any) -> None:
        while not stop.wait(0.05):
            on_frame(b"P")

    def send(self: FakeGateway, frame: bytes) -> None:
        thread.append(threading.Thread(target=send_parts, args=[self._on_frame]))
        thread[-1].start()

    stop, thread = threading.Event(), list[threading.Thread]()
    monkeypatch.setattr(FakeGateway, "send", send)
    try:
        with pytest.raises(HostLost, match="has not finished a request within"):
            client.get_job(ID)
    finally:
        stop.set()
        for each in thread:
            each.join()


def test_a_list_that_never_ends_is_ended(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    def list_jobs(name: str, arguments: dict[str, Any]) -> list[bytes]:
        limits.append(arguments["limit"])
        jobs = [{**JOB, "number": number} for number in (9, 8)]
        return answer({"jobs": jobs, "counts": {}, "worker_error": "", "has_more": True})

    set_answers(monkeypatch, list_jobs)
    assert [job.number for job in client.list_jobs(limit=5).jobs] == [9, 8]
    assert limits == [5, 3]


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff\xfe"],
        [b"J[[]]"],
        [b"J[3]"],
        [b"J" + b"[" * 100_000],
        [wire.pack_messages([["answer", {}], ["answer", {}]])],
        [wire.pack_messages([["answer"]])],
        [wire.pack_messages([["answer", {}, {}]])],
        [wire.pack_messages([["selfdestruct" + ESCAPE]])],
        [wire.pack_messages([["missing", [0]]])],
        [wire.pack_blob("answer", b"")],
        blob(REPORT, b"bytes that were not requested"),
        answer(None),
        answer([]),
        answer("x" + ESCAPE),
        [b"P" + answer(REPORT)[0], b"E}"],
        [b"P" + bytes(1 << 20)] * 33,
    ],
    ids=lambda frames: repr(frames[0][:24]),
)
def test_no_answer_is_an_error(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, frames: list[bytes]
) -> None:
    set_answers(monkeypatch, lambda name, arguments: frames)
    with pytest.raises(HostError) as caught:
        client.get_job(ID)
    assert_message_is_safe(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", OTHER),
        ("id", "../../etc/passwd"),
        ("id", None),
        ("number", True),
        ("number", -1),
        ("number", 1e30),
        ("test_count", "many"),
        ("package_size", 1 << 70),
        ("state", "won" + ESCAPE),
        ("package_digest", "../x"),
        ("labels", "l"),
        ("labels", [3]),
        ("labels", ["x"] * 20_000),
        ("cancel_requested", 1),
        ("submitted_at", "yesterday"),
        ("submitted_at", float("nan")),
        ("submitted_at", float("inf")),
        ("outcomes", {"won": 1}),
        ("outcomes", {"passed": -1}),
        ("outcomes", []),
        ("attempt_reports", [{"id": "x"}]),
        ("attempt_reports", {}),
        ("failed", {"count": 1, "first": [["n", "won", [0, "p"], None]]}),
        ("failed", {"count": 1, "first": [["n", "failed", [0, "p"], [0, "x"]]]}),
        ("failed", {"count": 1, "first": [["n", "failed", 3, list(range(8))]]}),
        ("failed", {"count": 1, "first": [3]}),
        ("config", {"install": {"a": 1}}),
        ("config", 3),
        ("build", ["tree", "x", 3, ""]),
        ("contents", ["bomb", "a" * 64, 3, ""]),
    ],
)
def test_odd_values_are_an_error(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    set_answers(monkeypatch, lambda name, arguments: answer({**REPORT, key: value}))
    with pytest.raises(HostError, match="sent an invalid response") as caught:
        client.get_job(ID)
    assert_message_is_safe(caught.value)


def test_no_text_of_a_host_drives_a_terminal(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = dict.fromkeys(
        ("name", "end_reason", "detail", "waiting_reason", "phase", "worker_error"), ESCAPE
    )
    failed = {"count": 1, "first": [[ESCAPE, "failed", [0, "p"], None]]}
    config = {"install": ESCAPE, "environment": [["A", ESCAPE]], "secret": "told"}
    lie = {**REPORT, **texts, "labels": [ESCAPE], "failed": failed, "config": config}
    set_answers(monkeypatch, lambda name, arguments: answer(lie))
    shown = client.get_job(ID)
    shown_texts = [shown.job.name, shown.job.detail, *shown.job.labels, shown.failed[0].nodeid]
    shown_texts += [shown.config["install"], shown.config["environment"][0][1], shown.worker_error]
    assert all(word.isprintable() for word in shown_texts)
    assert "secret" not in shown.config


def test_a_refusal_is_cleaned(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = wire.pack_messages([["refused", "full" + ESCAPE, "no " + ESCAPE * 1000]])
    set_answers(monkeypatch, lambda name, arguments: [frame])
    with pytest.raises(JobRefused) as caught:
        client.get_job(ID)
    assert_message_is_safe(caught.value)


def test_a_flood_ends_the_host(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = wire.pack_messages([["received"]]) + b" " * (MAX_PAYLOAD_BYTES // 2)
    set_answers(monkeypatch, lambda name, arguments: [frame] * 8)
    with pytest.raises(HostError, match="sent more than was requested"):
        client.get_job(ID)


def test_signs_of_life_without_end_end_the_host(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = wire.pack_messages([["received"]])
    set_answers(monkeypatch, lambda name, arguments: [frame] * 100)
    with pytest.raises(HostError, match="sent more than was requested"):
        client.get_job(ID)


def test_one_that_hangs_up_is_asked_again_a_few_times(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def hang_up(name: str, arguments: dict[str, Any]) -> list[Any]:
        requests.append(name)
        return [None]

    set_answers(monkeypatch, hang_up)
    with pytest.raises(HostLost) as caught:
        client.get_job(ID)
    assert_message_is_safe(caught.value)
    assert len(requests) == 4


def test_a_job_that_was_not_asked_for_is_not_acknowledged(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_answers(monkeypatch, lambda name, arguments: answer({**JOB, "id": OTHER}))
    for request in (client.cancel, client.forget, client.wait):
        with pytest.raises(HostError, match=f"job {OTHER} where {ID} was requested"):
            request(ID)


# -- logs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({"attempt": 7}, b"x"),
        ({"mark": 3}, b"x"),
        ({"mark": [{}]}, b"x"),
        ({"crc": -1}, b"x"),
        ({"is_attempt_over": "no"}, b"x"),
        ({}, b"x" * ((1 << 20) + 1)),
    ],
)
def test_a_log_that_cannot_be_is_an_error(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], body: bytes
) -> None:
    set_answers(monkeypatch, lambda name, arguments: blob({**LOG, **change}, body))
    with pytest.raises(HostError) as caught:
        list(client.read_log(ID, LogPosition(1)))
    assert_message_is_safe(caught.value)


# -- packages ------------------------------------------------------------------------


def package(data: bytes, size: int | None = None, pieces: Any = None) -> Answers:
    digest = hashlib.sha256(data).hexdigest()
    job = {**JOB, "package_digest": digest, "package_size": len(data) if size is None else size}

    def answers(name: str, arguments: dict[str, Any]) -> list[bytes]:
        if name == "fetch":
            begin = arguments["offset"]
            piece = data[begin : begin + arguments["size"]] if pieces is None else pieces
            return blob({"offset": begin}, piece)
        return answer(job)

    return answers


def download(client: JobClient, folder: Path) -> Path:
    client.download(ID, folder / "x.zip", lambda path: None)
    return folder / "x.zip"


def test_a_package_comes_whole(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 9000
    set_answers(monkeypatch, package(data))
    assert download(client, tmp_path).read_bytes() == data


@pytest.mark.parametrize("pieces", [b"", b"x" * 5000], ids=["nothing", "too much"])
def test_pieces_of_a_package_have_the_size_that_was_asked_for(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pieces: bytes
) -> None:
    set_answers(monkeypatch, package(b"data", pieces=pieces))
    with pytest.raises(HostError, match="bytes of a package where 4 were requested"):
        download(client, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_no_disk_could_hold_is_refused_before_it_comes(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_answers(monkeypatch, package(b"data", size=1 << 60))
    with pytest.raises(UsageError, match=r"the package needs \d+ more bytes; \d+ are free"):
        download(client, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_verified_alone_gets_its_name(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_answers(monkeypatch, package(b"no zip"))
    from shell_runner.jobs.results import harvest

    with pytest.raises(HostError, match="is refused") as caught:
        harvest(client, ID, tmp_path / "x.zip", None, None, lambda done, total: None)
    assert_message_is_safe(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_silent_host_is_lost(client: JobClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host reads requests and never answers."""
    client = JobClient(HOST, timeout=0.2)
    monkeypatch.setattr("shell_runner.jobs.reconnecting_client._MAX_ATTEMPTS", 1)
    monkeypatch.setattr(FakeGateway, "last_heard", 0.0)

    def answers(name: str, arguments: dict[str, Any]) -> list[bytes]:
        assert client._session is not None
        client._session._gateway.last_heard = time.monotonic()  # now, and not again
        return []

    set_answers(monkeypatch, answers)
    began = threading.active_count()
    with pytest.raises(HostLost, match=r"has not answered for 0\.2 s"), client:
        client.list_jobs()
    assert threading.active_count() <= began + 1


CHANGES: dict[str, Any] = {"jobs": [], "gone": [], "worker_error": ""}


def test_changes_that_are_true_are_believed(
    client: JobClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_answers(
        monkeypatch, lambda name, values: answer({**CHANGES, "jobs": [JOB], "gone": [OTHER]})
    )
    changes = client.await_changes({ID: "running", OTHER: "running"})
    assert ([job.state for job in changes.jobs], changes.gone) == (["ready"], (OTHER,))


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {**CHANGES, "jobs": [{**JOB, "id": OTHER}]},
        {**CHANGES, "jobs": [{**JOB, "state": ESCAPE}]},
        {**CHANGES, "gone": [OTHER]},
        {**CHANGES, "gone": [1]},
        {**CHANGES, "gone": ["x"] * 10_001},
    ],
)
def test_changes_that_cannot_be_are_an_error(
    client: JobClient, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    set_answers(monkeypatch, lambda name, values: answer(value))
    with pytest.raises(HostError, match="sent an invalid response") as caught:
        client.await_changes({ID: "running"})
    assert_message_is_safe(caught.value)
