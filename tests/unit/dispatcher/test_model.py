"""Tests of the model: transitions of states, and values that have the fields of their rows."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from itertools import product
from typing import Any

import pytest

from dispatcher import model
from dispatcher.model import (
    BUILD_TRANSITIONS,
    IDLE_EVENTS,
    JOB_TRANSITIONS,
    STAGE_TRANSITIONS,
    BuildEvent,
    BuildState,
    InvalidTransition,
    JobEvent,
    JobState,
    StageEvent,
    StageState,
    state_after,
)
from dispatcher.store import tables

ALL: list[tuple[Mapping[Any, Any], type[StrEnum], type[StrEnum]]] = [
    (BUILD_TRANSITIONS, BuildState, BuildEvent),
    (STAGE_TRANSITIONS, StageState, StageEvent),
    (JOB_TRANSITIONS, JobState, JobEvent),
]
VALUES = {
    "change": model.Change, "build": model.Build, "stage_run": model.StageRun, "job": model.Job,
    "tag": model.Tag, "decision": model.Decision, "host": model.Host,
}  # fmt: skip


@pytest.mark.parametrize(("table", "states", "events"), ALL)
def test_a_transition_that_is_not_in_the_table_is_refused(
    table: Mapping[Any, Any], states: type[StrEnum], events: type[StrEnum]
) -> None:
    for state, event in product(states, events):
        if (state, event) in table:
            assert state_after(table, state, event) is table[state, event]
        else:
            with pytest.raises(
                InvalidTransition,
                match=f"in state {state} does not accept '{event}'; expected state: ",
            ):
                state_after(table, state, event)


@pytest.mark.parametrize(("table", "states", "events"), ALL)
def test_every_state_but_the_first_can_be_reached(
    table: Mapping[Any, Any], states: type[StrEnum], events: type[StrEnum]
) -> None:
    reached = {next(iter(states))}
    for _ in states:
        reached |= {to for (state, _), to in table.items() if state in reached}
    assert reached == set(states)
    assert {event for _, event in table} == set(events)


def test_a_final_state_of_a_stage_run_has_no_transition() -> None:
    ends = {state for state in StageState if not any(state == old for old, _ in STAGE_TRANSITIONS)}
    assert ends == {state for state in StageState if state.is_final}


def test_an_idle_stage_run_can_come_to_any_idle_state() -> None:
    assert set(IDLE_EVENTS) == {state for state in StageState if state.is_idle}
    for state, (to, event) in product(IDLE_EVENTS, IDLE_EVENTS.items()):
        assert state_after(STAGE_TRANSITIONS, state, event) is to


def test_a_lost_job_stays_lost() -> None:
    assert not any(state is JobState.LOST for state, _ in JOB_TRANSITIONS)


def test_the_end_of_a_job_counts_once() -> None:
    for state in (JobState.HARVESTED, JobState.ACKNOWLEDGED, JobState.LOST):
        with pytest.raises(InvalidTransition):
            state_after(JOB_TRANSITIONS, state, JobEvent.HARVEST)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_the_fields_of_its_row(name: str) -> None:
    columns = {column.name for column in tables.METADATA.tables[name].columns}
    assert {field.name for field in dataclasses.fields(VALUES[name])} == columns
