"""The summary of a durable job in lists and replies of a host.

Pure: a host makes it of the rows of its queue, a client parses it from untrusted JSON.
"""

from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from .fields import Fields, InvalidField, abbreviate
from .job import is_uuid
from .model import ERROR, FAILED, OUTCOMES

JOB_STATES = ("queued", "running", "packaging", "ready", "harvested")
#: States of an ended job that has a package.
PACKAGED_STATES = frozenset(["ready", "harvested"])
#: Maximum length of ``detail`` and ``waiting_reason`` in characters.
_MAX_DETAIL_CHARS = 2000


class JobSummary(NamedTuple):
    """The properties of a job that a list shows."""

    id: str
    number: int
    name: str
    labels: Tuple[str, ...]
    priority: int
    test_count: int
    state: str
    #: The reason why it ended; empty while it has not.
    end_reason: str
    detail: str
    cancel_requested: bool
    #: The reason why it makes no progress; empty if it does.
    waiting_reason: str
    #: Times are seconds since the epoch, by the host's clock.
    submitted_at: float
    ended_at: Optional[float]
    #: SHA-256 and size in bytes of its package; empty and 0 while there is none.
    package_digest: str
    package_size: int
    harvested_at: Optional[float]
    attempts: int
    #: The phase of its last attempt; empty before the first.
    phase: str
    #: Tests of the last attempt, by outcome.
    outcomes: Dict[str, int]

    @property
    def is_done(self) -> bool:
        """Return whether the job has ended and its package can be harvested."""
        return self.state in PACKAGED_STATES

    @property
    def failed(self) -> int:
        """Return the number of tests that have failed so far, errors included."""
        return self.outcomes.get(FAILED, 0) + self.outcomes.get(ERROR, 0)


#: Columns of a job that its summary contains unchanged.
_COLUMNS = (
    "id", "number", "name", "labels", "priority", "test_count", "submitted_at", "ended_at",
    "package_digest", "package_size", "harvested_at",
)  # fmt: skip


def summarize(
    row: Any, waiting_reason: str, attempts: Sequence[Any], outcomes: Dict[str, int]
) -> JobSummary:
    """Return the summary of a queue row and of the rows of its ``attempts``."""
    return JobSummary(
        state=str(row.state),
        end_reason=str(row.end_reason or ""),
        detail=row.detail[:_MAX_DETAIL_CHARS],
        cancel_requested=bool(row.cancel_requested),
        waiting_reason=waiting_reason[:_MAX_DETAIL_CHARS],
        attempts=len(attempts),
        phase=str(attempts[-1].phase) if attempts else "",
        outcomes=outcomes,
        **{name: getattr(row, name) for name in _COLUMNS},
    )


def parse_summary(values: Any, clean: Callable[[str, int], str]) -> JobSummary:
    """Return the summary that a host sent; raises :exc:`InvalidField`.

    ``clean(text, max_chars)`` makes a text safe to show.
    """
    fields = Fields(values, clean)
    state = fields.text("state")
    if not is_uuid(fields["id"]) or state not in JOB_STATES:
        raise InvalidField("job %s, state %s" % (abbreviate(fields["id"]), abbreviate(state)))
    return JobSummary(
        id=fields["id"],
        number=fields.integer("number"),
        name=fields.text("name"),
        labels=fields.strings("labels"),
        priority=fields.integer("priority", -(1 << 31)),
        test_count=fields.integer("test_count"),
        state=state,
        end_reason=fields.text("end_reason"),
        detail=fields.text("detail"),
        cancel_requested=fields.flag("cancel_requested"),
        waiting_reason=fields.text("waiting_reason"),
        submitted_at=fields.number("submitted_at"),
        ended_at=fields.timestamp("ended_at"),
        package_digest=fields.digest("package_digest"),
        package_size=fields.integer("package_size"),
        harvested_at=fields.timestamp("harvested_at"),
        attempts=fields.integer("attempts"),
        phase=fields.text("phase"),
        outcomes=fields.counts("outcomes", OUTCOMES),
    )
