"""How builds, stages and hosts look in a terminal.

Owns tables and words.  Takes what the API answers.  Whatever comes from commits, hosts and tests
is cleaned here, in every cell and every line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shell_runner.guard import clean, clean_line

_STYLES = {
    "passed": "green", "failed": "red", "error": "magenta", "going": "cyan", "running": "cyan",
    "stopped": "yellow", "gated": "yellow", "held": "yellow", "blocked": "yellow",
    "cancelled": "yellow", "superseded": "dim", "up": "green", "down": "red",
    "quarantined": "red", "draining": "yellow",
}  # fmt: skip
#: Failed tests, and numbers, that are shown of a stage.
_MOST = 20
_WIDE = 160

Cell = tuple[str, str]
Values = dict[str, Any]


def builds(found: Sequence[Values]) -> Table:
    """One line a build."""
    table = _table("build", "source", "revision", "subject", "level", "tags", "now", "age")
    for each in found:
        change, stages = each["change"], [s for s in each["stages"] if s["name"] != "build"]
        source = " ".join(filter(None, [change["source"], change["branch"]]))
        tagged = sum(stage["tagged"] for stage in stages)
        _row(
            table,
            str(each["number"]),
            source,
            change["revision"][:10],
            clean_line(change["subject"], 60),
            each["level"],
            f"{tagged}/{len(stages)}" if stages else "",
            (each["words"], _STYLES.get(each["outcome"], "")),
            age(time.time() - each["began"]),
        )
    return table


def hosts(found: Sequence[Values]) -> Table:
    """One line a host."""
    table = _table("host", "state", "labels", "jobs", "ended", "seen", "spec", "because")
    for each in found:
        seen = f"{age(time.time() - each['seen'])} ago" if each["seen"] else "never"
        name = f"{each['name']} ({each['pool']})" if each["pool"] else each["name"]
        state = (each["state"], _STYLES.get(each["state"], ""))
        labels, open_jobs, ended = ", ".join(each["labels"]), str(each["open"]), str(each["jobs"])
        _row(table, name, state, labels, open_jobs, ended, seen, each["spec"], each["reason"])
    return table


def stages(found: Values) -> Table:
    """One line a stage of a build."""
    table = _table("stage", "tag", "state", "tests", "took", "hosts", "because")
    for stage in found["stages"]:
        run = stage["run"]
        its = [job for job in found["jobs"] if run and is_of(job, run)]
        state = run["state"] if run else ""
        again = f" (run {run['number']})" if run and run["number"] > 1 else ""
        _row(
            table,
            stage["name"],
            ("yes", "green") if stage["tagged"] else "",
            (f"{state}{again}", _STYLES.get(state, "")),
            _tests(latest(its)),
            took(run) if run else "",
            ", ".join(dict.fromkeys(job["host"] for job in latest(its))),
            clean_line(run["detail"] if run else "", 200),
        )
    return table


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
    if found["detail"]:
        yield "because", found["detail"]
    if found["digest"]:
        reused = f", made by build {found['reused']}" if found["reused"] else ""
        yield "artefact", f"{size(found['size'])}, {found['digest'][:12]}{reused}"
    if found["removed"]:
        yield "removed", f"results and artefact, {age(time.time() - found['removed'])} ago"
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
        yield each["stage"], f"{each['name']} = {each['value']:g}{unit} ({each['nodeid']})"
    for each in found["tags"]:
        if each["run"] is None and each["revoked"] is None:
            yield "by hand", f"tagged {each['stage']} by {each['who']}"
        elif each["revoked"] is not None:
            yield "revoked", f"tag {each['stage']}: {each['reason']}"
    hint = next_step(found)
    if hint:
        yield "next", hint


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
        for number, line in enumerate(clean(words).splitlines()):
            yield f"{clean_line('' if number else name, 60):9} {line[:2000]}"


def show(table: Table) -> None:
    """To standard output, without wrapping to a width that nobody has."""
    wide = None if sys.stdout.isatty() else _WIDE
    _Console(width=wide, highlight=False).print(table)


class _Console(Console):
    """Nobody reads on: whoever asked for the table decides what that means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        right = title in ("build", "tags", "took", "age", "jobs", "ended")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    return table


def _row(table: Table, *cells: str | Cell) -> None:
    pairs = [(cell, "") if isinstance(cell, str) else cell for cell in cells]
    table.add_row(*(Text(clean_line(text, 300), style=style) for text, style in pairs))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def age(seconds: float) -> str:
    """A time that has passed."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
