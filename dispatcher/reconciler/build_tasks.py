"""Run the tasks of the build policy: examine a tree, list tests, extract an artifact.

Responsible for the files that a task reads and writes.  Must not know the database, nor when a
result is needed.
"""

from __future__ import annotations

from shell_runner.errors import UsageError

from ..builds import build_artifact, checkout_reader
from ..builds.blob_store import BlobStore
from ..builds.build_artifact import BuildFailed
from ..builds.checkout_cache import CheckoutCache
from ..hosts import package_rows
from ..policy.action_types import (
    Artifact,
    ExaminedTree,
    ExamineTree,
    ExtractArtifact,
    ListTests,
    Task,
    TaskFailure,
    TaskResult,
)


class BuildTasks:
    """Runs tasks on the checkouts and the stored packages of this dispatcher."""

    def __init__(self, trees: CheckoutCache, blobs: BlobStore) -> None:
        self._trees, self._blobs = trees, blobs

    def run(self, task: Task) -> TaskResult:
        """Return the result of a task.

        Raises ``NosejobsError`` or ``OSError`` for what is not the fault of the tree.
        """
        if isinstance(task, ExamineTree):
            return self._examine(task)
        if isinstance(task, ListTests):
            return self._list_tests(task)
        return self._extract(task)

    def _examine(self, task: ExamineTree) -> ExaminedTree:
        found = checkout_reader.examine(self._trees.get(task.source, task.revision))
        return ExaminedTree(
            found.tree_digest, found.size, found.config, found.inputs_digest, found.error
        )

    def _list_tests(self, task: ListTests) -> tuple[str, ...] | TaskFailure:
        checkout = self._trees.get(task.source, task.revision, task.tree_digest)
        try:
            return tuple(test.nodeid for test in checkout_reader.stage_tests(checkout, task.stage))
        except UsageError as error:
            return TaskFailure(
                checkout_reader.hide_checkout_path(str(error), checkout), is_verdict=True
            )

    def _extract(self, task: ExtractArtifact) -> Artifact | TaskFailure:
        """Store the artifact of a harvested build job, or say why there is none, with the log."""
        path = self._blobs.path(task.package_digest)
        with package_rows.open_verified(path, task.host, task.job) as package:
            (result,) = package_rows.read_rows(package, task.job).results
            if task.end_reason == "completed" and result.outcome == "passed":
                try:
                    kept = build_artifact.store_artifact(package, task.config, self._blobs)
                except BuildFailed as error:
                    return TaskFailure(str(error))
                return Artifact(kept.digest, kept.size)
            reason = build_artifact.failure_reason(package, task.config) or result.message
            log = package_rows.log_tail(package)
            return TaskFailure("\n".join(filter(None, [reason, log])))
