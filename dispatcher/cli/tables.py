"""How builds, stages and hosts look in a terminal.

Owns tables and words.  Takes what the API answers.  Whatever comes from commits, hosts and tests
is cleaned here, in every cell and every line.
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
from shell_runner.text import strip_control_chars, to_single_line

_STYLES = {
    "passed": "green", "failed": "red", "error": "magenta", "going": "cyan", "running": "cyan",
    "stopped": "yellow", "gated": "yellow", "held": "yellow", "blocked": "yellow",
    "cancelled": "yellow", "superseded": "dim", "up": "green", "down": "red",
    "quarantined": "red", "draining": "yellow",
}  # fmt: skip
#: What a run that has passed says, and the column of its tests says better.
_COUNTED = re.compile(r"[0-9]+ tests?")
#: Failed tests, and numbers, that are shown of a stage.
_MOST = 20
_WIDE = 160

Cell = tuple[str, str]
Row = Sequence[str | Cell]
Values = dict[str, Any]


def builds(found: Sequence[Values]) -> Table:
    """One line a build."""
    titles = ("build", "source", "revision", "subject", "level", "tags", "now", "age")
    return _table(titles, map(_build, found))


def _build(each: Values) -> Row:
    change, stages = each["change"], [s for s in each["stages"] if s["name"] != "build"]
    tagged = sum(stage["tagged"] for stage in stages)
    return (
        str(each["number"]),
        " ".join(filter(None, [change["source"], change["branch"]])),
        change["revision"][:10],
        to_single_line(change["subject"], 60),
        each["level"],
        f"{tagged}/{len(stages)}" if stages else "",
        (each["words"], _STYLES.get(each["outcome"], "")),
        format_age(time.time() - each["began"]),
    )


def hosts(found: Sequence[Values]) -> Table:
    """One line a host."""
    titles = ("host", "state", "labels", "jobs", "ended", "seen", "spec", "because")
    return _table(titles, map(_host, found))


def _host(each: Values) -> Row:
    return (
        f"{each['name']} ({each['pool']})" if each["pool"] else each["name"],
        (each["state"], _STYLES.get(each["state"], "")),
        ", ".join(each["labels"]),
        str(each["open"]),
        str(each["jobs"]),
        f"{format_age(time.time() - each['seen'])} ago" if each["seen"] else "never",
        # How a pool reaches its own is its business, and long; --json has it.
        "" if each["pool"] else each["spec"],
        each["reason"],
    )


def stages(found: Values) -> Table:
    """One line a stage of a build."""
    titles = ("stage", "tag", "state", "tests", "took", "hosts", "because")
    tagged = {stage["name"]: stage["tagged"] for stage in found["stages"]}
    return _table(titles, (_stage(each, found["jobs"], tagged) for each in found["stages"]))


def _stage(stage: Values, jobs: Iterable[Values], tagged: Mapping[str, bool]) -> Row:
    run = stage["run"]
    its = latest(job for job in jobs if run and is_of(job, run))
    names = list(dict.fromkeys(job["host"] for job in its))
    state = run["state"] if run else ""
    again = f" (run {run['number']})" if run and run["number"] > 1 else ""
    return (
        stage["name"],
        ("yes", "green") if stage["tagged"] else "",
        (f"{state}{again}", _STYLES.get(state, "")),
        # The build command is no test, though its job has it as one.
        "" if stage["name"] == "build" else _tests(its),
        took(run) if run else "",
        ", ".join(names),
        to_single_line(_because(stage, names, tagged), 200),
    )


def _because(stage: Values, hosts: Sequence[str], tagged: Mapping[str, bool]) -> str:
    """Why it is so; a host that has a column of its own is not said twice."""
    run = stage["run"]
    if run is None:
        return ""
    if run["state"] == "passed" and stage["name"] != "build" and not stage["tagged"]:
        missing = [name for name in stage["needs"] if not tagged.get(name, True)]
        return f"no tag: {', '.join(missing)} has none" if missing else "its tag was revoked"
    detail = "" if _COUNTED.fullmatch(run["detail"]) else str(run["detail"])
    return detail.removeprefix(f"{hosts[0]}: ") if len(hosts) == 1 else detail


def news(run: Values) -> str:
    """Where a run stands, in a line for whoever follows it."""
    again = f" (run {run['number']})" if run["number"] > 1 else ""
    state, detail = run["state"], run["detail"]
    if state == "placing":
        # Which hosts are busy changes often: `show` says it.  That none fits does not.
        lasting = "none fits; " in detail and " is starting" not in detail
        return f"{run['stage']}{again}: waits for hosts{f': {detail}' if lasting else ''}"
    words = f"{state}: {detail}" if detail and not detail.startswith(state) else detail or state
    return f"{run['stage']}{again}: {words}"


def is_of(job: Values, run: Values) -> bool:
    """A job is a part of a run."""
    return bool(job["stage"] == run["stage"] and job["run"] == run["number"])


def latest(jobs: Iterable[Values]) -> list[Values]:
    """The last attempt at each part."""
    found: dict[int, Values] = {}
    for job in jobs:
        if job["part"] not in found or found[job["part"]]["attempt"] < job["attempt"]:
            found[job["part"]] = job
    return [found[part] for part in sorted(found)]


def _tests(jobs: Iterable[Values]) -> str:
    counts = [job["counts"] for job in jobs if job["counts"]]
    words = []
    for name in ("passed", "failed", "error", "skipped"):
        number = sum(each[name] for each in counts)
        if number:
            words.append(f"{number} {name}")
    return ", ".join(words)


def took(run: Values) -> str:
    """How long a run took, or takes."""
    if run["began"] is None:
        return ""
    return f"{max((run['ended'] or time.time()) - run['began'], 0.0):.1f} s"


def about(found: Values) -> Iterator[tuple[str, str]]:
    """What stands above the stages: name and words."""
    change = found["change"]
    where = f"{change['source']}, {change['branch']}" if change["branch"] else change["source"]
    yield "build", f"{found['number']} of {where}"
    said = f" {change['subject']}" if change["subject"] else ""
    by = f" ({change['author']})" if change["author"] else ""
    forced = ", history was rewritten" if change["forced"] else ""
    yield "revision", f"{change['revision'][:12]}{said}{by}{forced}"
    yield "level", found["level"]
    yield "now", found["words"]
    # Of a build that is built it is about the artefact, not about what came of its stages.
    detail = found["detail"]
    if detail and found["state"] != "built":
        yield "because", detail
    if found["digest"]:
        why = f"; {detail}" if detail and found["state"] == "built" else ""
        yield "artefact", f"{format_size(found['size'])}, {found['digest'][:12]}{why}"
    if found["removed"]:
        yield "removed", f"results and artefact, {format_age(time.time() - found['removed'])} ago"
    for words in found["warnings"]:
        yield "warning", words


def below(found: Values) -> Iterator[tuple[str, str]]:
    """What stands under the stages."""
    jobs = {job["id"]: job for job in found["jobs"]}
    for each in found["failures"][:_MOST]:
        job = jobs[each["job"]]
        words = f"{each['outcome'].upper()} {each['nodeid']} - {each['words']}"
        yield job["stage"], f"{words} (on {job['host']})"
    if len(found["failures"]) > _MOST:
        yield "", f"and {len(found['failures']) - _MOST} more"
    for each in found["measurements"][:_MOST]:
        unit = f" {each['unit']}" if each["unit"] else ""
        yield each["stage"], f"{each['name']} = {each['value']:.12g}{unit} ({each['nodeid']})"
    yield from dict.fromkeys(_told_of(each) for each in found["tags"] if _is_special(each))
    over = {s["name"] for s in found["stages"] if s["run"] and s["run"]["ended"] is not None}
    for each in found["decisions"]:
        later = ", from its next run on" if each["kind"] == "held" and each["stage"] in over else ""
        why = f": {each['reason']}" if each["reason"] else ""
        yield each["kind"], f"{each['stage']} by {each['who']}{later}{why}"
    hint = next_step(found)
    if hint:
        yield "next", hint


def _is_special(tag: Values) -> bool:
    return tag["run"] is None or tag["revoked"] is not None


def _told_of(tag: Values) -> tuple[str, str]:
    if tag["revoked"] is None:
        return "by hand", f"tagged {tag['stage']} by {tag['who']}"
    return "revoked", f"tag {tag['stage']}: {tag['reason']}"


def next_step(found: Values) -> str:
    """What a person can do."""
    number = found["number"]
    for state, words in (
        ("failed", "nosejobs logs {0} {1}; nosejobs rerun {0} {1} --failed"),
        ("error", "nosejobs rerun {0} {1}"),
        ("gated", "nosejobs approve {0} {1}"),
        ("held", "nosejobs approve {0} {1}"),
        ("cancelled", "nosejobs rerun {0} {1}"),
        ("running", "nosejobs logs -f {0} {1}"),
    ):
        for stage in found["stages"]:
            if stage["run"] and stage["run"]["state"] == state:
                return words.format(number, stage["name"])
    return ""


def lines(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Name and words, cleaned; further lines of the words stand below the first."""
    for name, words in pairs:
        for number, line in enumerate(strip_control_chars(words).splitlines()):
            yield f"{to_single_line('' if number else name, 60):9} {line[:2000]}"


def show(table: Table) -> None:
    """To standard output, without wrapping to a width that nobody has."""
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _table(titles: Sequence[str], rows: Iterable[Row]) -> Table:
    """Without the columns in which nothing stands."""
    texts = [[_text(cell) for cell in row] for row in rows]
    used = [number for number in range(len(titles)) if any(row[number].plain for row in texts)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number in used:
        right = titles[number] in ("build", "tags", "took", "age", "jobs", "ended")
        justify: JustifyMethod = "right" if right else "left"
        table.add_column(titles[number], justify=justify, overflow="fold")
    for row in texts:
        table.add_row(*(row[number] for number in used))
    return table


def _text(cell: str | Cell) -> Text:
    words, style = (cell, "") if isinstance(cell, str) else cell
    # A hint of an error stands on a line of its own; in a table there is one.
    return Text(to_single_line(re.sub(r"\n\s*", "; ", words), 300), style=style)
