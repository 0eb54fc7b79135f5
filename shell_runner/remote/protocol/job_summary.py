"""The summary of a durable job: what a host says of it in lists and answers.

Pure: a host makes it of the rows of its queue, a client of JSON, of which it believes nothing.
"""

from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from .fields import Fields, InvalidField
from .job import is_uuid
from .model import ERROR, FAILED, OUTCOMES

STATES = ("queued", "running", "packaging", "ready", "harvested")
#: States of a job that has ended and has a package.
DONE = frozenset(["ready", "harvested"])
#: Characters of a detail or a trouble.
_MAX_DETAIL_CHARS = 2000


class JobSummary(NamedTuple):
    """What a list shows of a job."""

    id: str
    number: int
    name: str
    labels: Tuple[str, ...]
    priority: int
    #: Tests that it has.
    count: int  # type: ignore[assignment] # nobody counts fields
    state: str
    #: How it ended; empty while it has not.
    how: str
    detail: str
    cancelled: bool
    #: Why it does not get on; empty if it does.
    trouble: str
    submitted: float
    ended: Optional[float]
    #: SHA-256 and bytes of its package.
    package: str
    size: int
    harvested: Optional[float]
    attempts: int
    #: Where its last attempt is.
    step: str
    #: Tests of the last attempt, by outcome.
    outcomes: Dict[str, int]

    @property
    def is_done(self) -> bool:
        """Whether it has ended, and its package can be harvested."""
        return self.state in DONE

    @property
    def failed(self) -> int:
        """The number of tests that have failed so far, errors among them."""
        return self.outcomes.get(FAILED, 0) + self.outcomes.get(ERROR, 0)


#: Columns of a job that a summary has as they are.
_COLUMNS = (
    "id", "number", "name", "labels", "priority", "count", "submitted", "ended", "package",
    "size", "harvested",
)  # fmt: skip


def summarize(
    row: Any, trouble: str, attempts: Sequence[Any], outcomes: Dict[str, int]
) -> JobSummary:
    """Return the summary of a row of the queue and of the rows of its ``attempts``."""
    return JobSummary(
        state=str(row.state),
        how=str(row.how or ""),
        detail=row.detail[:_MAX_DETAIL_CHARS],
        cancelled=bool(row.cancelled),
        trouble=trouble[:_MAX_DETAIL_CHARS],
        attempts=len(attempts),
        step=str(attempts[-1].step) if attempts else "",
        outcomes=outcomes,
        **{name: getattr(row, name) for name in _COLUMNS},
    )


def parse_summary(values: Any, clean: Callable[[str, int], str]) -> JobSummary:
    """Return the summary that a host has sent; raises InvalidField.

    ``clean``: makes a text safe to be shown.
    """
    fields = Fields(values, clean)
    state = fields.text("state")
    if not is_uuid(fields["id"]) or state not in STATES:
        raise InvalidField("job %.50r, state %r" % (fields["id"], state))
    return JobSummary(
        id=fields["id"],
        number=fields.whole("number"),
        name=fields.text("name"),
        labels=fields.texts("labels"),
        priority=fields.whole("priority", -(1 << 31)),
        count=fields.whole("count"),
        state=state,
        how=fields.text("how"),
        detail=fields.text("detail"),
        cancelled=fields.flag("cancelled"),
        trouble=fields.text("trouble"),
        submitted=fields.number("submitted"),
        ended=fields.date("ended"),
        package=fields.digest("package"),
        size=fields.whole("size"),
        harvested=fields.date("harvested"),
        attempts=fields.whole("attempts"),
        step=fields.text("step"),
        outcomes=fields.counts("outcomes", OUTCOMES),
    )
