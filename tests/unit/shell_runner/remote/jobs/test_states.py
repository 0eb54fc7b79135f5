"""Tests of the table of a job's states, and of the table in the design."""

import re
from itertools import product
from pathlib import Path

import pytest

from shell_runner.remote.jobs import states
from shell_runner.remote.jobs.states import (
    TRANSITIONS,
    AttemptPhase,
    Event,
    State,
    is_phase_advance,
    state_after_loss,
)

DESIGN = Path(__file__).parents[5] / "docs" / "design" / "0004-jobs.md"


def documented() -> dict[tuple[State, Event], tuple[State, ...]]:
    """Return the table of the design: ``| from | event | to |``."""
    rows = {}
    lines = re.findall(r"^\| ([a-z, ]+) \| (\w+) \| (.+) \|$", DESIGN.read_text(), re.M)
    for origins, event, ends in lines[1:]:
        plain = re.sub(r" \(.*?\)", "", ends)
        to = tuple(State(end) for end in plain.split(", ") if end != "gone")
        for origin in origins.split(", "):
            rows[State(origin), Event(event)] = to
    return rows


def test_the_design_has_the_same_table() -> None:
    assert documented() == TRANSITIONS


def test_every_state_is_left_and_every_event_is_known() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_all_states_come_from_the_first_one() -> None:
    reached, new = set(), {State.QUEUED}
    while new:
        reached |= new
        new = {
            end for (start, _), ends in TRANSITIONS.items() if start in reached for end in ends
        } - reached
    assert reached == set(State)


def test_only_transitions_of_the_table_are_allowed() -> None:
    for pair in product(State, Event):
        assert states.is_allowed(*pair) == (pair in TRANSITIONS)


def test_a_state_looks_like_its_value() -> None:
    assert f"{State.QUEUED} {AttemptPhase.LOST!s}" == "queued lost"
    assert "%s" % State.QUEUED == State.QUEUED == "queued"


@pytest.mark.parametrize(
    ("before", "after", "good"),
    [
        (AttemptPhase.UNPACKING, AttemptPhase.INSTALLING, True),
        (AttemptPhase.UNPACKING, AttemptPhase.TESTING, True),
        (AttemptPhase.TESTING, AttemptPhase.TESTING, True),
        (AttemptPhase.TESTING, AttemptPhase.INSTALLING, False),
        (AttemptPhase.TESTING, AttemptPhase.ENDED, False),
        (AttemptPhase.TESTING, AttemptPhase.LOST, False),
        (AttemptPhase.LOST, AttemptPhase.TESTING, False),
        (AttemptPhase.PACKAGING, AttemptPhase.TESTING, False),
    ],
)
def test_an_attempt_goes_on_and_never_back(
    before: AttemptPhase, after: AttemptPhase, good: bool
) -> None:
    assert is_phase_advance(before, after) is good


@pytest.mark.parametrize(
    ("attempts", "allowed", "canceled", "state"),
    [
        (1, 3, False, State.QUEUED),
        (2, 3, False, State.QUEUED),
        (3, 3, False, State.PACKAGING),
        (4, 3, False, State.PACKAGING),
        (1, 1, False, State.PACKAGING),
        (1, 3, True, State.PACKAGING),
    ],
)
def test_a_lost_job_starts_again_until_it_may_not(
    attempts: int, allowed: int, canceled: bool, state: State
) -> None:
    assert state_after_loss(attempts, allowed, canceled) == state
    assert state in TRANSITIONS[State.RUNNING, Event.LOSE]
