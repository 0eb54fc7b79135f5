"""Tests of queries and updates: each step is performed once; a repeated or late one is reported."""

from dataclasses import replace
from itertools import product

import pytest
from sqlalchemy import event, update

from dispatcher import model
from dispatcher.model import (
    BuildEvent,
    BuildState,
    Change,
    Decision,
    DecisionKind,
    Host,
    HostState,
    Job,
    JobEvent,
    JobState,
    StageEvent,
    StageRun,
    StageState,
    Tag,
)
from dispatcher.store import (
    Store,
    api_queries,
    audit,
    builds,
    changes,
    durations,
    hosts,
    jobs,
    key_values,
    result_retention,
    row_mapping,
    stage_runs,
    tables,
    tags,
)

from ..row_factories import add_all, add_build, add_built, add_jobs, add_run, give_up, uuid

ODD_TEXTS = ["b\udcffd", "a\0b", "\ud800", "Ünïcödé", "x" * 100_000, ""]


# -- sources and changes ------------------------------------------------------------


def test_a_source_keeps_its_number(store: Store) -> None:
    with store.write() as connection:
        first = changes.ensure_source(connection, "a", "git")
        assert changes.ensure_source(connection, "b", "git") != first
        assert changes.ensure_source(connection, "a", "directory") == first
        changes.record_poll(connection, first, 5.0, "host is away")
        assert changes.list_sources(connection)[0] == (first, "a", "directory", "host is away", 5.0)


def test_a_head_moves_once(store: Store) -> None:
    with store.write() as connection:
        source = changes.ensure_source(connection, "a", "git")
        assert changes.move_head(connection, source, "main", "", "r1")
        assert not changes.move_head(connection, source, "main", "", "r2")
        assert changes.move_head(connection, source, "main", "r1", "r2")
        assert not changes.move_head(connection, source, "main", "r1", "r2")
        assert changes.revisions_by_branch(connection, source) == {"main": "r2"}
        assert not changes.move_head(connection, source, "main", "r1", "")
        assert changes.move_head(connection, source, "main", "r2", "")
        assert changes.revisions_by_branch(connection, source) == {}


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_no_text_stops_a_transaction(store: Store, text: str) -> None:
    with store.write() as connection:
        source = changes.ensure_source(connection, "a", "git")
        change = changes.add(connection, Change(source, text, "r", author=text, subject=text))
        row = changes.get(connection, change)
        assert row is not None
        assert row.author == row.subject == tables.escape_invalid_characters(text)
        assert tables.escape_invalid_characters(row.branch) == row.branch


def test_escaped_text_shows_the_invalid_bytes() -> None:
    escaped = [tables.escape_invalid_characters(text) for text in ODD_TEXTS[:4]]
    assert escaped == [r"b\xffd", r"a\x00b", r"\ud800", "Ünïcödé"]


# -- compare and set ----------------------------------------------------------------

CASES = [
    *(("build", *pair) for pair in product(BuildState, BuildEvent)),
    *(("stage_run", *pair) for pair in product(StageState, StageEvent)),
    *(("job", *pair) for pair in product(JobState, JobEvent)),
]


def test_rows_change_by_the_tables_only(store: Store) -> None:
    moves = {
        "build": (builds.apply_event, model.BUILD_TRANSITIONS),
        "stage_run": (stage_runs.apply_event, model.STAGE_TRANSITIONS),
        "job": (jobs.apply_event, model.JOB_TRANSITIONS),
    }
    with store.write() as connection:
        keys = dict(zip(moves, add_all(connection), strict=True))
        for name, state, happens in CASES:
            table = tables.METADATA.tables[name]
            where = table.c.id == keys[name]
            connection.execute(update(table).where(where).values(state=state.value, detail=""))
            move, by = moves[name]
            after = by.get((state, happens))
            done = move(connection, keys[name], happens, detail="new")
            row = connection.execute(table.select().where(where)).one()
            assert done == (after is not None), (name, state, happens)
            assert row.state == (after or state).value
            assert row.detail == ("new" if done else "")
            # A repeated event changes nothing, unless the new state has a transition for it.
            if done and after is not None:
                again = (after, happens) in by and by[after, happens] != after
                repeated = move(connection, keys[name], happens, detail="new")
                assert repeated == again, (name, state, happens)


def test_a_new_detail_of_the_same_state_is_a_change(store: Store) -> None:
    with store.write() as connection:
        run = add_run(connection, add_build(connection))
        assert stage_runs.apply_event(connection, run, StageEvent.READY, detail="no host has gpu")
        assert not stage_runs.apply_event(
            connection, run, StageEvent.READY, detail="no host has gpu"
        )
        assert stage_runs.apply_event(connection, run, StageEvent.READY, detail="h1 is busy")
        assert not stage_runs.apply_event(connection, run, StageEvent.READY)


# -- builds -------------------------------------------------------------------------


def test_builds_come_back_as_they_are(store: Store) -> None:
    with store.write() as connection:
        number = add_build(connection)
        builds.update_fields(
            connection, number, tree_digest="t", config={"stages": {}}, inputs_digest="i"
        )
        row = builds.get(connection, number)
        assert row is not None
        assert (row.state, row.config, row.level) == (BuildState.NEW, {"stages": {}}, "goop")
        assert builds.get(connection, 99) is None
        assert builds.set_level(connection, number, "published")
        assert not builds.set_level(connection, number, "published")


def test_only_what_was_built_here_and_is_still_there_is_reused(store: Store) -> None:
    with store.write() as connection:
        first = add_built(connection, "d1", "same")
        source = changes.ensure_source(connection, "here", "git")
        elsewhere = changes.ensure_source(connection, "elsewhere", "git")
        add_build(connection)
        row = builds.find_reusable(connection, source, "same")
        assert row is not None
        assert row.id == first
        assert builds.find_reusable(connection, elsewhere, "same") is None
        assert builds.find_reusable(connection, source, "other") is None
        assert builds.find_reusable(connection, source, "") is None
        result_retention.remove_results(connection, first, 9.0)
        assert builds.find_reusable(connection, source, "same") is None


def test_active_builds_are_those_that_can_still_change(store: Store) -> None:
    with store.write() as connection:
        new = add_build(connection)
        failed = add_build(connection)
        builds.apply_event(connection, failed, BuildEvent.FAIL)
        waits, blocked, done = (add_built(connection) for _ in range(3))
        add_run(connection, waits)
        stage_runs.apply_event(connection, add_run(connection, blocked), StageEvent.BLOCK)
        stage_runs.apply_event(connection, add_run(connection, done), StageEvent.CANCEL)
        assert builds.list_active_ids(connection) == [new, waits]
        source = changes.ensure_source(connection, "here", "git")
        assert [each.id for each in builds.list_new_on_branch(connection, source, "main")] == [new]


# -- stage runs and jobs ------------------------------------------------------------


def test_a_run_of_a_stage_is_added_once(store: Store) -> None:
    with store.write() as connection:
        build = add_build(connection)
        only = ("a::b", "ü")
        assert stage_runs.next_number(connection, build, "unit") == 1
        first = stage_runs.add(connection, StageRun(0, build, "unit", 1, selected_tests=only))
        assert stage_runs.add(connection, StageRun(0, build, "unit", 1)) is None
        assert stage_runs.next_number(connection, build, "unit") == 2
        second = add_run(connection, build, "unit", 2)
        rows = stage_runs.list_by_build(connection, build)
        assert [each.id for each in rows] == [first, second]
        assert [each.selected_tests for each in rows] == [only, None]


def test_a_part_has_one_job_an_attempt(store: Store) -> None:
    with store.write() as connection:
        run = add_run(connection, add_build(connection))
        job = Job(uuid(1), run, "h1", tests=("a",), planned_at=1.0)
        other = Job(uuid(2), run, "h2", planned_at=1.0)
        assert jobs.plan(connection, [job]) == [uuid(1)]
        assert jobs.plan(connection, [job, other]) == []
        again = Job(uuid(2), run, "h2", attempt=2, planned_at=2.0)
        assert jobs.plan(connection, [again]) == [uuid(2)]
        assert jobs.list_by_run(connection, run) == [job, again]
        assert jobs.count_open_by_host(connection) == {"h1": 1, "h2": 1}
        assert jobs.list_in_state(connection, JobState.PLANNED, host="h2") == [again]
        jobs.apply_event(connection, job.id, JobEvent.LOSE)
        assert jobs.count_open_by_host(connection) == {"h2": 1}


# -- tags and decisions -------------------------------------------------------------


def test_a_tag_is_given_once_revoked_once_and_given_again(store: Store) -> None:
    with store.write() as connection:
        build, run, job = add_all(connection)
        tag = Tag(0, build, "d1", "unit", "c1", run, (job,), granted_at=5.0)
        first = tags.grant_tag(connection, tag)
        assert first is not None
        assert tags.grant_tag(connection, tag) is None
        assert tags.revoke_tag(connection, first, actor="ann", reason="flaky", at=6.0)
        assert not tags.revoke_tag(connection, first, actor="bob", reason="me too", at=7.0)
        assert tags.grant_tag(connection, tag) is None  # what a person revoked stays revoked
        again = add_run(connection, build, number=2)
        second = tags.grant_tag(connection, replace(tag, stage_run=again))
        old, new = tags.list_by_build(connection, build)
        assert (old.id, old.is_valid, old.revocation_reason, old.serial) == (
            first,
            False,
            "flaky",
            first,
        )
        assert (new.id, new.is_valid, new.jobs) == (second, True, (job,))
        entries = [
            (each.actor, each.action, each.detail) for each in audit.list_entries(connection)
        ]
    given, revoked = ("policy", "tag unit", ""), ("ann", "revoke unit", "flaky")
    assert entries == [given, revoked, given]


def test_the_last_decision_counts(store: Store) -> None:
    with store.write() as connection:
        build = add_build(connection)
        held = Decision(build, "unit", DecisionKind.HELD, "ann", "wait", 1.0)
        approved = Decision(build, "unit", DecisionKind.APPROVED, "bob", decided_at=2.0)
        assert tags.record_decision(connection, held)
        assert not tags.record_decision(connection, held)
        assert tags.record_decision(connection, approved)
        assert tags.list_decisions(connection, build) == [approved]
        assert [each.actor for each in audit.list_entries(connection, build=build)] == [
            "bob",
            "ann",
        ]


# -- hosts --------------------------------------------------------------------------


def test_the_state_of_a_host_survives_its_configuration(store: Store) -> None:
    host = Host("h1", "ssh=h1", ("linux",))
    with store.write() as connection:
        hosts.configure(connection, host)
        hosts.record_contact(connection, "h1", 5.0, {"cores": 2})
        hosts.configure(connection, Host("h1", "ssh=other", ("gpu",), 3))
        row = hosts.get(connection, "h1")
        assert row == Host("h1", "ssh=other", ("gpu",), 3, last_seen_at=5.0, facts={"cores": 2})
        hosts.configure(connection, Host("p1", "popen", pool="local", state=HostState.STARTING))
        assert hosts.delete_unconfigured(connection, ["h2"]) == ["h1"]
        assert [each.name for each in hosts.list_all(connection)] == ["p1"]


def test_a_host_goes_down_and_comes_back(store: Store) -> None:
    with store.write() as connection:
        hosts.configure(connection, Host("h1", "x"))
        assert hosts.mark_down(connection, "h1", "no route")
        assert not hosts.mark_down(connection, "h1", "no route")
        assert hosts.record_contact(connection, "h1", 2.0)
        assert not hosts.record_contact(connection, "h1", 3.0)
        hosts.configure(connection, Host("h2", "x", state=HostState.STARTING))
        assert not hosts.mark_down(connection, "h2", "no route")
        assert hosts.record_contact(connection, "h2", 1.0)
        hosts.set_state(connection, "h1", HostState.DRAINING, actor="ann", at=4.0)
        assert not hosts.mark_down(connection, "h1", "no route")
        assert not hosts.record_contact(connection, "h1", 5.0)
        row = hosts.get(connection, "h1")
        assert row is not None
        assert row.state is HostState.DRAINING


def test_failures_in_a_row_quarantine_a_host(store: Store) -> None:
    with store.write() as connection:
        hosts.configure(connection, Host("h1", "x"))
        fail = {"limit": 3, "at": 1.0}
        assert not hosts.record_failure(connection, "h1", "disk full", **fail)
        assert not hosts.record_failure(connection, "h1", "disk full", **fail)
        hosts.record_success(connection, "h1")
        done = [hosts.record_failure(connection, "h1", "disk full", **fail) for _ in range(4)]
        assert done == [False, False, True, False]
        row = hosts.get(connection, "h1")
        assert row is not None
        assert (row.state, row.jobs_ended) == (HostState.QUARANTINED, 1)
        assert row.reason == "3 infrastructure failures in a row; the last one: disk full"
        assert hosts.set_state(connection, "h1", HostState.UP, actor="ann", at=2.0)
        row = hosts.get(connection, "h1")
        assert row is not None
        assert (row.consecutive_failures, row.reason) == (0, "")


# -- durations, key-value pairs ---------------------------------------------------------------


def test_durations_move_with_what_is_measured(store: Store) -> None:
    with store.write() as connection:
        durations.record(connection, 1, "unit", {"a": 10.0, "b\udcff": 1.0})
        durations.record(connection, 1, "unit", {"a": 20.0})
        means = durations.mean_seconds(connection, 1, "unit")
        assert means == {"a": pytest.approx(13.0), r"b\xff": 1.0}
        assert durations.mean_seconds(connection, 1, "smoke") == {}
        many = {f"t{number}": 1.0 for number in range(2500)}
        durations.record(connection, 2, "unit", many)
        assert durations.mean_seconds(connection, 2, "unit") == many


def test_values_are_kept_by_name(store: Store) -> None:
    with store.write() as connection:
        assert key_values.get(connection, "a") is None
        key_values.put(connection, "a", b"1")
        key_values.put(connection, "a", b"2")
        assert key_values.get(connection, "a") == b"2"


# -- views ------------------------------------------------------------------------


def count_queries(store: Store, run: object) -> int:
    queries: list[str] = []

    def record(connection: object, cursor: object, statement: str, *rest: object) -> None:
        queries.append(statement)

    event.listen(store.engine, "before_cursor_execute", record)
    try:
        run()
    finally:
        event.remove(store.engine, "before_cursor_execute", record)
    return sum(statement.startswith("SELECT") for statement in queries)


def test_a_list_takes_three_queries_however_long_it_is(store: Store) -> None:
    with store.write() as connection:
        for number in range(30):
            build = add_built(connection, f"d{number}", f"i{number}")
            run = add_run(connection, build)
            tags.grant_tag(connection, Tag(0, build, f"d{number}", "unit", "c", run))

    def read() -> None:
        with store.read() as connection:
            rows = api_queries.list_builds(connection)
        assert [each.build.id for each in rows] == list(range(30, 0, -1))
        assert {(len(each.runs), len(each.tags)) for each in rows} == {(1, 1)}

    assert count_queries(store, read) == 3


def test_lists_are_filtered_and_go_on(store: Store) -> None:
    with store.write() as connection:
        for number in range(6):
            add_build(connection, f"rev{number}%", "main" if number % 2 else "next")
        builds.set_level(connection, 4, "ship")

        def numbers(limit: int = 50, **fields: object) -> list[int]:
            conditions = api_queries.BuildFilter(**fields)
            return [
                each.build.id for each in api_queries.list_builds(connection, conditions, limit)
            ]

        assert numbers(branch="main") == [6, 4, 2]
        assert numbers(level="ship") == [4]
        assert numbers(revision="rev3") == [4]
        assert numbers(revision="%") == []
        assert numbers(state=BuildState.FAILED) == []
        assert numbers(source="elsewhere") == []
        assert numbers(2) == [6, 5]
        assert numbers(2, before=5) == [4, 3]


def test_a_build_is_read_with_all_its_rows(store: Store) -> None:
    with store.write() as connection:
        build, run, job = add_all(connection)
        give_up(connection, run, job)
        add_jobs(connection, run, "h2", attempt=2)

    def read() -> None:
        with store.read() as connection:
            detail = api_queries.get_build_detail(connection, build)
            assert api_queries.get_build_detail(connection, 99) is None
        assert detail is not None
        assert [each.host for each in detail.jobs] == ["h1", "h2"]
        assert detail.view.change.revision == "abc"

    assert count_queries(store, read) <= 10


# -- retention ----------------------------------------------------------------------


def test_old_results_go_and_builds_stay(store: Store) -> None:
    with store.write() as connection:
        old = [add_built(connection, f"d{number}", "i") for number in range(5)]
        builds.set_level(connection, old[0], "ship")
        add_run(connection, old[1])
        expired = result_retention.list_expired_builds(
            connection, before=9.0, keep=1, levels=["ship"]
        )
        assert expired == old[2:4]
        assert result_retention.list_expired_builds(connection, before=0.5, keep=0) == []
        assert result_retention.remove_results(connection, old[2], 9.0)
        assert not result_retention.remove_results(connection, old[2], 9.0)
        assert result_retention.list_expired_builds(
            connection, before=9.0, keep=1, levels=["ship"]
        ) == [old[3]]
        assert result_retention.list_referenced_digests(connection) == {"d0", "d1", "d3", "d4"}
        assert builds.get(connection, old[2]) is not None


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (3, [4]), (10_001, [10_000, 1])])
def test_lists_of_values_have_few_different_lengths(count: int, sizes: list[int]) -> None:
    values = list(row_mapping.split_into_parameters(range(count)))
    assert [len(each) for each in values] == sizes
    assert {value for each in values for value in each} == set(range(count))
