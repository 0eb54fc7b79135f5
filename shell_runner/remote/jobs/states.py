"""The states of durable jobs and of their attempts, and every transition between them.

Pure: a table and predicates on it. ``queue`` performs the transitions that the table allows and
refuses all others. Older versions cannot read a value that is added here, so that a new value needs
a new ``database.SCHEMA_VERSION``.
"""

from enum import Enum
from typing import Dict, Tuple


class _TextEnum(str, Enum):
    """An enumeration whose members print as their values, which rows and messages contain."""

    def __str__(self) -> str:
        return str(self.value)


class State(_TextEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    #: The job has ended, or was canceled before it ran; its package is to be built from its rows.
    PACKAGING = "packaging"
    #: Its package can be harvested.
    READY = "ready"
    #: A client has its package.
    HARVESTED = "harvested"


class Event(_TextEnum):
    """An event that changes the state of a job."""

    CLAIM = "claim"
    CANCEL = "cancel"
    FINISH = "finish"
    LOSE = "lose"
    PACKAGED = "packaged"
    ACKNOWLEDGE = "acknowledge"
    FORGET = "forget"


class EndReason(_TextEnum):
    """The reason why a job ended."""

    COMPLETED = "completed"
    INSTALL_FAILED = "install-failed"
    #: Its contents cannot be unpacked, or its row cannot be read.
    REFUSED = "refused"
    CANCELED = "canceled"
    TIMED_OUT = "timed-out"
    #: Its last allowed attempt was lost.
    GAVE_UP = "gave-up"


class AttemptPhase(_TextEnum):
    """The phase that an attempt has reached."""

    UNPACKING = "unpacking"
    INSTALLING = "installing"
    TESTING = "testing"
    PACKAGING = "packaging"
    ENDED = "ended"
    LOST = "lost"


#: The states that an event may lead to; empty: the job is deleted.  Any other event is refused.
TRANSITIONS: Dict[Tuple[State, Event], Tuple[State, ...]] = {
    (State.QUEUED, Event.CLAIM): (State.RUNNING,),
    (State.QUEUED, Event.CANCEL): (State.PACKAGING,),
    # Only a request: the job ends by ``finish`` or ``lose``.
    (State.RUNNING, Event.CANCEL): (State.RUNNING,),
    (State.RUNNING, Event.FINISH): (State.PACKAGING,),
    (State.RUNNING, Event.LOSE): (State.QUEUED, State.PACKAGING),
    (State.PACKAGING, Event.PACKAGED): (State.READY,),
    (State.READY, Event.ACKNOWLEDGE): (State.HARVESTED,),
    (State.HARVESTED, Event.ACKNOWLEDGE): (State.HARVESTED,),
    (State.READY, Event.FORGET): (),
    (State.HARVESTED, Event.FORGET): (),
}

#: States of jobs that need a worker.
UNFINISHED_STATES = (State.QUEUED, State.RUNNING, State.PACKAGING)
#: The phases of a running attempt, in their order; some may be skipped.
RUNNING_PHASES = (AttemptPhase.UNPACKING, AttemptPhase.INSTALLING, AttemptPhase.TESTING)


def is_allowed(state: State, event: Event) -> bool:
    """Return whether ``event`` is possible in ``state``."""
    return (state, event) in TRANSITIONS


def is_phase_advance(current: AttemptPhase, new: AttemptPhase) -> bool:
    """Return whether a running attempt may go from ``current`` to ``new``, or repeat a phase."""
    if current not in RUNNING_PHASES or new not in RUNNING_PHASES:
        return False
    return RUNNING_PHASES.index(current) <= RUNNING_PHASES.index(new)


def state_after_loss(attempts: int, max_attempts: int, cancel_requested: bool) -> State:
    """Return the next state of a job whose attempt number ``attempts`` was lost."""
    ends = cancel_requested or attempts >= max_attempts
    return State.PACKAGING if ends else State.QUEUED
