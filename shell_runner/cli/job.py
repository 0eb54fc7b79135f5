"""The commands ``nosejobs job ...``: submit a job to a host, observe it, harvest it.

Exit statuses: 0 success, 1 tests failed, 2 refused or invalid, 6 infrastructure, 130 interrupted,
141 broken pipe.  Standard output has the result (a UUID, a log, a table, JSON); messages go to
standard error.  The requests themselves are made by ``jobs``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from ..errors import HostError, HostLost, HostOpenError, JobRefused, UsageError
from ..hosts.spec import HostSpec
from ..jobs import jobfile, submitted_jobs
from ..jobs.client import JobClient
from ..jobs.log_position import LogPosition, parse_log_position
from ..jobs.responses import JobListing
from ..remote.protocol.job import KEEP_WORKSPACE_VALUES
from ..remote.protocol.job_summary import JOB_STATES
from ..text import format_count
from .console import INFRASTRUCTURE, print_json, print_message, print_result
from .formatting import format_size
from .harvest_targets import HarvestTargets, finish, harvest_options, resume_hint
from .job_group import JobGroup
from .job_hosts import (
    choose_host,
    is_host_from_environment,
    list_hosts_with_jobs,
    open_client,
    open_job,
)
from .job_log_output import TextWriter, print_log, write_raw
from .job_output import (
    describe_job,
    format_state,
    print_summary,
    print_table,
    report_progress,
    short_id,
)


@click.group(cls=JobGroup)
def job() -> None:
    """Submit jobs that hosts run on their own, and harvest the results."""


def _host_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--host",
        metavar="SPEC",
        envvar="NOSEJOBS_HOST",
        help=f"The host, as in pytest --nosejobs=SPEC. Default: {default}.",
    )


_host = _host_option("$NOSEJOBS_HOST, else the only host with jobs of yours")
_host_or_all = _host_option("$NOSEJOBS_HOST, else all hosts with jobs of yours")
_host_of_job = _host_option("the host of the job, else $NOSEJOBS_HOST")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


# -- submit -----------------------------------------------------------------------------


@job.command()
@_host
@click.option(
    "--config", "file", type=click.Path(path_type=Path), help="A job file (TOML or JSON)."
)
@click.option("--tests", metavar="PATH", help="Folder or archive (zip, tar) of the tests.")
@click.argument("select", nargs=-1)
@click.option("--build", metavar="PATH", help="Folder or archive of the build.")
@click.option(
    "--install", metavar="COMMAND", help="Command that installs the build, run in its folder."
)
@click.option(
    "--install-timeout",
    metavar="SECONDS",
    help="Time limit of --install, such as 600 or 10m; default 10m.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Variable for install command and tests; without a value: as set here. Repeatable.",
)
@click.option(
    "--pass-env",
    multiple=True,
    metavar="NAME",
    help="Variable to pass on from the host (* allowed). Repeatable.",
)
@click.option(
    "--slots",
    type=int,
    metavar="NUMBER",
    help="Number of concurrent tests; 0: one per core of the host.",
)
@click.option(
    "--timeout", metavar="SECONDS", help="Default time limit of a test, such as 30 or 10m."
)
@click.option(
    "--job-timeout",
    metavar="SECONDS",
    help="Time limit of install and all tests; then the rest is canceled.",
)
@click.option("--retries", type=int, metavar="NUMBER", help="How often a failed test is run again.")
@click.option(
    "--attempts",
    type=int,
    metavar="NUMBER",
    help="Maximum number of attempts if the host or its worker dies.",
)
@click.option("--priority", type=int, metavar="NUMBER", help="Jobs of a higher priority run first.")
@click.option("--name", metavar="NAME", help="A name to show in lists.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LABEL",
    help="A label to select by with list --label. Repeatable.",
)
@click.option(
    "--keep-workspace",
    type=click.Choice(KEEP_WORKSPACE_VALUES),
    help="Whether to keep the workspace on the host; show prints its path.",
)
@click.option("--notify", metavar="URL", help="URL to notify when the job has ended.")
@click.option("--wait", is_flag=True, help="Follow the log, harvest, and exit as pytest does.")
@harvest_options
@_json
def submit(
    host: str | None,
    file: Path | None,
    env: Sequence[str],
    wait: bool,
    targets: HarvestTargets,
    as_json: bool,
    **given: Any,
) -> None:
    """Submit a job to a host and print its UUID.

    SELECT: names of tests, folders or patterns; default: all tests.
    """
    targets.require_wait(wait)
    options: dict[str, Any] = {
        key: value for key, value in given.items() if value not in (None, ())
    }
    if env:
        options["environment"] = dict(map(_parse_variable, env))
    description = jobfile.describe_job(file, options, os.environ)
    spec = choose_host(host)
    if not host:
        print_message(f"{spec.id}: no --host given; using the only host with jobs of yours")
    elif is_host_from_environment():
        print_message(f"{spec.id}: no --host given; using $NOSEJOBS_HOST")
    from ..jobs import submission  # loads plan and archives, which other commands do not need

    id = str(uuid.uuid4())
    if wait:
        targets.check(id)
    ready = submission.prepare_submission(description, spec, id)
    for note in ready.notes:
        print_message(f"not sent: {note}")
    with open_client(spec) as client:
        with _record_submission(
            client, submitted_jobs.SubmittedJob(id, spec, time.time(), description.name)
        ):
            summary, uploaded = client.submit(ready.job, ready.trees, report_progress("sent"))
        sent = sum(each.wire_bytes for each in uploaded)
        count = format_count(summary.test_count, "test")
        print_message(f"{spec.id}: {count}, {format_size(sent)} sent, {format_state(summary)}")
        _finish_submission(client, id, targets, wait, as_json)


@contextmanager
def _record_submission(client: JobClient, record: submitted_jobs.SubmittedJob) -> Iterator[None]:
    """Record a job while it is submitted; remove the record if it cannot have reached the host."""
    submitted_jobs.add(record)
    try:
        yield
    except BaseException as error:
        if isinstance(error, JobRefused) or not client.may_have_submitted:
            submitted_jobs.remove(record.id)
        else:
            print_message(
                f"it may have been submitted; to check: nosejobs job show {short_id(record.id)}"
            )
        raise


def _parse_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        if name not in os.environ:
            raise UsageError(f"--env {text}: {name} is not set here; use NAME=VALUE")
        value = os.environ[name]
    return name, value


def _finish_submission(
    client: JobClient, id: str, targets: HarvestTargets, wait: bool, as_json: bool
) -> None:
    """Print the UUID of a submitted job; then wait for it, or suggest the next command."""
    if as_json and wait:
        print_message(id)  # standard output is for the result, which includes the UUID
    else:
        # The UUID is alone on standard output, and flushed at once, for scripts.
        click.echo(json.dumps({"id": id, "host": client.spec.id}) if as_json else id)
        sys.stdout.flush()
    if wait:
        with resume_hint(id, targets):
            finish(client, id, targets, as_json=as_json or None)
        return
    short = short_id(id)
    print_message(f"next: nosejobs job logs -f {short}, nosejobs job harvest --wait {short}")


@job.command()
@click.argument("id", metavar="JOB")
@_host_of_job
@click.option(
    "--test",
    "tests",
    multiple=True,
    help="Name, folder or pattern of tests to run; default: all. Repeatable.",
)
@click.option("--failed", is_flag=True, help="Run the tests that failed or did not end.")
@click.option("--wait", is_flag=True, help="Follow the log, harvest, and exit as pytest does.")
@harvest_options
@_json
def rerun(
    id: str,
    host: str | None,
    tests: Sequence[str],
    failed: bool,
    wait: bool,
    targets: HarvestTargets,
    as_json: bool,
) -> None:
    """Run a job or some of its tests again.

    That is a new job with the same files; nothing is uploaded.
    """
    targets.require_wait(wait)
    with open_job(id, host) as (client, full_id):
        new = str(uuid.uuid4())
        if wait:
            targets.check(new)
        secret = os.environ.get(jobfile.SECRET_VARIABLE, "")
        with _record_submission(client, submitted_jobs.SubmittedJob(new, client.spec, time.time())):
            summary = client.rerun(full_id, new, tests, failed, secret)
        count = format_count(summary.test_count, "test")
        print_message(
            f"{client.spec.id}: {count} of job {short_id(full_id)}, {format_state(summary)}"
        )
        if not secret and client.get_job(new).config.get("notify"):
            print_message(f"the notification is not signed: {jobfile.SECRET_VARIABLE} is not set")
        _finish_submission(client, new, targets, wait, as_json)


# -- reading ----------------------------------------------------------------------------


@job.command("list")
@_host_or_all
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(JOB_STATES),
    help="Only jobs in this state. Repeatable.",
)
@click.option("--label", default="", metavar="LABEL", help="Only jobs with this label.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="Maximum number of jobs.",
)
@_json
def list_(host: str | None, states: Sequence[str], label: str, limit: int, as_json: bool) -> None:
    """List jobs, the newest first."""
    known = {} if host else list_hosts_with_jobs()
    if len(known) > 1:
        ids = [spec.id for spec in known.values()]
        names = {text if ids.count(spec.id) > 1 else spec.id: spec for text, spec in known.items()}
        _list_all(names, states, label, limit, as_json)
        return
    spec = choose_host(host)
    with open_client(spec) as client:
        listing = client.list_jobs(states, label, limit)
    if as_json:
        rows = [{**each._asdict(), "host": spec.id} for each in listing.jobs]
        print_json({"host": spec.id, "counts": listing.counts, "jobs": rows, "errors": {}})
        return
    if listing.jobs:
        print_table([(spec.id, each) for each in listing.jobs])
    print_summary(spec.id, listing)


def _list_all(
    specs: Mapping[str, HostSpec], states: Sequence[str], label: str, limit: int, as_json: bool
) -> None:
    """List the jobs of several hosts.

    A host that cannot be reached is reported on a line, and the exit status is 6.
    """
    listings: dict[str, JobListing] = {}
    errors: dict[str, str] = {}
    for name, spec in sorted(specs.items()):
        try:
            with closing(JobClient(spec, show_message=print_message, max_attempts=1)) as client:
                listings[name] = client.list_jobs(states, label, limit)
        except (HostError, JobRefused) as error:
            errors[name] = str(error).splitlines()[0]
    jobs = [(name, each) for name, listing in listings.items() for each in listing.jobs]
    jobs = sorted(jobs, key=lambda pair: -pair[1].submitted_at)[:limit]
    if as_json:
        counts = {
            state: sum(each.counts.get(state, 0) for each in listings.values())
            for state in JOB_STATES
        }
        rows = [{**each._asdict(), "host": name} for name, each in jobs]
        print_json({"host": None, "counts": counts, "jobs": rows, "errors": errors})
    else:
        if jobs:
            print_table(jobs, several=True)
        for name, listing in listings.items():
            print_summary(name, listing)
        for message in errors.values():
            print_message(message)
    if errors:
        click.get_current_context().exit(INFRASTRUCTURE)


@job.command()
@click.argument("id", metavar="JOB")
@_host_of_job
@_json
def show(id: str, host: str | None, as_json: bool) -> None:
    """Show a job: its state, failed tests, and what to do next."""
    with open_job(id, host) as (client, full_id):
        report = client.get_job(full_id)
    if as_json:
        print_json({"host": client.spec.id, **asdict(report), "job": report.job._asdict()})
        return
    for title, text in describe_job(report, client.spec):
        print_result(f"{title:9} {text}")


@job.command()
@click.argument("id", metavar="JOB")
@_host_of_job
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the job has ended.")
@click.option(
    "--attempt", type=click.IntRange(1), help="Number of the attempt; default: the last one."
)
@click.option(
    "--from",
    "start",
    metavar="POSITION",
    help="Continue at the position that an earlier call printed.",
)
@click.option("--raw", is_flag=True, help="Print unchanged bytes, including terminal escapes.")
def logs(
    id: str, host: str | None, follow: bool, attempt: int | None, start: str | None, raw: bool
) -> None:
    """Print the output of the install command and the tests."""
    position = parse_log_position(start) if start else LogPosition(attempt or 0)
    if start and attempt:
        raise click.UsageError("--from includes the attempt; do not use --attempt with it")
    with open_job(id, host) as (client, full_id):
        print_log(client, full_id, position, follow, write_raw if raw else TextWriter())


# -- the end of a job -------------------------------------------------------------------


@job.command()
@click.argument("id", metavar="JOB")
@_host_of_job
@harvest_options
@click.option("--no-ack", is_flag=True, help="Do not tell the host that the package was harvested.")
@click.option("--wait", is_flag=True, help="Wait until the job has ended.")
@_json
def harvest(
    id: str,
    host: str | None,
    targets: HarvestTargets,
    no_ack: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Download and verify the result package of a job.

    Then acknowledge it, so that the host may remove it.

    Exits with 0 if all tests passed, 1 if some failed, 2 if the command is invalid or was refused,
    6 if some tests could not be run or the host failed, 130 if interrupted.
    """
    targets = replace(targets, acknowledge=not no_ack)
    with open_job(id, host) as (client, full_id), resume_hint(full_id, targets):
        targets.check(full_id)
        if wait:
            client.wait(full_id)
        finish(client, full_id, targets, follow=False, as_json=as_json)


@job.command()
@click.argument("id", metavar="JOB")
@_host_of_job
def cancel(id: str, host: str | None) -> None:
    """Cancel a job; its results so far can be harvested."""
    with open_job(id, host) as (client, full_id):
        summary = client.cancel(full_id)
    print_result(f"{summary.id}: {format_state(summary)}")


@job.command()
@click.argument("id", metavar="JOB")
@_host_of_job
@click.option("--force", is_flag=True, help="Also if the job has not been harvested.")
def forget(id: str, host: str | None, force: bool) -> None:
    """Remove a job and its package from its host.

    With --force, also remove the local record if the host cannot be reached or does not have the
    job.
    """
    with open_job(id, host) as (client, full_id):
        try:
            client.forget(full_id, force)
        except (HostOpenError, HostLost, JobRefused) as error:
            is_gone = not isinstance(error, JobRefused) or error.kind == "unknown"
            if not is_gone or submitted_jobs.find(full_id) is None:
                raise
            if not force:
                command = f"nosejobs job forget {short_id(full_id)} --force"
                print_message(f"to remove the local record: {command}")
                raise
            print_message(f"{error}")
            submitted_jobs.remove(full_id)
            print_result(
                f"{full_id}: the local record is removed; if the host has the job, it keeps it"
            )
            return
    submitted_jobs.remove(full_id)
    print_result(f"{full_id}: forgotten")


@job.command()
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@_host
@_json
def limits(changes: Sequence[str], host: str | None, as_json: bool) -> None:
    """Show the limits of a host's queue, or change them."""
    from .job_limits import LIMIT_DESCRIPTIONS, format_limit, parse_limit

    new_values = dict(map(parse_limit, changes))
    with open_client(choose_host(host)) as client:
        limits_by_name = client.get_limits()
        for name, value in new_values.items():
            limits_by_name = client.set_limit(name, value)
    if as_json:
        print_json(dict(limits_by_name))
        return
    for name, value in limits_by_name.items():
        description = LIMIT_DESCRIPTIONS.get(name, "")
        print_result(f"{name:17} {format_limit(name, value):>10}  {description}".rstrip())
