"""Starts the worker of a queue whenever one is needed.

Owns the choice of the code that a worker runs.  Must not know the requests of clients.
"""

import os
import shutil
import signal
import tempfile

from ..files.manifest import is_digest
from ..jobs import paths, worker_launcher
from ..jobs.queue import Queue, RequestRefused, State
from ..processes import process_identity, process_tree
from .job_serialization import UNFINISHED_STATES


class WorkerStarter:
    """The starter of the worker of the queue in ``folder``.

    ``code``: the folder of the code that runs this session, named by its digest.
    """

    def __init__(self, folder: str, code: str) -> None:
        self._folder = folder
        self._code = code
        self.digest = os.path.basename(code)
        #: The reason why the last start of a worker failed; empty if it did not.
        self.error = ""

    def keep_code(self) -> bool:
        """Copy this session's code to the queue, so that it outlives any cache.

        Returns whether it was not there yet.  Raises RequestRefused if its folder is not named by a
        digest, OSError if the disk is full.
        """
        if not is_digest(self.digest):
            raise RequestRefused(
                "bad", "the folder of this host's code is not named by a digest: %s" % self._code
            )
        parent = paths.code_path(self._folder)
        path = paths.code_path(self._folder, self.digest)
        is_new = not os.path.isdir(path)
        if is_new:
            os.makedirs(parent, mode=0o700, exist_ok=True)
            temporary = tempfile.mkdtemp(dir=parent)
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(self._code, os.path.join(temporary, "code"), ignore=ignored)
            try:
                os.rename(os.path.join(temporary, "code"), path)
            except OSError:
                if not os.path.isdir(path):  # another session has not copied it either
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        os.utime(path)
        return is_new

    def wake(self, queue: Queue) -> None:
        """Wake the worker for new work; start one if none is alive."""
        self.error = ""
        if _has_worker(queue):
            worker_launcher.wake_worker(self._folder)
            return
        try:
            worker_launcher.start_worker(self._folder, self._choose_code(queue))
        except OSError as error:
            self.error = error.strerror or str(error)

    def ensure_runs(self, queue: Queue) -> None:
        """Start the worker if jobs or notifications are waiting and none is alive."""
        counts = queue.count_jobs()
        has_work = (
            any(counts.get(state) for state in UNFINISHED_STATES)
            or queue.get_next_due() is not None
        )
        if has_work and not _has_worker(queue):
            self.wake(queue)
            return
        if counts.get(State.PACKAGING):
            worker_launcher.wake_worker(
                self._folder
            )  # perhaps there is room on the disk for its package now
        self.error = ""

    def _choose_code(self, queue: Queue) -> str:
        """Return the digest of the next job's code; if that code is missing, of our own.

        A worker of any version ends a job whose code is missing, and runs the others.
        """
        code = queue.get_next_code()
        try:
            if code:
                worker_launcher.build_command("worker", self._folder, code)
                return code
        except worker_launcher.WorkerStartError:
            pass
        self.keep_code()
        return self.digest


def _has_worker(queue: Queue) -> bool:
    """Return whether a worker is alive; continue one that was stopped by a signal of a test."""
    worker = queue.get_worker()
    if worker is None or not process_identity.is_alive(worker.identity):
        return False
    if process_tree.read_stat(worker.identity.pid)[:1] == ["T"]:
        os.kill(worker.identity.pid, signal.SIGCONT)
    return True
