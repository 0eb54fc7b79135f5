"""Cases are reported one by one, but pytest knows programs.

Owns the places inside pytest where a case has to stand for its program: the count of
progress, and the memory of what failed.  They are private to pytest; where one of them
is not there, nothing is lost but that convenience.
"""

from __future__ import annotations

from typing import Any

import pytest


def count_program(config: pytest.Config, report: pytest.TestReport) -> None:
    """Put the program where pytest has just put one of its cases."""
    program: Any = report.nosejobs_program
    if not isinstance(getattr(report, "id", ""), str):
        program = type(report.id).parse(program)
    case = getattr(report, "id", report.nodeid)
    _progress(config, case, program)
    _last_failed(config, case, program)


def _progress(config: pytest.Config, case: Any, program: Any) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    seen = getattr(reporter, "_progress_nodeids_reported", None)
    if seen is not None:
        seen.discard(case)
        seen.add(program)


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
