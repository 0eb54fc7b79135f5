"""Jobs as the command line shows them: tables, states, reports and progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

from ..hosts.spec import HostSpec
from ..jobs.responses import AttemptReport, JobListing, JobReport, PendingNotification
from ..remote.protocol.job_summary import JOB_STATES, JobSummary
from ..text import strip_control_chars
from .console import print_message
from .formatting import format_age, format_date, format_size


def short_id(id: str) -> str:
    """Return the beginning of a UUID, as lists and hints show it; commands accept it."""
    return id[:8]


def print_summary(host: str, listing: JobListing) -> None:
    """Print how many jobs a host has in each state, and why its worker does not run."""
    counts = ", ".join(
        f"{listing.counts[state]} {state}" for state in JOB_STATES if listing.counts.get(state)
    )
    print_message(f"{host}: {counts or 'no jobs'}")
    if listing.worker_error:
        print_message(f"{host}: no worker: {listing.worker_error}")


def print_table(jobs: Sequence[tuple[str, JobSummary]], several: bool = False) -> None:
    """Print (host, job) pairs as a table; with ``several`` hosts they have a column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    hosts = ("host",) if several else ()
    for title in (*hosts, "job", "name", "state", "tests", "passed", "failed", "age", "package"):
        right = title in ("tests", "passed", "failed", "age", "package")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for host, job in jobs:
        size = format_size(job.package_size) if job.package_digest else ""
        names = " ".join([job.name, *(f"[{label}]" for label in job.labels)])
        cells = [
            *((host,) if several else ()), short_id(job.id), names.strip(),
            format_state(job), str(job.test_count), str(job.outcomes.get("passed", 0)), str(job.failed),
            format_age(time.time() - job.submitted_at), size,
        ]  # fmt: skip
        style = "red" if job.failed else ""
        table.add_row(
            *(
                Text(strip_control_chars(cell), style=style if n == 5 + several else "")
                for n, cell in enumerate(cells)
            )
        )
    wide = None if sys.stdout.isatty() else 160
    Console(width=wide, highlight=False).print(table)


def format_state(job: JobSummary, ahead: int | None = None) -> str:
    """Return the state of a job for people; ``ahead``: jobs that run before it."""
    if job.state == "queued":
        words = f"queued, {ahead} before it" if ahead else "queued"
        if job.attempts:
            words += f" (attempt {job.attempts} was lost)"
    elif job.state == "running":
        words = f"running: {job.phase}" if job.phase else "running"
        words += ", to be cancelled" if job.cancel_requested else ""
    elif job.state == "packaging":
        words = f"{job.end_reason or 'ended'}, packaging"
    else:
        words = f"{job.end_reason}, {job.state}"
    return f"{words}: {job.waiting_reason}" if job.waiting_reason else words


def describe_job(report: JobReport, spec: HostSpec) -> Iterator[tuple[str, str]]:
    """Yield title and text of each line of ``nosejobs job show``."""
    job = report.job
    yield "job", job.id + (f" ({job.name})" if job.name else "")
    yield "state", format_state(job, report.jobs_ahead)
    if job.detail:
        yield "because", format_reason(job.end_reason, job.detail)
    if report.worker_error:
        yield "trouble", f"no worker: {report.worker_error}"
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
    yield "handed in", format_date(job.submitted_at)
    for attempt in report.attempts:
        yield f"attempt {attempt.number}", format_attempt(attempt)
    if job.labels:
        yield "labels", ", ".join(job.labels)
    if job.priority:
        yield "priority", str(job.priority)
    if job.package_digest:
        yield "package", f"{format_size(job.package_size)}, sha256 {job.package_digest}"
    if report.pending_notification:
        yield "notify", _format_pending(report.pending_notification)
    if report.workspace:
        yield "workspace", report.workspace
    yield "next", _suggest_next_step(job)


def _format_pending(untold: PendingNotification) -> str:
    if not untold.tries:
        return "not told yet"
    tries = "1 try" if untold.tries == 1 else f"{untold.tries} tries"
    return f"not told yet, {tries}: {untold.trouble}; next try in {untold.seconds:.0f} s"


def format_reason(how: str, detail: str) -> str:
    """Return why a job ended so; names the command whose exit status ``detail`` is."""
    return f"the install command failed: {detail}" if how == "install-failed" else detail


def format_attempt(attempt: AttemptReport) -> str:
    """Return the phase and the times of an attempt."""
    words = f"{attempt.step}, began {format_date(attempt.began)}"
    if attempt.ended is not None:
        words += f", took {max(attempt.ended - attempt.began, 0.0):.1f} s"
    return f"{words} ({attempt.detail})" if attempt.detail else words


def _format_counts(job: JobSummary) -> str:
    done = sum(job.outcomes.values())
    words = [f"{job.outcomes[name]} {name}" for name in sorted(job.outcomes)]
    if done < job.test_count:
        words.append(f"{job.test_count - done} open")
    return f"{job.test_count}: {', '.join(words)}" if words else str(job.test_count)


def _suggest_next_step(job: JobSummary) -> str:
    short = short_id(job.id)
    # What did not run is an error, too.
    has_open = job.end_reason != "completed" and job.failed > 0
    if job.state == "ready":
        rest = f", run what has not: nosejobs job rerun {short} --failed" if has_open else ""
        return f"harvest it: nosejobs job harvest {short}{rest}"
    if job.state == "harvested":
        again = f"nosejobs job rerun {short} --failed, or " if job.failed else ""
        return f"{again}nosejobs job forget {short}"
    if job.waiting_reason:
        return "mend what is said above; the host tries again by itself"
    return f"follow it: nosejobs job logs -f {short}"


def format_flaky(names: Sequence[str]) -> str:
    """Return the names of flaky tests, to follow the number of passed ones."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" ({len(names)} flaky: {', '.join(names[:5])}{more})" if names else ""


def report_progress(word: str) -> Callable[[int, int], None]:
    """Return a function that prints how many bytes of a total are done, at most once a second.

    ``word`` says what is done with them, such as ``sent``.
    """
    begin = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - begin > 1.0 and now - last > 1.0 and total:
            last = now
            print_message(f"{format_size(done)} of {format_size(total)} {word}")

    return tell
