"""Figures become text: a table for people, a page for the docs, a machine's description."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PACKAGES = ("pytest-nosejobs", "pytest", "execnet", "pytest-xdist", "lit")
_PROGRAMS = ("xargs", "ctest", "prove")
_TIMES = ("median", "min", "max")


def machine() -> dict[str, Any]:
    """Return date, hardware and versions, without which figures mean nothing."""
    versions = {name: _version(name) for name in _PACKAGES}
    for name in _PROGRAMS:
        versions[name] = _program_version(name)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "revision": _revision(),
        "versions": {name: found for name, found in versions.items() if found},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _program_version(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        return ""
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\d+\.\d[\w.]*", said)
    return found[0] if found else ""


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def _revision() -> str:
    argv = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(argv, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def describe_machine(facts: Mapping[str, Any]) -> list[str]:
    """Return the description of the machine in two lines."""
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    return [
        f"{facts['date']}, {facts['cores']} cores ({facts['cpu']}), {facts['kernel']}, "
        f"load before {facts['load_before']}, revision {facts['revision'] or 'unknown'}",
        f"Python {facts['python']}, {versions}",
    ]


# -- tables -----------------------------------------------------------------------


def blocks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``title``, ``cells`` (the first row holds the heads) and ``notes`` of each table."""
    made = [
        {"title": each["title"], "cells": _cells(each["rows"]), "notes": each["notes"]}
        for each in found.get("tables", ())
    ]
    plain = {
        name: value for name, value in found.items()
        if name not in ("tables", "skipped") and isinstance(value, (int, float, str))
    }  # fmt: skip
    if plain:
        cells = [["figure", "value"], *([name, _number(value)] for name, value in plain.items())]
        made.append({"title": "", "cells": cells, "notes": []})
    return made


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    if "ratio" not in rows[0]:
        return [[*rows[0]], *([_number(value) for value in row.values()] for row in rows)]
    memory = "controller_rss" in rows[0]
    heads = ["what", *(f"{name} s" for name in _TIMES), "ratio", "ratio min-max", "cpu s"]
    cells = [[*heads, *(["controller MB", "below MB"] if memory else [])]]
    for row in rows:
        ratio = row["ratio"]
        line = [row["what"], *(_seconds(row[name]) for name in _TIMES)]
        line += [f"{ratio['median']:.2f}", f"{ratio['min']:.2f}-{ratio['max']:.2f}"]
        line += [_seconds(row["cpu"])]
        if memory:
            line += [f"{row[name] / 1e6:.1f}" for name in ("controller_rss", "below_rss")]
        cells.append(line)
    return cells


def _seconds(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.5f}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def text(name: str, summary: str, found: Mapping[str, Any]) -> str:
    """Return the tables for a terminal."""
    lines = [f"== {name}: {summary}"]
    for block in blocks(found):
        lines += ["", block["title"]] if block["title"] else [""]
        lines += _aligned(block["cells"])
        lines += [f"  {note}" for note in block["notes"]]
    lines += [f"  skipped: {why}" for why in found.get("skipped", ())]
    return "\n".join(lines)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        parts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  " + "  ".join(parts).rstrip())
    return lines


def page(facts: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables as a page of the documentation."""
    lines: list[str] = []
    for name, result in results.items():
        lines += [f"# {name}", "", result["summary"], ""]
        lines += [*describe_machine(facts), ""]
        lines += [f"Again: `python benchmarks/run.py {name}`", ""]
        for block in blocks(result["found"]):
            lines += [f"## {block['title']}", ""] if block["title"] else []
            lines += [*_markdown(block["cells"]), ""]
            lines += [*(f"- {note}" for note in block["notes"]), ""] if block["notes"] else []
        skipped = result["found"].get("skipped", ())
        lines += [*(f"- skipped: {why}" for why in skipped), ""] if skipped else []
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown(cells: Sequence[Sequence[str]]) -> list[str]:
    head, *rows = cells
    rule = ["---", *("---:" for _ in head[1:])]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
