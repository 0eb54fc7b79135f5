"""Additions to the JUnit XML of pytest's own writer.

The ``xml`` of all functions is that writer (``_pytest.junitxml.LogXML``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

import pytest

from shell_runner.junit_style import IN_TESTCASES, NOWHERE
from shell_runner.reporting import report_text
from shell_runner.reporting.attempts import AttemptElement


def set_names(xml: Any, report: pytest.TestReport) -> None:
    """Set class and name of the testcase of ``report``.

    Pytest takes the last ``::`` part of a node id for the name and would leave the class of a
    program empty, which viewers show as a nameless root.
    """
    classname, name = report_text.junit_names(
        report.nosejobs_program, report.nosejobs_case, xml.prefix or ""
    )
    reporter = xml.node_reporter(report)
    reporter.add_attribute("classname", classname)
    reporter.add_attribute("name", name)


class PropertyMover:
    """Moves the properties of testcases of programs to where the user wants them."""

    def __init__(self, xml: Any, place: str) -> None:
        """``place``: one of ``PROPERTY_PLACES``."""
        self._xml = xml
        self._place = place
        #: The programs whose properties are in the testsuite.
        self._programs: set[str] = set()

    def move(self, report: pytest.TestReport) -> None:
        """Move those that the writer will add to the testcase of ``report`` at its end."""
        if self._place != IN_TESTCASES:
            add = _drop if self._place == NOWHERE else self._make_adder(report)
            self._xml.node_reporter(report).add_property = add

    def _make_adder(self, report: Any) -> Any:
        """Return a function that adds the next property of a testcase to the testsuite.

        Those that all testcases of a program share are added once, under the program's name.
        """
        program, case = report.nosejobs_program, report.nosejobs_case
        shared = getattr(report, "nosejobs_shared_properties", 0)
        position = itertools.count()
        is_first = False

        def add(name: str, value: object) -> None:
            nonlocal is_first
            if program not in self._programs:
                self._programs.add(program)
                is_first = True
            is_shared = next(position) < shared
            if is_first or not is_shared:
                owner = None if is_shared else case
                full_name = report_text.suite_property_name(program, owner, str(name))
                self._xml.add_global_property(full_name, value)

        return add


def _drop(name: str, value: object) -> None:
    """Drop a property."""


def attach_files(xml: Any, report: pytest.TestReport) -> None:
    """Name the test's artifacts, for CI servers that show them."""
    if report.nosejobs_files:
        element = ElementTree.Element("system-out")
        element.text = report_text.format_attachments(report.nosejobs_files)
        xml.node_reporter(report).append(element)


def add_earlier_attempts(
    xml: Any, report: pytest.TestReport, elements: Iterable[AttemptElement]
) -> None:
    """Add an element for each earlier attempt in which the testcase of ``report`` failed."""
    xml.node_reporter(report).nodes += map(_make_attempt_element, elements)


def _make_attempt_element(values: AttemptElement) -> ElementTree.Element:
    tag, outcome, message, text = values
    element = ElementTree.Element(tag, message=message, type=outcome)
    element.text = text
    return element


def remove_testcase(xml: Any, report: pytest.TestReport) -> None:
    """Remove the testcase that pytest has opened for the report of a rerun.

    Pytest opens one for any report; this one would look like a pass.
    """
    reporter = xml.node_reporter(report)
    xml.node_reporters_ordered.remove(reporter)
    for key, value in list(xml.node_reporters.items())[::-1]:
        if value is reporter:
            del xml.node_reporters[key]
            return


def finish_testcase(xml: Any, report: pytest.TestReport) -> None:
    """Finish the testcase of a test whose only report is ``report``.

    The writer does the same when it sees the report of a teardown.
    """
    xml.node_reporter(report).write_captured_output(report)
    xml.finalize(report)
