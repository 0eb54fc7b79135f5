"""The next actions for a build and its stage runs.

Pure: rows and results of tasks in, actions out, which the reconciler performs.  Hosts are given to
the requests of all builds together, by ``placement_actions``.

The rules, where they are not plain:

- A task that failed for a reason that may pass (a full disk) is a detail of the build or the stage
  run; it changes no state.  Any other failure ends what needed the result.
- A build command and its artifact are one step: the run ends only once the artifact is stored.
- A stage run without tests, or with tests that its stage no longer has, ends before it begins:
  a tag of it would say more than is known.
- What rests on a state that was reached in this pass is decided in the same pass, except that a
  stage that ended without a job is seen by the stages that need it in the next pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..configuration import pipeline as config
from ..configuration.pipeline import Mode, PipelineConfig, Stage
from ..model import (
    BUILD,
    Build,
    BuildEvent,
    BuildRows,
    BuildState,
    JobState,
    StageEvent,
    StageRun,
    StageState,
)
from . import promotion, retry
from .action_types import (
    WAITING_FOR,
    Action,
    Artifact,
    DiscardResult,
    ExaminedTree,
    ExtractArtifact,
    GrantTag,
    MoveRun,
    PlannedPart,
    RecordTree,
    RepeatPass,
    RevokeTag,
    SetLevel,
    StopJob,
    Task,
    TaskFailure,
    TaskResult,
    TestsToSplit,
    cut_detail,
    make_examine_task,
    make_run_key,
    next_attempt,
)
from .retry import newest_attempts
from .unit_of_work import BuildDraft


def decide(
    rows: BuildRows,
    pipeline: PipelineConfig,
    results: Mapping[Task, TaskResult],
    now: float,
    *,
    reusable: Build | None = None,
    settled: BuildRows | None = None,
    may_look_ahead: bool = True,
) -> list[Action]:
    """Return all that can be done for a build now, in the order in which it is to be performed.

    ``pipeline`` is the config that ``rows`` hold.  ``results`` are those of all tasks; a task that
    is missing there is started.  ``reusable`` is a build whose artifact a new build with the same
    inputs takes over.  ``settled`` are rows of the same build for which a pass has found nothing
    to do.  ``may_look_ahead`` allows tasks whose results are not needed yet.
    """
    draft = BuildDraft(rows, pipeline, results, now)
    if rows.build.state is BuildState.NEW:
        _CommandDecision(draft).begin(reusable)
    elif rows.build.state is BuildState.BUILDING:
        _CommandDecision(draft).advance()
    if draft.rows.build.state is BuildState.BUILT:
        _StageDecision(draft).advance(settled)
    _list_tests_ahead(draft, may_look_ahead)
    return draft.actions()


def _list_tests_ahead(draft: BuildDraft, may_start: bool) -> None:
    """Request the tests of stages that come next, while something runs.

    ``may_start``: False requests only those that are known, so that their results are kept.
    """
    if draft.rows.build.state not in (BuildState.BUILDING, BuildState.BUILT):
        return
    running = {run.stage for run in draft.rows.runs if run.state is StageState.RUNNING}
    for stage in draft.pipeline.stages if running else ():
        is_next = BUILD in running or not running.isdisjoint(stage.needs)
        if is_next and (may_start or draft.has_result(draft.make_list_task(stage))):
            draft.request_tests(stage)


class _CommandDecision:
    """The decisions about a build that has no artifact yet."""

    def __init__(self, draft: BuildDraft) -> None:
        self._draft = draft

    def begin(self, reusable: Build | None) -> None:
        """Examine the tree; take over an artifact, or request the build command."""
        examined = self._examine()
        if examined is None:
            return
        if examined.build is None:
            self._finish_as_tree(BuildEvent.REUSE)
        elif reusable is not None:
            origin = reusable.reused_build or reusable.id
            detail = f"its inputs are those of build {origin}"
            self._draft.move_build(
                BuildEvent.REUSE,
                detail=detail,
                content=Artifact(reusable.artifact_digest, reusable.artifact_size),
                reused_build=origin,
            )
        else:
            self._draft.move_build(BuildEvent.BEGIN)
            self.advance()

    def _examine(self) -> PipelineConfig | None:
        """Record the tree and its config.  None: not yet, or the tree is of no use."""
        rows = self._draft.rows
        task = make_examine_task(rows)
        result = self._draft.request_result(task)
        if result is None:
            return None
        if isinstance(result, TaskFailure) and result.retry_at is not None:
            self._draft.set_build_detail(f"{WAITING_FOR}{result.message}")
            return None
        self._draft.add(DiscardResult(task))
        if isinstance(result, TaskFailure):
            self._give_up(BuildEvent.FAIL, result.message)
            return None
        assert isinstance(result, ExaminedTree)
        self._draft.add(RecordTree(rows.build.id, result))
        if result.config is None:
            is_new = rows.build.state is BuildState.NEW
            self._give_up(BuildEvent.REJECT if is_new else BuildEvent.FAIL, result.error)
            return None
        build = replace(
            rows.build,
            tree_digest=result.tree_digest,
            artifact_size=result.size,
            config=result.config.as_json,
            inputs_digest=result.inputs_digest,
            detail="",
        )
        self._draft.rows = replace(rows, build=build)
        self._draft.pipeline = result.config
        return result.config

    def _give_up(self, event: BuildEvent, reason: str) -> None:
        """End a build whose tree is of no use, and a run of its build command that is waiting."""
        for run in self._draft.rows.runs:
            if run.stage == BUILD and run.state.is_idle:
                self._draft.move_run(run, StageEvent.FAIL, reason)
        self._draft.move_build(event, detail=reason)

    def _finish_as_tree(self, event: BuildEvent) -> None:
        """Finish a build without a build command: the tree is the artifact."""
        build = self._draft.rows.build
        self._draft.move_build(event, content=Artifact(build.tree_digest, build.artifact_size))

    def advance(self) -> None:
        """Request hosts for the build command, or look at its run."""
        if self._draft.rows.build.config is None and self._examine() is None:
            return
        if self._draft.pipeline.build is None:
            self._finish_as_tree(BuildEvent.FINISH)
            return
        runs = [run for run in self._draft.rows.runs if run.stage == BUILD]
        run = runs[-1] if runs else self._add_build_run()
        if run.state.is_idle:
            self._request_build_host(run, self._draft.pipeline.build)
        elif run.state is StageState.RUNNING:
            self._continue_build_run(run, self._draft.pipeline.build)
        else:
            detail = run.detail or f"its build command was {run.state}"
            self._draft.move_build(BuildEvent.FAIL, detail=detail)

    def _add_build_run(self) -> StageRun:
        build = self._draft.rows.build
        run = StageRun(
            0, build.id, BUILD, state=StageState.PLACING, config_digest=build.inputs_digest
        )
        return self._draft.add_run(run)

    def _continue_build_run(self, run: StageRun, command: config.BuildConfig) -> None:
        """Look at the one job of a build command."""
        parts = self._draft.list_parts(run)
        step = retry.next_step(config.build_as_stage(command), parts)
        if step.event in (StageEvent.PASS, StageEvent.FAIL):
            job = parts[0].job
            task = ExtractArtifact(job.id, job.host, job.package_digest, job.end_reason, command)
            self._finish_build(run, step.event, self._draft.request_result(task))
        elif step.event is not None:
            self._draft.move_run(run, step.event, step.detail)
            self._draft.move_build(BuildEvent.FAIL, detail=step.detail)
        elif step.again:
            self._request_build_host(run, command, step.detail)
        else:
            self._draft.update_waiting_reason(run, step)

    def _finish_build(self, run: StageRun, event: StageEvent, result: TaskResult | None) -> None:
        """End the build with its artifact, or with the reason why there is none."""
        if result is None:
            return
        if isinstance(result, TaskFailure) and result.retry_at is not None:
            self._draft.set_build_detail(f"{WAITING_FOR}{result.message}")
        elif isinstance(result, TaskFailure):
            self._draft.move_run(run, StageEvent.FAIL, result.message.partition("\n")[0])
            detail = f"the build command failed: {result.message}"
            self._draft.move_build(BuildEvent.FAIL, detail=detail)
        else:
            assert isinstance(result, Artifact)
            self._draft.move_run(run, event, "")
            self._draft.move_build(BuildEvent.FINISH, detail="", content=result)

    def _request_build_host(
        self, run: StageRun, command: config.BuildConfig, reason: str = ""
    ) -> None:
        if run.state.is_idle and run.state is not StageState.PLACING:
            run = self._draft.move_run(run, StageEvent.READY, "")
        jobs = self._draft.list_jobs(run)
        attempts = newest_attempts(jobs)
        attempt = attempts[0].attempt + 1 if attempts else 1
        stage, tree = config.build_as_stage(command), self._draft.rows.build.tree_digest
        request = self._draft.make_placement_request(run, stage, tree)
        request = replace(request, avoid=frozenset(job.host for job in jobs))
        self._draft.request_hosts(run, request, [PlannedPart(0, attempt)], reason=reason)


class _StageDecision:
    """The decisions about the stages of a build that has its artifact."""

    def __init__(self, draft: BuildDraft) -> None:
        self._draft = draft

    def advance(self, settled: BuildRows | None) -> None:
        """Look at running stages, promote, then request hosts for all runs that may begin."""
        self._continue_stages()
        if self._draft.rows != settled:
            self._promote()
        for run in self._draft.rows.runs:
            if run.state is StageState.PLACING and run.stage != BUILD:
                self._request_stage_hosts(run)

    def _continue_stages(self) -> None:
        """Look at the jobs of the stages that are running."""
        for run in self._draft.rows.runs:
            stage = self._draft.pipeline.stage(run.stage)
            if run.state is not StageState.RUNNING or stage is None:
                continue
            step = retry.next_step(stage, self._draft.list_parts(run))
            self._draft.add(*map(StopJob, step.stop))
            if step.event is not None:
                self._draft.move_run(run, step.event, step.detail)
            elif step.again:
                self._request_lost_parts(run, stage, step)
            else:
                self._draft.update_waiting_reason(run, step)

    def _promote(self) -> None:
        """Perform the promotion plan: tags, runs that begin or change, and the level."""
        rows = self._draft.rows
        state, pipeline = rows.build.state, self._draft.pipeline
        facts = promotion.Facts(state, pipeline, rows.runs, rows.tags, rows.decisions)
        plan = promotion.make_plan(facts)
        for revocation in plan.revocations:
            self._draft.add(RevokeTag(revocation.tag, revocation.reason))
        for grant in plan.grants:
            self._draft.add(
                GrantTag(rows.build, grant.stage, grant.config_digest, grant.run, grant.runs)
            )
        for new in plan.new_runs:
            fields = (
                0,
                rows.build.id,
                new.stage,
                1,
                new.state,
                new.detail,
                new.config_digest,
            )
            self._draft.add_run(StageRun(*fields))
        by_id = {run.id: run for run in rows.runs}
        for change in plan.run_changes:
            self._draft.move_run(by_id[change.run], change.event, change.detail)
        if plan.level != rows.build.level:
            self._draft.add(SetLevel(rows.build.id, plan.level))

    def _request_stage_hosts(self, run: StageRun) -> None:
        """Request hosts for all parts of a run that has none, or end the run if it cannot begin."""
        stage = self._draft.pipeline.stage(run.stage)
        assert stage is not None
        tests = self._draft.request_tests(stage)
        if tests is None:
            return
        if isinstance(tests, TaskFailure):
            self._fail_to_begin(run, stage, tests)
            return
        selected = tests if run.selected_tests is None else run.selected_tests
        if error := _selection_error(tests, selected):
            self._fail_to_begin(run, stage, error)
            return
        request = self._draft.make_placement_request(
            run, stage, self._draft.rows.build.artifact_digest
        )
        attempts = newest_attempts(self._draft.list_jobs(run))
        if attempts:
            lost = frozenset(job.host for job in attempts if job.state is JobState.LOST)
            request = replace(request, count=len(attempts), avoid=lost)
            self._draft.request_hosts(run, request, [next_attempt(job) for job in attempts])
        elif stage.mode is Mode.SHARD:
            split = TestsToSplit(self._draft.rows.change.source, stage.name, selected)
            request = replace(request, count=min(stage.hosts, len(selected)))
            self._draft.request_hosts(run, request, split=split)
        else:
            parts = [PlannedPart(part) for part in range(stage.hosts)]
            self._draft.request_hosts(run, request, parts)

    def _fail_to_begin(self, run: StageRun, stage: Stage, error: TaskFailure) -> None:
        """End a run before it begins; the stages that need it see that in the next pass."""
        if error.retry_at is not None:
            detail = cut_detail(WAITING_FOR + error.message)
            if run.detail != detail:
                self._draft.add(MoveRun(make_run_key(run), StageEvent.READY, detail))
            return
        self._draft.add(RepeatPass())
        self._draft.add(DiscardResult(self._draft.make_list_task(stage)))
        event = StageEvent.FAIL if error.is_verdict else StageEvent.GIVE_UP
        self._draft.move_run(run, event, error.message)

    def _request_lost_parts(self, run: StageRun, stage: Stage, step: retry.Step) -> None:
        """Request hosts for the lost parts of a run, while its other parts go on."""
        again = set(step.again)
        jobs = self._draft.list_jobs(run)
        attempts = newest_attempts(jobs)
        request = replace(
            self._draft.make_placement_request(run, stage, self._draft.rows.build.artifact_digest),
            count=len(again),
            taken=frozenset(job.host for job in attempts if job.part not in again),
            avoid=frozenset(job.host for job in jobs if job.part in again),
        )
        parts = [next_attempt(job) for job in attempts if job.part in again]
        self._draft.request_hosts(run, request, parts, reason=step.detail)


def _selection_error(tests: Collection[str], selected: Collection[str]) -> TaskFailure | None:
    """Return why a run of the selected tests cannot begin; None: it can."""
    if not selected:
        return TaskFailure("its names and markers select no test", is_verdict=True)
    if not set(tests).issuperset(selected):
        # A run of those that are left would grant a tag for tests that did not run.
        return TaskFailure("the stage has no such tests: run all of it again")
    return None
