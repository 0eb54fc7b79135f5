"""The watcher of one source: it turns new revisions into changes and builds.

Owns when a source is polled, and that a move of a branch is recorded once.  Must not know what
kind of source it is, nor what becomes of a build.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from shell_runner.errors import NosejobsError
from shell_runner.hosts.heartbeat import backoff

from .. import model
from ..configuration import settings
from ..model import BuildEvent
from ..policy import revision_selection as policy
from ..policy.revision_selection import Move, Moves
from ..sources.git_command import SourceError
from ..sources.source import Heads, Source
from ..store import Store, audit, builds, changes, key_values
from .checkout_cache import CheckoutCache

_LOG = logging.getLogger(__name__)
#: Seconds between two records of polls that found nothing new.
_RECORD_INTERVAL = 30.0
#: Seconds between two clean-ups of a source's mirror.
CLEAN_UP_INTERVAL = 86_400.0


@dataclass(frozen=True)
class _MovedBranch:
    """A branch that has moved, and the changes to build."""

    move: Move
    changes: tuple[model.Change, ...]


class SourceWatcher:
    """A loop that polls one source at its interval, and at once after ``poke``."""

    def __init__(
        self,
        store: Store,
        config: settings.Source,
        source: Source,
        checkouts: CheckoutCache,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._config, self._source = store, config, source
        self._checkouts, self._clock = checkouts, clock
        self._poked = threading.Event()
        self._closed = threading.Event()
        #: Monotonic time of the last poll that was written to the database.
        self._recorded_at = 0.0
        #: Time of the last clean-up by ``clock``; 0 until it is read from the database.
        self._cleaned_up_at = 0.0
        self._clean_up_key = f"clean_up {config.name}"
        self._last_error = ""

    def run(self) -> None:
        """Poll until ``close``."""
        failures = 0
        while not self._closed.is_set():
            self._poked.clear()
            delay = self._config.poll
            try:
                delay = min(delay, self.poll())
                failures, self._last_error = 0, ""
            except Exception as error:
                self._log_error(error)
                # A poke is not repeated, so the poll is, sooner than at the next interval.
                delay = min(delay, backoff(failures))
                failures += 1
            else:
                self._clean_up_if_due()
            self._poked.wait(delay)

    def _clean_up_if_due(self) -> None:
        """Clean up the source's mirror once in ``CLEAN_UP_INTERVAL``; log errors."""
        now = self._clock()
        if self._closed.is_set() or (
            self._cleaned_up_at and now - self._cleaned_up_at < CLEAN_UP_INTERVAL
        ):
            return
        try:
            if self._is_clean_up_due(now):
                self._source.clean_up()
        except Exception as error:
            trace = not isinstance(error, NosejobsError)
            _LOG.error("source %s: clean-up failed: %s", self._config.name, error, exc_info=trace)

    def _is_clean_up_due(self, now: float) -> bool:
        """Return whether to clean up now, by the time of the last clean-up in the database.

        ``now`` is stored before the clean-up begins, so that one that fails, or that ends the
        process, is not repeated before the next interval.
        """
        with self._store.read() as connection:
            self._cleaned_up_at = float(key_values.get(connection, self._clean_up_key) or 0)
        if not self._cleaned_up_at or now - self._cleaned_up_at < CLEAN_UP_INTERVAL:
            return False
        with self._store.write(quiet=True) as connection:
            key_values.put(connection, self._clean_up_key, b"%f" % now)
        self._cleaned_up_at = now
        return True

    def _log_error(self, error: Exception) -> None:
        """Log an error once, and not again with each poll until it is another one."""
        if self._last_error != str(error):
            trace = not isinstance(error, NosejobsError)
            _LOG.error("source %s: %s", self._config.name, error, exc_info=trace)
        self._last_error = str(error)

    def poke(self) -> None:
        """Poll now."""
        self._poked.set()

    def close(self) -> None:
        """End the loop."""
        self._closed.set()
        self._poked.set()

    def poll(self) -> float:
        """Poll once and write what is new; return the seconds until the next poll.

        Raises SourceError if the source cannot be read.
        """
        source_id = self._ensure_source()
        with self._store.read() as connection:
            before = changes.revisions_by_branch(connection, source_id)
        try:
            now = self._source.heads()
            moves = policy.compare_heads(self._config, before, now)
            if isinstance(now, Heads) and not moves.error:
                moves = replace(moves, error=now.error)
            moved = [self._examine_move(source_id, move) for move in moves.moved]
        except SourceError as error:
            self._record_poll(source_id, str(error))
            raise
        if not moved and not moves.gone:
            self._record_poll(source_id, moves.error)
            return self._config.poll
        return self._write(source_id, before, moves, moved)

    def _ensure_source(self) -> int:
        with self._store.write() as connection:
            return changes.ensure_source(connection, self._config.name, self._config.kind)

    def _record_poll(self, source_id: int, error: str) -> None:
        """Write when the source was polled, and its error; wake waiting threads if that is new."""
        with self._store.read() as connection:
            known = {each.id: each.error for each in changes.list_sources(connection)}
        if (
            known.get(source_id) == error
            and time.monotonic() - self._recorded_at < _RECORD_INTERVAL
        ):
            return
        self._recorded_at = time.monotonic()
        with self._store.write(quiet=known.get(source_id) == error) as connection:
            changes.record_poll(connection, source_id, self._clock(), error)

    def _examine_move(self, source_id: int, move: Move) -> _MovedBranch:
        """Return the changes to build of a branch that has moved."""
        commits = self._source.commits_between(move.before, move.revision)
        changes_to_build = policy.changes_to_build(
            self._config, source_id, move, commits.commits, commits.forced, self._clock()
        )
        if self._config.directory:
            for change in changes_to_build:  # the revision is gone at the next write to a file
                self._checkouts.get(self._config.name, change.revision)
        return _MovedBranch(move, changes_to_build)

    def _write(
        self, source_id: int, before: dict[str, str], moves: Moves, moved: Sequence[_MovedBranch]
    ) -> float:
        """Write heads, changes and builds, and supersede older builds, in one transaction."""
        at = self._clock()
        with self._store.write() as connection:
            if not before:  # a new mirror has nothing to clean up: its first interval begins
                key_values.put(connection, self._clean_up_key, b"%f" % at)
            for branch in moves.gone:
                if changes.move_head(connection, source_id, branch, before[branch], ""):
                    self._supersede(connection, source_id, branch, gone=True)
            for branch_move in moved:
                self._add(connection, source_id, branch_move, at)
            changes.record_poll(connection, source_id, at, moves.error)
        return self._config.poll

    def _add(self, connection: Connection, source_id: int, moved: _MovedBranch, at: float) -> None:
        move = moved.move
        if not changes.move_head(connection, source_id, move.branch, move.before, move.revision):
            return  # another process was faster, and has written the changes
        for change in moved.changes:
            build = builds.add(connection, changes.add(connection, change), at)
            subject = f"{change.revision[:12]} of {move.branch or self._config.name}"
            forced = ", history was rewritten" if change.forced else ""
            audit.write(connection, at, f"change {subject}{forced}", change.subject, build=build)
        self._supersede(connection, source_id, move.branch)

    def _supersede(
        self, connection: Connection, source_id: int, branch: str, gone: bool = False
    ) -> None:
        rows = [
            (build, change)
            for build in builds.list_new_on_branch(connection, source_id, branch)
            if (change := changes.get(connection, build.change))
        ]
        for build, reason in policy.superseded_builds(self._config, branch, rows, gone):
            fields = {"detail": reason, "ended_at": self._clock()}
            builds.apply_event(connection, build, BuildEvent.SUPERSEDE, **fields)
