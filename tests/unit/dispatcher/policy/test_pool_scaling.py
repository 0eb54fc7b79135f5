"""Tests of pool scaling: when pools bring hosts up and take them down."""

import pytest

from dispatcher.configuration.settings import Pool
from dispatcher.model import Host, HostState
from dispatcher.policy.placement import Unplaced
from dispatcher.policy.pool_scaling import choose_pools_to_grow, no_pool_reason, retirement_reason

ARM = Pool("arm", labels=("arm", "linux"), max_hosts=2)
ANY = Pool("any", labels=("linux",), max_hosts=3)


def unplaced(missing: int, *labels: str) -> Unplaced:
    return Unplaced(1, "reason", missing, labels)


def test_a_pool_with_the_labels_grows() -> None:
    assert choose_pools_to_grow([unplaced(1, "arm")], [ANY, ARM], []) == ("arm",)
    assert choose_pools_to_grow([unplaced(0, "arm"), unplaced(1, "gpu")], [ANY, ARM], []) == ()


@pytest.mark.parametrize(
    ("labels", "pools", "reason"),
    [
        (["arm"], [ANY, ARM], ""),
        ([], [ANY], ""),
        (["gpu"], [], ""),
        (["gpu"], [ANY], "pool any has no label gpu"),
        (["arm", "gpu"], [ANY, ARM], "pool any has no labels arm, gpu; pool arm has no label gpu"),
        (["gpu"], [ANY] * 5, "; ".join(["pool any has no label gpu"] * 4) + "; ..."),
    ],
)
def test_pools_that_cannot_help_say_why(labels: list[str], pools: list[Pool], reason: str) -> None:
    assert no_pool_reason(unplaced(1, *labels), pools) == reason


def test_no_pool_grows_beyond_its_maximum() -> None:
    pools = choose_pools_to_grow([unplaced(9, "linux")], [ARM, ANY], [])
    assert pools == (
        "arm",
        "arm",
        "any",
        "any",
        "any",
    )
    broken = Host("p1", "x", pool="arm", state=HostState.QUARANTINED)
    assert choose_pools_to_grow([unplaced(9, "arm")], [ARM], [broken]) == ("arm",)


def test_what_one_stage_gets_the_next_does_not() -> None:
    pools = choose_pools_to_grow([unplaced(2, "arm"), unplaced(1, "arm")], [ARM], [])
    assert pools == (
        "arm",
        "arm",
    )


@pytest.mark.parametrize(
    ("pool", "jobs", "open_jobs", "idle", "reason"),
    [
        (Pool("p", idle_timeout=60), 5, 0, 59.9, ""),
        (Pool("p", idle_timeout=60), 5, 0, 60.0, "it was idle for 60 s"),
        (Pool("p", idle_timeout=60), 5, 1, 99.0, ""),
        (Pool("p", max_jobs=3), 2, 0, 0.0, ""),
        (Pool("p", max_jobs=3), 2, 1, 0.0, "it was given 3 jobs"),
        (Pool("p", max_jobs=1), 1, 0, 0.0, "it was given 1 job"),
    ],
)
def test_a_host_is_retired(pool: Pool, jobs: int, open_jobs: int, idle: float, reason: str) -> None:
    assert (
        retirement_reason(Host("h", "x", pool="p", jobs_ended=jobs), pool, open_jobs, idle)
        == reason
    )
