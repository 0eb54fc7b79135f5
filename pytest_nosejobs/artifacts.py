"""Artifacts of tests, on their way from hosts into the folder of ``--nosejobs-artifacts``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from shell_runner.remote.protocol.model import Execution
from shell_runner.reporting.artifact_files import ArtifactFiles, format_folder

from .options import Options


class ArtifactReceiver:
    """Stores artifacts by node id and attempt; without the option, it accepts none."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        """Create the folder.  Raise UsageError if that is impossible or unsafe."""
        self._start = config.invocation_params.dir
        self._files: ArtifactFiles | None = None
        if options.artifacts is not None:
            trees = (options.root, config.rootpath)  # node ids are relative to the latter
            self._files = ArtifactFiles(options.artifacts, options.artifacts_limit, *trees)

    @property
    def errors(self) -> Mapping[Path, str]:
        """Return the reasons for which files could not be written, by file."""
        return self._files.write_errors if self._files is not None else {}

    def receive(self, program_id: str, attempt: int, path: str, data: bytes) -> None:
        """Append ``data`` to an artifact.  Raise ValueError for what a host must not send."""
        if self._files is None:
            raise ValueError("artifacts that were not requested")
        self._files.add(self._files.get_folder(program_id, attempt), path, data)

    def discard(self, program_id: str, attempt: int) -> None:
        """Forget what a lost host has sent of an attempt."""
        if self._files is not None:
            self._files.discard(self._files.get_folder(program_id, attempt))

    def list_files(self, program_id: str, execution: Execution) -> list[str]:
        """Return the paths of a test's artifacts, as seen from where pytest was started."""
        if self._files is None or not execution.artifacts:
            return []
        folder = self._files.get_folder(program_id, execution.attempt)
        # Only files that have arrived: a host that names /etc/passwd must not have it attached.
        paths = [path for path, _ in execution.artifacts if self._files.has_received(folder, path)]
        shown = format_folder(folder, self._start)
        return [str(shown / path) for path in paths]
