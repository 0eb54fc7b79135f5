"""Tables and texts about builds, stages and hosts for a terminal.

The values are responses of the API.  Control characters of texts from commits, hosts and tests are
removed here, in every cell and every line.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from shell_runner.cli.formatting import format_age, format_size
from shell_runner.text import shorten_list, strip_control_chars, to_single_line

_STYLES = {
    "passed": "green", "failed": "red", "error": "magenta", "running": "cyan",
    "stopped": "yellow", "gated": "yellow", "held": "yellow", "blocked": "yellow",
    "canceled": "yellow", "superseded": "dim", "up": "green", "down": "red",
    "quarantined": "red", "draining": "yellow",
}  # fmt: skip
#: The detail of a run that has passed; the column of its tests has the same information.
_TEST_COUNT_DETAIL = re.compile(r"[0-9]+ tests?")
#: The detail of a run that waits although no host is busy: only a person can change that.
_NO_HOST_MATCHES = re.compile("none matches; ")
#: Beginning of the detail of a run whose hosts cannot exist, as ``host_supply`` writes it.  (Its
#: import would take longer than the request of a command.)
_NEVER_PLACED = "can never be placed: "
#: The next command by the state of a stage, the most urgent state first.
_NEXT_COMMANDS = {
    "failed": "nosejobs logs {0} {1}; nosejobs rerun {0} {1} --failed",
    "error": "nosejobs rerun {0} {1}",
    "gated": "nosejobs approve {0} {1}",
    "held": "nosejobs approve {0} {1}",
    "canceled": "nosejobs rerun {0} {1}",
    # The run begins once there are hosts; only one that is given up needs a command.
    "never placed": "nosejobs cancel {0} {1}",
    "running": "nosejobs logs -f {0} {1}",
}
#: Maximum number of commands that are suggested.
_MAX_SUGGESTIONS = 3
#: Maximum number of failed tests, and of measurements, that are shown.
_MAX_LISTED_ROWS = 20
#: Width in characters if standard output is not a terminal.
_PIPE_WIDTH = 160

Cell = tuple[str, str]
Row = Sequence[str | Cell]
JsonObject = dict[str, Any]


def format_builds(found: Sequence[JsonObject]) -> Table:
    """Return a table with a row for each build."""
    titles = ("build", "source", "revision", "subject", "level", "tags", "now", "age")
    return _table(titles, map(_build_row, found))


def _build_row(each: JsonObject) -> Row:
    change, stages = each["change"], [s for s in each["stages"] if s["name"] != "build"]
    tagged = sum(stage["tagged"] for stage in stages)
    return (
        str(each["number"]),
        " ".join(filter(None, [change["source"], change["branch"]])),
        change["revision"][:10],
        to_single_line(change["subject"], 60),
        each["level"],
        f"{tagged}/{len(stages)}" if stages else "",
        (each["message"], _STYLES.get(each["outcome"], "")),
        format_age(time.time() - each["created_at"]),
    )


def format_hosts(found: Sequence[JsonObject]) -> Table:
    """Return a table with a row for each host."""
    titles = ("host", "state", "labels", "jobs", "ended", "seen", "spec", "because")
    return _table(titles, map(_host_row, found))


def _host_row(each: JsonObject) -> Row:
    return (
        f"{each['name']} ({each['pool']})" if each["pool"] else each["name"],
        (each["state"], _STYLES.get(each["state"], "")),
        ", ".join(each["labels"]),
        str(each["open_jobs"]),
        str(each["jobs_ended"]),
        f"{format_age(time.time() - each['last_seen_at'])} ago"
        if each["last_seen_at"]
        else "never",
        # The spec of a host of a pool is long and not useful here; --json has it.
        "" if each["pool"] else each["spec"],
        each["reason"],
    )


def _format_time_since(timestamp: float) -> str:
    return f"{format_age(time.time() - timestamp)} ago"


def format_stages(found: JsonObject) -> Table:
    """Return a table with a row for each stage of a build."""
    titles = ("stage", "tag", "state", "tests", "took", "hosts", "because")
    tagged = {stage["name"]: stage["tagged"] for stage in found["stages"]}
    return _table(titles, (_stage_row(each, found, tagged) for each in found["stages"]))


def _stage_row(stage: JsonObject, found: JsonObject, tagged: Mapping[str, bool]) -> Row:
    run = stage["run"]
    its = _list_jobs(found, run) if run else []
    names = list(dict.fromkeys(job["host"] for job in its))
    state = run["state"] if run else ""
    again = f" (run {run['number']})" if run and run["number"] > 1 else ""
    return (
        stage["name"],
        ("yes", "green") if stage["tagged"] else "",
        (f"{state}{again}", _STYLES.get(state, "")),
        # The job of the build command has the command as its test.
        "" if stage["name"] == "build" or not run else _format_run_counts(found, run),
        format_run_duration(run) if run else "",
        ", ".join(names),
        to_single_line(_format_reason(stage, names, tagged), 200),
    )


def _format_reason(stage: JsonObject, hosts: Sequence[str], tagged: Mapping[str, bool]) -> str:
    """Return the reason for the state of a stage, without a host that another column shows."""
    run = stage["run"]
    if run is None:
        return ""
    if run["state"] == "passed" and stage["name"] != "build" and not stage["tagged"]:
        missing = [name for name in stage["needs"] if not tagged.get(name, True)]
        return f"no tag: {', '.join(missing)} has none" if missing else "its tag was revoked"
    detail = "" if _TEST_COUNT_DETAIL.fullmatch(run["detail"]) else str(run["detail"])
    if _NEVER_PLACED in detail:
        # The rest of the detail, about all hosts and what to do, is shown below the table.
        before, _, reason = detail.partition(_NEVER_PLACED)
        return before + _NEVER_PLACED + reason.partition(";")[0]
    return detail.removeprefix(f"{hosts[0]}: ") if len(hosts) == 1 else detail


def format_run_status(run: JsonObject) -> str:
    """Return the state of a run as one line, for a user who follows it."""
    again = f" (run {run['number']})" if run["number"] > 1 else ""
    state, detail = run["state"], run["detail"]
    if state == "placing" and not detail.startswith(_NEVER_PLACED):
        # Which hosts are busy changes often, and `show` has it.  That no host fits does not change.
        lasting = _NO_HOST_MATCHES.search(detail) and " is starting" not in detail
        return f"{run['stage']}{again}: waiting for hosts{f': {detail}' if lasting else ''}"
    if state == "placing":
        return f"{run['stage']}{again} {detail}"
    message = f"{state}: {detail}" if detail and not detail.startswith(state) else detail or state
    return f"{run['stage']}{again}: {message}"


def is_part_of_run(job: JsonObject, run: JsonObject) -> bool:
    """Return whether a job is part of a run."""
    return bool(job["stage"] == run["stage"] and job["run_number"] == run["number"])


def latest_attempts(jobs: Iterable[JsonObject]) -> list[JsonObject]:
    """Return the newest attempt at each part."""
    found: dict[int, JsonObject] = {}
    for job in jobs:
        if job["part"] not in found or found[job["part"]]["attempt"] < job["attempt"]:
            found[job["part"]] = job
    return [found[part] for part in sorted(found)]


def _list_jobs(found: JsonObject, run: JsonObject) -> list[JsonObject]:
    return latest_attempts(job for job in found["jobs"] if is_part_of_run(job, run))


def _format_run_counts(found: JsonObject, run: JsonObject) -> str:
    """Return the counts of a run; for a run of some tests only, also those that it stands on."""
    text = _format_counts(_list_jobs(found, run))
    earlier = [
        f"run {each['number']}: {counts}"
        for each in _list_base_runs(found, run)
        if (counts := _format_counts(_list_jobs(found, each)))
    ]
    return f"{text or 'none yet'} ({'; '.join(shorten_list(earlier, 3))})" if earlier else text


def _list_base_runs(found: JsonObject, run: JsonObject) -> Iterator[JsonObject]:
    """Yield the earlier runs on which the verdict of a run stands, down to one of all tests."""
    while run["selected_test_count"] is not None:
        earlier = [
            each
            for each in found["runs"]
            if each["stage"] == run["stage"]
            and each["number"] < run["number"]
            and each["state"] in ("passed", "failed")
        ]
        if not earlier:
            return
        run = max(earlier, key=lambda each: int(each["number"]))
        yield run


def _format_counts(jobs: Iterable[JsonObject]) -> str:
    counts = [job["counts"] for job in jobs if job["counts"]]
    message = []
    for name in ("passed", "failed", "error", "skipped"):
        number = sum(each[name] for each in counts)
        if number:
            message.append(f"{number} {name}")
    return ", ".join(message)


def format_run_duration(run: JsonObject) -> str:
    """Return the duration of a run so far."""
    if run["started_at"] is None:
        return ""
    return f"{max((run['ended_at'] or time.time()) - run['started_at'], 0.0):.1f} s"


def format_build_header(found: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield the lines above the stages: name and text."""
    change = found["change"]
    where = f"{change['source']}, {change['branch']}" if change["branch"] else change["source"]
    yield "build", f"{found['number']} of {where}"
    subject = f" {change['subject']}" if change["subject"] else ""
    by = f" ({change['author']})" if change["author"] else ""
    forced = ", history was rewritten" if change["forced"] else ""
    yield "revision", f"{change['revision'][:12]}{subject}{by}{forced}"
    yield "level", found["level"]
    yield "now", found["message"]
    # The detail of a build with an artifact concerns the artifact, not its stages.
    detail = found["detail"]
    if detail and found["state"] != "built":
        yield "because", detail
    if found["artifact_digest"]:
        why = f"; {detail}" if detail and found["state"] == "built" else ""
        size = format_size(found["artifact_size"])
        yield "artifact", f"{size}, {found['artifact_digest'][:12]}{why}"
    if found["removed_at"]:
        yield "removed", f"results and artifact, {_format_time_since(found['removed_at'])}"
    for message in found["warnings"]:
        yield "warning", message


def format_build_footer(found: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield the lines below the stages: name and text."""
    jobs = {job["id"]: job for job in found["jobs"]}
    for each in found["failures"][:_MAX_LISTED_ROWS]:
        job = jobs[each["job"]]
        message = f"{each['outcome'].upper()} {each['nodeid']} - {each['message']}"
        yield job["stage"], f"{message} (on {job['host']})"
    if len(found["failures"]) > _MAX_LISTED_ROWS:
        yield "", f"and {len(found['failures']) - _MAX_LISTED_ROWS} more"
    yield from _flaky_lines(found, jobs)
    for stage in found["stages"]:
        if stage["run"] and _NEVER_PLACED in stage["run"]["detail"]:
            yield stage["name"], stage["run"]["detail"].replace("; ", "\n")
    for each in found["measurements"][:_MAX_LISTED_ROWS]:
        unit = f" {each['unit']}" if each["unit"] else ""
        yield each["stage"], f"{each['name']} = {each['value']:.12g}{unit} ({each['nodeid']})"
    yield from dict.fromkeys(
        _format_tag(each) for each in found["tags"] if _is_manual_or_revoked(each)
    )
    over = {s["name"] for s in found["stages"] if s["run"] and s["run"]["ended_at"] is not None}
    for each in found["decisions"]:
        later = ", from its next run on" if each["kind"] == "held" and each["stage"] in over else ""
        why = f": {each['reason']}" if each["reason"] else ""
        yield each["kind"], f"{each['stage']} by {each['actor']}{later}{why}"
    hint = suggest_next_step(found)
    if hint:
        yield "next", hint


def _flaky_lines(found: JsonObject, jobs: Mapping[str, JsonObject]) -> Iterator[tuple[str, str]]:
    """Yield the tests that passed at last, with the reasons why earlier attempts failed."""
    for each in found["flaky"][:_MAX_LISTED_ROWS]:
        job, reasons = jobs[each["job"]], "; ".join(each["earlier_failures"].splitlines())
        passed = f"passed on attempt {each['attempts']} (on {job['host']})"
        yield job["stage"], f"FLAKY {each['nodeid']} - {passed}; {reasons or 'no reasons kept'}"
    if len(found["flaky"]) > _MAX_LISTED_ROWS:
        yield "", f"and {len(found['flaky']) - _MAX_LISTED_ROWS} more"


def _is_manual_or_revoked(tag: JsonObject) -> bool:
    return tag["run_number"] is None or tag["revoked_at"] is not None


def _format_tag(tag: JsonObject) -> tuple[str, str]:
    if tag["revoked_at"] is None:
        return "by hand", f"tagged {tag['stage']} by {tag['actor']}"
    return "revoked", f"tag {tag['stage']}: {tag['revocation_reason']}"


def suggest_next_step(found: JsonObject) -> str:
    """Return the commands that a person may want to run next; empty if there is none."""
    commands: dict[str, list[str]] = {}
    for stage in found["stages"]:
        state = stage["run"]["state"] if stage["run"] else ""
        if state in ("placing", "running") and _NEVER_PLACED in stage["run"]["detail"]:
            state = "never placed"
        if state in _NEXT_COMMANDS:
            command = _NEXT_COMMANDS[state].format(found["number"], stage["name"])
            commands.setdefault(state, []).append(command)
    # Stages that wait for a person are independent of each other: each needs its own command.
    for_people = [each for state in ("gated", "held") for each in commands.get(state, ())]
    for state in _NEXT_COMMANDS:
        if state in commands:
            listed = for_people if state in ("gated", "held") else commands[state][:1]
            return "; ".join(shorten_list(listed, _MAX_SUGGESTIONS))
    return ""


def format_lines(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield lines without control characters; further lines of a text are indented."""
    for name, message in pairs:
        for number, line in enumerate(strip_control_chars(message).splitlines()):
            yield f"{to_single_line('' if number else name, 60):9} {line[:2000]}"


def print_table(table: Table) -> None:
    """Print a table to standard output; wrap it only if that is a terminal."""
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _table(titles: Sequence[str], rows: Iterable[Row]) -> Table:
    """Return a table without the columns that are empty."""
    texts = [[_to_text(cell) for cell in row] for row in rows]
    used = [number for number in range(len(titles)) if any(row[number].plain for row in texts)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number in used:
        right = titles[number] in ("build", "tags", "took", "age", "jobs", "ended")
        justify: JustifyMethod = "right" if right else "left"
        table.add_column(titles[number], justify=justify, overflow="fold")
    for row in texts:
        table.add_row(*(row[number] for number in used))
    return table


def _to_text(cell: str | Cell) -> Text:
    message, style = (cell, "") if isinstance(cell, str) else cell
    # The hint of an error is on a second line; a cell has one line.
    return Text(to_single_line(re.sub(r"\n\s*", "; ", message), 300), style=style)
