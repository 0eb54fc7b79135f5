"""Actions of people on builds, stages and hosts: approve, hold, tag, run again, cancel, drain.

Responsible for which action is possible in which state, and for the errors if it is not.  An
action writes rows and an audit entry in the transaction of its connection; the reconciler and the
host connections see the rows after the commit and do the rest.  Must not depend on HTTP or on a
clock: dates are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from shell_runner.errors import NosejobsError
from shell_runner.text import format_count
from shell_runner.validators import format_suggestion

from .. import model
from ..configuration.pipeline import PipelineConfig, from_json, stage_digest
from ..model import (
    BUILD,
    BuildEvent,
    BuildState,
    DecisionKind,
    HostState,
    StageEvent,
    StageRun,
    StageState,
)
from ..policy import promotion, retry
from ..store import audit, builds, hosts, jobs, results, stage_runs, tags


class ActionRefused(NosejobsError):
    """The action is not possible in the present state."""


class UnknownName(ActionRefused):
    """The build, stage, tag or host does not exist."""


@dataclass(frozen=True)
class Attribution:
    """The person who acts, with reason and date."""

    actor: str
    reason: str = ""
    at: float = 0.0

    @property
    def description(self) -> str:
        """Return person and reason, for the detail of a row."""
        return f"{self.actor}: {self.reason}" if self.reason else self.actor


# -- rows -------------------------------------------------------------------------


def get_build(connection: Connection, number: int) -> model.Build:
    """Return a build.  Raises ``Unknown``."""
    build = builds.get(connection, number)
    if build is None:
        raise UnknownName(f"there is no build {number}\n  try: nosejobs builds")
    return build


def read_facts(connection: Connection, build: model.Build) -> promotion.Facts:
    """Return the rows of a build for the promotion policy; without a config it has no stages."""
    return promotion.Facts(
        build.state,
        PipelineConfig() if build.config is None else from_json(build.config),
        tuple(stage_runs.list_by_build(connection, build.id)),
        tuple(tags.list_by_build(connection, build.id)),
        tuple(tags.list_decisions(connection, build.id)),
    )


def _facts(connection: Connection, number: int) -> tuple[model.Build, promotion.Facts]:
    """Return a build whose config is known, and its rows.  Raises ``Refused``."""
    build = get_build(connection, number)
    if build.config is None:
        reason = "its nosejobs.toml has not been read yet"
        if build.state is BuildState.INVALID:
            reason = f"invalid nosejobs.toml: {build.detail}"
        raise ActionRefused(f"build {number} is {build.state}: {reason}")
    return build, read_facts(connection, build)


def _check_stage(build: int, stage: str, known: Iterable[str]) -> None:
    names = list(known)
    if stage not in names:
        hint = suggest(stage, names, "it has none yet")
        raise UnknownName(f"build {build} has no stage {stage!r}{hint}")


def suggest(word: str, known: Iterable[str], none: str) -> str:
    """Return a hint at the known word that was meant; ``none``: the hint if no word is known."""
    names = list(known)
    return format_suggestion(word, names) if names else f"; {none}"


def _stage_names(tree: PipelineConfig) -> list[str]:
    return [stage.name for stage in tree.stages]


# -- decisions ----------------------------------------------------------------------


def approve(connection: Connection, build: int, stage: str, by: Attribution) -> bool:
    """Let a stage run: open its gate, end a hold.  Return whether that is new."""
    return _decide(connection, build, stage, DecisionKind.APPROVED, by)


def hold(connection: Connection, build: int, stage: str, by: Attribution) -> bool:
    """Keep a stage from beginning until it is approved.  Return whether that is new."""
    return _decide(connection, build, stage, DecisionKind.HELD, by)


def _decide(
    connection: Connection, number: int, stage: str, kind: DecisionKind, by: Attribution
) -> bool:
    build, facts = _facts(connection, number)
    _check_stage(build.id, stage, _stage_names(facts.tree))
    decision = model.Decision(build.id, stage, kind, by.actor, by.reason, by.at)
    return tags.record_decision(connection, decision)


# -- tags ---------------------------------------------------------------------------


def tag(connection: Connection, number: int, stage: str, by: Attribution) -> bool:
    """Tag a build by hand, as if it had passed the stage.  Return whether the tag is new.

    A level can require stages that the pipeline does not have; only a tag by hand satisfies those.
    """
    build, facts = _facts(connection, number)
    required = [name for level in facts.tree.levels for name in level.stages]
    known = [*_stage_names(facts.tree), *required]
    _check_stage(build.id, stage, dict.fromkeys(known))
    if build.state is not BuildState.BUILT:
        raise ActionRefused(f"build {number} is {build.state}: it has no artifact that could pass")
    new_tag = model.Tag(
        0, build.id, build.artifact_digest, stage, "", actor=by.actor, granted_at=by.at
    )
    return tags.grant_tag(connection, new_tag, by.reason) is not None


def revoke(connection: Connection, number: int, stage: str, by: Attribution) -> int:
    """Revoke all valid tags of a stage; return their number.  The rows stay, with the reason."""
    build = get_build(connection, number)
    all_tags = tags.list_by_build(connection, build.id)
    of_stage = [tag for tag in all_tags if tag.stage == stage]
    if not of_stage:
        names = list(dict.fromkeys(tag.stage for tag in all_tags))
        raise UnknownName(
            f"build {number} has no tag {stage!r}{suggest(stage, names, 'it has none')}"
        )
    valid = [tag for tag in of_stage if tag.is_valid]
    if not valid:
        last = of_stage[-1]
        raise ActionRefused(
            f"build {number}: the tag {stage} was revoked before: {last.revocation_reason}"
        )
    return sum(
        tags.revoke_tag(connection, tag.id, actor=by.actor, reason=by.reason, at=by.at)
        for tag in valid
    )


# -- stage runs ---------------------------------------------------------------------


def rerun(
    connection: Connection, number: int, stage: str, by: Attribution, failed_only: bool = False
) -> StageRun:
    """Add another run of a stage, and return it.

    ``failed_only``: of its failed tests only.  The stage ``build`` is the build command.
    """
    if stage == BUILD:
        return _rerun_build(connection, get_build(connection, number), by)
    build, facts = _facts(connection, number)
    _check_stage(build.id, stage, _stage_names(facts.tree))
    error = promotion.rerun_error(facts, stage, failed_only)
    if error:
        raise ActionRefused(f"build {number}: {error}")
    only = _failed_tests(connection, facts, number, stage) if failed_only else None
    config = facts.tree.stage(stage)
    assert config is not None
    run = StageRun(
        0,
        build.id,
        stage,
        config_digest=stage_digest(config),
        selected_tests=only,
        requested_by=by.actor,
    )
    return _add_run(connection, run, by)


def _failed_tests(
    connection: Connection, facts: promotion.Facts, build: int, stage: str
) -> tuple[str, ...]:
    """Return the tests that failed by the verdict on a stage, and those without a verdict."""
    verdict = promotion.verdict_runs(run for run in facts.runs if run.stage == stage)[0]
    failed = set(results.list_failed_tests(connection, verdict.id))
    if not failed:
        reason = f"run {verdict.number} of {stage} has no failed test"
        raise ActionRefused(f"{reason}\n  try: nosejobs rerun {build} {stage}")
    for job in retry.inconclusive_jobs(jobs.list_by_run(connection, verdict.id)):
        tests = job.tests if job.tests is not None else verdict.selected_tests
        if tests is None:
            reason = f"run {verdict.number} of {stage}: nothing is known of its tests on {job.host}"
            raise ActionRefused(f"{reason}\n  try: nosejobs rerun {build} {stage}")
        failed.update(tests)
    return tuple(sorted(failed))


def _rerun_build(connection: Connection, build: model.Build, by: Attribution) -> StageRun:
    if not builds.apply_event(connection, build.id, BuildEvent.BEGIN, detail="", ended_at=None):
        raise ActionRefused(
            f"build {build.id} is {build.state}: only a failed build can be built again"
        )
    run = StageRun(
        0,
        build.id,
        BUILD,
        state=StageState.PLACING,
        config_digest=build.inputs_digest,
        requested_by=by.actor,
    )
    return _add_run(connection, run, by)


def _add_run(connection: Connection, run: StageRun, by: Attribution) -> StageRun:
    number = stage_runs.next_number(connection, run.build, run.stage)
    numbered = replace(run, number=number)
    key = stage_runs.add(connection, numbered)
    assert key is not None, "one transaction counts and adds"
    some = (
        f" of {format_count(len(run.selected_tests), 'test')}"
        if run.selected_tests is not None
        else ""
    )
    detail = f"run {number}{some}" + (f": {by.reason}" if by.reason else "")
    audit.write(connection, by.at, f"rerun {run.stage}", detail, actor=by.actor, build=run.build)
    return replace(numbered, id=key)


def cancel(
    connection: Connection, number: int, by: Attribution, stage: str | None = None
) -> list[StageRun]:
    """Cancel a stage that has not ended, or all of a build; return the canceled stage runs.

    The connections of their hosts stop the jobs after the commit.
    """
    build = get_build(connection, number)
    runs = stage_runs.list_by_build(connection, build.id)
    if stage is not None:
        _check_stage(build.id, stage, dict.fromkeys(run.stage for run in runs))
    unfinished = [run for run in runs if stage in (None, run.stage) and not run.state.is_final]
    canceled = [run for run in unfinished if _cancel_run(connection, run, by)]
    was_open = stage is None and _cancel_build(connection, build, by)
    if not canceled and not was_open:
        what = f"{stage} of build {number}" if stage else f"build {number}"
        raise ActionRefused(f"{what} has ended: there is nothing to cancel")
    names = ", ".join(f"{run.stage} {run.number}" for run in canceled)
    detail = f"{names}: {by.reason}" if by.reason and names else names or by.reason
    audit.write(connection, by.at, "cancel", detail, actor=by.actor, build=build.id)
    return canceled


def _cancel_run(connection: Connection, run: StageRun, by: Attribution) -> bool:
    detail = f"canceled by {by.description}"
    return stage_runs.apply_event(
        connection, run.id, StageEvent.CANCEL, detail=detail, ended_at=by.at
    )


def _cancel_build(connection: Connection, build: model.Build, by: Attribution) -> bool:
    """Fail a build that has no artifact yet.  Return whether it had none."""
    if build.state not in (BuildState.NEW, BuildState.BUILDING):
        return False
    detail = f"canceled by {by.description}"
    return builds.apply_event(connection, build.id, BuildEvent.FAIL, detail=detail, ended_at=by.at)


# -- hosts --------------------------------------------------------------------------

#: By the state that a person can set, the states in which that is possible.
_HOST_MOVES = {
    HostState.DRAINING: (HostState.STARTING, HostState.UP, HostState.DOWN),
    HostState.QUARANTINED: (HostState.STARTING, HostState.UP, HostState.DOWN, HostState.DRAINING),
    HostState.UP: (HostState.DRAINING, HostState.QUARANTINED),
}


def drain(connection: Connection, name: str, by: Attribution) -> bool:
    """Let a host finish its jobs and give it no new ones.  Return whether that is new."""
    return _set_state(connection, name, HostState.DRAINING, by)


def quarantine(connection: Connection, name: str, by: Attribution) -> bool:
    """Give a failing host no new jobs until it is resumed.  Return whether that is new."""
    return _set_state(connection, name, HostState.QUARANTINED, by)


def resume(connection: Connection, name: str, by: Attribution) -> bool:
    """Give a drained or quarantined host jobs again.  Return whether it was not up."""
    return _set_state(connection, name, HostState.UP, by)


def _set_state(connection: Connection, name: str, state: HostState, by: Attribution) -> bool:
    host = hosts.get(connection, name)
    if host is None:
        names = [known.name for known in hosts.list_all(connection)]
        hint = suggest(name, names, "there is none yet")
        raise UnknownName(f"there is no host {name!r}{hint}\n  try: nosejobs hosts")
    if host.state is state:
        return False
    if host.state not in _HOST_MOVES[state]:
        raise ActionRefused(_state_error(host, state))
    return hosts.set_state(connection, name, state, actor=by.actor, reason=by.reason, at=by.at)


def _state_error(host: model.Host, state: HostState) -> str:
    reason = f": {host.reason}" if host.reason else ""
    if state is HostState.UP:
        hint = "it is used again as soon as it answers"
    else:
        hint = f"it gets no new jobs already; to end that: nosejobs hosts resume {host.name}"
    return f"host {host.name} is {host.state}{reason}\n  {hint}"
