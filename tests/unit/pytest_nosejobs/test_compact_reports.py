"""Tests of the compact forms of kept reports."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from pytest_nosejobs import pytest_internals
from pytest_nosejobs.compact_reports import CompactReport, ReportCompactor

#: Maximum bytes that the report of a case that passed takes, as docs/outputs.md says.
MAX_BYTES = 1024


def make_report(number: int, when: Any = "call", **more: Any) -> pytest.TestReport:
    names = ("group", f"case [number] {number} [a-b] of x::y")
    nodeid = f"tests/test_many::{' > '.join(names)}"
    attributes = {
        "nosejobs_host": "h1", "nosejobs_case": names, "nosejobs_nodeid": nodeid,
        "nosejobs_program": "tests/test_many", "nosejobs_files": [], **more,
    }  # fmt: skip
    duration = number / 7 if when == "call" else 0.0
    return pytest.TestReport(
        pytest_internals.make_node_id(nodeid, "tests/test_many"),
        ("tests/test_many", 0, nodeid[17:]), {"tests": 1}, "passed", None, when, (), duration, 5.0,
        5.0 + duration, [("host", "h1"), ("number", number // 3)], **attributes,
    )  # fmt: skip


def keep(compactor: ReportCompactor, stats: dict[str, list[Any]], report: Any) -> None:
    """Keep a report as the terminal reporter does, then compact it."""
    stats.setdefault("passed" if report.when == "call" else "", []).append(report)
    compactor.compact_last(stats, report)


def test_a_compact_report_has_all_attributes_of_its_report() -> None:
    compactor = ReportCompactor()
    stats: dict[str, list[Any]] = {}
    for number in range(20):
        keep(compactor, stats, make_report(number))
    kept = stats["passed"]
    assert [type(each) for each in kept] == [pytest.TestReport] + [CompactReport] * 19
    for number, each in enumerate(kept[1:], 1):
        report = make_report(number)
        assert vars(each.restore()) == vars(report)
        assert (each.nodeid, each.when, each.duration) == (report.nodeid, "call", report.duration)
        assert not hasattr(each, "_pdbshown")


def test_a_report_with_another_attribute_stays_whole() -> None:
    compactor = ReportCompactor()
    stats: dict[str, list[Any]] = {}
    for report in (make_report(1), make_report(2, wasxfail="why"), make_report(3)):
        keep(compactor, stats, report)
    assert [type(each) for each in stats["passed"]] == [pytest.TestReport] * 3


def test_silent_teardowns_are_removed_and_others_stay() -> None:
    compactor = ReportCompactor()
    stats: dict[str, list[Any]] = {}
    keep(compactor, stats, make_report(1, "teardown"))
    loud = make_report(2, "teardown")
    loud.sections.append(("Captured stdout call", "text"))
    slow = make_report(3, "setup")
    slow.duration = 1.0
    keep(compactor, stats, loud)
    keep(compactor, stats, slow)
    assert stats[""] == [loud, slow]


def test_a_case_takes_less_than_its_limit() -> None:
    count = 2000
    compactor = ReportCompactor()
    stats: dict[str, list[Any]] = {}
    keep(compactor, stats, make_report(0))
    tracemalloc.start()
    try:
        for number in range(count):
            keep(compactor, stats, make_report(number))
            keep(compactor, stats, make_report(number, "teardown"))
        assert tracemalloc.get_traced_memory()[0] < count * MAX_BYTES
    finally:
        tracemalloc.stop()
