"""Tests of the reasons why a stage can never have its hosts."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.cli import tables
from dispatcher.configuration.host_supply import NEVER_PLACED, never_placed_reason
from dispatcher.configuration.settings import Pool
from dispatcher.model import Host, HostState
from dispatcher.policy import placement
from dispatcher.policy.placement import HostLoad, Placed, PlacementRequest

H1, H2 = Host("h1", "x", ("linux", "gpu")), Host("h2", "x", ("linux",))
ARM = Pool("p", labels=("arm",), max_hosts=2)
BOTH = "the dispatcher has host h1 (labels linux, gpu), pool p (label arm, at most 2 hosts)"
LABELS = st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=2).map(tuple)


@pytest.mark.parametrize(
    ("labels", "count", "hosts", "pools", "supply", "extra"),
    [
        ((), 1, [], [], "none; the dispatcher has no hosts and no pools", ""),
        (("gpu",), 2, [H2, H1], [],
         "1; the dispatcher has host h1 (labels linux, gpu), host h2 (label linux)", ""),
        (("gup",), 1, [H1], [ARM],
         f"none; {BOTH}",
         "; nothing has the label 'gup', did you mean 'gpu'?"),
        (("gpu", "arm"), 1, [H1], [ARM],
         f"none; {BOTH}",
         ""),
        (("arm",), 3, [H2], [ARM],
         "2; the dispatcher has pool p (label arm, at most 2 hosts), host h2 (label linux)", ""),
    ],
)  # fmt: skip
def test_a_shortage_names_what_is_needed_what_exists_and_what_to_do(
    labels: Sequence[str],
    count: int,
    hosts: Sequence[Host],
    pools: Sequence[Pool],
    supply: str,
    extra: str,
) -> None:
    verb = "is" if supply.startswith("1;") else "are"
    assert never_placed_reason("smoke", labels, count, hosts, pools) == (
        f"can never be placed: {placement.format_demand(count, labels)}, and there {verb} {supply}"
        f"{extra}; add hosts or labels to dispatcher.toml and restart the dispatcher, "
        "or change [stages.smoke] in nosejobs.toml"
    )


def test_the_build_command_has_a_table_of_its_own() -> None:
    assert never_placed_reason("build", ("x",), 1, [H1], []).endswith(
        "or change [build] in nosejobs.toml"
    )


def test_many_hosts_are_cut() -> None:
    hosts = [Host(f"h{number}", "x", ("l" * 100,)) for number in range(1000)]
    assert "and 992 more" in never_placed_reason("smoke", ("gpu",), 1, hosts, [])


def test_taken_hosts_cannot_be_had_again_unless_a_pool_can_replace_them() -> None:
    assert never_placed_reason("smoke", ("gpu",), 1, [H1], [], {"h1"}).startswith(
        "can never be placed: needs 1 host with label gpu, and there are none more; "
    )
    running = Host("p1", "x", ("arm",), pool="p")
    assert not never_placed_reason("smoke", ("arm",), 2, [running], [ARM], {"p1"})
    # Its pool is no longer configured.
    assert never_placed_reason("smoke", ("arm",), 1, [running], [], {"p1"})


def test_the_commands_know_the_reason() -> None:
    assert tables._NEVER_PLACED == NEVER_PLACED


_HOSTS = st.lists(
    st.builds(
        Host,
        st.sampled_from([f"h{number}" for number in range(6)]),
        st.just("x"),
        LABELS,
        pool=st.sampled_from(["", "p", "gone"]),
        state=st.sampled_from(HostState),
    ),
    unique_by=lambda host: host.name,
)
_POOLS = st.lists(st.builds(Pool, st.just("p"), labels=LABELS, max_hosts=st.integers(1, 3)),
                  max_size=1)  # fmt: skip


@given(LABELS, st.integers(1, 4), _HOSTS, _POOLS, st.sets(st.sampled_from(["h0", "h1"])))
def test_what_can_be_placed_or_brought_up_is_never_called_impossible(
    labels: tuple[str, ...],
    count: int,
    hosts: list[Host],
    pools: list[Pool],
    taken: set[str],
) -> None:
    reason = never_placed_reason("smoke", labels, count, hosts, pools, taken)
    request = PlacementRequest(1, "smoke", labels, count, taken=frozenset(taken))
    # The best that can happen: all hosts are up and idle, and pools are at their maximum.
    for pool in pools:
        size = sum(host.pool == pool.name for host in hosts)
        new = [Host(f"n{n}", "x", pool.labels, pool=pool.name) for n in range(size, pool.max_hosts)]
        hosts = [*hosts, *new]
    loads = [HostLoad(Host(each.name, "x", each.labels, pool=each.pool)) for each in hosts]
    (answer,) = placement.place([request], loads, 1)
    assert not (reason and isinstance(answer, Placed))
    if not reason and not pools and not taken:
        assert isinstance(answer, Placed)
