"""What a decision needs that takes longer than a transaction may: trees, configs, artefacts.

Owns what was found out, by key, until it is in rows; after a crash it is found out again.  Must
not know rows.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from shell_runner.errors import NosejobsError

_LOG = logging.getLogger(__name__)
#: Answers that are remembered.
_MANY = 500
#: Seconds until something is tried again that a full disk, or the like, has prevented.
_LATER = 10.0
#: What passes by itself, or by the hand of somebody who looks after the machine.
_PASSES = frozenset(
    [
        errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO,
        errno.EAGAIN, errno.EROFS, errno.EACCES, errno.EPERM,
    ]
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """It could not be found out, and why."""

    words: str
    #: When it is worth to be tried again, by the monotonic clock; None: never.
    again: float | None = None
    #: The tree is to blame, and nothing else.
    verdict: bool = False


class Tasks:
    """Questions that are being answered, and answers."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """``changed``: called when there is an answer."""
        self._changed = changed
        self._lock = threading.Lock()
        self._wanted: dict[Hashable, Callable[[], Any]] = {}
        self._running: set[Hashable] = set()
        self._found: OrderedDict[Hashable, Any] = OrderedDict()

    def ask(self, key: Hashable, act: Callable[[], T]) -> T | Trouble | None:
        """The answer; None: it is not there yet, and ``act`` will find it."""
        with self._lock:
            found: Any = self._found.get(key)
            if isinstance(found, Trouble) and found.again and found.again <= time.monotonic():
                del self._found[key]
                self._wanted[key] = act
            elif found is not None:
                self._found.move_to_end(key)
            elif key not in self._running:
                self._wanted[key] = act
        return found  # type: ignore[no-any-return]

    def has_room(self) -> bool:
        """Something may be asked that is not needed yet."""
        return len(self._found) + len(self._running) < _MANY // 2

    def forget(self, key: Hashable) -> None:
        """It is in rows now."""
        with self._lock:
            self._found.pop(key, None)

    def answer(self, executor: Executor | None = None) -> int:
        """See to all that was asked, here and now or in threads; how much that was."""
        with self._lock:
            wanted, self._wanted = self._wanted, {}
            self._running.update(wanted)
        for key, act in wanted.items():
            if executor is None:
                self._find(key, act)
            else:
                executor.submit(self._find, key, act)
        return len(wanted)

    def _find(self, key: Hashable, act: Callable[[], Any]) -> None:
        try:
            found = act()
        except Exception as error:
            found = _trouble(error)
        with self._lock:
            self._running.discard(key)
            self._found[key] = found
            while len(self._found) > _MANY:
                self._found.popitem(last=False)
        self._changed()


def _trouble(error: Exception) -> Trouble:
    """What passes is tried again."""
    if not isinstance(error, (NosejobsError, OSError)):
        _LOG.error("trouble of our own", exc_info=error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    passes = cause is not None and cause.errno in _PASSES
    words = str(error) if isinstance(error, NosejobsError) else f"{type(error).__name__}: {error}"
    return Trouble(words, time.monotonic() + _LATER if passes else None)
