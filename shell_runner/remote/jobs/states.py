"""The states of a durable job and of its attempts, and every change that they know.

Pure: a table and questions to it.  ``queue`` performs what the table allows, and refuses
the rest.  A value that is added here is one that older versions cannot read: it needs a new
``database.VERSION``.
"""

from enum import Enum
from typing import Dict, Tuple


class _Text(str, Enum):
    """Its value is what rows and people see."""

    def __str__(self) -> str:
        return str(self.value)


class State(_Text):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    #: It has ended, or never ran: all facts are rows, the package is to be made of them.
    PACKAGING = "packaging"
    #: The package waits for somebody.
    READY = "ready"
    #: Somebody has it.
    HARVESTED = "harvested"


class Event(_Text):
    """What happens to a job."""

    CLAIM = "claim"
    CANCEL = "cancel"
    FINISH = "finish"
    LOSE = "lose"
    PACKAGED = "packaged"
    ACKNOWLEDGE = "acknowledge"
    FORGET = "forget"


class How(_Text):
    """How a job ended."""

    COMPLETED = "completed"
    INSTALL_FAILED = "install-failed"
    #: Its contents cannot be unpacked.
    REFUSED = "refused"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"
    #: Its last attempt was lost.
    GAVE_UP = "gave-up"


class Step(_Text):
    """Where an attempt is."""

    UNPACKING = "unpacking"
    INSTALLING = "installing"
    TESTING = "testing"
    PACKAGING = "packaging"
    ENDED = "ended"
    LOST = "lost"


#: What may come of an event; an empty answer: the job is gone.  Nothing else is done to a job.
STATES: Dict[Tuple[State, Event], Tuple[State, ...]] = {
    (State.QUEUED, Event.CLAIM): (State.RUNNING,),
    (State.QUEUED, Event.CANCEL): (State.PACKAGING,),
    # Only asked for: it ends by its own ``finish``, or ``lose``.
    (State.RUNNING, Event.CANCEL): (State.RUNNING,),
    (State.RUNNING, Event.FINISH): (State.PACKAGING,),
    (State.RUNNING, Event.LOSE): (State.QUEUED, State.PACKAGING),
    (State.PACKAGING, Event.PACKAGED): (State.READY,),
    (State.READY, Event.ACKNOWLEDGE): (State.HARVESTED,),
    (State.HARVESTED, Event.ACKNOWLEDGE): (State.HARVESTED,),
    (State.READY, Event.FORGET): (),
    (State.HARVESTED, Event.FORGET): (),
}

#: Those that give a worker something to do.
UNFINISHED = (State.QUEUED, State.RUNNING, State.PACKAGING)
#: The steps of an attempt that runs, in their order; some are left out.
STEPS = (Step.UNPACKING, Step.INSTALLING, Step.TESTING)


def allows(state: State, event: Event) -> bool:
    """Whether the table has an answer."""
    return (state, event) in STATES


def is_onward(before: Step, after: Step) -> bool:
    """An attempt that runs goes on, or says again where it is."""
    return before in STEPS and after in STEPS and STEPS.index(before) <= STEPS.index(after)


def after_loss(attempts: int, allowed: int, cancelled: bool) -> State:
    """Where a job goes whose attempt number ``attempts`` was lost."""
    ends = cancelled or attempts >= allowed
    return State.PACKAGING if ends else State.QUEUED
