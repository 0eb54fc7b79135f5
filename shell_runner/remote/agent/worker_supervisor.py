"""The agent's part in durable jobs: starts the worker, outside of any connection.

Owns the worker that it has started: knows its end, and starts it again after a crash.  Must not
know the queue, whose schema may be newer than the agent: a worker that has nothing to do leaves.
"""

import asyncio
import os
import subprocess
from typing import Optional, Set

from ..files.manifest import is_digest
from ..jobs import worker_launcher
from ..processes import fifo

#: Seconds before a worker that was killed is started again: the first time, and at most.
_BACKOFF = (0.2, 60.0)
#: Seconds between its letting go of the pipe and its death, usually far less.
_DYING = 0.05
#: Seconds of work after which a worker counts as sound.
_SOUND = 30.0


class Porter:
    """Of the queue in ``folder``; ``apart`` is told which children are none of a connection."""

    def __init__(self, folder: str, apart: Set[int]) -> None:
        self._folder = folder
        self._apart = apart
        self._process: "Optional[subprocess.Popen[bytes]]" = None
        #: Code that was asked for while a worker was there, which may have been leaving.
        self._wanted = ""
        self._delay = _BACKOFF[0]
        self._loop = asyncio.get_event_loop()
        self._door = fifo.open_fifo(os.path.join(folder, worker_launcher.AGENT_FIFO))
        self._loop.add_reader(self._door, self._answer)

    def begin(self) -> None:
        """At the agent's start: jobs may have been waiting for it."""
        code = self._newest()
        if code and os.path.exists(os.path.join(self._folder, "queue.db")):
            self._start(code)

    def _newest(self) -> str:
        folder = os.path.join(self._folder, "code")
        try:
            names = [name for name in os.listdir(folder) if is_digest(name)]
        except OSError:
            return ""
        return max(names, key=lambda name: _date(os.path.join(folder, name)), default="")

    def _answer(self) -> None:
        """Somebody at the door wants a worker."""
        for line in fifo.drain(self._door).decode("ascii", "replace").split():
            if is_digest(line):
                self._start(line)

    def _start(self, code: str) -> None:
        if self._process is not None:
            self._wanted = code
            worker_launcher.ring(self._folder)
            return
        self._wanted = ""
        try:
            command = worker_launcher.command("worker", self._folder, code)
        except worker_launcher.CannotStart:
            return
        # The worker and who runs below it hold the other end: it closes when all are gone.
        life, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, pass_fds=[theirs],
            )  # fmt: skip
        except OSError:
            os.close(life)
            return
        finally:
            os.close(theirs)
        self._apart.add(self._process.pid)
        self._loop.add_reader(life, self._end, life, code, self._loop.time())

    def _end(self, life: int, code: str, began: float) -> None:
        """The worker has let go of its end of the pipe."""
        self._loop.remove_reader(life)
        os.close(life)
        self._bury(code, began)

    def _bury(self, code: str, began: float) -> None:
        """It has ended: by itself, as there was nothing to do, or it was killed."""
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            self._loop.call_later(_DYING, self._bury, code, began)
            return
        self._apart.discard(self._process.pid)
        self._process = None
        if status == 0 or self._loop.time() - began > _SOUND:
            self._delay = _BACKOFF[0]
        if status != 0:
            self._loop.call_later(self._delay, self._start, code)
            self._delay = min(self._delay * 2, _BACKOFF[1])
        elif self._wanted:
            self._start(self._wanted)

    def close(self) -> None:
        """The agent stops; the worker does not."""
        self._loop.remove_reader(self._door)
        os.close(self._door)


def _date(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
