"""The commands ``nosejobs job ...``: hand a host a job, look after it, harvest it.

Owns their words, what goes to which stream, and exit statuses: 0 all is well, 1 tests failed,
2 refused or not understood, 6 infrastructure.  What they do is done in ``jobs``.  Standard
output is for programs: a UUID, a log, a table, JSON; all else goes to standard error.
"""

from __future__ import annotations

import codecs
import json
import os
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import click
from click.core import ParameterSource

from . import jobfile, records
from .cli import Trouble, _Group, put, put_json, say
from .config import Config, find_root, load
from .errors import CannotOpen, HostError, HostLost, JobRefused, NosejobsError, UsageError
from .guard import clean
from .hosts import HostSpec, parse, written
from .jobs import Client, Gap, Place, place_of
from .remote.job import KEEP
from .remote.job_summary import STATES, JobSummary
from .told import Listing, Report, Untold

#: Exit statuses.
INFRASTRUCTURE, INTERRUPTED, NOBODY_READS = 6, 130, 141
#: Characters of a UUID that lists show.
_SHORT = 8


class HostTrouble(Trouble):
    """A host is to blame, or the way to it."""

    exit_code = INFRASTRUCTURE


class _Jobs(_Group):
    """Tells trouble with a host from a mistake."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Trouble as error:
            if _is_of_host(error.__cause__):
                raise HostTrouble(error.message) from error.__cause__
            if isinstance(error.__cause__, BrokenPipeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                ctx.exit(NOBODY_READS)
            raise
        except KeyboardInterrupt:
            say("interrupted; jobs that were handed in go on")
            ctx.exit(INTERRUPTED)


def _is_of_host(error: BaseException | None) -> bool:
    """Whoever asks is not to blame."""
    if isinstance(error, JobRefused):
        return error.kind in ("disk", "read-only", "corrupt")
    return isinstance(error, HostError)


@click.group(cls=_Jobs)
def job() -> None:
    """Jobs that hosts run by themselves: hand in, walk away, harvest."""


# -- which host, which job --------------------------------------------------------------


_host = click.option(
    "--host",
    metavar="SPEC",
    envvar="NOSEJOBS_HOST",
    help="A host as in pytest --nosejobs=SPEC; default: of a job, where it was handed in; else"
    " $NOSEJOBS_HOST; else the only host that has jobs of yours (list: all of them).",
)
_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _spec(text: str) -> HostSpec:
    """One host, by the inventory of the tree that we are in."""
    root = find_root(Path.cwd())
    inventory = load(root) if root else Config(Path.cwd())
    if text not in inventory.hosts and (known := _on_record_as(text)):
        return known
    found = parse([text], inventory.hosts)
    if len(found) != 1:
        raise UsageError(f"--host={text}: a job is at one host, not {len(found)}")
    return found[0]


def _hosts() -> Mapping[str, HostSpec]:
    """Those at which there are jobs of ours, by what can be typed for them."""
    newest_last = reversed(records.everything())
    return {written(replace(each.host, slots=0)): each.host for each in newest_last}


def _on_record_as(name: str) -> HostSpec | None:
    """The host of this name; a spec is none."""
    if name in ("auto", "popen") or any(mark in name for mark in ("=", "//", "*", ",")):
        return None
    found = {text: spec for text, spec in _hosts().items() if spec.id == name}
    if len(found) > 1:
        texts = "\n  ".join(f"--host {shlex.quote(text)}" for text in sorted(found))
        raise UsageError(f"--host={name}: there are jobs at several hosts of this name:\n  {texts}")
    return next(iter(found.values()), None)


def _some_host(text: str | None, job: str = "") -> HostSpec:
    """That of --host; else the only one at which there are jobs of ours."""
    if text:
        return _spec(text)
    known = _hosts()
    if len(known) == 1:
        return next(iter(known.values()))
    if job:
        raise UsageError(f"no job {job} is on record here; name its host with --host")
    texts = "".join(f"\n  --host {shlex.quote(text)}" for text in sorted(known))
    names = f" There are jobs at{texts}" if known else ""
    raise UsageError(f"which host?{names}\n  try: --host SPEC, or NOSEJOBS_HOST=SPEC")


def _host_is_usual() -> bool:
    """That of the variable, not of the command line."""
    source = click.get_current_context().get_parameter_source("host")
    return source is ParameterSource.ENVIRONMENT


@contextmanager
def _client(spec: HostSpec) -> Iterator[Client]:
    client = Client(spec, say=say)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _at(text: str, host: str | None) -> Iterator[tuple[Client, str]]:
    """The host of a job, and the whole UUID that begins with ``text``."""
    text = text.lower()
    if len(text) < records.SHORTEST or not all(c in "0123456789abcdef-" for c in text):
        raise UsageError(
            f"{text!r} is no job: write its UUID, or the first {records.SHORTEST} or more of it"
        )
    source = click.get_current_context().get_parameter_source("host")
    # A variable names the usual host; of a job on record we know better.
    record = None if source is ParameterSource.COMMANDLINE else records.find(text)
    with _client(record.host if record else _some_host(host, text)) as client:
        yield client, record.id if record else client.find(text)


# -- submit -----------------------------------------------------------------------------


def _harvest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--junitxml", type=click.Path(path_type=Path), help="JUnit XML of its tests."),
        click.option("--into", type=click.Path(path_type=Path), help="Extract into this folder."),
        click.option("--out", type=click.Path(path_type=Path), help="Default ./JOB.zip."),
    ):
        command = option(command)
    return command


@job.command()
@_host
@click.option("--config", "file", type=click.Path(path_type=Path), help="The job's file.")
@click.option("--tests", metavar="PATH", help="Folder or archive (zip, tar) of the tests.")
@click.argument("select", nargs=-1)
@click.option("--build", metavar="PATH", help="Folder or archive of the build.")
@click.option("--install", metavar="COMMAND", help="Installs the build, in its folder.")
@click.option("--install-timeout", metavar="SECONDS", help="Or 10m; default 10 minutes.")
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="For install and tests; without a value: as it is here. May be repeated.",
)
@click.option(
    "--pass-env", multiple=True, metavar="NAME", help="Passed on from the host. May be repeated."
)
@click.option(
    "--slots", type=int, metavar="NUMBER", help="Tests at a time; 0: as many as the host has cores."
)
@click.option("--timeout", metavar="SECONDS", help="Of a test that says nothing else; or 10m.")
@click.option(
    "--job-timeout",
    metavar="SECONDS",
    help="Of install and tests; what has not ended then is cancelled.",
)
@click.option(
    "--retries", type=int, metavar="NUMBER", help="How often a test that failed runs again."
)
@click.option(
    "--attempts",
    type=int,
    metavar="NUMBER",
    help="How often the job may start, after its host died.",
)
@click.option("--priority", type=int, metavar="NUMBER", help="Higher ones run first.")
@click.option("--name", metavar="NAME", help="For people.")
@click.option(
    "--label", "labels", multiple=True, metavar="LABEL", help="For list --label. May be repeated."
)
@click.option("--keep-workspace", type=click.Choice(KEEP), help="show says where it is.")
@click.option("--notify", metavar="URL", help="Told when the job has ended.")
@click.option("--wait", is_flag=True, help="Follow and harvest; exits as pytest does.")
@_harvest_options
@_json
def submit(
    host: str | None,
    file: Path | None,
    env: Sequence[str],
    wait: bool,
    out: Path | None,
    into: Path | None,
    junitxml: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Hand a job to a host; prints its UUID.

    SELECT: names of tests, folders or patterns; default: all of --tests.
    """
    if (out or into or junitxml) and not wait:
        raise click.UsageError("--out, --into and --junitxml need --wait")
    options: dict[str, Any] = {
        key: value for key, value in given.items() if value not in (None, ())
    }
    if env:
        options["environment"] = dict(map(_variable, env))
    wanted = jobfile.describe(file, options, os.environ)
    spec = _some_host(host)
    if not host:
        say(f"{spec.id}: no --host was given; all jobs that you handed in are at this one")
    elif _host_is_usual():
        say(f"{spec.id}: no --host was given; $NOSEJOBS_HOST names it")
    from . import submission  # junit, plan and archives: not for a look

    id = str(uuid.uuid4())
    if wait:
        _check_places(id, out, into, junitxml)
    ready = submission.prepare(wanted, spec, id)
    for note in ready.notes:
        say(f"stays here: {note}")
    with _client(spec) as client:
        with _on_record(client, records.Record(id, spec, time.time(), wanted.name)):
            found, brought = client.submit(ready.job, ready.trees, _progress("sent"))
        sent = sum(each.wire for each in brought)
        say(f"{spec.id}: {_tests(found.count)}, {_size(sent)} sent, {_state(found)}")
        _announce(id, as_json, spec, wait)
        if wait:
            with _going_on(id, out, into, junitxml, True):
                _finish(client, id, out, into, junitxml, True, as_json=as_json or None)
            return
    say(f"next: nosejobs job logs -f {id[:_SHORT]}, nosejobs job harvest --wait {id[:_SHORT]}")


@contextmanager
def _on_record(client: Client, record: records.Record) -> Iterator[None]:
    """While a job is handed in; of one that cannot have arrived nothing stays."""
    records.add(record)
    try:
        yield
    except BaseException as error:
        if isinstance(error, JobRefused) or not client.may_have_handed_in:
            records.remove(record.id)
        else:
            say(f"it may have arrived: nosejobs job show {record.id[:_SHORT]}")
        raise


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        if name not in os.environ:
            raise UsageError(f"--env {text}: write NAME=VALUE; {name} is not set here, either")
        value = os.environ[name]
    return name, value


def _announce(id: str, as_json: bool, spec: HostSpec, wait: bool) -> None:
    """All that a script needs, alone on standard output, at once."""
    if as_json and wait:  # standard output is the verdict's, which has it too
        say(id)
        return
    click.echo(json.dumps({"id": id, "host": spec.id}) if as_json else id)
    sys.stdout.flush()


def _progress(word: str) -> Callable[[int, int], None]:
    """A line of what takes long, on a terminal."""
    begin = last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - begin > 1.0 and now - last > 1.0 and total:
            last = now
            say(f"{_size(done)} of {_size(total)} {word}")

    return tell


@job.command()
@click.argument("id", metavar="JOB")
@_host
@click.option("--test", "tests", multiple=True, help="Name, folder or pattern. May be repeated.")
@click.option("--failed", is_flag=True, help="Those that have failed or did not end.")
@click.option("--wait", is_flag=True, help="Follow and harvest; exits as pytest does.")
@_harvest_options
@_json
def rerun(
    id: str,
    host: str | None,
    tests: Sequence[str],
    failed: bool,
    wait: bool,
    out: Path | None,
    into: Path | None,
    junitxml: Path | None,
    as_json: bool,
) -> None:
    """Run a job again, or some of its tests: a new job with the same contents.

    Nothing is sent.
    """
    if (out or into or junitxml) and not wait:
        raise click.UsageError("--out, --into and --junitxml need --wait")
    with _at(id, host) as (client, whole):
        new = str(uuid.uuid4())
        if wait:
            _check_places(new, out, into, junitxml)
        secret = os.environ.get(jobfile.SECRET, "")
        with _on_record(client, records.Record(new, client.spec, time.time())):
            found = client.rerun(whole, new, tests, failed, secret)
        say(f"{client.spec.id}: {_tests(found.count)} of job {whole[:_SHORT]}, {_state(found)}")
        if not secret and client.job(new).config.get("notify"):
            say(f"its notification is not signed: {jobfile.SECRET} is not set here")
        _announce(new, as_json, client.spec, wait)
        if wait:
            with _going_on(new, out, into, junitxml, True):
                _finish(client, new, out, into, junitxml, True, as_json=as_json or None)
            return
    say(f"next: nosejobs job logs -f {new[:_SHORT]}, nosejobs job harvest --wait {new[:_SHORT]}")


# -- looking ----------------------------------------------------------------------------


@job.command("list")
@_host
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="May be repeated."
)
@click.option("--label", default="", metavar="LABEL", help="Only jobs that have it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@_json
def list_(host: str | None, states: Sequence[str], label: str, limit: int, as_json: bool) -> None:
    """Show the jobs of a host, the newest first; without --host of all that have jobs of yours."""
    known = {} if host else _hosts()
    if len(known) > 1:
        ids = [spec.id for spec in known.values()]
        names = {text if ids.count(spec.id) > 1 else spec.id: spec for text, spec in known.items()}
        _list_all(names, states, label, limit, as_json)
        return
    spec = _some_host(host)
    with _client(spec) as client:
        found = client.jobs(states, label, limit)
    if as_json:
        rows = [{**each._asdict(), "host": spec.id} for each in found.jobs]
        put_json({"host": spec.id, "counts": found.counts, "jobs": rows, "trouble": {}})
        return
    if found.jobs:
        _table([(spec.id, each) for each in found.jobs])
    _foot(spec.id, found)


def _list_all(
    specs: Mapping[str, HostSpec], states: Sequence[str], label: str, limit: int, as_json: bool
) -> None:
    """Hosts in trouble cost a line each, and the exit status."""
    found: dict[str, Listing] = {}
    trouble: dict[str, str] = {}
    for name, spec in sorted(specs.items()):
        try:
            with closing(Client(spec, say=say, tries=1)) as client:
                found[name] = client.jobs(states, label, limit)
        except (HostError, JobRefused) as error:
            trouble[name] = str(error).splitlines()[0]
    jobs = [(name, each) for name, listing in found.items() for each in listing.jobs]
    jobs = sorted(jobs, key=lambda pair: -pair[1].submitted)[:limit]
    if as_json:
        counts = {
            state: sum(each.counts.get(state, 0) for each in found.values()) for state in STATES
        }
        rows = [{**each._asdict(), "host": name} for name, each in jobs]
        put_json({"host": None, "counts": counts, "jobs": rows, "trouble": trouble})
    else:
        if jobs:
            _table(jobs, several=True)
        for name, listing in found.items():
            _foot(name, listing)
        for words in trouble.values():
            say(words)
    if trouble:
        click.get_current_context().exit(INFRASTRUCTURE)


def _foot(host: str, found: Listing) -> None:
    counts = ", ".join(
        f"{found.counts[state]} {state}" for state in STATES if found.counts.get(state)
    )
    say(f"{host}: {counts or 'no jobs'}")
    if found.no_worker:
        say(f"{host}: no worker: {found.no_worker}")


def _table(jobs: Sequence[tuple[str, JobSummary]], several: bool = False) -> None:
    """Jobs and their hosts; ``several``: in a column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    hosts = ("host",) if several else ()
    for title in (*hosts, "job", "name", "state", "tests", "passed", "failed", "age", "package"):
        right = title in ("tests", "passed", "failed", "age", "package")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for host, each in jobs:
        size = _size(each.size) if each.package else ""
        names = " ".join([each.name, *(f"[{label}]" for label in each.labels)])
        cells = [
            *((host,) if several else ()), each.id[:_SHORT], names.strip(),
            _state(each), str(each.count), str(each.outcomes.get("passed", 0)), str(each.failed),
            _age(time.time() - each.submitted), size,
        ]  # fmt: skip
        style = "red" if each.failed else ""
        table.add_row(
            *(
                Text(clean(cell), style=style if n == 5 + several else "")
                for n, cell in enumerate(cells)
            )
        )
    wide = None if sys.stdout.isatty() else 160
    Console(width=wide, highlight=False).print(table)


def _state(found: JobSummary, ahead: int | None = None) -> str:
    """In words."""
    if found.state == "queued":
        words = f"queued, {ahead} before it" if ahead else "queued"
        if found.attempts:
            words += f" (attempt {found.attempts} was lost)"
    elif found.state == "running":
        words = f"running: {found.step}" if found.step else "running"
        words += ", to be cancelled" if found.cancelled else ""
    elif found.state == "packaging":
        words = f"{found.how or 'ended'}, packaging"
    else:
        words = f"{found.how}, {found.state}"
    return f"{words}: {found.trouble}" if found.trouble else words


@job.command()
@click.argument("id", metavar="JOB")
@_host
@_json
def show(id: str, host: str | None, as_json: bool) -> None:
    """Show a job: where it is, what has failed, what to do next."""
    with _at(id, host) as (client, whole):
        report = client.job(whole)
    if as_json:
        put_json({"host": client.spec.id, **asdict(report), "job": report.job._asdict()})
        return
    for key, words in _about(report, client.spec):
        put(f"{key:9} {words}")


def _about(report: Report, spec: HostSpec) -> Iterator[tuple[str, str]]:
    found = report.job
    yield "job", found.id + (f" ({found.name})" if found.name else "")
    yield "state", _state(found, report.ahead)
    if found.detail:
        yield "because", _because(found.how, found.detail)
    if report.no_worker:
        yield "trouble", f"no worker: {report.no_worker}"
    yield "tests", _counts(found)
    for test in report.failed:
        yield (
            "",
            f"{test.outcome.upper()} {test.nodeid}" + (f" - {test.words}" if test.words else ""),
        )
    if report.failures > len(report.failed):
        yield "", f"and {report.failures - len(report.failed)} more"
    yield "host", spec.id
    yield "handed in", _date(found.submitted)
    for attempt in report.attempts:
        yield f"attempt {attempt.number}", _attempt(attempt)
    if found.labels:
        yield "labels", ", ".join(found.labels)
    if found.priority:
        yield "priority", str(found.priority)
    if found.package:
        yield "package", f"{_size(found.size)}, sha256 {found.package}"
    if report.untold:
        yield "notify", _untold(report.untold)
    if report.workspace:
        yield "workspace", report.workspace
    yield "next", _next(found)


def _untold(untold: Untold) -> str:
    if not untold.tries:
        return "not told yet"
    tries = "1 try" if untold.tries == 1 else f"{untold.tries} tries"
    return f"not told yet, {tries}: {untold.trouble}; next try in {untold.seconds:.0f} s"


def _because(how: str, detail: str) -> str:
    """Whose exit status it is."""
    return f"the install command failed: {detail}" if how == "install-failed" else detail


def _attempt(attempt: Any) -> str:
    words = f"{attempt.step}, began {_date(attempt.began)}"
    if attempt.ended is not None:
        words += f", took {max(attempt.ended - attempt.began, 0.0):.1f} s"
    return f"{words} ({attempt.detail})" if attempt.detail else words


def _counts(found: JobSummary) -> str:
    done = sum(found.outcomes.values())
    words = [f"{found.outcomes[name]} {name}" for name in sorted(found.outcomes)]
    if done < found.count:
        words.append(f"{found.count - done} open")
    return f"{found.count}: {', '.join(words)}" if words else str(found.count)


def _next(found: JobSummary) -> str:
    short = found.id[:_SHORT]
    # What did not run is an error, too.
    has_open = found.how != "completed" and found.failed > 0
    if found.state == "ready":
        rest = f", run what has not: nosejobs job rerun {short} --failed" if has_open else ""
        return f"harvest it: nosejobs job harvest {short}{rest}"
    if found.state == "harvested":
        again = f"nosejobs job rerun {short} --failed, or " if found.failed else ""
        return f"{again}nosejobs job forget {short}"
    if found.trouble:
        return "mend what is said above; the host tries again by itself"
    return f"follow it: nosejobs job logs -f {short}"


@job.command()
@click.argument("id", metavar="JOB")
@_host
@click.option("-f", "--follow", is_flag=True, help="As it grows, until the job has ended.")
@click.option("--attempt", type=click.IntRange(1), help="Default: the last one.")
@click.option("--from", "start", metavar="PLACE", help="Go on where an earlier call has ended.")
@click.option("--raw", is_flag=True, help="Bytes as they are, terminal escapes too.")
def logs(
    id: str, host: str | None, follow: bool, attempt: int | None, start: str | None, raw: bool
) -> None:
    """Print what the install command and the tests print."""
    place = place_of(start) if start else Place(attempt or 0)
    if start and attempt:
        raise click.UsageError("--from names the attempt, too")
    with _at(id, host) as (client, whole):
        _logs(client, whole, place, follow, _raw if raw else _Text())


def _raw(data: bytes, is_end: bool) -> None:
    _write(sys.stdout, data)


def _write(stream: TextIO, data: bytes) -> None:
    """All of it: an unbuffered stream may take a part, and say so to nobody."""
    stream.flush()
    view = memoryview(data)
    while view:
        view = view[stream.buffer.write(view) :]
    stream.buffer.flush()


class _Text:
    """Bytes as they come, as text that cannot drive a terminal."""

    def __init__(self, err: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._err = err

    def __call__(self, data: bytes, is_end: bool) -> None:
        stream = sys.stderr if self._err else sys.stdout
        text = clean(self._decoder.decode(data, is_end))
        _write(stream, text.encode(stream.encoding, "backslashreplace"))


@contextmanager
def _whole() -> Iterator[None]:
    """Ctrl-C comes behind it: what was printed, and how far we have come, stay the same."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _logs(
    client: Client,
    id: str,
    place: Place,
    follow: bool,
    show: Callable[[bytes, bool], None],
    alone: bool = True,
) -> None:
    """If it is interrupted, says how to go on; not ``alone``: somebody else does, and has said
    where the job is.
    """
    start = place
    if follow and alone:
        report = client.job(id)
        if report.job.state == "queued":
            say(f"{client.spec.id}: {_state(report.job, report.ahead)}")
    try:
        for piece in client.log(id, place, follow):
            if piece.place.attempt > 1 and piece.place.attempt != place.attempt and follow:
                say(f"-- attempt {piece.place.attempt} --")
            with _whole():
                show(piece.data, piece.is_end)
                place = piece.place
    except Gap as error:
        if place == start:
            raise UsageError(f"--from {start}: {error}") from error
        raise
    except (KeyboardInterrupt, HostError):
        if place.attempt and alone:
            say(f"to go on: nosejobs job logs -f {id[:_SHORT]} --from {place}")
        raise


# -- the end of a job -------------------------------------------------------------------


@job.command()
@click.argument("id", metavar="JOB")
@_host
@_harvest_options
@click.option("--no-ack", is_flag=True, help="The host keeps it as if nobody had it.")
@click.option("--wait", is_flag=True, help="Until the job has ended.")
@_json
def harvest(
    id: str,
    host: str | None,
    out: Path | None,
    into: Path | None,
    junitxml: Path | None,
    no_ack: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Bring a job's result package here, verify it, and let the host know.

    Exits 0 if all tests passed, 1 if some failed, 6 if some could not be run.
    """
    with _at(id, host) as (client, whole), _going_on(whole, out, into, junitxml, not no_ack):
        _check_places(whole, out, into, junitxml)
        if wait:
            client.wait(whole)
        _finish(client, whole, out, into, junitxml, not no_ack, follow=False, as_json=as_json)


@contextmanager
def _going_on(
    id: str, out: Path | None, into: Path | None, junitxml: Path | None, acknowledge: bool
) -> Iterator[None]:
    """Interrupted, or without its host, it says which command comes to the same files."""
    try:
        yield
    except (KeyboardInterrupt, CannotOpen, HostLost):
        words = ["nosejobs", "job", "harvest", "--wait", id[:_SHORT]]
        for name, path in (("--out", out), ("--into", into), ("--junitxml", junitxml)):
            words += [name, str(path)] if path else []
        words += [] if acknowledge else ["--no-ack"]
        say(f"to go on: {shlex.join(words)}")
        raise


def _check_places(id: str, out: Path | None, into: Path | None, junitxml: Path | None) -> None:
    """Before a job runs for an hour."""
    from . import harvest as harvesting

    harvesting.check_places(out or Path(f"{id}.zip"), into, junitxml)


def _finish(
    client: Client,
    id: str,
    out: Path | None,
    into: Path | None,
    junitxml: Path | None,
    acknowledge: bool,
    follow: bool = True,
    as_json: bool | None = None,
) -> None:
    """Follow the job if asked to, harvest it, exit by what its tests came to.

    ``as_json``: None if standard output is somebody else's.
    """
    if follow:
        _logs(client, id, Place(), True, _Text(err=True), alone=False)
        client.wait(id)
    from . import harvest as harvesting  # packages and JUnit: not for who hands in or looks

    path = out or Path(f"{id}.zip")
    try:
        job, found = harvesting.harvest(client, id, path, into, junitxml, _progress("harvested"))
    except (NosejobsError, OSError):
        if follow:
            say(f"next: nosejobs job harvest {id[:_SHORT]}")
        raise
    if acknowledge:
        job = client.acknowledge(id, job.package)
    if as_json:
        put_json(
            {
                "id": id, "job": id, "host": client.spec.id, "package": str(path),
                "sha256": job.package, "size": job.size, "how": found.how, "detail": found.detail,
                "outcomes": found.outcomes, "failed": [asdict(each) for each in found.failed],
                "flaky": list(found.flaky),
                "acknowledged": job.harvested is not None, "exit": found.status,
            }
        )  # fmt: skip
    else:
        tell = say if as_json is None else put
        for each in found.failed[:20]:
            tell(f"{each.outcome.upper()} {each.nodeid} - {each.words}")
        words = ", ".join(
            f"{count} {name}" + (_flaky(found.flaky) if name == "passed" else "")
            for name, count in sorted(found.outcomes.items())
        )
        tell(f"{path}: {found.how}, {_tests(job.count)}: {words}")
        if found.detail:
            tell(f"because   {_because(found.how, found.detail)}")
        if not acknowledge:
            tell("not acknowledged: the host keeps it")
    if found.status:
        click.get_current_context().exit(found.status)


def _flaky(names: Sequence[str]) -> str:
    """Behind the count of those that passed."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" ({len(names)} flaky: {', '.join(names[:5])}{more})" if names else ""


@job.command()
@click.argument("id", metavar="JOB")
@_host
def cancel(id: str, host: str | None) -> None:
    """End a job; what has run of it can be harvested."""
    with _at(id, host) as (client, whole):
        found = client.cancel(whole)
    put(f"{found.id}: {_state(found)}")


@job.command()
@click.argument("id", metavar="JOB")
@_host
@click.option("--force", is_flag=True, help="Also if nobody has harvested it.")
def forget(id: str, host: str | None, force: bool) -> None:
    """Remove a job and its package from its host.

    With --force the record of it here, too, if its host cannot be reached or knows it no more.
    """
    with _at(id, host) as (client, whole):
        try:
            client.forget(whole, force)
        except (CannotOpen, HostLost, JobRefused) as error:
            is_gone = not isinstance(error, JobRefused) or error.kind == "unknown"
            if not is_gone or records.find(whole) is None:
                raise
            if not force:
                say(
                    f"to drop what is on record here: nosejobs job forget {whole[:_SHORT]} --force"
                )
                raise
            say(f"{error}")
            records.remove(whole)
            put(f"{whole}: is no more on record here; if its host has it, it stays there")
            return
    records.remove(whole)
    put(f"{whole}: forgotten")


@job.command()
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@_host
@_json
def limits(changes: Sequence[str], host: str | None, as_json: bool) -> None:
    """Show what a host's queue is bounded by, or change it."""
    wanted = dict(map(_limit, changes))
    with _client(_some_host(host)) as client:
        found = client.limits()
        for name, value in wanted.items():
            found = client.set_limit(name, value)
    if as_json:
        put_json(dict(found))
        return
    for name, value in found.items():
        words = _LIMITS.get(name, "")
        put(f"{name:17} {_amount(name, value):>10}  {words}".rstrip())


_LIMITS: Mapping[str, str] = {
    "waiting": "jobs that may wait",
    "kept_bytes": "of packages that were harvested",
    "contents_bytes": "of builds and tests that no job has",
    "linger": "seconds that a worker waits for more jobs",
    "drop_unharvested": "whether kept_bytes lets go of packages that nobody has harvested, too",
}


_YES_NO = {"yes": 1, "no": 0, "true": 1, "false": 0, "1": 1, "0": 0}


def _amount(name: str, value: int) -> str:
    """Sizes in the unit in which they are round, as they were given."""
    if name == "drop_unharvested":
        return "yes" if value else "no"
    if not name.endswith("bytes"):
        return str(value)
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        for base, unit in ((1024, letter.upper() + "iB"), (1000, letter + "B")):
            if value and not value % base**power:
                return f"{value // base**power} {unit}"
    return f"{value} bytes"


def _limit(text: str) -> tuple[str, int]:
    from .validators import check, size

    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r}: write NAME=VALUE, as in kept_bytes=8GiB")
    if name not in _LIMITS:
        raise UsageError(f"no limit is called {name!r}; there are {', '.join(_LIMITS)}")
    if name == "drop_unharvested":
        return name, _checked_limit(name, "yes or no", value, _YES_NO.get(value.lower()))
    if not name.endswith("bytes"):
        unit = "a number of jobs" if name == "waiting" else "a whole number of seconds"
        sound = value.isascii() and value.isdecimal() and len(value) < 18
        return name, _checked_limit(name, unit, value, int(value) if sound else None)
    number: int = check(
        size,
        int(value) if value.isdecimal() else value,
        lambda message: UsageError(f"{name} {message}"),
    )
    return name, number


def _checked_limit(name: str, unit: str, text: str, value: int | None) -> int:
    if value is None:
        raise UsageError(f"{name} must be {unit}, not {text!r}")
    return value


# -- words ------------------------------------------------------------------------------


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _age(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def _date(seconds: float) -> str:
    """A host may have any clock."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
