"""What becomes of a stage run by its jobs, and of a host by its trouble.

Pure.  A failed test is never retried here (a host does that, by ``retries``); what is retried is
what could not be found out: a lost host, a job that was refused, a test that could not be run.
Each part of a stage run (host, shard, peer) may go again as often as the stage's ``lost`` says, and
the number of its attempt is the only count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shell_runner.text import format_count

from ..config import Mode, Stage
from ..model import Job, JobState, StageEvent

#: How a job can end on its host (``job.how``), beside "completed": the build is to blame.
_BUILD_ENDS = {
    "install-failed": "the install command failed",
    "timed-out": "it was not done within its time",
}
#: ... or who knows; then nothing has been found out.
_TROUBLE_ENDS = {
    "refused": "the host could not unpack it",
    "gave-up": "its worker was lost too often",
    "cancelled": "it was cancelled on its host",
}


@dataclass(frozen=True)
class Part:
    """The newest attempt of a part of a stage run, and what its package says."""

    job: Job
    #: Results of all tests, failures and errors that are the test's own, and those that say
    #: nothing of it because the host was in trouble.
    tests: int = 0
    failed: int = 0
    trouble: int = 0


@dataclass(frozen=True)
class Step:
    """What becomes of a running stage run."""

    #: None: it stays as it is.
    event: StageEvent | None = None
    #: Why, for people.
    detail: str = ""
    #: Parts that need a host again, each for its next attempt.  With ``event`` AGAIN: all.
    again: tuple[int, ...] = ()
    #: Jobs that are to be cancelled on their hosts: their peers are gone.
    stop: tuple[str, ...] = ()


def step(stage: Stage, parts: Sequence[Part]) -> Step:
    """What becomes of a running stage run; ``parts``: the newest attempt of each.

    A failure is the verdict whatever else was lost, but only once all parts have closed, so that
    people see all that failed.
    """
    ordered = sorted(parts, key=lambda part: part.job.part)
    failures = [words for part in ordered if (words := failure(part))]
    lost = [part for part in ordered if not failure(part) and trouble(part)]
    is_open = any(part.job.state.open for part in ordered)
    if stage.mode is Mode.TOGETHER:
        return _together(stage, ordered, lost, failures)
    if failures or not lost:
        return Step() if is_open else _verdict(failures, ordered)
    return _again(stage, lost, is_open)


def _verdict(failures: Sequence[str], parts: Sequence[Part]) -> Step:
    if failures:
        return Step(StageEvent.FAIL, "; ".join(failures))
    tests = sum(part.tests for part in parts)
    if not tests:
        return Step(StageEvent.FAIL, "no test was run: its names and tags select none")
    return Step(StageEvent.PASS, format_count(tests, "test"))


def _again(stage: Stage, lost: Sequence[Part], is_open: bool) -> Step:
    """Lost parts go again while the others go on; the end, if one of them may not."""
    spent = [part for part in lost if part.job.attempt > stage.lost]
    again = tuple(part.job.part for part in lost if part.job.attempt <= stage.lost)
    words = "; ".join(map(trouble, spent or lost))
    if not spent:
        return Step(None, f"again, {words}", again)
    return Step(None, words) if is_open else Step(StageEvent.GIVE_UP, words + _spent(stage))


def _together(
    stage: Stage, parts: Sequence[Part], lost: Sequence[Part], failures: Sequence[str]
) -> Step:
    """Without one of its peers no other one can say anything: all end, and all go again."""
    # A peer that was stopped for the sake of another is not why.
    causes = [trouble(part) for part in lost if part.job.how != "cancelled"]
    missing = causes or [failure(part) for part in parts if part.job.how in _BUILD_ENDS]
    running = tuple(part.job.id for part in parts if part.job.state.open)
    if running:
        return (
            Step(None, f"its peers end: {'; '.join(missing)}", stop=running) if missing else Step()
        )
    if not lost or (failures and not causes):
        return _verdict(failures, parts)
    words = "; ".join(causes or map(trouble, lost))
    if any(part.job.attempt > stage.lost for part in parts):
        return Step(StageEvent.GIVE_UP, words + _spent(stage))
    return Step(StageEvent.AGAIN, f"again, {words}", tuple(part.job.part for part in parts))


def failure(part: Part) -> str:
    """Why the build has failed on this host; empty: it has not."""
    job = part.job
    if job.state.open or job.state is JobState.LOST:
        return ""
    if job.how in _BUILD_ENDS:
        return f"{job.host}: {_BUILD_ENDS[job.how]}"
    return f"{job.host}: {format_count(part.failed, 'test')} failed" if part.failed else ""


def trouble(part: Part) -> str:
    """Why this part says nothing of the build; empty: it does, or will."""
    job = part.job
    if job.state is JobState.LOST:
        return f"{job.host} was lost" + (f": {job.detail}" if job.detail else "")
    if job.state.open or job.how in _BUILD_ENDS:
        return ""
    if job.how != "completed":
        words = _TROUBLE_ENDS.get(job.how, f"it ended as {job.how or 'nobody knows'}")
        return f"{job.host}: {words}" + (f": {job.detail}" if job.detail else "")
    count = format_count(part.trouble, "test")
    return f"{job.host}: {count} could not be run there" if part.trouble else ""


def silent(jobs: Iterable[Job]) -> list[Job]:
    """Of the newest attempts of a run those that say nothing of the tests that they had.

    A run can have failed beside them: then what they had has to run again with what failed.
    """
    return [job for job in newest(jobs) if trouble(Part(job))]


def newest(jobs: Iterable[Job]) -> list[Job]:
    """The newest attempt of each part, in order."""
    parts = {job.part: job for job in sorted(jobs, key=lambda job: (job.part, job.attempt))}
    return list(parts.values())


def _spent(stage: Stage) -> str:
    if stage.lost == 0:
        return "; it is not tried again (lost = never)"
    return f"; it was tried again {format_count(stage.lost, 'time')}"


# -- hosts -----------------------------------------------------------------------------------


def blamed(parts: Iterable[Part]) -> tuple[str, ...]:
    """Hosts whose trouble the newest attempts show; peers that were only stopped are not."""
    found = (part for part in parts if trouble(part) and part.job.how != "cancelled")
    return tuple(dict.fromkeys(part.job.host for part in found))


def quarantine(failures: int, why: str, limit: int) -> str:
    """Why a host is put into quarantine after ``failures`` in a row; empty: not yet.

    It stays there whatever comes: somebody has to look first.
    """
    if failures < limit:
        return ""
    return f"{format_count(failures, 'infrastructure failure')} in a row; the last one: {why}"
