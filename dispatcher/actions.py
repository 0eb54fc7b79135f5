"""What people do to builds, stages and hosts: approve, hold, tag, run again, cancel, drain.

Owns which of it makes sense when, and the words for what does not.  Works on rows, in the
transaction of its connection; each action is audited there, and done by whoever wakes from the
commit.  Must not know HTTP, and needs no clock: dates are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from shell_runner.config import suggestion
from shell_runner.errors import NosejobsError

from . import model
from .config import Tree, from_data, stage_digest
from .model import (
    BUILD,
    BuildEvent,
    BuildState,
    DecisionKind,
    HostState,
    StageEvent,
    StageRun,
    StageState,
)
from .policy import promotion, retry
from .store import audit, builds, hosts, jobs, results, stage_runs, tags


class Refused(NosejobsError):
    """That makes no sense now."""


class Unknown(Refused):
    """There is no such thing."""


@dataclass(frozen=True)
class By:
    """Who does something, why and when."""

    who: str
    reason: str = ""
    at: float = 0.0

    @property
    def words(self) -> str:
        """For the row that it was done to."""
        return f"{self.who}: {self.reason}" if self.reason else self.who


# -- what there is ------------------------------------------------------------------


def build_of(connection: Connection, number: int) -> model.Build:
    """The build; raises Unknown."""
    found = builds.get(connection, number)
    if found is None:
        raise Unknown(f"there is no build {number}\n  try: nosejobs builds")
    return found


def facts_of(connection: Connection, build: model.Build) -> promotion.Facts:
    """All rows of a build that policy looks at; a build without a config has no stages."""
    return promotion.Facts(
        build.state,
        Tree() if build.config is None else from_data(build.config),
        tuple(stage_runs.of_build(connection, build.id)),
        tuple(tags.of_build(connection, build.id)),
        tuple(tags.decisions_of(connection, build.id)),
    )


def _facts(connection: Connection, number: int) -> tuple[model.Build, promotion.Facts]:
    """Of a build whose config is known."""
    build = build_of(connection, number)
    if build.config is None:
        words = "its nosejobs.toml has not been read yet"
        if build.state is BuildState.INVALID:
            words = f"its nosejobs.toml cannot be understood: {build.detail}"
        raise Refused(f"build {number} is {build.state}: {words}")
    return build, facts_of(connection, build)


def _check_stage(build: int, stage: str, known: Iterable[str]) -> None:
    names = list(known)
    if stage not in names:
        hint = suggested(stage, names, "it has none yet")
        raise Unknown(f"build {build} has no stage {stage!r}{hint}")


def suggested(word: str, known: Iterable[str], none: str) -> str:
    """What may have been meant; ``none``: what is said if there is nothing."""
    names = list(known)
    return suggestion(word, names) if names else f"; {none}"


def _stages(tree: Tree) -> list[str]:
    return [stage.name for stage in tree.stages]


# -- decisions ----------------------------------------------------------------------


def approve(connection: Connection, build: int, stage: str, by: By) -> bool:
    """A stage may run: opens its gate, ends a hold.  False: that was said before."""
    return _decide(connection, build, stage, DecisionKind.APPROVED, by)


def hold(connection: Connection, build: int, stage: str, by: By) -> bool:
    """A stage that has not begun does not, until it is approved.  False: it is held already."""
    return _decide(connection, build, stage, DecisionKind.HELD, by)


def _decide(connection: Connection, number: int, stage: str, kind: DecisionKind, by: By) -> bool:
    build, facts = _facts(connection, number)
    _check_stage(build.id, stage, _stages(facts.tree))
    decision = model.Decision(build.id, stage, kind, by.who, by.reason, by.at)
    return tags.decide(connection, decision)


# -- tags ---------------------------------------------------------------------------


def tag(connection: Connection, number: int, stage: str, by: By) -> bool:
    """A tag by hand: the build counts as having passed.  False: it has one by hand already.

    A level can ask for stages that the tree does not have: those get no other tag.
    """
    build, facts = _facts(connection, number)
    known = [*_stages(facts.tree), *(each for level in facts.tree.levels for each in level.stages)]
    _check_stage(build.id, stage, dict.fromkeys(known))
    if build.state is not BuildState.BUILT:
        raise Refused(f"build {number} is {build.state}: there is nothing that could pass")
    given = model.Tag(0, build.id, build.digest, stage, "", who=by.who, given=by.at)
    return tags.give_tag(connection, given, by.reason) is not None


def revoke(connection: Connection, number: int, stage: str, by: By) -> int:
    """All tags of the stage that count, revoked; how many.  They stay, with the reason."""
    build = build_of(connection, number)
    given = tags.of_build(connection, build.id)
    found = [each for each in given if each.stage == stage]
    if not found:
        names = list(dict.fromkeys(each.stage for each in given))
        raise Unknown(
            f"build {number} has no tag {stage!r}{suggested(stage, names, 'it has none')}"
        )
    valid = [each for each in found if each.valid]
    if not valid:
        raise Refused(f"build {number}: the tag {stage} was revoked before: {found[-1].reason}")
    return sum(
        tags.revoke_tag(connection, each.id, who=by.who, reason=by.reason, at=by.at)
        for each in valid
    )


# -- stage runs ---------------------------------------------------------------------


def rerun(
    connection: Connection, number: int, stage: str, by: By, failed_only: bool = False
) -> StageRun:
    """Another run of a stage, or of the tests of it that failed; ``build``: the build command."""
    if stage == BUILD:
        return _build_again(connection, build_of(connection, number), by)
    build, facts = _facts(connection, number)
    _check_stage(build.id, stage, _stages(facts.tree))
    why_not = promotion.may_rerun(facts, stage, failed_only)
    if why_not:
        raise Refused(f"build {number}: {why_not}")
    only = _failed(connection, facts, stage) if failed_only else None
    config = facts.tree.stage(stage)
    assert config is not None
    run = StageRun(0, build.id, stage, config=stage_digest(config), only=only, who=by.who)
    return _added(connection, run, by)


def _failed(connection: Connection, facts: promotion.Facts, stage: str) -> tuple[str, ...]:
    """Tests that the verdict on a stage says have failed, and those that it says nothing of."""
    verdict = promotion.standing(run for run in facts.runs if run.stage == stage)[0]
    failed = set(results.failed(connection, verdict.id))
    if not failed:
        words = f"run {verdict.number} of {stage} {verdict.state}, and names no test that failed"
        raise Refused(f"{words}: run all of it again")
    for job in retry.inconclusive_jobs(jobs.of_run(connection, verdict.id)):
        tests = job.tests if job.tests is not None else verdict.only
        if tests is None:
            words = f"run {verdict.number} of {stage}: nothing is known of its tests on {job.host}"
            raise Refused(f"{words}: run all of it again")
        failed.update(tests)
    return tuple(sorted(failed))


def _build_again(connection: Connection, build: model.Build, by: By) -> StageRun:
    if not builds.move(connection, build.id, BuildEvent.BEGIN, detail="", ended=None):
        raise Refused(f"build {build.id} is {build.state}: only one that failed is built again")
    run = StageRun(0, build.id, BUILD, state=StageState.PLACING, config=build.inputs, who=by.who)
    return _added(connection, run, by)


def _added(connection: Connection, run: StageRun, by: By) -> StageRun:
    number = stage_runs.next_number(connection, run.build, run.stage)
    wanted = replace(run, number=number)
    key = stage_runs.add(connection, wanted)
    assert key is not None, "one transaction counts and adds"
    some = f" of {len(run.only)} tests" if run.only is not None else ""
    words = f"run {number}{some}" + (f": {by.reason}" if by.reason else "")
    audit.write(connection, by.at, f"rerun {run.stage}", words, who=by.who, build=run.build)
    return replace(wanted, id=key)


def cancel(connection: Connection, number: int, by: By, stage: str | None = None) -> list[StageRun]:
    """End a stage that has not ended, or all of the build; the stage runs that were cancelled.

    Their jobs are ended on their hosts by whoever looks after these.
    """
    build = build_of(connection, number)
    runs = stage_runs.of_build(connection, build.id)
    if stage is not None:
        _check_stage(build.id, stage, dict.fromkeys(run.stage for run in runs))
    wanted = [run for run in runs if stage in (None, run.stage) and not run.state.over]
    done = [run for run in wanted if _cancelled(connection, run, by)]
    dropped = stage is None and _dropped(connection, build, by)
    if not done and not dropped:
        what = f"{stage} of build {number}" if stage else f"build {number}"
        raise Refused(f"nothing of {what} is to come: there is nothing to cancel")
    words = ", ".join(f"{run.stage} {run.number}" for run in done)
    told = f"{words}: {by.reason}" if by.reason and words else words or by.reason
    audit.write(connection, by.at, "cancel", told, who=by.who, build=build.id)
    return done


def _cancelled(connection: Connection, run: StageRun, by: By) -> bool:
    detail = f"cancelled by {by.words}"
    return stage_runs.move(connection, run.id, StageEvent.CANCEL, detail=detail, ended=by.at)


def _dropped(connection: Connection, build: model.Build, by: By) -> bool:
    """One that has no artefact yet gets none."""
    if build.state not in (BuildState.NEW, BuildState.BUILDING):
        return False
    detail = f"cancelled by {by.words}"
    return builds.move(connection, build.id, BuildEvent.FAIL, detail=detail, ended=by.at)


# -- hosts --------------------------------------------------------------------------

#: From which states a host gets into which one by a person's word.
_HOST_MOVES = {
    HostState.DRAINING: (HostState.STARTING, HostState.UP, HostState.DOWN),
    HostState.QUARANTINED: (HostState.STARTING, HostState.UP, HostState.DOWN, HostState.DRAINING),
    HostState.UP: (HostState.DRAINING, HostState.QUARANTINED),
}


def drain(connection: Connection, name: str, by: By) -> bool:
    """A host ends what it has, and gets nothing new.  False: it does so already."""
    return _set(connection, name, HostState.DRAINING, by)


def quarantine(connection: Connection, name: str, by: By) -> bool:
    """The same, for trouble that somebody has to look at."""
    return _set(connection, name, HostState.QUARANTINED, by)


def resume(connection: Connection, name: str, by: By) -> bool:
    """A drained or quarantined host gets jobs again.  False: it is up."""
    return _set(connection, name, HostState.UP, by)


def _set(connection: Connection, name: str, state: HostState, by: By) -> bool:
    host = hosts.get(connection, name)
    if host is None:
        names = [each.name for each in hosts.every(connection)]
        hint = suggested(name, names, "there is none yet")
        raise Unknown(f"there is no host {name!r}{hint}\n  try: nosejobs hosts")
    if host.state is state:
        return False
    if host.state not in _HOST_MOVES[state]:
        raise Refused(_no_way(host, state))
    return hosts.set_state(connection, name, state, who=by.who, reason=by.reason, at=by.at)


def _no_way(host: model.Host, state: HostState) -> str:
    why = f": {host.reason}" if host.reason else ""
    if state is HostState.UP:
        words = "it is opened again by itself as soon as it answers"
    else:
        words = f"it gets nothing new already; nosejobs hosts resume {host.name} ends that"
    return f"host {host.name} is {host.state}{why}\n  {words}"
