"""Signals from changes of a host's queue to the sessions that wait for them.

Responsible for the folder ``listeners``, which contains one FIFO per listening session. The signal
says nothing about the change: a session reads the queue when it is woken, and polls it in any case,
since workers with older code send no signals.
"""

import contextlib
import os
import uuid

from ..processes import fifo

_FOLDER_NAME = "listeners"


class ChangeListener:
    """The FIFO of one session, which becomes readable after a change of the queue."""

    def __init__(self, folder: str) -> None:
        listeners = os.path.join(folder, _FOLDER_NAME)
        os.makedirs(listeners, mode=0o700, exist_ok=True)
        name = str(uuid.uuid4())
        # Signalers remove a FIFO without a reader: it gets its name once it has one.
        self._path = os.path.join(listeners, name)
        self._descriptor = fifo.open_fifo(os.path.join(listeners, "." + name))
        os.rename(os.path.join(listeners, "." + name), self._path)

    def fileno(self) -> int:
        """Return the descriptor, for ``poll``."""
        return self._descriptor

    def drain(self) -> None:
        """Discard the signals received so far."""
        fifo.drain(self._descriptor)

    def close(self) -> None:
        """Remove the FIFO and close it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._descriptor)


def notify_listeners(folder: str) -> None:
    """Wake all listening sessions and remove the FIFOs of dead ones; never raises OSError."""
    listeners = os.path.join(folder, _FOLDER_NAME)
    with contextlib.suppress(OSError):
        for name in os.listdir(listeners):
            path = os.path.join(listeners, name)
            if not name.startswith(".") and not fifo.write(path, b"!"):
                with contextlib.suppress(OSError):
                    os.unlink(path)
