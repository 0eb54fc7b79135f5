"""Commands with which the scheduler answers an event; the run controller performs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Send:
    """Send these tests to the host."""

    host: str
    tests: tuple[int, ...]


@dataclass(frozen=True)
class Return:
    """Ask the host to return these tests; it keeps those that it has started."""

    host: str
    tests: tuple[int, ...]


@dataclass(frozen=True)
class GiveUp:
    """Report that the test cannot be run because ``hosts`` were lost."""

    test: int
    #: The hosts that were lost while they had the test, or, with ``labels``, the lost
    #: hosts on which it had to run.
    hosts: tuple[str, ...]
    #: The labels for which the test had to run on one of ``hosts``; empty if it was there.
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequirementUnmet:
    """Report that no host of the run has the labels that the test requires."""

    test: int
    #: The labels that no host has; all required ones if no host has all of them at once.
    missing: tuple[str, ...]


Command = Send | Return | GiveUp | RequirementUnmet
