"""A pass over all active builds: ask the policy what to do, and write it.

Responsible for performing the actions of the policy in the transaction of the pass.  Decides
nothing, and must not wait for anything but the database.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection

from .. import model
from ..builds.blob_store import BlobStore
from ..configuration import pipeline
from ..configuration.pipeline import PipelineConfig
from ..configuration.settings import Settings
from ..model import Build, BuildRows, BuildState
from ..policy import action_types, build_progress, placement_actions
from ..policy.action_types import Action, ExaminedTree, ExamineTree, RequestHosts, RunKey, Task
from ..policy.placement import HostLoad, Unplaced
from ..policy.retry import newest_attempts
from ..store import audit, build_snapshots, builds, durations, hosts, jobs, stage_runs, tags
from .background_tasks import BackgroundTasks

_STATES_WITH_CONFIG = (BuildState.BUILDING, BuildState.BUILT)
_ROW_CHANGES = frozenset(action_types.ROW_CHANGES)


@dataclass
class PassResult:
    """The outcome of a pass beside rows: work for other threads."""

    #: Stage runs that found no hosts, for the pools.
    unplaced: list[Unplaced] = field(default_factory=list)
    #: Ids of jobs to stop on their hosts: one of their peers is gone.
    stop: set[str] = field(default_factory=set)
    #: Whether rows were written; the commit has notified all that wait for changes.
    wrote: bool = False
    #: Whether another pass has to follow at once.
    repeat: bool = False
    #: Tasks whose results no decision needs any more.
    unneeded_tasks: list[Task] = field(default_factory=list)


@dataclass
class PassMemory:
    """Knowledge of a pass for the next one; valid only once the pass has been committed."""

    #: By build, the rows for which there was nothing to do.
    settled: dict[int, BuildRows] = field(default_factory=dict)
    #: By build, the config as its row has it, and what that means.
    pipelines: dict[int, tuple[object, PipelineConfig]] = field(default_factory=dict)
    #: By active build, values that change whenever its rows do.
    marks: Mapping[int, set[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class PassContext:
    """Objects that all passes of a dispatcher share."""

    settings: Settings
    blobs: BlobStore
    tasks: BackgroundTasks
    #: Runs a task, in a thread of its own.
    run_task: Callable[[Task], Any]


class ReconcilePass:
    """A pass within one transaction."""

    def __init__(
        self, connection: Connection, context: PassContext, previous: PassMemory, now: float
    ) -> None:
        self.result = PassResult()
        self.memory = PassMemory()
        self._connection, self._previous, self._now = connection, previous, now
        self._settings, self._blobs = context.settings, context.blobs
        self._results: Mapping[Task, Any] = context.tasks.results()
        self._may_look_ahead = context.tasks.has_room()
        self._writer = ActionWriter(connection, context, now, self.result)
        load = jobs.count_open_by_host(connection)
        self._has_open_jobs = bool(load)
        self._hosts = [
            HostLoad(host, load.get(host.name, 0)) for host in hosts.list_all(connection)
        ]

    def run(self, active: Sequence[BuildRows]) -> None:
        """Advance builds that have begun, then new ones while there is room, then place runs."""
        for rows in active:
            if rows.build.state is not BuildState.NEW:
                self._advance(rows)
        self._begin([rows for rows in active if rows.build.state is BuildState.NEW])
        if self._writer.requests:
            self._place()
        self.result.unneeded_tasks = self._list_unneeded_tasks({rows.build.id for rows in active})

    def _list_unneeded_tasks(self, active: Set[int]) -> list[Task]:
        """Return the tasks with a result that no decision of this pass has requested.

        ``active``: ids of the active builds.  One that waits to begin does not request its tree.
        """
        requested = self._writer.requested_tasks
        return [
            task
            for task in self._results
            if task not in requested
            and not (isinstance(task, ExamineTree) and task.build in active)
        ]

    def _begin(self, new: Iterable[BuildRows]) -> None:
        unlimited = {each.name for each in self._settings.sources if each.bursts == "every"}
        requests = self._writer.requests
        possible = self._select_possible(requests)
        places = placement_actions.free_places(self._hosts, self._settings.queue)
        places -= sum(request.placement.count for request in possible)
        for rows in new:
            is_idle = not (self._has_open_jobs or possible)
            if placement_actions.may_begin(rows.source in unlimited, places, is_idle):
                known = len(requests)
                self._advance(rows)
                possible += self._select_possible(requests[known:])
                places -= 1
            else:
                self.memory.settled[rows.build.id] = rows

    def _select_possible(self, requests: Iterable[RequestHosts]) -> list[RequestHosts]:
        """Return the requests that keep other builds waiting: for some there is never a host."""
        return placement_actions.select_possible(requests, self._hosts, self._settings.pools)

    def _advance(self, rows: BuildRows) -> None:
        number = rows.build.id
        actions = build_progress.decide(
            rows,
            self._pipeline(rows.build),
            self._results,
            self._now,
            reusable=self._reusable(rows),
            settled=self._previous.settled.get(number),
            may_look_ahead=self._may_look_ahead,
        )
        if _ROW_CHANGES.isdisjoint(map(type, actions)):
            self.memory.settled[number] = rows
        self._writer.perform(actions, rows.runs)

    def _pipeline(self, build: Build) -> PipelineConfig:
        """Return what the config of a build means; it is parsed once for many passes."""
        if build.state not in _STATES_WITH_CONFIG:
            return PipelineConfig()
        known = self._previous.pipelines.get(build.id)
        # Most configs are the same object as in the last pass: then their content is not compared.
        if known is None or (known[0] is not build.config and known[0] != build.config):
            known = build.config, pipeline.from_json(build.config or {})
        self.memory.pipelines[build.id] = known
        return known[1]

    def _reusable(self, rows: BuildRows) -> Build | None:
        """Return the build whose artifact a new build can take over."""
        if rows.build.state is not BuildState.NEW:
            return None
        examined = self._results.get(action_types.make_examine_task(rows))
        if not isinstance(examined, ExaminedTree) or not examined.inputs_digest:
            return None
        found = builds.find_reusable(self._connection, rows.change.source, examined.inputs_digest)
        return found if found is not None and self._blobs.has(found.artifact_digest) else None

    def _place(self) -> None:
        requests = sorted(self._writer.requests, key=lambda request: request.run.build)
        actions = placement_actions.place_runs(
            requests,
            self._hosts_with_contents(requests),
            self._settings.queue,
            self._settings.pools,
            self._now,
        )
        self._writer.perform(actions)

    def _hosts_with_contents(self, requests: Iterable[RequestHosts]) -> list[HostLoad]:
        """Return the hosts, each with those requested contents that it has already."""
        if len(self._hosts) < 2:
            return self._hosts
        contents = {request.run.build: request.placement.contents for request in requests}
        cached: dict[str, set[str]] = {}
        for build, names in build_snapshots.hosts_of_builds(self._connection, contents).items():
            for name in names:
                cached.setdefault(name, set()).update(contents[build])
        return [
            HostLoad(load.host, load.jobs, frozenset(cached.get(load.host.name, ())))
            for load in self._hosts
        ]


class ActionWriter:
    """Performs actions: writes rows, starts tasks, and collects what is for others to do."""

    def __init__(
        self, connection: Connection, context: PassContext, now: float, result: PassResult
    ) -> None:
        self._connection, self._context, self._now = connection, context, now
        self._result = result
        #: Requests for hosts of all builds so far.
        self.requests: list[RequestHosts] = []
        #: Tasks whose results the decisions so far need.
        self.requested_tasks: set[Task] = set()
        self._run_ids: dict[RunKey, int] = {}

    def perform(self, actions: Sequence[Action], runs: Collection[model.StageRun] = ()) -> None:
        """Perform actions in their order; ``runs``: stage runs that they may name."""
        if not _NAMES_RUN.isdisjoint(map(type, actions)):
            self._run_ids.update((action_types.make_run_key(run), run.id) for run in runs)
        for action in actions:
            _PERFORM[type(action)](self, action)

    # -- tasks and work for others ------------------------------------------------

    def _start_task(self, action: action_types.StartTask) -> None:
        self.requested_tasks.add(action.task)
        self._context.tasks.request(action.task, partial(self._context.run_task, action.task))

    def _discard_result(self, action: action_types.DiscardResult) -> None:
        self._context.tasks.discard(action.task)

    def _request_hosts(self, action: RequestHosts) -> None:
        self.requests.append(action)
        if action.run.id:
            self._run_ids[action_types.make_run_key(action.run)] = action.run.id

    def _stop_job(self, action: action_types.StopJob) -> None:
        self._result.stop.add(action.job)

    def _notify_pool_shortage(self, action: action_types.NotifyPoolShortage) -> None:
        self._result.unplaced.append(action.unplaced)

    def _repeat_pass(self, action: action_types.RepeatPass) -> None:
        self._result.repeat = True

    # -- builds -------------------------------------------------------------------

    def _record_tree(self, action: action_types.RecordTree) -> None:
        tree = action.tree
        fields: dict[str, Any] = {"tree_digest": tree.tree_digest}
        if tree.config is not None:
            fields |= {
                "config": tree.config.as_json,
                "inputs_digest": tree.inputs_digest,
                "detail": "",
            }
        builds.update_fields(self._connection, action.build, **fields)

    def _move_build(self, action: action_types.MoveBuild) -> None:
        if not builds.apply_event(self._connection, action.build, action.event, **action.fields()):
            return
        build = builds.get(self._connection, action.build)
        assert build is not None
        detail = build.detail.partition("\n")[0]
        audit.write(self._connection, self._now, f"build {build.state}", detail, build=build.id)

    def _set_build_detail(self, action: action_types.SetBuildDetail) -> None:
        builds.update_fields(self._connection, action.build, detail=action.detail)

    def _set_level(self, action: action_types.SetLevel) -> None:
        if builds.set_level(self._connection, action.build, action.level):
            what = f"level {action.level}"
            audit.write(self._connection, self._now, what, build=action.build)

    def _revoke_tag(self, action: action_types.RevokeTag) -> None:
        tags.revoke_tag(
            self._connection, action.tag, actor=model.POLICY, reason=action.reason, at=self._now
        )

    def _give_tag(self, action: action_types.GrantTag) -> None:
        by_run: dict[int, list[model.Job]] = {}
        for job in jobs.list_by_runs(self._connection, action.runs):
            by_run.setdefault(job.stage_run, []).append(job)
        tag = model.Tag(
            0,
            action.build.id,
            action.build.artifact_digest,
            action.stage,
            action.config_digest,
            action.run,
            tuple(job.id for attempts in by_run.values() for job in newest_attempts(attempts)),
            granted_at=self._now,
        )
        tags.grant_tag(self._connection, tag)

    # -- stage runs ---------------------------------------------------------------

    def _add_run(self, action: action_types.AddRun) -> None:
        number = stage_runs.add(self._connection, action.run)
        assert number is not None, "rows that were read in this transaction do not have the run"
        self._run_ids[action_types.make_run_key(action.run)] = number

    def _move_run(self, action: action_types.MoveRun) -> None:
        fields: dict[str, object] = {"detail": action.detail}
        if action.ended_at is not None:
            fields["ended_at"] = action.ended_at
        stage_runs.apply_event(self._connection, self._run_ids[action.run], action.event, **fields)

    def _set_run_detail(self, action: action_types.SetRunDetail) -> None:
        stage_runs.update_fields(self._connection, self._run_ids[action.run], detail=action.detail)

    def _plan_jobs(self, action: action_types.PlanJobs) -> None:
        """Add the rows of jobs; the connections of their hosts see them."""
        request = action.request
        run = self._run_ids[action_types.make_run_key(request.run)]
        fields: dict[str, object] = {"hosts_lost": request.hosts_lost, "detail": action.detail}
        if action.started_at is None:
            stage_runs.update_fields(self._connection, run, **fields)
        elif not stage_runs.apply_event(
            self._connection, run, model.StageEvent.PLACE, started_at=action.started_at, **fields
        ):
            return
        planned = [
            model.Job(
                str(uuid.uuid4()),
                run,
                host,
                part.part,
                part.attempt,
                tests=part.tests,
                planned_at=self._now,
            )
            for part, host in zip(self._parts(request), action.hosts, strict=False)
        ]
        jobs.plan(self._connection, planned)

    def _parts(self, request: RequestHosts) -> Sequence[action_types.PlannedPart]:
        split = request.split
        if split is None:
            return request.parts
        seconds = durations.mean_seconds(self._connection, split.source, split.stage)
        return placement_actions.split_tests(split, seconds, request.placement.count)


#: Actions that name a stage run by its key.
_NAMES_RUN = frozenset([action_types.MoveRun, action_types.SetRunDetail])

_PERFORM: Mapping[type, Callable[[ActionWriter, Any], None]] = {
    action_types.StartTask: ActionWriter._start_task,
    action_types.DiscardResult: ActionWriter._discard_result,
    action_types.RecordTree: ActionWriter._record_tree,
    action_types.MoveBuild: ActionWriter._move_build,
    action_types.SetBuildDetail: ActionWriter._set_build_detail,
    action_types.SetLevel: ActionWriter._set_level,
    action_types.AddRun: ActionWriter._add_run,
    action_types.MoveRun: ActionWriter._move_run,
    action_types.SetRunDetail: ActionWriter._set_run_detail,
    action_types.RevokeTag: ActionWriter._revoke_tag,
    action_types.GrantTag: ActionWriter._give_tag,
    action_types.RequestHosts: ActionWriter._request_hosts,
    action_types.PlanJobs: ActionWriter._plan_jobs,
    action_types.StopJob: ActionWriter._stop_job,
    action_types.NotifyPoolShortage: ActionWriter._notify_pool_shortage,
    action_types.RepeatPass: ActionWriter._repeat_pass,
}
