"""What the runs on one host share: its slots, its locks, and being alone.

Owns the lock files in the host's state folder.  They are taken by flock(2), so that the
kernel frees them with the process that has them.  Must not know channels, slot
processes, or what a test is.

Nothing here waits: who is refused asks again, ``LOOK`` seconds later.  A lock is two
files.  ``NAME.lock`` is held by who uses it, ``NAME.next`` by who is to have it next; to
take a lock one has to be next, if only for a moment.  So a run that has just given a
lock up cannot have it back before the one that waits for it, and a holder sees that
somebody waits.

No two tests can wait for each other in a circle: every test takes its locks in order of
their names, then the right to run at all (shared, or alone), then a slot.
"""

import fcntl
import os
import time
from typing import Collection, Dict, List, NamedTuple, Optional, Sequence

from ..files.state_dirs import file_name, folders, host_folder, make_private

#: Seconds between two looks at what others hold.
LOOK = 0.05
#: Seconds for which a run keeps what another one waits for, if its tests are short.
TURN = 0.25


#: What can be refused: a slot, a lock, and to run at all beside a test that is alone (or,
#: for such a test, beside others).
SLOTS = "slots"
LOCK = "lock"
ALONE = "alone"


class Refusal(NamedTuple):
    """What another run has that is needed here."""

    kind: str
    #: The name of the lock.
    name: str = ""


class Lock:
    """One lock of the host, as seen by one run."""

    def __init__(self, path: str) -> None:
        self.held = False
        #: It was wanted since the last ``settle`` and not to be had.
        self.refused = False
        self._lock = _open(path + ".lock")
        self._next = _open(path + ".next")
        self._is_next = False
        self._since = self._looked = 0.0
        self._wanted = False

    def take(self, shared: bool = False) -> bool:
        """Whether it is ours now; if not, nobody who asks later will have it before us."""
        if self.held:
            return True
        self._is_next = self._is_next or _try(self._next, fcntl.LOCK_EX)
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self.refused = not (self._is_next and _try(self._lock, how))
        if self.refused:
            return False
        self.held, self._wanted = True, False
        self._since = self._looked = time.monotonic()
        self._withdraw()
        return True

    def should_go(self) -> bool:
        """We have had it for a while and somebody else waits for it."""
        now = time.monotonic()
        if now - self._since >= TURN and now - self._looked >= LOOK:
            self._looked = now
            self._wanted = not _try(self._next, fcntl.LOCK_EX)
            if not self._wanted:
                fcntl.flock(self._next, fcntl.LOCK_UN)
        return self._wanted

    def release(self) -> None:
        """Let others have it."""
        if self.held:
            self.held = False
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def settle(self) -> bool:
        """Whether we wait for it: our place in turn is given up if nobody has asked."""
        refused, self.refused = self.refused, False
        if not refused:
            self._withdraw()
        return refused

    def _withdraw(self) -> None:
        if self._is_next:
            self._is_next = False
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def close(self) -> None:
        """Free it, and what it costs."""
        os.close(self._lock)
        os.close(self._next)


class Capacity:
    """Of a host that is this run's own: there is always room."""

    #: What a person should know of it.
    note = ""
    #: The first thing that was refused before the last ``settle``.
    refusal: Optional[Refusal] = None

    def slot(self, slots: Sequence[int]) -> Optional[int]:
        """The first of these slots that a test without needs may use now."""
        return slots[0] if slots else None

    def start(
        self, test: int, slots: Sequence[int], locks: Collection[str], alone: bool
    ) -> Optional[int]:
        """The first of these slots that this test may use now; its locks are taken first.

        For a test that must be ``alone``: no slots unless nothing of ours runs.
        """
        return slots[0] if slots else None

    def end(self, test: int) -> None:
        """A test has ended for which ``start`` was called."""

    def is_wanted(self, slot: int) -> bool:
        """Another run waits for what this busy slot uses, and has waited long enough."""
        return False

    def settle(self, busy: Collection[int]) -> None:
        """All has been asked that is to be asked now; what is not in use is given up."""

    def close(self) -> None:
        """Give up all."""


class Shared(Capacity):
    """Of a host where other runs of the same user may be at work; by lock files in ``folder``."""

    def __init__(self, folder: str, note: str = "") -> None:
        self.note = note
        self._folder = folder
        for name in ("slots", "locks"):
            os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
        _prove(folder)
        #: Held shared while a test of ours runs, exclusively while one runs that must be alone.
        self._running = Lock(os.path.join(folder, "running"))
        self._slots: Dict[int, Lock] = {}
        #: Those that are held, or waited for.
        self._locks: Dict[str, Lock] = {}
        self._owners: Dict[str, int] = {}
        self._alone: Optional[int] = None
        self._refusal: Optional[Refusal] = None

    def slot(self, slots: Sequence[int]) -> Optional[int]:
        if not slots or self._alone is not None:
            return None
        if not self._may_run():
            self._refuse(Refusal(ALONE))
            return None
        return next((number for number in slots if self._may_use(number)), None)

    def start(
        self, test: int, slots: Sequence[int], locks: Collection[str], alone: bool
    ) -> Optional[int]:
        for name in sorted(locks):
            if not self._take(name, test):
                return None
        if not alone:
            return self.slot(slots)
        if not slots or self._alone is not None:
            return None
        # Whoever is alone needs no slot's lock: nobody can be using one.
        self._running.release()
        if not self._running.take():
            self._refuse(Refusal(ALONE))
            return None
        self._alone = test
        return slots[0]

    def end(self, test: int) -> None:
        for name in [name for name, owner in self._owners.items() if owner == test]:
            del self._owners[name]
            self._locks[name].release()
        if self._alone == test:
            self._alone = None
            self._running.release()

    def is_wanted(self, slot: int) -> bool:
        if self._alone is not None:
            return False
        held = [lock for lock in (self._running, self._slots.get(slot)) if lock and lock.held]
        return any(lock.should_go() for lock in held)

    def settle(self, busy: Collection[int]) -> None:
        for number, lock in self._slots.items():
            if number not in busy:
                lock.release()
            lock.settle()
        for name, lock in list(self._locks.items()):
            if not lock.settle() and not lock.held:
                lock.close()
                del self._locks[name]
        if not busy and self._alone is None:
            self._running.release()
        self._running.settle()
        self.refusal, self._refusal = self._refusal, None

    def close(self) -> None:
        for lock in (self._running, *self._slots.values(), *self._locks.values()):
            lock.close()
        self._slots, self._locks, self._owners = {}, {}, {}

    def _may_run(self) -> bool:
        """Nobody is alone on the host, or waits to be."""
        if self._running.held:
            return not self._running.should_go()
        return self._running.take(shared=True)

    def _may_use(self, number: int) -> bool:
        lock = self._slots.get(number)
        if lock is None:
            lock = self._slots[number] = Lock(os.path.join(self._folder, "slots", str(number)))
        if lock.held and not lock.should_go():
            return True
        if not lock.held and lock.take():
            return True
        self._refuse(Refusal(SLOTS))
        return False

    def _take(self, name: str, test: int) -> bool:
        if name in self._owners:
            return self._owners[name] == test
        lock = self._locks.get(name)
        if lock is None:
            path = os.path.join(self._folder, "locks", file_name(name))
            lock = self._locks[name] = Lock(path)
        if not lock.take():
            self._refuse(Refusal(LOCK, name))
            return False
        self._owners[name] = test
        return True

    def _refuse(self, refusal: Refusal) -> None:
        """The first one is what a person is told."""
        self._refusal = self._refusal or refusal


def shared() -> Shared:
    """The capacity of this host; OSError that says why if no folder can hold it."""
    troubles: List[str] = []
    for folder in folders():
        note = ""
        if troubles:
            note = "slots and locks are kept in %s (%s)" % (folder, troubles[0])
        try:
            make_private(folder)
            return Shared(host_folder(folder), note)
        except OSError as error:
            troubles.append("%s: %s" % (folder, error.strerror or error))
    raise OSError("no folder can hold the locks of this host: %s" % "; ".join(troubles))


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def _prove(folder: str) -> None:
    """OSError if the file system knows no locks."""
    descriptor = _open(os.path.join(folder, "proof"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
