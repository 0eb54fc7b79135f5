"""The files to which the result of a job is written, and the end of a job on the command line.

Responsible for the options --out, --into and --junitxml, which several commands share, and for
what a harvest prints.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import HostLost, HostOpenError, NosejobsError
from ..jobs.client import JobClient
from ..jobs.log_position import LOG_START
from ..junit_style import DEFAULT_STYLE, IN_TESTCASES, PROPERTY_PLACES, JunitStyle
from ..text import format_count
from .console import print_json, print_message, print_result
from .job_log_output import TextWriter, print_log
from .job_output import format_flaky, format_reason, report_progress, short_id

if TYPE_CHECKING:
    from ..jobs.results import HarvestResult
    from ..remote.protocol.job_summary import JobSummary

#: Maximum number of failed tests that are listed.
_MAX_LISTED_FAILURES = 20


@dataclass(frozen=True)
class HarvestTargets:
    """The paths to which the result of a job is written."""

    #: The package; None: ``JOB.zip`` in the current folder.
    out: Path | None = None
    #: A folder into which the package is extracted.
    into: Path | None = None
    #: A JUnit XML file.
    junitxml: Path | None = None
    style: JunitStyle = DEFAULT_STYLE
    #: Whether the host is told that the package has arrived, so that it may remove it.
    acknowledge: bool = True

    def package(self, id: str) -> Path:
        """Return the path of the package of job ``id``."""
        return self.out or Path(f"{id}.zip")

    def arguments(self) -> list[str]:
        """Return the command-line arguments that name these targets."""
        arguments = []
        for name, path in (
            ("--out", self.out), ("--into", self.into), ("--junitxml", self.junitxml)
        ):  # fmt: skip
            arguments += [name, str(path)] if path else []
        arguments += ["--junit-prefix", self.style.prefix] if self.style.prefix else []
        if self.style.properties != IN_TESTCASES:
            arguments += ["--junit-properties", self.style.properties]
        return [*arguments, *([] if self.acknowledge else ["--no-ack"])]

    def require_wait(self, wait: bool) -> None:
        """Raise :exc:`click.UsageError` if a target is named although nothing is harvested."""
        if (self.out or self.into or self.junitxml) and not wait:
            raise click.UsageError("--out, --into and --junitxml need --wait")

    def check(self, id: str) -> None:
        """Raise :exc:`UsageError` for a target that cannot be written, before the job runs."""
        from ..jobs import results

        results.check_targets(self.package(id), self.into, self.junitxml)


def harvest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :class:`HarvestTargets`; ``command`` receives them as ``targets``."""

    @functools.wraps(command)
    def with_targets(
        *arguments: Any,
        out: Path | None,
        into: Path | None,
        junitxml: Path | None,
        junit_prefix: str,
        junit_properties: str,
        **options: Any,
    ) -> Any:
        style = JunitStyle(junit_prefix, junit_properties)
        return command(*arguments, targets=HarvestTargets(out, into, junitxml, style), **options)

    path = click.Path(path_type=Path)
    decorated: Callable[..., Any] = with_targets
    for option in (
        click.option(
            "--junit-properties",
            type=click.Choice(PROPERTY_PLACES),
            default=IN_TESTCASES,
            help="Where the report has properties: in each testcase (default), in the testsuite, "
            "or nowhere.",
        ),
        click.option(
            "--junit-prefix", default="", help="Text in front of the class of each testcase."
        ),
        click.option("--junitxml", type=path, help="Write a JUnit XML report to this file."),
        click.option("--into", type=path, help="Extract the package into this folder."),
        click.option("--out", type=path, help="Write the package to this file; default ./JOB.zip."),
    ):
        decorated = option(decorated)
    return decorated


@contextmanager
def resume_hint(id: str, targets: HarvestTargets) -> Iterator[None]:
    """Print the command that continues if the block is interrupted or loses the host."""
    try:
        yield
    except (KeyboardInterrupt, HostOpenError, HostLost):
        command = ["nosejobs", "job", "harvest", "--wait", short_id(id)]
        print_message(f"to continue: {shlex.join([*command, *targets.arguments()])}")
        raise


def finish(
    client: JobClient,
    id: str,
    targets: HarvestTargets,
    follow: bool = True,
    as_json: bool | None = None,
) -> None:
    """Harvest a job and exit with the status of its tests; ``follow`` its log until it has ended.

    ``as_json`` is None if standard output belongs to the caller; the summary then goes to standard
    error.
    """
    if follow:
        print_log(client, id, LOG_START, True, TextWriter(err=True), alone=False)
        client.wait(id)
    from ..jobs import results  # loads packages and JUnit XML, which other commands do not need

    path = targets.package(id)
    try:
        job, harvested = results.harvest(
            client, id, path, targets.into, targets.junitxml, report_progress("harvested"),
            targets.style,
        )  # fmt: skip
    except (NosejobsError, OSError):
        if follow:
            print_message(f"next: nosejobs job harvest {short_id(id)}")
        raise
    if targets.acknowledge:
        job = client.acknowledge(id, job.package_digest)
    if as_json:
        _print_json(client, id, path, job, harvested)
    else:
        _print_summary(
            path, job, harvested, targets, print_message if as_json is None else print_result
        )
    if harvested.exit_status:
        click.get_current_context().exit(harvested.exit_status)


def _print_json(
    client: JobClient, id: str, path: Path, job: JobSummary, harvested: HarvestResult
) -> None:
    print_json(
        {
            "id": id, "job": id, "host": client.spec.id, "package": str(path),
            "package_digest": job.package_digest, "package_size": job.package_size,
            "end_reason": harvested.end_reason, "detail": harvested.detail,
            "outcomes": harvested.outcomes,
            "failed": [asdict(test) for test in harvested.failed], "flaky": list(harvested.flaky),
            "acknowledged": job.harvested_at is not None, "exit_status": harvested.exit_status,
        }
    )  # fmt: skip


def _print_summary(
    path: Path,
    job: JobSummary,
    harvested: HarvestResult,
    targets: HarvestTargets,
    show: Callable[[str], None],
) -> None:
    for test in harvested.failed[:_MAX_LISTED_FAILURES]:
        show(f"{test.outcome.upper()} {test.nodeid} - {test.message}")
    counts = ", ".join(
        f"{count} {name}" + (format_flaky(harvested.flaky) if name == "passed" else "")
        for name, count in sorted(harvested.outcomes.items())
    )
    show(f"{path}: {harvested.end_reason}, {format_count(job.test_count, 'test')}: {counts}")
    if harvested.detail:
        show(f"reason    {format_reason(harvested.end_reason, harvested.detail)}")
    if not targets.acknowledge:
        show("not acknowledged: the host keeps the package")
