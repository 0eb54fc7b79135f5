"""Tests of a host's queue: submission, order and refusals."""

import json
from pathlib import Path

import pytest

from shell_runner.remote.execution import resource_locks
from shell_runner.remote.files import state_dirs
from shell_runner.remote.jobs import queue_location
from shell_runner.remote.jobs.queue import (
    SETTINGS,
    AttemptPhase,
    EndReason,
    Queue,
    RequestRefused,
    State,
)
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.job import ARCHIVE, Content, JobConfig, JobTest
from tests.helpers.queue_factories import (
    CODE,
    NEXT_WORKER,
    WORKER,
    bring_to_state,
    claim_job,
    expect_refusal,
    make_content,
    make_job,
    make_uuid,
    submit_job,
)

# -- submit -------------------------------------------------------------------------


def test_a_job_comes_back_as_it_was_submitted(queue: Queue) -> None:
    config = JobConfig(
        install="./setup", environment=(("A", "1"),), pass_env=("B*",), notify="http://n", retries=2
    )
    cases = (
        JobTest(
            "a.t", model.Test(0, "a.t", argv=("perl",), limits=(("as", 5),)), 3, "", (("k", "v"),)
        ),
        JobTest("odd\udcff", model.Test(1, "odd\udcff", locks=("db",)), unmet="requires docker"),
    )
    build = Content(ARCHIVE, "b" * 64, 7, "b.zip")
    job = make_job(config=config, build=build, name="n\udcff", labels=("x", "y"), priority=-3)
    job = job._replace(cases=cases)
    row = queue.submit(job, CODE, 12.5)
    assert (row.id, row.config, row.build, row.tests) == (job.id, config, build, job.tests)
    assert (row.labels, row.priority, row.test_count, row.submitted_at) == (("x", "y"), -3, 2, 12.5)
    assert (row.state, row.end_reason, row.code, row.name) == (State.QUEUED, None, CODE, "n\\udcff")
    assert queue.get_tests(row.number) == list(cases)
    assert queue.find(job.id) == row


def test_tests_are_numbered_by_their_place(queue: Queue) -> None:
    cases = tuple(JobTest(f"{n}", model.Test(n, "t")) for n in (7, 7, 3))
    row = queue.submit(make_job()._replace(cases=cases), CODE, 1.0)
    assert [(case.nodeid, case.test.id) for case in queue.get_tests(row.number)] == [
        ("7", 0), ("7", 1), ("3", 2),
    ]  # fmt: skip


def test_a_repeated_submit_has_the_same_answer(queue: Queue) -> None:
    job = make_job(labels=("x",))
    first = queue.submit(job, CODE, 1.0)
    assert queue.submit(job, "other code", 2.0) == first
    attempt = claim_job(queue)[1]
    assert queue.submit(job, CODE, 3.0).state == State.RUNNING
    queue.finish(attempt.id, EndReason.COMPLETED, "", 1.0)
    assert queue.count_jobs()[State.PACKAGING] == sum(queue.count_jobs().values()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"name": "other"},
        {"labels": ("x",)},
        {"priority": 1},
        {"tests": make_content("b")},
        {"build": make_content("b")},
        {"config": JobConfig(install="x")},
        {"cases": ()},
        {
            "cases": (
                JobTest("t0.sh", model.Test(0, "t0.sh")),
                JobTest("t1.sh", model.Test(1, "t1.sh", 5.0)),
            )
        },
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_job_of_the_same_id_is_refused(queue: Queue, other: dict[str, object]) -> None:
    job = make_job()
    before = queue.submit(job, CODE, 1.0)
    with expect_refusal("differs"):
        queue.submit(job._replace(**other), CODE, 1.0)
    assert queue.find(job.id) == before
    assert len(queue.get_tests(before.number)) == 2


def test_a_full_queue_names_its_bound(queue: Queue) -> None:
    queue.set_setting("waiting", 2)
    jobs = [make_job(), make_job()]
    for job in jobs:
        queue.submit(job, CODE, 1.0)
    with pytest.raises(RequestRefused, match=r"^2 jobs wait already.*waiting") as caught:
        submit_job(queue)
    assert caught.value.kind == "full"
    assert queue.submit(jobs[0], CODE, 1.0).id == jobs[0].id
    claim_job(queue)
    submit_job(queue)


@pytest.mark.parametrize(
    "values",
    [{"id": "../../etc"}, {"id": ""}, {"id": make_uuid().upper()}, {"priority": 1 << 70},
     {"priority": 1.5}, {"priority": True}],
)  # fmt: skip
def test_an_invalid_id_or_priority_is_refused(queue: Queue, values: dict[str, object]) -> None:
    with expect_refusal("bad"):
        submit_job(queue, **values)
    assert not queue.list_jobs()


# -- find and list --------------------------------------------------------------------


def test_a_job_is_found_by_a_unique_beginning(queue: Queue) -> None:
    tail = make_uuid()[8:]
    for head in ("abcd0000", "abcd0001", "abce0000", "ffffffff"):
        submit_job(queue, id=head + tail)
    assert queue.find("abce").id == "abce0000" + tail
    assert queue.find("FFFF").id == "ffffffff" + tail
    assert queue.find("abcd0001").id == queue.find("abcd0001" + tail).id == "abcd0001" + tail
    with pytest.raises(RequestRefused, match=r"abcd0000.*abcd0001") as caught:
        queue.find("abcd")
    assert caught.value.kind == "ambiguous"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "bad"),
        ("abc", "bad"),
        ("abcd", "unknown"),
        ("%%%%", "unknown"),
        ("\udcff" * 4, "unknown"),
    ],
)
def test_a_job_that_is_not_found_is_refused(queue: Queue, text: str, kind: str) -> None:
    submit_job(queue, id="abce" + make_uuid()[4:])
    with expect_refusal(kind):
        queue.find(text)


def test_lists_have_the_newest_first_and_go_on(queue: Queue) -> None:
    all_jobs = [submit_job(queue, priority=n % 2).number for n in range(7)]
    first = queue.list_jobs(limit=3)
    assert [job.number for job in first] == all_jobs[:-4:-1]
    rest = queue.list_jobs(before=first[-1].number)
    assert [job.number for job in rest] == all_jobs[3::-1]
    assert queue.list_jobs(limit=-1) == []


def test_lists_are_of_states_and_labels(queue: Queue) -> None:
    ready = bring_to_state(queue, State.READY, labels=("a", 'b"', ","))
    running = bring_to_state(queue, State.RUNNING, labels=('a","b',))
    waiting = submit_job(queue, labels=("b", "ä"))

    def listed(*states: State, label: str = "") -> list[str]:
        return [job.id for job in queue.list_jobs(states, label)]

    assert listed(State.READY) == [ready.id]
    assert listed(State.QUEUED, State.RUNNING, State.QUEUED) == [waiting.id, running.id]
    assert listed(State.QUEUED, State.READY, label="a") == [ready.id]
    assert (listed(label="b"), listed(label="ä")) == ([waiting.id], [waiting.id])
    assert (listed(label=","), listed(label='b"')) == ([ready.id], [ready.id])
    assert listed(label='a","b') == [running.id]
    for no in ("c", '"', '", "', "a\n", '",\n"', "%"):
        assert listed(label=no) == []


def test_counts_name_every_state(queue: Queue) -> None:
    assert queue.count_jobs() == dict.fromkeys(State, 0)
    bring_to_state(queue, State.READY)
    submit_job(queue)
    submit_job(queue)
    assert queue.count_jobs() == {**dict.fromkeys(State, 0), State.READY: 1, State.QUEUED: 2}


# -- order --------------------------------------------------------------------------


def test_jobs_start_by_priority_then_by_number(queue: Queue) -> None:
    ids = [submit_job(queue, priority=priority).id for priority in (0, 5, 0, -1, 5)]
    started = [claim_job(queue)[0].id for _ in ids]
    assert started == [ids[n] for n in (1, 4, 0, 2, 3)]
    assert queue.claim(WORKER, CODE, make_uuid(), 1.0) is None


def test_a_job_knows_how_many_are_ahead(queue: Queue) -> None:
    bring_to_state(queue, State.READY)
    bring_to_state(queue, State.RUNNING)
    low, first, second, high = (submit_job(queue, priority=p) for p in (-1, 0, 0, 1))
    assert [queue.count_ahead(job) for job in (high, first, second, low)] == [1, 2, 3, 4]
    assert queue.count_ahead(queue.list_jobs([State.READY])[0]) == 0


def test_the_next_job_wants_its_own_code(queue: Queue) -> None:
    assert queue.get_next_code() == ""
    old = queue.submit(make_job(), "old", 1.0)
    queue.submit(make_job(), CODE, 1.0)
    assert queue.get_next_code() == "old"
    assert queue.claim(WORKER, CODE, make_uuid(), 1.0) is None
    claimed = queue.claim(WORKER, "old", make_uuid(), 1.0)
    assert claimed is not None
    assert claimed[0].id == old.id
    assert queue.get_next_code() == CODE


# -- cancel, acknowledge, forget ------------------------------------------------------


def test_a_waiting_job_is_canceled_at_once(queue: Queue) -> None:
    job = queue.cancel(submit_job(queue), 9.0)
    assert (job.state, job.end_reason, job.cancel_requested, job.ended_at) == (
        State.PACKAGING,
        EndReason.CANCELED,
        True,
        9.0,
    )
    assert queue.list_packaging() == [job]
    assert queue.claim(WORKER, CODE, make_uuid(), 1.0) is None
    assert queue.record_package(job.number, "d", 1, 1.0).state == State.READY


def test_a_running_job_is_asked_for_its_end(queue: Queue) -> None:
    submit_job(queue)
    job, attempt = claim_job(queue)
    assert not queue.is_cancel_requested(job.number)
    assert queue.cancel(job, 1.0).state == State.RUNNING
    assert queue.cancel(job, 2.0).cancel_requested
    assert queue.is_cancel_requested(job.number)
    queue.finish(attempt.id, EndReason.CANCELED, "", 3.0)
    assert queue.find(job.id).end_reason == EndReason.CANCELED


@pytest.mark.parametrize("state", [State.PACKAGING, State.READY, State.HARVESTED])
def test_an_ended_job_cannot_be_canceled(queue: Queue, state: State) -> None:
    job = bring_to_state(queue, state)
    with pytest.raises(RequestRefused, match=rf"is {state} \(completed\): cancel is not") as caught:
        queue.cancel(job, 9.0)
    assert caught.value.kind == "state"
    assert queue.find(job.id) == job
    assert not queue.is_cancel_requested(job.number)


def test_a_canceled_job_that_is_lost_does_not_start_again(queue: Queue) -> None:
    submit_job(queue)
    job, attempt = claim_job(queue)
    queue.cancel(job, 1.0)
    assert queue.lose(attempt.id, "died", 2.0) == State.PACKAGING
    assert queue.find(job.id).end_reason == EndReason.CANCELED


def test_a_package_is_acknowledged_by_its_digest(queue: Queue) -> None:
    job = bring_to_state(queue, State.READY, package="good")
    with expect_refusal("differs"):
        queue.acknowledge(job, "bad", 6.0)
    assert queue.find(job.id) == job
    first = queue.acknowledge(job, "good", 7.0)
    assert (first.state, first.harvested_at) == (State.HARVESTED, 7.0)
    assert queue.acknowledge(job, "good", 8.0) == first
    with expect_refusal("differs"):
        queue.acknowledge(job, "", 6.0)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.PACKAGING])
def test_only_a_package_is_acknowledged(queue: Queue, state: State) -> None:
    with expect_refusal("state"):
        queue.acknowledge(bring_to_state(queue, state), "", 6.0)


def test_a_harvested_job_is_forgotten_with_all_its_rows(queue: Queue) -> None:
    submit_job(queue)
    other, another = claim_job(queue)
    queue.record_executions(another.id, [(0, 1, "passed", "{}")])
    submit_job(queue)
    job, attempt = claim_job(queue)
    queue.record_executions(attempt.id, [(0, 1, "passed", "{}")])
    queue.finish(attempt.id, EndReason.COMPLETED, "", 3.0)
    queue.record_package(job.number, "d", 1, 4.0)
    queue.acknowledge(job, "d", 5.0)
    assert queue.forget(job).state == State.HARVESTED
    assert [left.id for left in queue.list_jobs()] == [other.id]
    assert (queue.get_tests(job.number), queue.get_attempts(job.number)) == ([], [])
    assert list(queue.read_executions(attempt.id)) == []
    assert len(list(queue.read_executions(another.id))) == 1
    with expect_refusal("unknown"):
        queue.forget(job)
    assert queue.is_cancel_requested(job.number)


def test_a_job_that_is_not_harvested_is_forgotten_by_force_only(queue: Queue) -> None:
    job = bring_to_state(queue, State.READY)
    with pytest.raises(RequestRefused, match="is not harvested") as caught:
        queue.forget(job)
    assert caught.value.kind == "state"
    assert queue.forget(job, force=True) == job
    assert not queue.list_jobs()


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.PACKAGING])
def test_no_force_forgets_a_job_that_has_not_ended(queue: Queue, state: State) -> None:
    job = bring_to_state(queue, state)
    with expect_refusal("state"):
        queue.forget(job, force=True)
    assert queue.find(job.id) == job


def test_numbers_of_forgotten_jobs_are_not_used_again(queue: Queue) -> None:
    job = bring_to_state(queue, State.HARVESTED)
    queue.forget(job)
    assert submit_job(queue).number > job.number


# -- retention ------------------------------------------------------------------------


def kept(queue: Queue, *sizes: int, state: State = State.HARVESTED) -> list[int]:
    numbers = []
    for size in sizes:
        submit_job(queue)
        job, attempt = claim_job(queue)
        queue.finish(attempt.id, EndReason.COMPLETED, "", 1.0)
        queue.record_package(job.number, "d", size, 1.0)
        if state == State.HARVESTED:
            # The clock runs backwards: the order of jobs counts, not the time.
            queue.acknowledge(job, "d", 1000.0 - job.number)
        numbers.append(job.number)
    return numbers


def overdue(queue: Queue, bound: int) -> list[int]:
    queue.set_setting("kept_bytes", bound)
    return [job.number for job in queue.list_overdue()]


def test_the_oldest_harvested_packages_go_first(queue: Queue) -> None:
    numbers = kept(queue, 10, 20, 30)
    assert overdue(queue, 60) == []
    assert overdue(queue, 59) == numbers[:1]
    assert overdue(queue, 49) == numbers[:2]
    assert overdue(queue, 0) == numbers


def test_unharvested_packages_stay_unless_a_setting_drops_them(queue: Queue) -> None:
    waiting = kept(queue, 100, 100, state=State.READY)
    harvested = kept(queue, 10)
    bring_to_state(queue, State.PACKAGING)
    assert overdue(queue, 10) == []
    assert overdue(queue, 0) == harvested
    queue.set_setting("drop_unharvested", 1)
    assert overdue(queue, 200) == harvested
    assert overdue(queue, 150) == [*harvested, waiting[0]]
    assert overdue(queue, 0) == [*harvested, *waiting]


def test_contents_are_referred_to_until_the_last_job_is_forgotten(queue: Queue) -> None:
    a, b, c = (make_content(letter) for letter in "abc")
    first = bring_to_state(queue, State.HARVESTED, tests=a, build=b)
    second = bring_to_state(queue, State.HARVESTED, tests=c, build=b)
    assert queue.get_referenced_contents() == {x[:3] for x in (a, b, c)}
    queue.forget(first)
    assert queue.get_referenced_contents() == {b[:3], c[:3]}
    queue.forget(second)
    assert queue.get_referenced_contents() == set()


# -- settings, worker -----------------------------------------------------------------


def test_settings_have_defaults_and_stay(queue: Queue) -> None:
    assert {each: queue.get_setting(each) for each in SETTINGS} == SETTINGS
    queue.set_setting("kept_bytes", 5)
    with Queue(queue.folder) as other:
        assert other.get_setting("kept_bytes") == 5


@pytest.mark.parametrize(
    ("key", "value"), [("waitin", 1), ("waiting", -1), ("waiting", "5"), ("waiting", True),
                       ("waiting", 1 << 63)],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(queue: Queue, key: str, value: int) -> None:
    with expect_refusal("bad"):
        queue.set_setting(key, value)
    assert queue.get_setting("waiting") == SETTINGS["waiting"]


def test_there_is_one_worker(queue: Queue) -> None:
    assert queue.get_worker() is None
    queue.register_worker(WORKER, CODE, 1.0)
    queue.register_worker(NEXT_WORKER, "new", 2.0)
    worker = queue.get_worker()
    assert worker is not None
    assert (worker.identity, worker.code, worker.registered_at) == (NEXT_WORKER, "new", 2.0)


@pytest.mark.parametrize("state", State)
def test_a_worker_leaves_when_nothing_is_left_to_do(queue: Queue, state: State) -> None:
    queue.register_worker(WORKER, CODE, 1.0)
    bring_to_state(queue, state)
    idle = state in (State.READY, State.HARVESTED)
    assert queue.deregister_if_idle(WORKER) is idle
    assert (queue.get_worker() is None) is idle


def test_a_worker_removes_no_other_one(queue: Queue) -> None:
    queue.register_worker(NEXT_WORKER, CODE, 1.0)
    assert queue.deregister_if_idle(WORKER)
    assert queue.get_worker() is not None


# -- the folder -----------------------------------------------------------------------


def test_jobs_are_beside_the_slots_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = Path(queue_location.find_queue_folder())
    resource_locks.open_shared_resources().close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {"jobs", "slots"} <= {path.name for path in folder.parent.iterdir()}
    with Queue(str(folder)) as queue:
        submit_job(queue)
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(["queue.db", "queue.db-wal", "queue.db-shm", "queue.lock"], 0o600)


def test_jobs_that_are_there_do_not_vanish_behind_a_better_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "file"
    bad.write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(bad))
    monkeypatch.setattr(state_dirs.tempfile, "tempdir", str(tmp_path))
    folder = queue_location.find_queue_folder()
    assert folder.startswith(f"{tmp_path}/.nosejobs-state-")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "good"))
    assert queue_location.find_queue_folder().startswith(f"{tmp_path}/good/")
    with Queue(folder):
        pass
    assert queue_location.find_queue_folder() == folder


def test_no_folder_for_jobs_is_an_error_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "file"
    bad.write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(bad))
    monkeypatch.setattr(state_dirs.tempfile, "tempdir", str(bad))
    with pytest.raises(OSError, match=r"jobs of this host: .*file.*Not a directory; .*file"):
        queue_location.find_queue_folder()


# -- rows of other versions -----------------------------------------------------------


def changed(queue: Queue, column: str, value: object, table: str = "job") -> None:
    with queue._db.write_transaction() as db:
        db.execute(f"UPDATE {table} SET {column} = ?", (value,))


def test_fields_of_a_newer_version_are_ignored(queue: Queue) -> None:
    job = make_job(1)
    row = queue.submit(job, CODE, 1.0)
    changed(queue, "config", json.dumps({**job.config._asdict(), "new": 1}))
    changed(queue, "tests", json.dumps([*job.tests, "new"]))
    case = job.cases[0]
    text = json.dumps([case.nodeid, [*case.test, "new"], *case[2:], "new"])
    changed(queue, "row", text, "test")
    assert queue.find(job.id) == row
    assert queue.get_tests(row.number) == list(job.cases)


def test_fields_that_an_older_version_lacks_have_defaults(queue: Queue) -> None:
    job = make_job(1)
    row = queue.submit(job, CODE, 1.0)
    changed(queue, "config", "{}")
    changed(queue, "row", json.dumps(["t0.sh", [0, "t0.sh"]]), "test")
    assert queue.find(job.id) == row
    assert queue.get_tests(row.number) == list(job.cases)


def test_a_row_of_no_state_is_an_error_that_harms_no_other(queue: Queue) -> None:
    job = submit_job(queue)
    changed(queue, "state", "lost")
    good = submit_job(queue)
    with pytest.raises(
        RequestRefused, match=r"queue\.db has invalid content .*not changed"
    ) as caught:
        queue.find(job.id)
    assert caught.value.kind == "corrupt"
    assert queue.find(good.id) == good


@pytest.mark.parametrize(
    ("column", "value"),
    [("config", "{"), ("config", '{"attempts": "many"}'), ("tests", "[]"), ("tests", "null"),
     ("end_reason", "?"), ("labels", "5"), ("build", "7"), ("build", '["tree", 1, 1]')],
)  # fmt: skip
def test_a_row_that_cannot_be_read_can_be_ended_and_forgotten(
    queue: Queue, column: str, value: str
) -> None:
    """An unreadable row must not hold up the jobs after it."""
    job = submit_job(queue)
    changed(queue, column, value)
    good = submit_job(queue)
    claimed, attempt = claim_job(queue)
    assert claimed.id == job.id
    assert claimed.unreadable.startswith(f"{column}: ")
    queue.finish(attempt.id, EndReason.REFUSED, claimed.unreadable, 3.0)
    assert [each.id for each in queue.list_packaging()] == [job.id]
    assert [each.id for each in queue.list_jobs()] == [good.id, job.id]
    assert queue.get_referenced_contents() >= {good.tests[:3]}
    queue.record_package(job.number, "d", 1, 4.0)
    queue.forget(queue.acknowledge(job, "d", 5.0))
    assert claim_job(queue)[0] == queue.find(good.id)
    assert not queue.find(good.id).unreadable


def test_a_test_that_cannot_be_read_has_no_path(queue: Queue) -> None:
    job = submit_job(queue)
    with queue._db.write_transaction() as db:
        db.execute("UPDATE test SET row = '[' WHERE number = 1")
    good, odd = queue.get_tests(job.number)
    assert good.test.path == "t0.sh"
    assert (odd.test.id, odd.test.path, odd.properties[0][0]) == (1, "", "unreadable")


def test_an_attempt_in_an_unknown_phase_can_be_lost(queue: Queue) -> None:
    job, attempt = submit_job(queue), claim_job(queue)[1]
    changed(queue, "phase", "dreaming", "attempt")
    assert [each.id for each in queue.list_stale_attempts(NEXT_WORKER)] == [attempt.id]
    assert queue.lose(attempt.id, "its worker died", 3.0) == State.QUEUED
    assert queue.get_attempts(job.number)[0].phase == AttemptPhase.LOST


def test_a_long_log_is_copied_into_the_file_on_request(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker copies the log, so that no client has to wait for it."""
    monkeypatch.setattr("shell_runner.remote.jobs.database._CHECKPOINT_LOG_BYTES", 1 << 16)
    path = Path(queue.folder) / "queue.db"
    before = path.stat().st_size
    for _ in range(20):
        submit_job(queue, count=100)
    assert path.stat().st_size == before
    queue.checkpoint()
    assert path.stat().st_size > before
    assert queue.count_jobs()[State.QUEUED] == 20


def test_known_contents_are_those_of_another_job(queue: Queue) -> None:
    job = make_job()
    assert not queue.has_recent_reference(job, CODE)
    queue.submit(job, CODE, 1.0)
    again = job._replace(id=make_uuid())
    assert queue.has_recent_reference(again, CODE)
    assert not queue.has_recent_reference(again, "other")
    assert not queue.has_recent_reference(again._replace(tests=make_content("b")), CODE)
