"""Reading of the growing log of a job from the position that a client has reached.

Owns the location of an attempt's log and the checksums by which a client recognizes that its bytes
are of the same log.  Must not know the channel or how jobs are run.
"""

import os
import time
import zipfile
import zlib
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..jobs import paths
from ..jobs.queue import Queue, RequestRefused
from ..jobs.rows import AttemptRow, JobRow

#: Seconds between polls while a request waits for more of a log.
_POLL_INTERVAL = 0.2
#: Maximum bytes of one reply.
_MAX_REPLY_BYTES = 1 << 20


class Reply(NamedTuple):
    """An answer with raw bytes beside its JSON value."""

    value: Any
    body: bytes


class JobLogReader:
    """A reader of the logs of one queue, for one client.

    ``wait``: waits for the given seconds; returns True early if the client has sent a message.
    """

    def __init__(self, folder: str, queue: Queue, wait: Callable[[float], bool]) -> None:
        self._folder = folder
        self._queue = queue
        self._wait = wait
        #: An offset and the CRC-32 of all bytes before it, by device and inode of a log.
        self._checksums: Dict[Tuple[int, int], Tuple[int, int]] = {}

    def read(
        self, job: str, attempt: int, offset: int, size: int, seconds: float, mark: Any
    ) -> Reply:
        """Return up to ``size`` bytes of an attempt's log from ``offset`` on; attempt 0: the last.

        While there are none and the job's state is still the ``mark`` that the client has seen,
        wait for up to ``seconds``.

        Raises RequestRefused: "unknown" if there is no such attempt, "differs" if the log is
        shorter than ``offset``.
        """
        deadline = time.monotonic() + seconds
        while True:
            reply = self._read_now(job, attempt, offset, min(size, _MAX_REPLY_BYTES))
            value = reply.value
            is_new = reply.body or value["mark"] != mark
            # Nothing more can come, of this attempt if there is a later one, else of the job.
            is_end = value["is_attempt_over"] and (
                value["end_reason"] or value["attempt"] < value["attempts"]
            )
            if is_new or is_end or time.monotonic() >= deadline or self._wait(_POLL_INTERVAL):
                return reply

    def _read_now(self, job: str, attempt: int, offset: int, size: int) -> Reply:
        row = self._queue.find(job)
        attempts: List[AttemptRow] = self._queue.get_attempts(row.number)
        number = attempt or len(attempts)
        value = {
            "mark": [str(row.state), len(attempts), str(attempts[-1].phase) if attempts else ""],
            "end_reason": str(row.end_reason or ""), "attempt": number, "attempts": len(attempts),
            # Read before the log: the log of a finished attempt does not grow.
            "is_attempt_over": _is_over(row, attempts, number),
            "offset": offset, "crc": 0, "size": 0,
        }  # fmt: skip
        if attempt < 0 or number > max(len(attempts), 1):
            count = "1 attempt" if len(attempts) == 1 else "%d attempts" % len(attempts)
            message = "job %s has %s; there is no attempt %d"
            raise RequestRefused("unknown", message % (row.id, count, number))
        if not attempts:
            return Reply(value, b"")
        log = self._open(row, attempts[number - 1], number == len(attempts))
        if log is None:
            return Reply(value, b"")
        with log:
            value["crc"] = self._seek(log, offset)
            body = log.read(size)
            value["size"] = offset + len(body)
        return Reply(value, body)

    def _open(self, row: JobRow, attempt: AttemptRow, is_last: bool) -> "Optional[IO[bytes]]":
        """Open the growing file, or its copy in the package; return None if there is neither."""
        try:
            return open(paths.log_path(self._folder, attempt.id), "rb")
        except FileNotFoundError:
            pass
        name = "log.txt" if is_last else "attempts/%d/log.txt" % attempt.number
        try:
            package = zipfile.ZipFile(paths.package_path(self._folder, row.id))
            return package.open(name)
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def _seek(self, log: "IO[bytes]", offset: int) -> int:
        """Move the file to ``offset``; return the CRC-32 of all bytes before it.

        Bytes that were read for an earlier reply are not read again.
        """
        key = None
        position, crc = 0, 0
        if hasattr(log, "raw"):
            status = os.fstat(log.fileno())
            key = (status.st_dev, status.st_ino)
            position, crc = self._checksums.get(key, (0, 0))
            if position > min(offset, status.st_size):
                position, crc = 0, 0
            log.seek(position)
        while position < offset:
            data = log.read(min(_MAX_REPLY_BYTES, offset - position))
            if not data:
                message = "the log has %d bytes, less than the %d read before"
                raise RequestRefused("differs", message % (position, offset))
            crc = zlib.crc32(data, crc)
            position += len(data)
        if key is not None:
            self._checksums[key] = (position, crc)
        return crc


def _is_over(row: JobRow, attempts: List[AttemptRow], number: int) -> bool:
    """Return whether the attempt has ended or the job will have none."""
    if not attempts:
        return bool(row.end_reason)
    return number < len(attempts) or attempts[-1].ended_at is not None
