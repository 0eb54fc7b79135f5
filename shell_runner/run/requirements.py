"""The locks, labels and exclusivity that a test requires in order to run.

Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..collection.metadata import HOST_LOCK_PREFIX, Metadata, host_locks


@dataclass(frozen=True)
class Requirements:
    """The requirements of one test."""

    #: Locks that one test at a time holds in the whole run.
    locks: frozenset[str] = frozenset()
    #: Locks that one test at a time holds on each host.
    host_locks: frozenset[str] = frozenset()
    #: The test must be the only one on its host.
    serial: bool = False
    #: Labels that the host must have.
    labels: frozenset[str] = frozenset()

    @property
    def is_exclusive(self) -> bool:
        """Return whether two tests with these requirements cannot run at the same time."""
        return bool(self.locks or self.host_locks or self.serial)


#: The requirements of an ordinary test, which any host can run at any time.
NO_REQUIREMENTS = Requirements()


def read_requirements(metadata: Metadata) -> Requirements:
    """Return the part of a test's metadata that matters for scheduling."""
    if not (metadata.locks or metadata.serial or metadata.requires):
        return NO_REQUIREMENTS
    return Requirements(
        locks=frozenset(name for name in metadata.locks if not name.startswith(HOST_LOCK_PREFIX)),
        host_locks=frozenset(host_locks(metadata)),
        serial=metadata.serial,
        labels=frozenset(metadata.requires),
    )
