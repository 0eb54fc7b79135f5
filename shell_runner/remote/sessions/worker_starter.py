"""Who runs the jobs of a queue: that there is a worker whenever one is needed.

Owns the choice of the code that a worker runs.  Must not know requests.
"""

import os
import shutil
import signal
import tempfile

from ..files.manifest import is_digest
from ..jobs import paths, worker_launcher
from ..jobs.queue import Queue, Refused, State
from ..processes import process_identity, process_tree
from .job_views import WAITING


class WorkerStarter:
    """The worker of the queue in ``folder``, as seen from a session that runs ``code``.

    ``code``: the folder of the code that runs here, named by its digest.
    """

    def __init__(self, folder: str, code: str) -> None:
        self._folder = folder
        self._code = code
        self.digest = os.path.basename(code)
        #: Why a worker could not be started when it was last tried.
        self.error = ""

    def keep_code(self) -> bool:
        """Copy the code that runs here, so that it outlives any cache; return whether it is new.

        Raises Refused if it has no digest, OSError for a full disk.
        """
        if not is_digest(self.digest):
            raise Refused("bad", "the code that runs here has no digest: %s" % self._code)
        parent = paths.code(self._folder)
        path = paths.code(self._folder, self.digest)
        is_new = not os.path.isdir(path)
        if is_new:
            os.makedirs(parent, mode=0o700, exist_ok=True)
            temporary = tempfile.mkdtemp(dir=parent)
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(self._code, os.path.join(temporary, "code"), ignore=ignored)
            try:
                os.rename(os.path.join(temporary, "code"), path)
            except OSError:
                if not os.path.isdir(path):  # else another session was faster
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        os.utime(path)
        return is_new

    def wake(self, queue: Queue) -> None:
        """Wake the worker because there is work, and start one if none is alive."""
        self.error = ""
        if _has_worker(queue):
            worker_launcher.ring(self._folder)
            return
        try:
            worker_launcher.start(self._folder, self._choose_code(queue))
        except OSError as error:
            self.error = error.strerror or str(error)

    def ensure_runs(self, queue: Queue) -> None:
        """Start the worker if jobs or notifications are waiting and none is alive."""
        counts = queue.counts()
        has_work = any(counts.get(state) for state in WAITING) or queue.next_due() is not None
        if has_work and not _has_worker(queue):
            self.wake(queue)
            return
        if counts.get(State.PACKAGING):
            worker_launcher.ring(self._folder)  # perhaps there is room on the disk for its package now
        self.error = ""

    def _choose_code(self, queue: Queue) -> str:
        """Return the digest of the code that the next job wants.

        If that is gone, any worker can say so and run the other jobs.
        """
        code = queue.next_code()
        try:
            if code:
                worker_launcher.command("worker", self._folder, code)
                return code
        except worker_launcher.CannotStart:
            pass
        self.keep_code()
        return self.digest


def _has_worker(queue: Queue) -> bool:
    """Return whether a worker is alive; wake one that a test has stopped by a signal."""
    worker = queue.worker()
    if worker is None or not process_identity.is_alive(worker.identity):
        return False
    if process_tree.stat(worker.identity.pid)[:1] == ["T"]:
        os.kill(worker.identity.pid, signal.SIGCONT)
    return True
