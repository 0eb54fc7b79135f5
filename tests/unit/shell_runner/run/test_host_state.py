"""Tests that the sums and the order of hosts are those of their states at any time."""

from hypothesis import given
from hypothesis import strategies as st

from shell_runner.run.host_state import HostState, HostStates

EVENTS = st.lists(
    st.tuples(st.sampled_from(["join", "lose", "send", "end", "request"]), st.integers(0, 9)),
    max_size=60,
)


@given(EVENTS)
def test_sums_and_order_are_those_of_a_search_through_all_hosts(events):
    hosts = HostStates()
    tests = 0
    for kind, number in events:
        host = f"h{number % 4}"
        if kind == "join" and host not in hosts:
            hosts.add(host, HostState(1 + number, 0.0))
        elif kind == "lose":
            hosts.remove(host)
        elif host in hosts:
            state = hosts[host]
            if kind == "send":
                tests += 1
                state.add(tests, 1.0, 0.0)
            elif kind == "end" and state.assigned:
                state.remove(next(iter(state.assigned)), 0.0)
            elif kind == "request":
                state.requested_back.update(state.queued)
            hosts.note_change(host)
        if number % 2:
            check(hosts)
    check(hosts)


def check(hosts: HostStates) -> None:
    states = list(hosts.values())
    assert hosts.count_slots() == sum(state.slots for state in states)
    requested = sum(len(state.requested_back) for state in states)
    assert hosts.count_unclaimed_slots() == sum(state.free_slots for state in states) - requested
    free = [hosts[host].free_slots for host in hosts.list_free()]
    assert free == sorted((state.free_slots for state in states if state.free_slots), reverse=True)
    longest = hosts.find_longest_queue()
    lengths = [len(state.queued) for state in states]
    assert (len(hosts[longest].queued) if longest is not None else 0) == max(lengths, default=0)
