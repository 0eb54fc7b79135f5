"""Tests of estimates of durations and of the speed of hosts."""

import pytest

from shell_runner.run.duration_estimator import DurationEstimator


def test_history_comes_first_then_the_folder_then_the_run() -> None:
    estimator = DurationEstimator({0: 3.0, 1: 5.0}, {1: "a", 2: "a", 3: "b"})
    assert estimator.estimate(0) == 3.0
    assert estimator.estimate(2) == 5.0
    assert estimator.estimate(3) is None
    estimator.add_result("h", 2, 7.0)
    assert estimator.estimate(3) == 7.0
    estimator.add_result("h", 3, 1.0)
    assert estimator.estimate(3) == 1.0
    assert estimator.estimate(4) == 4.0


def test_a_host_is_as_slow_as_its_tests_were_against_their_history() -> None:
    estimator = DurationEstimator(dict.fromkeys(range(50), 1.0), {})
    assert estimator.speed_factor("slow") == 1.0
    for test in range(50):
        estimator.add_result("slow", test, 3.0)
    assert estimator.speed_factor("slow") == pytest.approx(3.0, rel=0.05)


def test_tests_that_did_not_run_or_have_no_history_say_nothing_of_a_host() -> None:
    estimator = DurationEstimator({0: 1.0}, {})
    estimator.add_result("h", 0, 0.0)
    estimator.add_result("h", 1, 9.0)
    assert estimator.speed_factor("h") == 1.0


def test_one_test_that_differs_wildly_does_not_decide() -> None:
    estimator = DurationEstimator({0: 1.0}, {})
    estimator.add_result("h", 0, 3600.0)
    assert estimator.speed_factor("h") < 8.0
