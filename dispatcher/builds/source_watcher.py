"""One watched source: what is new there becomes changes and builds.

Owns when a source is looked at, and that a move of a branch is seen once.  Must not know what a
source is, nor what becomes of a build.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from shell_runner.errors import NosejobsError
from shell_runner.hosts.heartbeat import backoff

from .. import model
from ..configuration import settings
from ..model import BuildEvent
from ..policy import change_detection as policy
from ..policy.change_detection import Move, Moves
from ..sources.git_command import SourceError
from ..sources.source import Source
from ..store import Store, audit, builds, changes, key_values
from .checkouts import CheckoutCache

_LOG = logging.getLogger(__name__)
#: Seconds after which a look is noted though it has shown nothing.
_NOTED = 30.0
#: Seconds between two clean-ups of a source's mirror.
TIDY_INTERVAL = 86_400.0


@dataclass(frozen=True)
class _New:
    """A branch that has moved, and the changes to build."""

    move: Move
    changes: tuple[model.Change, ...]


class Watch:
    """Looks at one source, again and again, and whenever somebody pokes it."""

    def __init__(
        self,
        store: Store,
        wanted: settings.Source,
        source: Source,
        trees: CheckoutCache,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._wanted, self._source = store, wanted, source
        self._trees, self._clock = trees, clock
        self._poked = threading.Event()
        self._closed = threading.Event()
        self._noted = 0.0
        #: Time of the last clean-up, by ``clock``; 0 until it is read from the database.
        self._tidied = 0.0
        self._tidied_key = f"tidied {wanted.name}"
        self._told = ""

    def run(self) -> None:
        """Until ``close``."""
        failures = 0
        while not self._closed.is_set():
            self._poked.clear()
            again = self._wanted.poll
            try:
                again = min(again, self.look())
                failures, self._told = 0, ""
            except Exception as error:
                self._tell(error)
                # Whoever rang does not ring again because our disk was full.
                again = min(again, backoff(failures))
                failures += 1
            else:
                self._tidy_if_due()
            self._poked.wait(again)

    def _tidy_if_due(self) -> None:
        """Clean up the source's mirror once in ``TIDY_INTERVAL``; log errors."""
        now = self._clock()
        if self._closed.is_set() or (self._tidied and now - self._tidied < TIDY_INTERVAL):
            return
        try:
            if self._is_tidy_due(now):
                self._source.tidy()
        except Exception as error:
            trace = not isinstance(error, NosejobsError)
            _LOG.error("source %s: clean-up failed: %s", self._wanted.name, error, exc_info=trace)

    def _is_tidy_due(self, now: float) -> bool:
        """Return whether to clean up now, by the time of the last clean-up in the database.

        ``now`` is stored before the clean-up begins, so that one that fails, or that ends the
        process, is not repeated before the next interval.
        """
        with self._store.read() as connection:
            self._tidied = float(key_values.get(connection, self._tidied_key) or 0)
        if not self._tidied or now - self._tidied < TIDY_INTERVAL:
            return False
        with self._store.write(quiet=True) as connection:
            key_values.put(connection, self._tidied_key, b"%f" % now)
        self._tidied = now
        return True

    def _tell(self, error: Exception) -> None:
        """Once, and not again with each look, until it is another trouble."""
        if self._told != str(error):
            trace = not isinstance(error, NosejobsError)
            _LOG.error("source %s: %s", self._wanted.name, error, exc_info=trace)
        self._told = str(error)

    def poke(self) -> None:
        """Look now."""
        self._poked.set()

    def close(self) -> None:
        """End the loop."""
        self._closed.set()
        self._poked.set()

    def look(self) -> float:
        """Look once, and write what is new; seconds until it should be done again."""
        key = self._key()
        with self._store.read() as connection:
            before = changes.heads(connection, key)
        try:
            now = self._source.heads()
            moves = policy.compare_heads(self._wanted, before, now)
            found = [self._new(key, move) for move in moves.moved]
        except SourceError as error:
            self._note(key, str(error))
            raise
        if not found and not moves.gone:
            self._note(key, moves.error)
            return self._wanted.poll
        return self._write(key, before, moves, found)

    def _key(self) -> int:
        with self._store.write() as connection:
            return changes.source(connection, self._wanted.name, self._wanted.kind)

    def _note(self, key: int, trouble: str) -> None:
        """When it was looked at; who waits hears of it if it is another trouble."""
        with self._store.read() as connection:
            known = {each.id: each.trouble for each in changes.sources(connection)}
        if known.get(key) == trouble and time.monotonic() - self._noted < _NOTED:
            return
        self._noted = time.monotonic()
        with self._store.write(quiet=known.get(key) == trouble) as connection:
            changes.looked(connection, key, self._clock(), trouble)

    def _new(self, key: int, move: Move) -> _New:
        past = self._source.between(move.before, move.revision)
        at = self._clock()
        found = policy.changes_to_build(self._wanted, key, move, past.commits, past.forced, at)
        if self._wanted.directory:
            for change in found:  # it is gone as soon as somebody writes there
                self._trees.get(self._wanted.name, change.revision)
        return _New(move, found)

    def _write(
        self, key: int, before: dict[str, str], moves: Moves, found: Sequence[_New]
    ) -> float:
        """Heads, changes, builds, and what they make superfluous: one transaction."""
        at = self._clock()
        with self._store.write() as connection:
            if not before:  # a new mirror has nothing to clean up: its first interval begins
                key_values.put(connection, self._tidied_key, b"%f" % at)
            for branch in moves.gone:
                if changes.move_head(connection, key, branch, before[branch], ""):
                    self._supersede(connection, key, branch, gone=True)
            for new in found:
                self._add(connection, key, new, at)
            changes.looked(connection, key, at, moves.error)
        return self._wanted.poll

    def _add(self, connection: Connection, key: int, new: _New, at: float) -> None:
        move = new.move
        if not changes.move_head(connection, key, move.branch, move.before, move.revision):
            return  # somebody else was faster, and has written what comes of it
        for change in new.changes:
            build = builds.add(connection, changes.add(connection, change), at)
            words = f"{change.revision[:12]} of {move.branch or self._wanted.name}"
            forced = ", history was rewritten" if change.forced else ""
            audit.write(connection, at, f"change {words}{forced}", change.subject, build=build)
        self._supersede(connection, key, move.branch)

    def _supersede(self, connection: Connection, key: int, branch: str, gone: bool = False) -> None:
        rows = [
            (build, change)
            for build in builds.untouched(connection, key, branch)
            if (change := changes.get(connection, build.change))
        ]
        for build, why in policy.superseded_builds(self._wanted, branch, rows, gone):
            fields = {"detail": why, "ended": self._clock()}
            builds.move(connection, build, BuildEvent.SUPERSEDE, **fields)
