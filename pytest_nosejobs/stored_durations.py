"""Durations of programs for plugins that store those of the reports that the terminal has kept.

pytest-split looks for an entry with the id of each item, but a program with cases has reports of
its cases only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from typing import Any

import pytest

from . import pytest_internals

#: The category of kept reports that no summary shows.
_SILENT = ""


class StoredDurations:
    """A plugin that adds a silent report of each program with cases while durations are stored."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        """Add the reports while other plugins finish; the summary comes later."""
        stats = pytest_internals.get_kept_reports(self._config)
        before = stats.get(_SILENT)
        stats[_SILENT] = [*(before or ()), *_make_program_reports(stats)]
        try:
            yield
        finally:
            if before is None:
                del stats[_SILENT]
            else:
                stats[_SILENT] = before


def _make_program_reports(stats: dict[str, list[Any]]) -> list[pytest.TestReport]:
    """Return a report for each program with cases; it took as long as its cases together."""
    models: dict[str, Any] = {}
    durations: defaultdict[str, float] = defaultdict(float)
    for report in (each for reports in stats.values() for each in reports):
        if getattr(report, "nosejobs_case", None) is not None:
            models.setdefault(report.nosejobs_item, report)
            durations[report.nosejobs_item] += report.duration
    return [
        pytest.TestReport(
            nodeid, models[nodeid].location, {}, "passed", None, "call", duration=seconds
        )
        for nodeid, seconds in durations.items()
    ]
