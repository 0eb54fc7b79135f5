"""Cases are reported one by one, but pytest knows programs.

Owns the places inside pytest where a case has to stand for its program: the count of
progress, and the memory of what failed.  They are private to pytest; where one of them
is not there, nothing is lost but that convenience.
"""

from __future__ import annotations

from typing import Any

import pytest


def step_aside(config: pytest.Config, report: pytest.TestReport) -> None:
    """The case is about to be counted: its program must not be counted beside it."""
    seen = _counted(config)
    if seen is not None:
        seen.discard(_program(report))


def count_program(config: pytest.Config, report: pytest.TestReport) -> None:
    """Put the program where pytest has just put one of its cases."""
    case = getattr(report, "id", report.nodeid)
    seen = _counted(config)
    if seen is not None:
        seen.discard(case)
        seen.add(_program(report))
    _last_failed(config, case, _program(report))


def _program(report: pytest.TestReport) -> Any:
    """The program's id in the form that this pytest keeps ids in."""
    known = getattr(report, "id", "")
    return report.nosejobs_program if isinstance(known, str) else type(known).parse(
        report.nosejobs_program
    )  # fmt: skip


def _counted(config: pytest.Config) -> Any:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return getattr(reporter, "_progress_nodeids_reported", None)


def _last_failed(config: pytest.Config, case: Any, program: Any) -> None:
    """A failed case marks its program; that it passed is known only when all cases are in."""
    plugin = config.pluginmanager.get_plugin("lfplugin")
    failed = getattr(plugin, "lastfailed", None)
    if failed is not None and failed.pop(case, False):
        failed[program] = True


def forget_failure(config: pytest.Config, nodeid: str) -> None:
    """The program has passed: ``--lf`` need not run it again."""
    plugin = config.pluginmanager.get_plugin("lfplugin")
    failed = getattr(plugin, "lastfailed", None)
    if failed is not None:
        for known in [each for each in failed if str(each) == nodeid]:
            del failed[known]
