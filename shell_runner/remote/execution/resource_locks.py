"""The resources that all runs on one host share: slots, named locks and exclusive execution.

Responsible for the lock files in the host's state folder.  They are locked by flock(2), so that
the kernel releases them when the process that holds them dies.  Must not depend on channels,
slot processes or tests.

Nothing here blocks: a run that does not get a resource tries again after ``POLL_INTERVAL``
seconds.  A lock consists of two files.  ``NAME.lock`` is held by the run that uses the lock,
``NAME.next`` by the run that gets it next.  A run must hold ``NAME.next``, if only for a moment,
to acquire the lock.  So a run that has just released a lock cannot acquire it again before the
run that waits for it, and a holder can see that another run is waiting.

No deadlock is possible: every test acquires its locks in order of their names, then the right to
run at all (shared, or exclusive for a serial test), then a slot.
"""

import fcntl
import os
import time
from typing import Collection, Dict, List, NamedTuple, Optional, Sequence

from ..files.state_dirs import (
    candidate_folders,
    encode_file_name,
    ensure_private_folder,
    host_folder,
)

#: Seconds between two attempts to acquire what another run holds.
POLL_INTERVAL = 0.05
#: Minimum seconds for which a run holds a slot, between short tests, while another run waits.
MIN_HOLD_TIME = 0.25


#: The kinds of resources that can be unavailable: a slot, a named lock, and the right to run
#: beside a serial test (or, for a serial test, beside others).
SLOTS = "slots"
LOCK = "lock"
ALONE = "alone"


class UnavailableResource(NamedTuple):
    """A resource that this run needs and another run holds."""

    kind: str
    #: The name of a named lock.
    name: str = ""


class HostLock:
    """One lock of the host as one run sees it."""

    def __init__(self, path: str) -> None:
        self.is_held = False
        #: An attempt to acquire the lock has failed since the last ``finish_round``.
        self.has_failed = False
        self._lock_fd = _open_lock_file(path + ".lock")
        self._next_fd = _open_lock_file(path + ".next")
        self._is_next = False
        self._held_since = self._checked_at = 0.0
        self._is_wanted = False

    def try_acquire(self, shared: bool = False) -> bool:
        """Try to acquire the lock; return whether this run holds it now.

        After a failure no run that tries later gets the lock before this one.
        """
        if self.is_held:
            return True
        self._is_next = self._is_next or _try_flock(self._next_fd, fcntl.LOCK_EX)
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self.has_failed = not (self._is_next and _try_flock(self._lock_fd, mode))
        if self.has_failed:
            return False
        self.is_held, self._is_wanted = True, False
        self._held_since = self._checked_at = time.monotonic()
        self._release_next()
        return True

    def should_release(self) -> bool:
        """Return whether another run waits for the lock and ``MIN_HOLD_TIME`` is over."""
        now = time.monotonic()
        if now - self._held_since >= MIN_HOLD_TIME and now - self._checked_at >= POLL_INTERVAL:
            self._checked_at = now
            self._is_wanted = not _try_flock(self._next_fd, fcntl.LOCK_EX)
            if not self._is_wanted:
                fcntl.flock(self._next_fd, fcntl.LOCK_UN)
        return self._is_wanted

    def release(self) -> None:
        """Release the lock if it is held."""
        if self.is_held:
            self.is_held = False
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def finish_round(self) -> bool:
        """Return whether this run waits for the lock; if not, give up its place in the queue."""
        has_failed, self.has_failed = self.has_failed, False
        if not has_failed:
            self._release_next()
        return has_failed

    def _release_next(self) -> None:
        if self._is_next:
            self._is_next = False
            fcntl.flock(self._next_fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the lock and close its files."""
        os.close(self._lock_fd)
        os.close(self._next_fd)


class HostResources:
    """The resources of a host that no other run uses: everything is always available."""

    #: A note for the user, such as the place of the lock files; usually empty.
    note = ""
    #: The first resource that was unavailable before the last ``finish_round``.
    unavailable: Optional[UnavailableResource] = None

    def acquire_slot(self, slots: Sequence[int]) -> Optional[int]:
        """Acquire one of these slots for tests that need nothing else; None if none is free."""
        return slots[0] if slots else None

    def acquire_for_test(
        self, test: int, slots: Sequence[int], locks: Collection[str], serial: bool
    ) -> Optional[int]:
        """Acquire the locks of a test, then one of these slots; None if that is impossible now.

        For a serial test (``serial``) the caller passes no slots while another of its tests runs.
        Locks that were acquired are kept for the next attempt.
        """
        return slots[0] if slots else None

    def release_test(self, test: int) -> None:
        """Release what ``acquire_for_test`` has acquired for a test."""

    def is_slot_wanted(self, slot: int) -> bool:
        """Return whether this busy slot should be released because another run waits for it."""
        return False

    def finish_round(self, busy: Collection[int]) -> None:
        """End a round of requests: release the slots and locks that are not in use.

        ``busy``: numbers of the slots that have tests.
        """

    def close(self) -> None:
        """Release everything."""


class SharedHostResources(HostResources):
    """The resources of a host that all runs of one user share, by lock files in ``folder``."""

    def __init__(self, folder: str, note: str = "") -> None:
        self.note = note
        self._folder = folder
        for name in ("slots", "locks"):
            os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
        _check_locking(folder)
        #: Held shared while a test of this run executes, exclusively while a serial one does.
        self._running_lock = HostLock(os.path.join(folder, "running"))
        self._slot_locks: Dict[int, HostLock] = {}
        #: The named locks that this run holds or waits for.
        self._named_locks: Dict[str, HostLock] = {}
        self._lock_owners: Dict[str, int] = {}
        self._exclusive_test: Optional[int] = None
        self._first_unavailable: Optional[UnavailableResource] = None

    def acquire_slot(self, slots: Sequence[int]) -> Optional[int]:
        if not slots or self._exclusive_test is not None:
            return None
        if not self._acquire_running_lock():
            self._note_unavailable(UnavailableResource(ALONE))
            return None
        return next((number for number in slots if self._acquire_slot_lock(number)), None)

    def acquire_for_test(
        self, test: int, slots: Sequence[int], locks: Collection[str], serial: bool
    ) -> Optional[int]:
        for name in sorted(locks):
            if not self._acquire_named_lock(name, test):
                return None
        if not serial:
            return self.acquire_slot(slots)
        if not slots or self._exclusive_test is not None:
            return None
        # A serial test needs no lock of a slot: no other run can be using one.
        self._running_lock.release()
        if not self._running_lock.try_acquire():
            self._note_unavailable(UnavailableResource(ALONE))
            return None
        self._exclusive_test = test
        return slots[0]

    def release_test(self, test: int) -> None:
        for name in [name for name, owner in self._lock_owners.items() if owner == test]:
            del self._lock_owners[name]
            self._named_locks[name].release()
        if self._exclusive_test == test:
            self._exclusive_test = None
            self._running_lock.release()

    def is_slot_wanted(self, slot: int) -> bool:
        if self._exclusive_test is not None:
            return False
        held = [
            lock
            for lock in (self._running_lock, self._slot_locks.get(slot))
            if lock and lock.is_held
        ]
        return any(lock.should_release() for lock in held)

    def finish_round(self, busy: Collection[int]) -> None:
        for number, lock in self._slot_locks.items():
            if number not in busy:
                lock.release()
            lock.finish_round()
        for name, lock in list(self._named_locks.items()):
            if not lock.finish_round() and not lock.is_held:
                lock.close()
                del self._named_locks[name]
        if not busy and self._exclusive_test is None:
            self._running_lock.release()
        self._running_lock.finish_round()
        self.unavailable, self._first_unavailable = self._first_unavailable, None

    def close(self) -> None:
        for lock in (self._running_lock, *self._slot_locks.values(), *self._named_locks.values()):
            lock.close()
        self._slot_locks, self._named_locks, self._lock_owners = {}, {}, {}

    def _acquire_running_lock(self) -> bool:
        """Return whether tests may run: no serial test of another run executes or waits."""
        if self._running_lock.is_held:
            return not self._running_lock.should_release()
        return self._running_lock.try_acquire(shared=True)

    def _acquire_slot_lock(self, number: int) -> bool:
        lock = self._slot_locks.get(number)
        if lock is None:
            lock = self._slot_locks[number] = HostLock(
                os.path.join(self._folder, "slots", str(number))
            )
        if lock.is_held and not lock.should_release():
            return True
        if not lock.is_held and lock.try_acquire():
            return True
        self._note_unavailable(UnavailableResource(SLOTS))
        return False

    def _acquire_named_lock(self, name: str, test: int) -> bool:
        if name in self._lock_owners:
            return self._lock_owners[name] == test
        lock = self._named_locks.get(name)
        if lock is None:
            path = os.path.join(self._folder, "locks", encode_file_name(name))
            lock = self._named_locks[name] = HostLock(path)
        if not lock.try_acquire():
            self._note_unavailable(UnavailableResource(LOCK, name))
            return False
        self._lock_owners[name] = test
        return True

    def _note_unavailable(self, resource: UnavailableResource) -> None:
        """Remember the first unavailable resource of a round, which is the one reported."""
        self._first_unavailable = self._first_unavailable or resource


def open_shared_resources() -> SharedHostResources:
    """Return the shared resources of this host.

    Raises OSError, which names the reason for each folder, if no folder can hold the lock files.
    """
    errors: List[str] = []
    for folder in candidate_folders():
        note = ""
        if errors:
            note = "slots and locks are kept in %s (%s)" % (folder, errors[0])
        try:
            ensure_private_folder(folder)
            return SharedHostResources(host_folder(folder), note)
        except OSError as error:
            errors.append("%s: %s" % (folder, error.strerror or error))
    raise OSError("no folder can hold the locks of this host: %s" % "; ".join(errors))


def _open_lock_file(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def _check_locking(folder: str) -> None:
    """Raise OSError if the file system of ``folder`` does not support flock(2)."""
    descriptor = _open_lock_file(os.path.join(folder, "proof"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _try_flock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
