"""Decide what happens to a running stage run by its jobs, and to a host by its failures.

Pure.  A failed test is never retried here (a host does that, by ``retries``); what is retried is
what has no verdict: a lost host, a job that was refused, a test that could not be run.  Each part
of a stage run (host, shard, peer) may run again as often as the stage's ``lost`` says, and the
number of its attempt is the only count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shell_runner.text import format_count

from ..configuration.pipeline import Mode, Stage
from ..model import Job, JobState, OutcomeCounts, StageEvent

#: Reasons (``job.end_reason``), by end reason of a job whose build is at fault.
_BUILD_FAILURES = {
    "install-failed": "the install command failed",
    "timed-out": "it exceeded its time limit",
}
#: Reasons, by end reason of a job that says nothing about the build.
_INFRASTRUCTURE_FAILURES = {
    "refused": "the host could not unpack the job",
    "gave-up": "the worker of the job was lost too often",
    "canceled": "the job was canceled on its host",
}


@dataclass(frozen=True)
class Part:
    """The newest attempt of a part of a stage run, and what its package says."""

    job: Job
    #: Results of all tests.
    tests: int = 0
    #: Failures and errors that are the test's own.
    failed: int = 0
    #: Errors that say nothing about the test, because the host failed.
    infrastructure: int = 0


@dataclass(frozen=True)
class Step:
    """The next step of a running stage run."""

    #: None: it stays as it is.
    event: StageEvent | None = None
    #: The reason, for people.
    detail: str = ""
    #: Parts that need a host again, each for its next attempt.  With ``event`` AGAIN: all.
    again: tuple[int, ...] = ()
    #: Ids of jobs to cancel on their hosts: one of their peers is gone.
    stop: tuple[str, ...] = ()


def make_part(job: Job, counts: OutcomeCounts) -> Part:
    """Return the part of the newest attempt ``job``, whose package has these counts."""
    failed = counts.failed + counts.error - counts.infrastructure
    tests = counts.passed + counts.failed + counts.skipped + counts.error
    return Part(job, tests, failed, counts.infrastructure)


def next_step(stage: Stage, parts: Sequence[Part]) -> Step:
    """Return what happens to a running stage run; ``parts``: the newest attempt of each.

    A failure is the verdict whatever else was lost, but only once all parts have closed, so that
    people see all that failed.
    """
    ordered = sorted(parts, key=lambda part: part.job.part)
    failures = [reason for part in ordered if (reason := failure_reason(part))]
    lost = [part for part in ordered if not failure_reason(part) and infrastructure_reason(part)]
    is_open = any(part.job.state.is_open for part in ordered)
    if stage.mode is Mode.TOGETHER:
        return _step_together(stage, ordered, lost, failures)
    if failures or not lost:
        return Step() if is_open else _verdict(failures, ordered)
    return _retry(stage, lost, is_open)


def _verdict(failures: Sequence[str], parts: Sequence[Part]) -> Step:
    if failures:
        return Step(StageEvent.FAIL, "; ".join(failures))
    tests = sum(part.tests for part in parts)
    if not tests:
        return Step(StageEvent.FAIL, "no test was run: its names and markers select none")
    return Step(StageEvent.PASS, format_count(tests, "test"))


def _retry(stage: Stage, lost: Sequence[Part], is_open: bool) -> Step:
    """Run lost parts again while the others go on; end the run if one of them may not."""
    spent = [part for part in lost if part.job.attempt > stage.lost]
    again = tuple(part.job.part for part in lost if part.job.attempt <= stage.lost)
    reasons = "; ".join(map(infrastructure_reason, spent or lost))
    if not spent:
        return Step(None, f"running again: {reasons}", again)
    if is_open:
        return Step(None, reasons)
    return Step(StageEvent.GIVE_UP, reasons + _spent(stage))


def _step_together(
    stage: Stage, parts: Sequence[Part], lost: Sequence[Part], failures: Sequence[str]
) -> Step:
    """End all peers if one is gone, and run all again: alone, no peer says anything."""
    # A peer that was stopped because of another one is not the cause.
    causes = [infrastructure_reason(part) for part in lost if part.job.end_reason != "canceled"]
    missing = causes or [
        failure_reason(part) for part in parts if part.job.end_reason in _BUILD_FAILURES
    ]
    running = tuple(part.job.id for part in parts if part.job.state.is_open)
    if running and missing:
        return Step(None, f"stopping its peers: {'; '.join(missing)}", stop=running)
    if running:
        return Step()
    if not lost or (failures and not causes):
        return _verdict(failures, parts)
    reasons = "; ".join(causes or map(infrastructure_reason, lost))
    if any(part.job.attempt > stage.lost for part in parts):
        return Step(StageEvent.GIVE_UP, reasons + _spent(stage))
    again = tuple(part.job.part for part in parts)
    return Step(StageEvent.PLACE_AGAIN, f"running again: {reasons}", again)


def failure_reason(part: Part) -> str:
    """Return why the build has failed on this host; empty: it has not."""
    job = part.job
    if job.state.is_open or job.state is JobState.LOST:
        return ""
    if job.end_reason in _BUILD_FAILURES:
        return f"{job.host}: {_BUILD_FAILURES[job.end_reason]}"
    return f"{job.host}: {format_count(part.failed, 'test')} failed" if part.failed else ""


def infrastructure_reason(part: Part) -> str:
    """Return why this part says nothing about the build; empty: it does, or will."""
    job = part.job
    if job.state is JobState.LOST:
        return f"{job.host} was lost" + (f": {job.detail}" if job.detail else "")
    if job.state.is_open or job.end_reason in _BUILD_FAILURES:
        return ""
    if job.end_reason != "completed":
        unknown = f"the job ended as {job.end_reason or 'unknown'}"
        reason = _INFRASTRUCTURE_FAILURES.get(job.end_reason, unknown)
        return f"{job.host}: {reason}" + (f": {job.detail}" if job.detail else "")
    count = format_count(part.infrastructure, "test")
    return f"{job.host}: {count} could not be run there" if part.infrastructure else ""


def inconclusive_jobs(jobs: Iterable[Job]) -> list[Job]:
    """Return the newest attempts that say nothing about the tests that they had.

    A run can have failed beside them: then what they had has to run again with what failed.
    """
    return [job for job in newest_attempts(jobs) if infrastructure_reason(Part(job))]


def newest_attempts(jobs: Iterable[Job]) -> list[Job]:
    """Return the newest attempt of each part, in the order of the parts."""
    parts = {job.part: job for job in sorted(jobs, key=lambda job: (job.part, job.attempt))}
    return list(parts.values())


def _spent(stage: Stage) -> str:
    if stage.lost == 0:
        return '; not run again (lost = "never")'
    return f"; it was run again {format_count(stage.lost, 'time')}"


# -- hosts -----------------------------------------------------------------------------------


def failing_hosts(parts: Iterable[Part]) -> tuple[str, ...]:
    """Return the hosts that the newest attempts show to be failing; not peers only stopped."""
    failing = (
        part for part in parts if infrastructure_reason(part) and part.job.end_reason != "canceled"
    )
    return tuple(dict.fromkeys(part.job.host for part in failing))


def quarantine_reason(failures: int, last_error: str, limit: int) -> str:
    """Return why a host is put into quarantine after ``failures`` in a row; empty: not yet.

    It stays there until a person resumes it.
    """
    if failures < limit:
        return ""
    return (
        f"{format_count(failures, 'infrastructure failure')} in a row; the last one: {last_error}"
    )
