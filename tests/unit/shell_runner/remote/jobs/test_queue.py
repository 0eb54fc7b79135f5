"""The queue of a host: what is handed in, in which order it leaves, and what is refused."""

import json
from pathlib import Path

import pytest

from shell_runner.remote.execution import host_resources
from shell_runner.remote.files import state_dirs
from shell_runner.remote.jobs import queue as module
from shell_runner.remote.jobs.queue import SETTINGS, How, Queue, Refused, State, Step
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.job import ARCHIVE, Content, JobConfig, JobTest
from tests.helpers.queue_factories import (
    CODE,
    NEXT_WORKER,
    WORKER,
    brought,
    claimed,
    content,
    name,
    new_job,
    refused,
    submitted,
)

# -- submit -------------------------------------------------------------------------


def test_a_job_comes_back_as_it_was_handed_in(queue: Queue) -> None:
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
    job = new_job(config=config, build=build, name="n\udcff", labels=("x", "y"), priority=-3)
    job = job._replace(cases=cases)
    row = queue.submit(job, CODE, 12.5)
    assert (row.id, row.config, row.build, row.tests) == (job.id, config, build, job.tests)
    assert (row.labels, row.priority, row.count, row.submitted) == (("x", "y"), -3, 2, 12.5)
    assert (row.state, row.how, row.code, row.name) == (State.QUEUED, None, CODE, "n\\udcff")
    assert queue.tests(row.number) == list(cases)
    assert queue.find(job.id) == row


def test_tests_are_numbered_by_their_place(queue: Queue) -> None:
    cases = tuple(JobTest(f"{n}", model.Test(n, "t")) for n in (7, 7, 3))
    row = queue.submit(new_job()._replace(cases=cases), CODE, 1.0)
    assert [(case.nodeid, case.test.id) for case in queue.tests(row.number)] == [
        ("7", 0), ("7", 1), ("3", 2),
    ]  # fmt: skip


def test_what_is_submitted_again_has_the_same_answer(queue: Queue) -> None:
    job = new_job(labels=("x",))
    first = queue.submit(job, CODE, 1.0)
    assert queue.submit(job, "other code", 2.0) == first
    attempt = claimed(queue)[1]
    assert queue.submit(job, CODE, 3.0).state == State.RUNNING
    queue.finish(attempt.id, How.COMPLETED, "", 1.0)
    assert queue.counts()[State.PACKAGING] == sum(queue.counts().values()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"name": "other"},
        {"labels": ("x",)},
        {"priority": 1},
        {"tests": content("b")},
        {"build": content("b")},
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
    job = new_job()
    before = queue.submit(job, CODE, 1.0)
    with refused("differs"):
        queue.submit(job._replace(**other), CODE, 1.0)
    assert queue.find(job.id) == before
    assert len(queue.tests(before.number)) == 2


def test_a_full_queue_names_its_bound(queue: Queue) -> None:
    queue.set_setting("waiting", 2)
    jobs = [new_job(), new_job()]
    for job in jobs:
        queue.submit(job, CODE, 1.0)
    with pytest.raises(Refused, match=r"^2 jobs wait already.*waiting") as caught:
        submitted(queue)
    assert caught.value.kind == "full"
    assert queue.submit(jobs[0], CODE, 1.0).id == jobs[0].id
    claimed(queue)
    submitted(queue)


@pytest.mark.parametrize(
    "values",
    [{"id": "../../etc"}, {"id": ""}, {"id": name().upper()}, {"priority": 1 << 70},
     {"priority": 1.5}, {"priority": True}],
)  # fmt: skip
def test_what_no_row_may_have_is_refused(queue: Queue, values: dict[str, object]) -> None:
    with refused("bad"):
        submitted(queue, **values)
    assert not queue.jobs()


# -- find and list --------------------------------------------------------------------


def test_a_job_is_found_by_a_unique_beginning(queue: Queue) -> None:
    tail = name()[8:]
    for head in ("abcd0000", "abcd0001", "abce0000", "ffffffff"):
        submitted(queue, id=head + tail)
    assert queue.find("abce").id == "abce0000" + tail
    assert queue.find("FFFF").id == "ffffffff" + tail
    assert queue.find("abcd0001").id == queue.find("abcd0001" + tail).id == "abcd0001" + tail
    with pytest.raises(Refused, match=r"abcd0000.*abcd0001") as caught:
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
def test_what_is_not_found_is_refused(queue: Queue, text: str, kind: str) -> None:
    submitted(queue, id="abce" + name()[4:])
    with refused(kind):
        queue.find(text)


def test_lists_have_the_newest_first_and_go_on(queue: Queue) -> None:
    all_jobs = [submitted(queue, priority=n % 2).number for n in range(7)]
    first = queue.jobs(limit=3)
    assert [job.number for job in first] == all_jobs[:-4:-1]
    rest = queue.jobs(before=first[-1].number)
    assert [job.number for job in rest] == all_jobs[3::-1]
    assert queue.jobs(limit=-1) == []


def test_lists_are_of_states_and_labels(queue: Queue) -> None:
    ready = brought(queue, State.READY, labels=("a", 'b"', ","))
    running = brought(queue, State.RUNNING, labels=('a","b',))
    waiting = submitted(queue, labels=("b", "ä"))

    def listed(*states: State, label: str = "") -> list[str]:
        return [job.id for job in queue.jobs(states, label)]

    assert listed(State.READY) == [ready.id]
    assert listed(State.QUEUED, State.RUNNING, State.QUEUED) == [waiting.id, running.id]
    assert listed(State.QUEUED, State.READY, label="a") == [ready.id]
    assert (listed(label="b"), listed(label="ä")) == ([waiting.id], [waiting.id])
    assert (listed(label=","), listed(label='b"')) == ([ready.id], [ready.id])
    assert listed(label='a","b') == [running.id]
    for no in ("c", '"', '", "', "a\n", '",\n"', "%"):
        assert listed(label=no) == []


def test_counts_name_every_state(queue: Queue) -> None:
    assert queue.counts() == dict.fromkeys(State, 0)
    brought(queue, State.READY)
    submitted(queue)
    submitted(queue)
    assert queue.counts() == {**dict.fromkeys(State, 0), State.READY: 1, State.QUEUED: 2}


# -- order --------------------------------------------------------------------------


def test_jobs_start_by_priority_then_by_number(queue: Queue) -> None:
    ids = [submitted(queue, priority=priority).id for priority in (0, 5, 0, -1, 5)]
    started = [claimed(queue)[0].id for _ in ids]
    assert started == [ids[n] for n in (1, 4, 0, 2, 3)]
    assert queue.claim(WORKER, CODE, name(), 1.0) is None


def test_a_job_knows_how_many_are_ahead(queue: Queue) -> None:
    brought(queue, State.READY)
    brought(queue, State.RUNNING)
    low, first, second, high = (submitted(queue, priority=p) for p in (-1, 0, 0, 1))
    assert [queue.ahead(job) for job in (high, first, second, low)] == [1, 2, 3, 4]
    assert queue.ahead(queue.jobs([State.READY])[0]) == 0


def test_the_next_job_wants_its_own_code(queue: Queue) -> None:
    assert queue.next_code() == ""
    old = queue.submit(new_job(), "old", 1.0)
    queue.submit(new_job(), CODE, 1.0)
    assert queue.next_code() == "old"
    assert queue.claim(WORKER, CODE, name(), 1.0) is None
    found = queue.claim(WORKER, "old", name(), 1.0)
    assert found is not None
    assert found[0].id == old.id
    assert queue.next_code() == CODE


# -- cancel, acknowledge, forget ------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(queue: Queue) -> None:
    job = queue.cancel(submitted(queue), 9.0)
    assert (job.state, job.how, job.cancelled, job.ended) == (
        State.PACKAGING,
        How.CANCELLED,
        True,
        9.0,
    )
    assert queue.packaging() == [job]
    assert queue.claim(WORKER, CODE, name(), 1.0) is None
    assert queue.packaged(job.number, "d", 1, 1.0).state == State.READY


def test_a_running_job_is_asked_for_its_end(queue: Queue) -> None:
    submitted(queue)
    job, attempt = claimed(queue)
    assert not queue.is_cancelled(job.number)
    assert queue.cancel(job, 1.0).state == State.RUNNING
    assert queue.cancel(job, 2.0).cancelled
    assert queue.is_cancelled(job.number)
    queue.finish(attempt.id, How.CANCELLED, "", 3.0)
    assert queue.find(job.id).how == How.CANCELLED


@pytest.mark.parametrize("state", [State.PACKAGING, State.READY, State.HARVESTED])
def test_what_has_ended_cannot_be_cancelled(queue: Queue, state: State) -> None:
    job = brought(queue, state)
    with pytest.raises(Refused, match=rf"is {state} \(completed\): cancel is not") as caught:
        queue.cancel(job, 9.0)
    assert caught.value.kind == "state"
    assert queue.find(job.id) == job
    assert not queue.is_cancelled(job.number)


def test_a_cancelled_job_that_is_lost_does_not_start_again(queue: Queue) -> None:
    submitted(queue)
    job, attempt = claimed(queue)
    queue.cancel(job, 1.0)
    assert queue.lose(attempt.id, "died", 2.0) == State.PACKAGING
    assert queue.find(job.id).how == How.CANCELLED


def test_a_package_is_acknowledged_by_its_digest(queue: Queue) -> None:
    job = brought(queue, State.READY, package="good")
    with refused("differs"):
        queue.acknowledge(job, "bad", 6.0)
    assert queue.find(job.id) == job
    first = queue.acknowledge(job, "good", 7.0)
    assert (first.state, first.harvested) == (State.HARVESTED, 7.0)
    assert queue.acknowledge(job, "good", 8.0) == first
    with refused("differs"):
        queue.acknowledge(job, "", 6.0)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.PACKAGING])
def test_only_a_package_is_acknowledged(queue: Queue, state: State) -> None:
    with refused("state"):
        queue.acknowledge(brought(queue, state), "", 6.0)


def test_a_harvested_job_is_forgotten_with_all_its_rows(queue: Queue) -> None:
    submitted(queue)
    other, another = claimed(queue)
    queue.record(another.id, [(0, 1, "passed", "{}")])
    submitted(queue)
    job, attempt = claimed(queue)
    queue.record(attempt.id, [(0, 1, "passed", "{}")])
    queue.finish(attempt.id, How.COMPLETED, "", 3.0)
    queue.packaged(job.number, "d", 1, 4.0)
    queue.acknowledge(job, "d", 5.0)
    assert queue.forget(job).state == State.HARVESTED
    assert [left.id for left in queue.jobs()] == [other.id]
    assert (queue.tests(job.number), queue.attempts(job.number)) == ([], [])
    assert list(queue.executions(attempt.id)) == []
    assert len(list(queue.executions(another.id))) == 1
    with refused("unknown"):
        queue.forget(job)
    assert queue.is_cancelled(job.number)


def test_what_nobody_has_harvested_is_forgotten_by_force_only(queue: Queue) -> None:
    job = brought(queue, State.READY)
    with pytest.raises(Refused, match="nobody has harvested") as caught:
        queue.forget(job)
    assert caught.value.kind == "state"
    assert queue.forget(job, force=True) == job
    assert not queue.jobs()


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.PACKAGING])
def test_no_force_forgets_what_has_not_ended(queue: Queue, state: State) -> None:
    job = brought(queue, state)
    with refused("state"):
        queue.forget(job, force=True)
    assert queue.find(job.id) == job


def test_numbers_of_forgotten_jobs_are_not_used_again(queue: Queue) -> None:
    job = brought(queue, State.HARVESTED)
    queue.forget(job)
    assert submitted(queue).number > job.number


# -- retention ------------------------------------------------------------------------


def kept(queue: Queue, *sizes: int, state: State = State.HARVESTED) -> list[int]:
    numbers = []
    for size in sizes:
        submitted(queue)
        job, attempt = claimed(queue)
        queue.finish(attempt.id, How.COMPLETED, "", 1.0)
        queue.packaged(job.number, "d", size, 1.0)
        if state == State.HARVESTED:
            # The clock runs backwards: dates do not count.
            queue.acknowledge(job, "d", 1000.0 - job.number)
        numbers.append(job.number)
    return numbers


def overdue(queue: Queue, bound: int) -> list[int]:
    queue.set_setting("kept_bytes", bound)
    return [job.number for job in queue.overdue()]


def test_the_oldest_harvested_packages_go_first(queue: Queue) -> None:
    numbers = kept(queue, 10, 20, 30)
    assert overdue(queue, 60) == []
    assert overdue(queue, 59) == numbers[:1]
    assert overdue(queue, 49) == numbers[:2]
    assert overdue(queue, 0) == numbers


def test_what_is_not_harvested_never_goes_unless_told_so(queue: Queue) -> None:
    waiting = kept(queue, 100, 100, state=State.READY)
    harvested = kept(queue, 10)
    brought(queue, State.PACKAGING)
    assert overdue(queue, 10) == []
    assert overdue(queue, 0) == harvested
    queue.set_setting("drop_unharvested", 1)
    assert overdue(queue, 200) == harvested
    assert overdue(queue, 150) == [*harvested, waiting[0]]
    assert overdue(queue, 0) == [*harvested, *waiting]


def test_contents_are_referred_to_until_the_last_job_is_forgotten(queue: Queue) -> None:
    a, b, c = (content(letter) for letter in "abc")
    first = brought(queue, State.HARVESTED, tests=a, build=b)
    second = brought(queue, State.HARVESTED, tests=c, build=b)
    assert queue.referred() == {x[:3] for x in (a, b, c)}
    queue.forget(first)
    assert queue.referred() == {b[:3], c[:3]}
    queue.forget(second)
    assert queue.referred() == set()


# -- settings, worker -----------------------------------------------------------------


def test_settings_have_defaults_and_stay(queue: Queue) -> None:
    assert {each: queue.setting(each) for each in SETTINGS} == SETTINGS
    queue.set_setting("kept_bytes", 5)
    with Queue(queue.folder) as other:
        assert other.setting("kept_bytes") == 5


@pytest.mark.parametrize(
    ("key", "value"), [("waitin", 1), ("waiting", -1), ("waiting", "5"), ("waiting", True),
                       ("waiting", 1 << 63)],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(queue: Queue, key: str, value: int) -> None:
    with refused("bad"):
        queue.set_setting(key, value)
    assert queue.setting("waiting") == SETTINGS["waiting"]


def test_there_is_one_worker(queue: Queue) -> None:
    assert queue.worker() is None
    queue.enter(WORKER, CODE, 1.0)
    queue.enter(NEXT_WORKER, "new", 2.0)
    found = queue.worker()
    assert found is not None
    assert (found.identity, found.code, found.since) == (NEXT_WORKER, "new", 2.0)


@pytest.mark.parametrize("state", State)
def test_a_worker_leaves_when_nothing_is_left_to_do(queue: Queue, state: State) -> None:
    queue.enter(WORKER, CODE, 1.0)
    brought(queue, state)
    idle = state in (State.READY, State.HARVESTED)
    assert queue.leave_if_idle(WORKER) is idle
    assert (queue.worker() is None) is idle


def test_a_worker_removes_no_other_one(queue: Queue) -> None:
    queue.enter(NEXT_WORKER, CODE, 1.0)
    assert queue.leave_if_idle(WORKER)
    assert queue.worker() is not None


# -- the folder -----------------------------------------------------------------------


def test_jobs_are_beside_the_slots_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = Path(module.folder())
    host_resources.shared().close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {"jobs", "slots"} <= {path.name for path in folder.parent.iterdir()}
    with Queue(str(folder)) as queue:
        submitted(queue)
        found = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert found == dict.fromkeys(["queue.db", "queue.db-wal", "queue.db-shm", "queue.lock"], 0o600)


def test_jobs_that_are_there_do_not_vanish_behind_a_better_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "file"
    bad.write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(bad))
    monkeypatch.setattr(state_dirs.tempfile, "tempdir", str(tmp_path))
    folder = module.folder()
    assert folder.startswith(f"{tmp_path}/.nosejobs-state-")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "good"))
    assert module.folder().startswith(f"{tmp_path}/good/")
    with Queue(folder):
        pass
    assert module.folder() == folder


def test_no_folder_for_jobs_is_an_error_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "file"
    bad.write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(bad))
    monkeypatch.setattr(state_dirs.tempfile, "tempdir", str(bad))
    with pytest.raises(OSError, match=r"jobs of this host: .*file.*Not a directory; .*file"):
        module.folder()


# -- rows of other versions -----------------------------------------------------------


def changed(queue: Queue, column: str, value: object, table: str = "job") -> None:
    with queue._db.writing() as db:
        db.execute(f"UPDATE {table} SET {column} = ?", (value,))


def test_what_a_newer_version_adds_to_a_row_is_left_out(queue: Queue) -> None:
    job = new_job(1)
    row = queue.submit(job, CODE, 1.0)
    changed(queue, "config", json.dumps({**job.config._asdict(), "new": 1}))
    changed(queue, "tests", json.dumps([*job.tests, "new"]))
    case = job.cases[0]
    text = json.dumps([case.nodeid, [*case.test, "new"], *case[2:], "new"])
    changed(queue, "row", text, "test")
    assert queue.find(job.id) == row
    assert queue.tests(row.number) == list(job.cases)


def test_what_an_older_version_left_out_has_its_default(queue: Queue) -> None:
    job = new_job(1)
    row = queue.submit(job, CODE, 1.0)
    changed(queue, "config", "{}")
    changed(queue, "row", json.dumps(["t0.sh", [0, "t0.sh"]]), "test")
    assert queue.find(job.id) == row
    assert queue.tests(row.number) == list(job.cases)


def test_a_row_of_no_state_is_an_error_that_harms_no_other(queue: Queue) -> None:
    job = submitted(queue)
    changed(queue, "state", "lost")
    good = submitted(queue)
    with pytest.raises(Refused, match=r"queue\.db cannot be understood .*left as it is") as caught:
        queue.find(job.id)
    assert caught.value.kind == "corrupt"
    assert queue.find(good.id) == good


@pytest.mark.parametrize(
    ("column", "value"),
    [("config", "{"), ("config", '{"attempts": "many"}'), ("tests", "[]"), ("tests", "null"),
     ("how", "?"), ("labels", "5"), ("build", "7"), ("build", '["tree", 1, 1]')],
)  # fmt: skip
def test_a_row_that_cannot_be_read_can_be_ended_and_forgotten(
    queue: Queue, column: str, value: str
) -> None:
    """It must not hold up what comes after it."""
    job = submitted(queue)
    changed(queue, column, value)
    good = submitted(queue)
    found, attempt = claimed(queue)
    assert found.id == job.id
    assert found.unreadable.startswith(f"{column}: ")
    queue.finish(attempt.id, How.REFUSED, found.unreadable, 3.0)
    assert [each.id for each in queue.packaging()] == [job.id]
    assert [each.id for each in queue.jobs()] == [good.id, job.id]
    assert queue.referred() >= {good.tests[:3]}
    queue.packaged(job.number, "d", 1, 4.0)
    queue.forget(queue.acknowledge(job, "d", 5.0))
    assert claimed(queue)[0] == queue.find(good.id)
    assert not queue.find(good.id).unreadable


def test_a_test_that_cannot_be_read_has_no_path(queue: Queue) -> None:
    job = submitted(queue)
    with queue._db.writing() as db:
        db.execute("UPDATE test SET row = '[' WHERE number = 1")
    good, odd = queue.tests(job.number)
    assert good.test.path == "t0.sh"
    assert (odd.test.id, odd.test.path, odd.properties[0][0]) == (1, "", "unreadable")


def test_an_attempt_at_an_unknown_step_can_be_lost(queue: Queue) -> None:
    job, attempt = submitted(queue), claimed(queue)[1]
    changed(queue, "step", "dreaming", "attempt")
    assert [each.id for each in queue.stale(NEXT_WORKER)] == [attempt.id]
    assert queue.lose(attempt.id, "its worker died", 3.0) == State.QUEUED
    assert queue.attempts(job.number)[0].step == Step.LOST


def test_a_long_log_is_moved_into_the_file_by_who_is_told_to(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is; whoever waits for the answer to a submit never has to."""
    monkeypatch.setattr("shell_runner.remote.jobs.database._MUCH", 1 << 16)
    path = Path(queue.folder) / "queue.db"
    before = path.stat().st_size
    for _ in range(20):
        submitted(queue, count=100)
    assert path.stat().st_size == before
    queue.tidy()
    assert path.stat().st_size > before
    assert queue.counts()[State.QUEUED] == 20


def test_known_contents_are_those_of_another_job(queue: Queue) -> None:
    job = new_job()
    assert not queue.refers(job, CODE)
    queue.submit(job, CODE, 1.0)
    again = job._replace(id=name())
    assert queue.refers(again, CODE)
    assert not queue.refers(again, "other")
    assert not queue.refers(again._replace(tests=content("b")), CODE)
