"""Compact forms of the reports that pytest's terminal reporter keeps to the end of a run.

A program may report hundreds of thousands of cases, and a report takes 2 KB.  Must not be used
if other plugins listen to reports: they may change what they have received.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from . import pytest_internals
from .items import make_location

#: Attributes of which a compact report knows the values; all others must be those of its model.
_OWN_ATTRIBUTES = frozenset(
    (
        "_id", "nodeid", "location", "duration", "stop", "user_properties",
        "nosejobs_case", "nosejobs_nodeid",
    )
)  # fmt: skip


class CompactReport:
    """The report of a case that passed, as the difference from the report of another case.

    It has all attributes of the report, which is restored when one is read.
    """

    __slots__ = ("_case", "_model", "_properties", "duration")

    def __init__(self, report: Any, model: Any) -> None:
        self._model = model
        self._case = report.nosejobs_case
        is_same = report.user_properties == model.user_properties
        self._properties = None if is_same else report.user_properties
        self.duration = report.duration

    def __getattr__(self, name: str) -> Any:
        return getattr(self.restore(), name)

    def restore(self) -> pytest.TestReport:
        """Return the report."""
        report: Any = copy.copy(self._model)
        name = " > ".join(filter(None, self._case))
        program = report.nosejobs_program
        file_id = report.location[0]
        report.nosejobs_nodeid = f"{program}::{name}"
        pytest_internals.set_node_id(report, report.nosejobs_nodeid, file_id)
        report.location = make_location(file_id, name)
        report.nosejobs_case = self._case
        report.duration = self.duration
        report.stop = report.start + self.duration
        if self._properties is not None:
            report.user_properties = self._properties
        restored: pytest.TestReport = report
        return restored


class ReportCompactor:
    """Replaces kept reports by compact ones, and removes those that no summary shows."""

    def __init__(self) -> None:
        self._model: Any = None
        self._shared: dict[str, Any] = {}

    def compact_last(self, stats: dict[str, list[Any]], report: Any) -> None:
        """Make ``report`` take less memory if it is the last one of its category in ``stats``.

        ``stats``: the reports that the terminal reporter keeps, by category.
        """
        if not report.passed or report.sections:
            return
        category = "passed" if report.when == "call" else ""
        kept = stats.get(category)
        if not kept or kept[-1] is not report:
            return
        if report.when != "call":
            if not report.duration:
                kept.pop()
        elif report.nosejobs_case:
            kept[-1] = self._compact(report)

    def _compact(self, report: Any) -> Any:
        """Return a compact report, or ``report`` itself, which becomes the model of the next."""
        attributes = vars(report)
        shared = {key: attributes[key] for key in attributes.keys() - _OWN_ATTRIBUTES}
        if self._model is not None and shared == self._shared:
            return CompactReport(report, self._model)
        self._model, self._shared = report, shared
        return report
