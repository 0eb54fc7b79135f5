"""Supervision of the worker of durable jobs, which runs outside of any connection.

Starts the worker on request, notices its end, and restarts it after a crash.  Must not know the
queue, whose schema may be newer than the agent: a worker that has nothing to do exits by itself.
"""

import asyncio
import os
import subprocess
from typing import Optional, Set

from ..files.manifest import is_digest
from ..jobs import worker_launcher
from ..processes import fifo

#: Seconds before a killed worker is restarted: the first delay and the longest; it doubles.
_RESTART_DELAYS = (0.2, 60.0)
#: Seconds between polls for the exit of a worker that has closed its pipe.
_EXIT_POLL_INTERVAL = 0.05
#: Seconds of running after which a crash no longer counts as repeated.
_STABLE_AFTER = 30.0


class WorkerSupervisor:
    """The supervisor of the worker of the queue in ``folder``.

    ``unrelated_pids``: the agent's set of children that must not be killed as orphans of a
    connection; contains the worker's process id while it runs.
    """

    def __init__(self, folder: str, unrelated_pids: Set[int]) -> None:
        self._folder = folder
        self._unrelated_pids = unrelated_pids
        self._process: "Optional[subprocess.Popen[bytes]]" = None
        #: Digest of the code that was requested while a worker ran; that one may be about to exit.
        self._requested_code = ""
        self._delay = _RESTART_DELAYS[0]
        self._loop = asyncio.get_event_loop()
        self._fifo = fifo.open_fifo(os.path.join(folder, worker_launcher.AGENT_FIFO))
        self._loop.add_reader(self._fifo, self._handle_requests)

    def start(self) -> None:
        """Start a worker if there is a queue: jobs may have been waiting for the agent."""
        code = self._find_newest_code()
        if code and os.path.exists(os.path.join(self._folder, "queue.db")):
            self._start_worker(code)

    def _find_newest_code(self) -> str:
        folder = os.path.join(self._folder, "code")
        try:
            names = [name for name in os.listdir(folder) if is_digest(name)]
        except OSError:
            return ""
        return max(names, key=lambda name: _read_mtime(os.path.join(folder, name)), default="")

    def _handle_requests(self) -> None:
        """Start a worker for each digest that was written to the FIFO."""
        for line in fifo.drain(self._fifo).decode("ascii", "replace").split():
            if is_digest(line):
                self._start_worker(line)

    def _start_worker(self, code: str) -> None:
        if self._process is not None:
            self._requested_code = code
            worker_launcher.wake_worker(self._folder)
            return
        self._requested_code = ""
        try:
            command = worker_launcher.build_command("worker", self._folder, code)
        except worker_launcher.WorkerStartError:
            return
        # The worker and its descendants hold the other end: it closes when all have exited.
        life_pipe, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, pass_fds=[theirs],
            )  # fmt: skip
        except OSError:
            os.close(life_pipe)
            return
        finally:
            os.close(theirs)
        self._unrelated_pids.add(self._process.pid)
        self._loop.add_reader(life_pipe, self._on_pipe_closed, life_pipe, code, self._loop.time())

    def _on_pipe_closed(self, life_pipe: int, code: str, started_at: float) -> None:
        """Handle the closed pipe: the worker has exited or is about to."""
        self._loop.remove_reader(life_pipe)
        os.close(life_pipe)
        self._reap(code, started_at)

    def _reap(self, code: str, started_at: float) -> None:
        """Reap the worker; restart it if it was killed or if another start was requested."""
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            self._loop.call_later(_EXIT_POLL_INTERVAL, self._reap, code, started_at)
            return
        self._unrelated_pids.discard(self._process.pid)
        self._process = None
        if status == 0 or self._loop.time() - started_at > _STABLE_AFTER:
            self._delay = _RESTART_DELAYS[0]
        if status != 0:
            self._loop.call_later(self._delay, self._start_worker, code)
            self._delay = min(self._delay * 2, _RESTART_DELAYS[1])
        elif self._requested_code:
            self._start_worker(self._requested_code)

    def close(self) -> None:
        """Stop listening for requests; the worker continues."""
        self._loop.remove_reader(self._fifo)
        os.close(self._fifo)


def _read_mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
