"""Access to private parts of pytest.

Cases are reported one by one, but pytest knows programs: in its progress count and in its
memory of failed tests, a case stands for its program.  Where a future pytest lacks one of
these parts, only that convenience is lost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import IO, Any

import pytest

try:
    from _pytest.nodeid import NodeId  # since pytest 9.2
except ImportError:
    NodeId = None  # type: ignore[assignment, misc]


def make_marker(name: str) -> pytest.MarkDecorator:
    """Return the marker ``name``, which may be any text.

    ``pytest.mark`` refuses names with ``_`` in front, and with ``--strict-markers`` also those
    with ``:``, since a registered name ends there.
    """
    return pytest.MarkDecorator(pytest.Mark(name, (), {}, _ispytest=True), _ispytest=True)


def get_junit_writer(config: pytest.Config) -> Any:
    """Return pytest's writer of JUnit XML, or None without ``--junitxml``."""
    from _pytest.junitxml import xml_key

    return config.stash.get(xml_key, None)


def replace_junit_writing(
    config: pytest.Config, xml: Any, write_file: Callable[[Callable[[], object]], object]
) -> bool:
    """Let ``write_file`` be called instead of the hook that writes the file of JUnit XML.

    It gets the function of that hook.  Returns whether this pytest has the hook, and the parts
    of ``xml`` that hold the testcases.
    """
    if not isinstance(getattr(xml, "node_reporters_ordered", None), list):
        return False
    implementations: list[Any] = config.hook.pytest_sessionfinish.get_hookimpls()
    for each in implementations:
        if each.plugin is xml and not each.argnames and hasattr(xml, "logfile"):
            # Pluggy passes the arguments that the original names: none.
            each.function = functools.partial(write_file, each.function)
            return True
    return False


def get_terminal(config: pytest.Config) -> Any:
    """Return pytest's terminal reporter, or None if that plugin is disabled."""
    return config.pluginmanager.get_plugin("terminalreporter")


def get_terminal_stream(reporter: Any) -> IO[str]:
    """Return the file to which the terminal reporter writes."""
    stream: IO[str] = reporter._tw._file
    return stream


def get_terminal_width(reporter: Any) -> int:
    """Return the columns of the terminal."""
    return int(reporter._tw.fullwidth)


def end_terminal_line(reporter: Any) -> None:
    """Start a new line, also after dots that pytest has not counted."""
    reporter.ensure_newline()
    if reporter._tw.width_of_current_line:
        reporter._tw.line()


def uncount_program(config: pytest.Config, report: pytest.TestReport) -> None:
    """Remove the program from the progress count before one of its cases is counted."""
    counted = _get_counted_ids(config)
    if counted is not None:
        counted.discard(_get_program_id(report))


def count_program(config: pytest.Config, report: pytest.TestReport) -> None:
    """Replace the case that pytest has just counted by its program.

    A failed case marks its program as failed for ``--lf``.
    """
    case = getattr(report, "id", report.nodeid)
    counted = _get_counted_ids(config)
    if counted is not None and case in counted:  # not by the terminals of other plugins
        counted.discard(case)
        counted.add(_get_program_id(report))
    failed = _get_failed_ids(config)
    if failed is not None and failed.pop(case, False):
        failed[_get_program_id(report)] = True


def get_kept_reports(config: pytest.Config) -> Any:
    """Return the reports that the terminal reporter keeps to the end, by category."""
    return getattr(get_terminal(config), "stats", {})


def forget_failure(config: pytest.Config, nodeid: str) -> None:
    """Remove a program that has passed from the tests that ``--lf`` runs again."""
    failed = _get_failed_ids(config)
    if failed is not None:
        for key in [each for each in failed if str(each) == nodeid]:
            del failed[key]


def _get_program_id(report: pytest.TestReport) -> Any:
    """Return the program's id as this pytest keeps ids: a string, or a parsed id."""
    if isinstance(getattr(report, "id", ""), str):
        return report.nosejobs_item
    return make_node_id(report.nosejobs_item, report.location[0])


def _get_counted_ids(config: pytest.Config) -> Any:
    return getattr(get_terminal(config), "_progress_nodeids_reported", None)


def _get_failed_ids(config: pytest.Config) -> Any:
    plugin = config.pluginmanager.get_plugin("lfplugin")
    return getattr(plugin, "lastfailed", None)


def make_node_id(nodeid: str, file_id: str) -> Any:
    """Return ``nodeid`` for a node or a report; since pytest 9.2, as pytest's NodeId.

    ``file_id``: the id of the file of the program, with which ``nodeid`` begins.  Pytest itself
    would split its path at ``::``, and take the text from ``[`` on for the parameters of a Python
    test.
    """
    if NodeId is None:
        return nodeid
    name = nodeid[len(file_id) + 2 :]
    return NodeId(path=file_id, names=(name,) if name else ())


def set_node_id(report: Any, nodeid: str, file_id: str) -> None:
    """Set the id of a report; the parameters are those of ``make_node_id``."""
    if NodeId is None:
        report.nodeid = nodeid
    else:
        report._id = make_node_id(nodeid, file_id)
