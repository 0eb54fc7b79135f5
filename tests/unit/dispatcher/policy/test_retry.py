"""Tests of the retry policy: the next step of a stage run by its jobs, and quarantine of hosts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.configuration.pipeline import Mode, Stage
from dispatcher.model import STAGE_TRANSITIONS, Job, JobState, StageEvent, StageState, state_after
from dispatcher.policy.retry import Part, Step, failing_hosts, next_step, quarantine_reason

ONCE = Stage("a", hosts=2)
NEVER = replace(ONCE, lost=0)
TOGETHER = replace(ONCE, mode=Mode.TOGETHER)
RUNNING, LOST, DONE = JobState.SUBMITTED, JobState.LOST, JobState.HARVESTED


def part(
    number: int = 0,
    state: JobState = DONE,
    end_reason: str = "completed",
    attempt: int = 1,
    failed: int = 0,
    infrastructure: int = 0,
    tests: int = 10,
) -> Part:
    if state.is_open or state is LOST:
        end_reason, tests = "", 0
    job = Job(f"j{number}", 1, f"h{number}", number, attempt, state, end_reason)
    return Part(job, tests, failed, infrastructure)


def test_all_that_passed_is_a_pass() -> None:
    expected = Step(StageEvent.PASS, "20 tests")
    assert next_step(ONCE, [part(0), part(1)]) == expected
    assert next_step(ONCE, [part(0, JobState.ACKNOWLEDGED), part(1)]) == expected


@pytest.mark.parametrize("state", [state for state in JobState if state.is_open])
def test_nothing_is_said_while_a_part_is_open(state: JobState) -> None:
    assert next_step(ONCE, [part(0), part(1, state)]) == Step()
    assert next_step(ONCE, [part(0, failed=1), part(1, state)]) == Step()


def test_a_stage_that_runs_no_test_has_not_passed() -> None:
    step = next_step(ONCE, [part(0, tests=0)])
    assert (step.event, step.detail[:15]) == (StageEvent.FAIL, "no test was run")


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (part(1, failed=2), "h1: 2 tests failed"),
        (part(1, end_reason="install-failed"), "h1: the install command failed"),
        (part(1, end_reason="timed-out"), "h1: it exceeded its time limit"),
    ],
)
def test_a_fault_of_the_build_fails_the_run(bad: Part, detail: str) -> None:
    assert next_step(ONCE, [part(0), bad]) == Step(StageEvent.FAIL, detail)


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (part(1, LOST), "h1 was lost"),
        (part(1, end_reason="refused"), "h1: the host could not unpack the job"),
        (part(1, end_reason="gave-up"), "h1: the worker of the job was lost too often"),
        (part(1, infrastructure=1), "h1: 1 test could not be run there"),
        (part(1, end_reason="of a newer version"), "h1: the job ended as of a newer version"),
    ],
)
def test_infrastructure_trouble_goes_again_and_then_is_an_error(bad: Part, detail: str) -> None:
    assert next_step(ONCE, [part(0), bad]) == Step(None, f"running again: {detail}", (1,))
    again = replace(bad, job=replace(bad.job, attempt=2))
    assert next_step(ONCE, [part(0), again]) == Step(
        StageEvent.GIVE_UP, f"{detail}; it was run again 1 time"
    )
    assert next_step(NEVER, [part(0), bad]) == Step(
        StageEvent.GIVE_UP, f'{detail}; not run again (lost = "never")'
    )


def test_a_lost_part_goes_again_while_the_others_go_on() -> None:
    assert next_step(ONCE, [part(0, RUNNING), part(1, LOST)]).again == (1,)
    both = next_step(ONCE, [part(0, LOST), part(1, LOST)])
    assert both == Step(None, "running again: h0 was lost; h1 was lost", (0, 1))


def test_what_is_given_up_waits_for_the_others_to_end() -> None:
    parts = [part(0, RUNNING), part(1, LOST, attempt=2)]
    assert next_step(ONCE, parts) == Step(None, "h1 was lost")
    assert next_step(ONCE, [part(0), parts[1]]).event is StageEvent.GIVE_UP


def test_a_number_of_goes() -> None:
    stage = replace(ONCE, lost=3)
    step = [next_step(stage, [part(0, LOST, attempt=number)]).again for number in range(1, 6)]
    assert step == [(0,), (0,), (0,), (), ()]


def test_a_failure_is_the_verdict_whatever_was_lost() -> None:
    assert next_step(ONCE, [part(0, failed=1), part(1, LOST)]).event is StageEvent.FAIL
    assert next_step(ONCE, [part(0, failed=1, infrastructure=1)]).event is StageEvent.FAIL


def test_a_lost_peer_ends_the_others_and_all_go_again() -> None:
    lost = part(1, LOST)
    assert next_step(TOGETHER, [part(0, RUNNING), lost]) == Step(
        None, "stopping its peers: h1 was lost", stop=("j0",)
    )
    for peer in (part(0, end_reason="canceled"), part(0), part(0, failed=3)):
        step = next_step(TOGETHER, [peer, lost])
        assert step == Step(StageEvent.PLACE_AGAIN, "running again: h1 was lost", (0, 1))
    step = next_step(
        TOGETHER, [part(0, end_reason="canceled", attempt=2), part(1, LOST, attempt=2)]
    )
    assert step.event is StageEvent.GIVE_UP


def test_a_peer_that_cannot_be_installed_ends_the_others() -> None:
    broken = part(1, end_reason="install-failed")
    assert next_step(TOGETHER, [part(0, RUNNING), broken]).stop == ("j0",)
    step = next_step(TOGETHER, [part(0, end_reason="canceled"), broken])
    assert step == Step(StageEvent.FAIL, "h1: the install command failed")


def test_peers_that_pass_or_fail_are_no_trouble() -> None:
    assert next_step(TOGETHER, [part(0, RUNNING), part(1, failed=1)]) == Step()
    assert next_step(TOGETHER, [part(0), part(1, failed=1)]).event is StageEvent.FAIL
    assert next_step(TOGETHER, [part(0), part(1)]).event is StageEvent.PASS


END_REASONS = ["completed", "install-failed", "timed-out", "refused", "gave-up", "canceled", "new"]


@given(
    st.sampled_from(list(Mode)),
    st.integers(0, 2),
    st.lists(
        st.builds(
            part,
            state=st.sampled_from(list(JobState)),
            end_reason=st.sampled_from(END_REASONS),
            attempt=st.integers(1, 3),
            failed=st.integers(0, 1),
            infrastructure=st.integers(0, 1),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_every_run_comes_to_an_end_or_is_waited_for(
    mode: Mode, lost: int, parts: list[Part]
) -> None:
    stage = Stage("a", mode=mode, hosts=len(parts), lost=lost)
    parts = [
        replace(each, job=replace(each.job, part=number, id=f"j{number}"))
        for number, each in enumerate(parts)
    ]
    step = next_step(stage, parts)
    assert next_step(stage, parts[::-1]) == step
    is_open = {each.job.id for each in parts if each.job.state.is_open}
    assert step.event or step.again or is_open, "nobody would ever look again"
    assert set(step.stop) <= is_open
    attempts = {each.job.part: each.job.attempt for each in parts}
    assert all(attempts[number] <= lost for number in step.again)
    if step.event is not None:
        assert not is_open
        assert step.detail
        assert state_after(STAGE_TRANSITIONS, StageState.RUNNING, step.event)
    if step.event is StageEvent.PASS:
        assert all(each.job.end_reason == "completed" and not each.failed for each in parts)


# -- hosts -----------------------------------------------------------------------------------


def test_only_failing_hosts_are_blamed() -> None:
    parts = [
        part(0, failed=1), part(1, LOST), part(2, infrastructure=1),
        part(3, end_reason="canceled"), part(4, end_reason="install-failed"), part(5, RUNNING),
        part(6, end_reason="refused"),
    ]  # fmt: skip
    assert failing_hosts(parts) == ("h1", "h2", "h6")


def test_failures_in_a_row_are_a_quarantine() -> None:
    assert [quarantine_reason(count, "it was lost", 3) for count in range(3)] == [""] * 3
    detail = "3 infrastructure failures in a row; the last one: the disk is full"
    assert quarantine_reason(3, "the disk is full", 3) == detail
    assert quarantine_reason(1, "it was lost", 1).startswith("1 infrastructure failure in a row")
