"""Wakes the sessions that wait for something new in a host's queue.

Owns the folder ``bells``: a FIFO of each session that listens, and nothing else.  Must not know
what has changed: who hears a bell looks at the queue, and looks now and then in any case, as a
worker with older code rings nobody.
"""

import contextlib
import os
import uuid

from ..processes import fifo

_FOLDER = "bells"


class Bell:
    """That of one session: readable once something in the queue has changed."""

    def __init__(self, folder: str) -> None:
        place = os.path.join(folder, _FOLDER)
        os.makedirs(place, mode=0o700, exist_ok=True)
        name = str(uuid.uuid4())
        # Who rings removes a FIFO that nobody reads: it gets its name when somebody does.
        self._path = os.path.join(place, name)
        self._descriptor = fifo.open_fifo(os.path.join(place, "." + name))
        os.rename(os.path.join(place, "." + name), self._path)

    def fileno(self) -> int:
        """To be polled."""
        return self._descriptor

    def hush(self) -> None:
        """What was rung is heard."""
        fifo.drain(self._descriptor)

    def close(self) -> None:
        """Nobody listens any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._descriptor)


def ring(folder: str) -> None:
    """Wake all who listen; FIFOs of dead sessions go.  Never fails: it is a hint."""
    place = os.path.join(folder, _FOLDER)
    with contextlib.suppress(OSError):
        for name in os.listdir(place):
            path = os.path.join(place, name)
            if not name.startswith(".") and not fifo.write(path, b"!"):
                with contextlib.suppress(OSError):
                    os.unlink(path)
