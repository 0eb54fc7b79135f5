"""The rows of one build as the decisions of a pass leave them, with the actions that do so.

Pure.  ``build_progress`` decides; a draft only keeps rows and actions consistent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..configuration.pipeline import PipelineConfig, Stage
from ..model import (
    BUILD_TRANSITIONS,
    STAGE_TRANSITIONS,
    BuildEvent,
    BuildRows,
    BuildState,
    Job,
    JobState,
    OutcomeCounts,
    StageEvent,
    StageRun,
    state_after,
)
from . import placement, retry
from .action_types import (
    WAITING_FOR,
    Action,
    AddRun,
    Artifact,
    ListTests,
    MoveBuild,
    MoveRun,
    PlannedPart,
    RequestHosts,
    SetBuildDetail,
    SetRunDetail,
    StartTask,
    Task,
    TaskFailure,
    TaskResult,
    TestsToSplit,
    cut_detail,
    make_run_key,
)
from .placement import PlacementRequest
from .retry import newest_attempts


class BuildDraft:
    """Rows of a build, and the actions decided so far.

    ``rows`` and ``pipeline`` are as they will be once the actions have been performed.
    """

    def __init__(
        self,
        rows: BuildRows,
        pipeline: PipelineConfig,
        results: Mapping[Task, TaskResult],
        now: float,
    ) -> None:
        self.rows, self.pipeline = rows, pipeline
        self._results, self._now = results, now
        self._actions: list[Action] = []
        self._requests: list[RequestHosts] = []

    def actions(self) -> list[Action]:
        """Return all actions in their order; requests for hosts come last, oldest run first."""
        requests = self._requests
        if len(requests) > 1:
            order = {make_run_key(run): number for number, run in enumerate(self.rows.runs)}
            requests = sorted(requests, key=lambda request: order[make_run_key(request.run)])
        return [*self._actions, *requests]

    def add(self, *actions: Action) -> None:
        """Add actions that do not change ``rows``."""
        self._actions += actions

    # -- tasks --------------------------------------------------------------------

    def request_result(self, task: Task) -> TaskResult | None:
        """Request the result of a task.  Return None if there is none yet."""
        self.add(StartTask(task))
        return self._results.get(task)

    def has_result(self, task: Task) -> bool:
        """Return whether the result of a task is known."""
        return task in self._results

    def make_list_task(self, stage: Stage) -> ListTests:
        """Return the task that collects the tests of a stage."""
        build = self.rows.build
        return ListTests(
            build.id, self.rows.source, self.rows.change.revision, build.tree_digest, stage
        )

    def request_tests(self, stage: Stage) -> tuple[str, ...] | TaskFailure | None:
        """Request the node ids of a stage's tests.  Return None if they are not known yet."""
        result = self.request_result(self.make_list_task(stage))
        assert result is None or isinstance(result, (tuple, TaskFailure))
        return result

    # -- the build ----------------------------------------------------------------

    def move_build(
        self,
        event: BuildEvent,
        *,
        detail: str | None = None,
        content: Artifact | None = None,
        reused_build: int | None = None,
    ) -> None:
        """Change the state of the build.

        ``content`` has the digest and the size of its artifact; ``reused`` is the id of the build
        that made it.  What is None stays as it is.
        """
        build = self.rows.build
        state = state_after(BUILD_TRANSITIONS, build.state, event)
        move = MoveBuild(
            build.id,
            event,
            detail=None if detail is None else cut_detail(detail),
            artifact_digest=None if content is None else content.digest,
            artifact_size=None if content is None else content.size,
            reused_build=reused_build,
            ended_at=None if state is BuildState.BUILDING else self._now,
        )
        self.add(move)
        self.rows = replace(self.rows, build=replace(build, state=state, **move.fields()))

    def set_build_detail(self, detail: str) -> None:
        """Change the detail of the build, unless it is the same."""
        build = self.rows.build
        if build.detail != cut_detail(detail):
            self.add(SetBuildDetail(build.id, cut_detail(detail)))

    # -- stage runs ---------------------------------------------------------------

    def add_run(self, run: StageRun) -> StageRun:
        """Add a stage run, and return it."""
        self.add(AddRun(run))
        self.rows = replace(self.rows, runs=(*self.rows.runs, run))
        return run

    def move_run(self, run: StageRun, event: StageEvent, detail: str) -> StageRun:
        """Change the state of a stage run, and return the run after that."""
        state = state_after(STAGE_TRANSITIONS, run.state, event)
        ended = self._now if state.is_final else None
        self.add(MoveRun(make_run_key(run), event, cut_detail(detail), ended))
        moved = replace(run, state=state, detail=cut_detail(detail), ended_at=ended or run.ended_at)
        runs = (moved if make_run_key(row) == make_run_key(run) else row for row in self.rows.runs)
        self.rows = replace(self.rows, runs=tuple(runs))
        return moved

    def update_waiting_reason(self, run: StageRun, step: retry.Step) -> None:
        """Show in ``run.detail`` why the open jobs of a running stage are waiting.

        ``step.detail`` (what the retry policy waits for) takes precedence over what the
        hosts reported.  Once nothing waits, only a detail written here is cleared.
        """
        open_jobs = [
            job for job in newest_attempts(self.list_jobs(run)) if job.state.is_open and job.detail
        ]
        reasons = [f"{job.host}: {job.detail}" for job in open_jobs]
        detail = step.detail or (f"{WAITING_FOR}{'; '.join(reasons)}" if reasons else "")
        if detail or run.detail.startswith(WAITING_FOR):
            self._set_detail(run, detail)

    def _set_detail(self, run: StageRun, detail: str) -> None:
        if run.detail != cut_detail(detail):
            self.add(SetRunDetail(make_run_key(run), cut_detail(detail)))

    def list_jobs(self, run: StageRun) -> list[Job]:
        """Return all jobs of a stage run that is running or being placed."""
        return [job for job in self.rows.jobs if job.stage_run == run.id]

    def list_parts(self, run: StageRun) -> list[retry.Part]:
        """Return the newest attempt of each part of a stage run, with its counts."""
        counts, none = dict(self.rows.counts), OutcomeCounts()
        jobs = newest_attempts(self.list_jobs(run))
        return [retry.make_part(job, counts.get(job.id, none)) for job in jobs]

    # -- requests for hosts -------------------------------------------------------

    def make_placement_request(self, run: StageRun, stage: Stage, content: str) -> PlacementRequest:
        """Return the hosts that all parts of a stage need; ``content``: digest of what it tests."""
        key = make_run_key(run)
        return placement.make_request(stage, key, f"{key.stage} of build {key.build}", [content])

    def request_hosts(
        self,
        run: StageRun,
        request: PlacementRequest,
        parts: Iterable[PlannedPart] = (),
        *,
        split: TestsToSplit | None = None,
        reason: str = "",
    ) -> None:
        """Request hosts for parts of a stage run, or for its shards."""
        lost = sum(job.state is JobState.LOST for job in self.list_jobs(run))
        self._requests.append(RequestHosts(run, request, tuple(parts), split, reason, lost))
