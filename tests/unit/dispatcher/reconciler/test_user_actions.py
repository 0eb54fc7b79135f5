"""Tests of actions of users: when they are possible, and that each writes one audit entry."""

import pytest
from sqlalchemy import Connection

from dispatcher.configuration import pipeline
from dispatcher.model import (
    BuildEvent,
    BuildState,
    Host,
    HostState,
    Job,
    JobEvent,
    StageEvent,
    StageRun,
    StageState,
)
from dispatcher.reconciler import user_actions
from dispatcher.reconciler.user_actions import ActionRefused, Attribution, UnknownName
from dispatcher.store import Store, audit, builds, hosts, jobs, results, stage_runs, tags
from dispatcher.store.results import PackageInfo, ResultRow

from ..row_factories import add_build, add_jobs, uuid

TREE = """
[build]
command = "make"
output = "dist"
[stages.unit]
[stages.smoke]
[levels]
published = ["unit", "smoke", "performance"]
"""
ANN = Attribution("ann", "to see", 9.0)


def add_configured_build(connection: Connection, *events: BuildEvent) -> int:
    """Add a build of the tree, apply events to it, and return its id."""
    build = add_build(connection)
    builds.update_fields(connection, build, config=pipeline.parse(TREE).as_json, inputs_digest="i1")
    for event in events or (BuildEvent.BEGIN, BuildEvent.FINISH):
        assert builds.apply_event(connection, build, event)
    return build


def add_run(connection: Connection, build: int, stage: str = "unit") -> int:
    run = stage_runs.add(connection, StageRun(0, build, stage))
    assert run is not None
    return run


def add_failed_run(connection: Connection, build: int, *names: str) -> int:
    """Add a failed run of unit with these failed tests, and return its id."""
    run = add_run(connection, build)
    (job,) = add_jobs(connection, run, "h1")
    rows = [ResultRow(number, name, "failed", "exit 1", 1.0) for number, name in enumerate(names)]
    rows.append(ResultRow(99, "fine", "passed", "exit 0", 1.0))
    results.record_package(connection, job, PackageInfo("p", "completed", 5.0), rows)
    assert stage_runs.apply_event(connection, run, StageEvent.FAIL, ended_at=6.0)
    return run


def last_entry(connection: Connection) -> audit.AuditEntry:
    return audit.list_entries(connection, limit=1)[0]


def test_an_approval_takes_the_place_of_a_hold(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection)
        assert user_actions.hold(connection, build, "unit", ANN)
        assert not user_actions.hold(connection, build, "unit", ANN)
        assert user_actions.approve(connection, build, "unit", ANN)
        (decision,) = tags.list_decisions(connection, build)
        assert (decision.kind, decision.actor) == ("approved", "ann")
        assert last_entry(connection)[1:] == (9.0, "ann", "approved unit", build, "to see")


def test_an_unknown_name_is_an_error_that_suggests_a_known_one(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection)
        with pytest.raises(UnknownName, match=r"no stage 'smok'; did you mean 'smoke'\?"):
            user_actions.approve(connection, build, "smok", ANN)
        with pytest.raises(UnknownName, match="there is no build 77"):
            user_actions.cancel(connection, 77, ANN)
        with pytest.raises(UnknownName, match="has no tag 'unit'; it has none"):
            user_actions.revoke(connection, build, "unit", ANN)


def test_a_build_without_a_config_has_no_stages(store: Store) -> None:
    with store.write() as connection:
        build = add_build(connection)
        with pytest.raises(ActionRefused, match="has not been read yet"):
            user_actions.approve(connection, build, "unit", ANN)
        builds.apply_event(connection, build, BuildEvent.REJECT, detail="nosejobs.toml:3: no")
        with pytest.raises(ActionRefused, match=r"invalid nosejobs\.toml: nosejobs\.toml:3: no"):
            user_actions.hold(connection, build, "unit", ANN)


def test_a_level_may_require_a_tag_that_only_a_person_can_give(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection)
        assert user_actions.tag(connection, build, "performance", ANN)
        assert not user_actions.tag(connection, build, "performance", ANN)
        (tag,) = tags.list_by_build(connection, build)
        assert (tag.actor, tag.stage_run, tag.config_digest) == ("ann", None, "")
        assert last_entry(connection)[2:] == ("ann", "tag performance", build, "to see")
        with pytest.raises(UnknownName, match="no stage 'odd'"):
            user_actions.tag(connection, build, "odd", ANN)


def test_what_is_not_built_cannot_be_tagged(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection, BuildEvent.BEGIN)
        with pytest.raises(ActionRefused, match="is building: it has no artifact that could pass"):
            user_actions.tag(connection, build, "unit", ANN)


def test_all_tags_of_a_stage_are_revoked_and_stay(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection)
        user_actions.tag(connection, build, "unit", ANN)
        assert user_actions.revoke(connection, build, "unit", Attribution("bob", "no", 10.0)) == 1
        (tag,) = tags.list_by_build(connection, build)
        assert (tag.is_valid, tag.revocation_reason) == (False, "no")
        with pytest.raises(ActionRefused, match="was revoked before: no"):
            user_actions.revoke(connection, build, "unit", ANN)
        assert user_actions.tag(connection, build, "unit", ANN)


def test_failed_tests_run_again_alone(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection)
        add_failed_run(connection, build, "b", "a")
        run = user_actions.rerun(connection, build, "unit", ANN, failed_only=True)
        assert (run.number, run.selected_tests, run.requested_by) == (2, ("a", "b"), "ann")
        assert stage_runs.get(connection, run.id) == run
        assert last_entry(connection).detail == "run 2 of 2 tests: to see"
        with pytest.raises(ActionRefused, match="run 2 of unit is waiting: it has not run yet"):
            user_actions.rerun(connection, build, "unit", ANN)


@pytest.mark.parametrize("shard", [("c", "d"), None])
def test_what_was_lost_beside_a_failure_runs_again_with_it(
    store: Store, shard: tuple[str, ...] | None
) -> None:
    """Otherwise a stage could get its tag although tests have no result."""
    with store.write() as connection:
        build = add_configured_build(connection)
        run = add_failed_run(connection, build, "a")
        job = Job(uuid(7), run, "h2", part=1, tests=shard)
        assert jobs.plan(connection, [job])
        assert jobs.apply_event(connection, job.id, JobEvent.LOSE, detail="no answer")
        if shard:
            again = user_actions.rerun(connection, build, "unit", ANN, failed_only=True)
            assert again.selected_tests == ("a", "c", "d")
        else:
            with pytest.raises(ActionRefused, match="nothing is known of its tests on h2\n  try: "):
                user_actions.rerun(connection, build, "unit", ANN, failed_only=True)


def test_there_must_be_tests_that_failed(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection)
        with pytest.raises(ActionRefused, match="no run of unit has finished"):
            user_actions.rerun(connection, build, "unit", ANN, failed_only=True)
        add_failed_run(connection, build)
        with pytest.raises(ActionRefused, match="no failed test\n  try: nosejobs rerun 1 unit"):
            user_actions.rerun(connection, build, "unit", ANN, failed_only=True)
        assert user_actions.rerun(connection, build, "unit", ANN).selected_tests is None


def test_only_a_failed_build_is_made_again(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection, BuildEvent.BEGIN)
        add_run(connection, build, "build")
        with pytest.raises(
            ActionRefused, match="is building: only a failed build can be built again"
        ):
            user_actions.rerun(connection, build, "build", ANN)
        builds.apply_event(connection, build, BuildEvent.FAIL, detail="no", ended_at=3.0)
        run = user_actions.rerun(connection, build, "build", ANN)
        assert (run.stage, run.number, run.state) == ("build", 2, StageState.PLACING)
        row = builds.get(connection, build)
        assert row is not None
        assert (row.state, row.detail, row.ended_at) == (BuildState.BUILDING, "", None)


def test_a_stage_is_canceled_once(store: Store) -> None:
    with store.write() as connection:
        build = add_configured_build(connection)
        run = add_run(connection, build)
        other = add_run(connection, build, "smoke")
        (canceled,) = user_actions.cancel(connection, build, ANN, "unit")
        assert canceled.id == run
        row = stage_runs.get(connection, run)
        assert row is not None
        assert (row.state, row.detail) == (StageState.CANCELED, "canceled by ann: to see")
        with pytest.raises(
            ActionRefused, match="unit of build 1 has ended: there is nothing to cancel"
        ):
            user_actions.cancel(connection, build, ANN, "unit")
        assert [each.id for each in user_actions.cancel(connection, build, ANN)] == [other]


@pytest.mark.parametrize("events", [(), (BuildEvent.BEGIN,)])
def test_a_build_that_is_canceled_gets_no_artifact(
    store: Store, events: tuple[BuildEvent, ...]
) -> None:
    with store.write() as connection:
        build = add_build(connection)
        for event in events:
            builds.apply_event(connection, build, event)
        user_actions.cancel(connection, build, ANN)
        row = builds.get(connection, build)
        assert row is not None
        assert (row.state, row.detail) == (BuildState.FAILED, "canceled by ann: to see")
        assert last_entry(connection).action == "cancel"


@pytest.mark.parametrize(
    ("before", "action", "after"),
    [
        (HostState.UP, user_actions.drain, HostState.DRAINING),
        (HostState.DOWN, user_actions.drain, HostState.DRAINING),
        (HostState.DRAINING, user_actions.quarantine, HostState.QUARANTINED),
        (HostState.QUARANTINED, user_actions.resume, HostState.UP),
        (HostState.DRAINING, user_actions.resume, HostState.UP),
        (HostState.DOWN, user_actions.resume, None),
        (HostState.STARTING, user_actions.resume, None),
        (HostState.QUARANTINED, user_actions.drain, None),
    ],
)
def test_people_change_the_state_of_hosts(
    store: Store, before: HostState, action: object, after: HostState | None
) -> None:
    assert callable(action)
    with store.write() as connection:
        hosts.configure(connection, Host("h1", "popen", state=before, reason="odd"))
        if after is None:
            with pytest.raises(ActionRefused, match=f"host h1 is {before}: odd"):
                action(connection, "h1", ANN)
            return
        assert action(connection, "h1", ANN)
        assert not action(connection, "h1", ANN)
        host = hosts.get(connection, "h1")
        assert host is not None
        assert (host.state, host.reason) == (after, "to see")
