"""Reading of the growing log of a job, in pieces that follow what a client has already.

Owns where the log of an attempt is, and the sums by which a client knows that its bytes are the
same.  Must not know the channel, nor who runs the job.
"""

import os
import time
import zipfile
import zlib
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..jobs import paths
from ..jobs.queue import Queue, Refused

#: Seconds between polls while a request waits for more of a log.
_POLL_INTERVAL = 0.2
#: Maximum bytes of one reply.
_MAX_BYTES = 1 << 20


class Reply(NamedTuple):
    """An answer with raw bytes."""

    value: Any
    body: bytes


class JobLogReader:
    """Logs of the jobs of one queue, for one client.

    ``wait`` waits for so many seconds, and returns early, and True, if the client wants something
    else.
    """

    def __init__(self, folder: str, queue: Queue, wait: Callable[[float], bool]) -> None:
        self._folder = folder
        self._queue = queue
        self._wait = wait
        #: Offset and CRC-32 of all before it, by device and inode of a log.
        self._sums: Dict[Tuple[int, int], Tuple[int, int]] = {}

    def read(
        self, job: str, attempt: int, offset: int, size: int, seconds: float, mark: Any
    ) -> Reply:
        """Return bytes of an attempt's log from ``offset`` on; attempt 0 is the last one.

        If there are none yet, and the job's mark is still the ``mark`` that the client has seen,
        wait for either for up to ``seconds``.

        Raises Refused: "unknown" for an attempt that is not there, "differs" if the log is shorter
        than ``offset``.
        """
        deadline = time.monotonic() + seconds
        while True:
            reply = self._read_now(job, attempt, offset, min(size, _MAX_BYTES))
            value = reply.value
            is_new = reply.body or value["mark"] != mark
            # Nothing more can come: of this attempt if there is a later one, else of the job.
            is_end = value["over"] and (value["how"] or value["attempt"] < value["attempts"])
            if is_new or is_end or time.monotonic() >= deadline or self._wait(_POLL_INTERVAL):
                return reply

    def _read_now(self, job: str, attempt: int, offset: int, size: int) -> Reply:
        row = self._queue.find(job)
        attempts: List[Any] = self._queue.attempts(row.number)
        number = attempt or len(attempts)
        value = {
            "mark": [str(row.state), len(attempts), str(attempts[-1].step) if attempts else ""],
            "how": str(row.how or ""), "attempt": number, "attempts": len(attempts),
            # Before the log is read: what is over does not grow.
            "over": _is_over(row, attempts, number),
            "offset": offset, "crc": 0, "size": 0,
        }  # fmt: skip
        if attempt < 0 or number > max(len(attempts), 1):
            count = "1 attempt" if len(attempts) == 1 else "%d attempts" % len(attempts)
            message = "job %s has %s; there is no number %d"
            raise Refused("unknown", message % (row.id, count, number))
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

    def _open(self, row: Any, attempt: Any, is_last: bool) -> "Optional[IO[bytes]]":
        """Open the file that grows; once it is gone, what the package has of it."""
        try:
            return open(paths.log(self._folder, attempt.id), "rb")
        except FileNotFoundError:
            pass
        name = "log.txt" if is_last else "attempts/%d/log.txt" % attempt.number
        try:
            package = zipfile.ZipFile(paths.package(self._folder, row.id))
            return package.open(name)
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def _seek(self, log: "IO[bytes]", offset: int) -> int:
        """Move the file to ``offset``; return the CRC-32 of all before it.

        What was read for an earlier reply is not read again.
        """
        key = None
        at, crc = 0, 0
        if hasattr(log, "raw"):
            status = os.fstat(log.fileno())
            key = (status.st_dev, status.st_ino)
            at, crc = self._sums.get(key, (0, 0))
            if at > min(offset, status.st_size):
                at, crc = 0, 0
            log.seek(at)
        while at < offset:
            data = log.read(min(_MAX_BYTES, offset - at))
            if not data:
                message = "the log has %d bytes, and you have %d: it is another one"
                raise Refused("differs", message % (at, offset))
            crc = zlib.crc32(data, crc)
            at += len(data)
        if key is not None:
            self._sums[key] = (at, crc)
        return crc


def _is_over(row: Any, attempts: List[Any], number: int) -> bool:
    """Return whether nothing more can come of this attempt."""
    if not attempts:
        return bool(row.how)
    return number < len(attempts) or attempts[-1].ended is not None
