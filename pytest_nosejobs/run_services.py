"""The objects of a session that local and remote runs share."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shell_runner.remote.protocol.model import Execution, Setup, Test

from .artifacts import ArtifactReceiver
from .durations import DurationHistory
from .items import ShellItem
from .options import Options
from .report_publisher import ReportPublisher
from .reports import ReportContext
from .terminal import Terminal

#: Exit status when hosts could not be opened, or tests not be run because hosts were lost.
EXIT_HOSTS_LOST = 6


@dataclass(frozen=True)
class RunServices:
    """The objects with which a runner runs tests and reports them."""

    config: pytest.Config
    options: Options
    setup: Setup
    artifacts: ArtifactReceiver
    durations: DurationHistory
    publisher: ReportPublisher
    terminal: Terminal

    def make_context(
        self, item: ShellItem, test: Test, execution: Execution, host: str
    ) -> ReportContext:
        """Return the context of the reports of one execution."""
        files = self.artifacts.list_files(item.program_id, execution)
        return ReportContext(item, test, execution, host, files)
