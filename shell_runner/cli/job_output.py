"""Jobs as the command line shows them: tables, states, reports and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

from ..hosts.spec import HostSpec
from ..jobs.responses import AttemptReport, JobListing, JobReport, PendingNotification
from ..remote.protocol.job_summary import JOB_STATES, JobSummary
from ..text import format_count, strip_control_chars
from .console import print_message
from .formatting import format_age, format_date, format_size


def short_id(id: str) -> str:
    """Return the beginning of a UUID, as lists and hints show it; commands accept it."""
    return id[:8]


def print_summary(host: str, listing: JobListing) -> None:
    """Print the number of a host's jobs by state, and why its worker does not run."""
    counts = ", ".join(
        f"{listing.counts[state]} {state}" for state in JOB_STATES if listing.counts.get(state)
    )
    print_message(f"{host}: {counts or 'no jobs'}")
    if listing.worker_error:
        print_message(f"{host}: no worker runs: {listing.worker_error}")


def print_table(jobs: Sequence[tuple[str, JobSummary]], several: bool = False) -> None:
    """Print (host, job) pairs as a table; ``several``: add a column for the host."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    hosts = ("host",) if several else ()
    counts = ("tests", "passed", "failed", "error")
    for title in (*hosts, "job", "name", "state", *counts, "age", "package"):
        right = title in (*counts, "age", "package")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for host, job in jobs:
        size = format_size(job.package_size) if job.package_digest else ""
        names = " ".join([job.name, *(f"[{label}]" for label in job.labels)])
        cells = [
            *((host,) if several else ()), short_id(job.id), names.strip(),
            format_state(job), str(job.test_count), str(job.outcomes.get("passed", 0)),
            str(job.outcomes.get("failed", 0)), str(job.outcomes.get("error", 0)),
            format_age(time.time() - job.submitted_at), size,
        ]  # fmt: skip
        # Failed tests and errors are counted apart, as by `job show` and `job harvest`.
        red = {
            number + several
            for number, outcome in ((5, "failed"), (6, "error"))
            if job.outcomes.get(outcome)
        }
        table.add_row(
            *(
                Text(strip_control_chars(cell), style="red" if n in red else "")
                for n, cell in enumerate(cells)
            )
        )
    wide = None if sys.stdout.isatty() else 160
    Console(width=wide, highlight=False).print(table)


def format_state(job: JobSummary, jobs_ahead: int | None = None) -> str:
    """Return the state of a job for people; ``jobs_ahead``: the number of jobs before it."""
    if job.state == "queued":
        text = f"queued, {jobs_ahead} ahead" if jobs_ahead else "queued"
        if job.attempts:
            text += f" (attempt {job.attempts} was lost)"
    elif job.state == "running":
        text = f"running: {job.phase}" if job.phase else "running"
        text += ", to be canceled" if job.cancel_requested else ""
    elif job.state == "packaging":
        text = f"{job.end_reason or 'ended'}, packaging"
    else:
        text = f"{job.end_reason}, {job.state}"
    return f"{text}: {job.waiting_reason}" if job.waiting_reason else text


def describe_job(report: JobReport, spec: HostSpec) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each line of ``nosejobs job show``."""
    job = report.job
    yield "job", job.id + (f" ({job.name})" if job.name else "")
    yield "state", format_state(job, report.jobs_ahead)
    if job.detail:
        yield "reason", format_reason(job.end_reason, job.detail)
    if report.worker_error:
        yield "error", f"no worker runs: {report.worker_error}"
    yield "tests", _format_counts(job)
    for test in report.failed:
        yield (
            "",
            f"{test.outcome.upper()} {test.nodeid}"
            + (f" - {test.message}" if test.message else ""),
        )
    if report.failed_count > len(report.failed):
        yield "", f"and {report.failed_count - len(report.failed)} more"
    yield "host", spec.id
    yield "submitted", format_date(job.submitted_at)
    for attempt in report.attempts:
        yield f"attempt {attempt.number}", format_attempt(attempt)
    if job.labels:
        yield "labels", ", ".join(job.labels)
    if job.priority:
        yield "priority", str(job.priority)
    if job.package_digest:
        yield "package", f"{format_size(job.package_size)}, sha256 {job.package_digest}"
    if report.pending_notification:
        yield "notify", _format_notification(report.pending_notification)
    if report.workspace:
        yield "workspace", report.workspace
    yield "next", _suggest_next_step(job)


def _format_notification(pending: PendingNotification) -> str:
    if not pending.attempts:
        return "not delivered yet"
    attempts = format_count(pending.attempts, "attempt")
    return (
        f"not delivered yet, {attempts}: {pending.error}; next attempt in {pending.seconds:.0f} s"
    )


def format_reason(end_reason: str, detail: str) -> str:
    """Return why a job ended as it did; for a failed install, ``detail`` is its exit status."""
    return f"the install command failed: {detail}" if end_reason == "install-failed" else detail


def format_attempt(attempt: AttemptReport) -> str:
    """Return the phase and the times of an attempt."""
    text = f"{attempt.phase}, started {format_date(attempt.started_at)}"
    if attempt.ended_at is not None:
        text += f", took {max(attempt.ended_at - attempt.started_at, 0.0):.1f} s"
    return f"{text} ({attempt.detail})" if attempt.detail else text


def _format_counts(job: JobSummary) -> str:
    done = sum(job.outcomes.values())
    counts = [f"{job.outcomes[name]} {name}" for name in sorted(job.outcomes)]
    if done < job.test_count:
        counts.append(f"{job.test_count - done} open")
    return f"{job.test_count}: {', '.join(counts)}" if counts else str(job.test_count)


def _suggest_next_step(job: JobSummary) -> str:
    short = short_id(job.id)
    # Tests that did not run count as errors.
    has_open = job.end_reason != "completed" and job.failed > 0
    if job.state == "ready":
        rest = f", run the rest: nosejobs job rerun {short} --failed" if has_open else ""
        return f"harvest it: nosejobs job harvest {short}{rest}"
    if job.state == "harvested":
        again = f"nosejobs job rerun {short} --failed, or " if job.failed else ""
        return f"{again}nosejobs job forget {short}"
    if job.waiting_reason:
        return "fix the problem above; the host retries on its own"
    return f"follow it: nosejobs job logs -f {short}"


def format_flaky(names: Sequence[str]) -> str:
    """Return a suffix for the number of passed tests that names the flaky ones."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" ({len(names)} flaky: {', '.join(names[:5])}{more})" if names else ""


def report_progress(word: str) -> Callable[[int, int], None]:
    """Return a function that prints how many bytes of a total are done, at most once a second.

    ``word`` says what is done with them, such as ``sent``.
    """
    begin = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - begin > 1.0 and now - last > 1.0 and total:
            last = now
            print_message(f"{format_size(done)} of {format_size(total)} {word}")

    return report
