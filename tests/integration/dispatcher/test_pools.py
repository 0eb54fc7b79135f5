"""Pools: hosts come when they are wanted, go when they are idle, and are found after a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dispatcher.configuration.settings import Pool, Settings
from dispatcher.hosts import pools as own
from dispatcher.hosts.hookspecs import Maker, hookimpl
from dispatcher.hosts.pool_plugins import pool_kinds
from dispatcher.hosts.pools import Pools
from dispatcher.model import Host, HostState, JobState
from dispatcher.policy.placement import Unplaced
from dispatcher.store import hosts
from shell_runner.errors import UsageError
from shell_runner.remote.processes import orphans
from tests.helpers.connection_fixtures import Dispatcher
from tests.helpers.fake_pool import FakePool, refusal
from tests.helpers.job_hosts import script

pytestmark = pytest.mark.timeout(120)
WANTS = [Unplaced(1, "it waits for a host", 1)]


class Pooled(Dispatcher):
    """A dispatcher with pools."""

    def __init__(self, folder: Path, pool: Pool, **known: Maker) -> None:
        script(folder / "tests", "test_a.sh")
        super().__init__(folder / "data", folder / "tests")
        self.fakes: list[FakePool] = []
        self.pool = pool
        self.settings = replace(self.settings, pools=(pool,))
        self.pools = self.new_pools()

    def _fake(self, folder: Path) -> FakePool:
        self.fakes.append(FakePool(folder))
        return self.fakes[-1]

    def new_pools(self) -> Pools:
        """As a new process makes them."""
        found: dict[str, Maker] = {**pool_kinds(), "fake": self._fake}
        return Pools(self.store, self.settings, found)

    def names(self) -> list[str]:
        """Hosts with a row."""
        with self.store.read() as connection:
            return [host.name for host in hosts.every(connection)]

    def close(self) -> None:
        """Nothing stays."""
        self.pools.close()
        for name in self.names():
            with self.store.write() as connection:
                hosts.forget(connection, name)
        # What close has left has no row now.
        self.pools = self.new_pools()
        self.pools._sweep()
        self.pools.close()
        super().close()


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., Pooled]]:
    made: list[Pooled] = []

    def new(**fields: Any) -> Pooled:
        made.append(Pooled(folder, Pool("p", **fields)))
        return made[-1]

    yield new
    for each in made:
        each.close()


def grown(there: Pooled) -> str:
    """The name of a host that was asked for."""
    (name,) = there.pools.grow(WANTS)
    return name


# -- rows, with hosts that are files -----------------------------------------------------


def test_a_host_that_is_wanted_comes(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake", labels=("linux",))
    there.pools.start()
    name = grown(there)
    assert there.pools.grow(WANTS) == []
    there.until(lambda: there.host(name).handle is not None)
    host = there.host(name)
    assert (host.state, host.spec, host.slots) == (HostState.STARTING, "popen", 2)
    assert (host.labels, host.pool) == (("linux",), "p")
    assert list(there.fakes[0].existing()) == [name]


def test_its_row_is_there_before_it_is(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake")
    name = grown(there)
    assert (there.host(name).spec, there.host(name).handle) == ("", None)
    assert not there.fakes[0].existing()
    there.pools.start()
    there.until(lambda: there.host(name).handle is not None)


def test_what_has_no_row_is_taken_down_at_the_start(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake")
    there.fakes[0].bring_up("p-orphan", there.pool, None)
    there.pools.start()
    assert not there.fakes[0].existing()


def test_a_host_that_cannot_be_had_is_tried_again(
    make: Callable[..., Pooled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "backoff", lambda number: 0.01)
    there = make(kind="fake")
    there.fakes[0].troubles = [refusal(), OSError(28, "No space left")]
    there.pools.start()
    name = grown(there)
    there.until(lambda: there.host(name).handle is not None)
    assert there.host(name).failures == 2


def test_a_host_that_never_comes_ends_in_quarantine(
    make: Callable[..., Pooled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "backoff", lambda number: 0.01)
    there = make(kind="fake")
    there.fakes[0].troubles = [refusal()] * 10
    there.pools.start()
    name = grown(there)
    there.until_host(name, HostState.QUARANTINED)
    assert "there are no machines left" in there.host(name).reason
    there.pools.look()
    assert len(there.fakes[0].troubles) == 7


def test_a_host_that_never_answers_is_made_anew(
    make: Callable[..., Pooled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "backoff", lambda number: 0.01)
    monkeypatch.setattr(own, "_COMING", 0.05)
    there = make(kind="fake")
    there.pools.start()
    name = grown(there)
    there.until_host(name, HostState.QUARANTINED)
    assert "it has not answered for" in there.host(name).reason


def test_a_host_that_died_comes_again(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake")
    there.pools.start()
    name = grown(there)
    there.until(lambda: there.host(name).handle is not None)
    first = there.host(name).handle
    assert first is not None
    there.fakes[0].kill(name, first)
    with there.store.write() as connection:
        hosts.beat(connection, name, 1.0)
        hosts.down(connection, name, "as its link says")
    there.until(lambda: there.host(name).handle not in (None, first))


def test_an_idle_host_goes(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake", idle=0.1)
    there.pools.start()
    name = grown(there)
    there.until(lambda: there.host(name).handle is not None)
    with there.store.write() as connection:
        hosts.beat(connection, name, 1.0)
    there.until(lambda: not there.names() and not there.fakes[0].existing())


def test_a_host_is_not_idle_while_another_one_comes(make: Callable[..., Pooled]) -> None:
    """Whoever wants both gets both: else the first goes before the last is there, for ever."""
    there = make(kind="fake", idle=0.01, most=2)
    first, second = there.pools.grow([Unplaced(1, "it waits for two hosts", 2)])
    for name, state in ((first, HostState.UP), (second, HostState.STARTING)):
        with there.store.write() as connection:
            hosts.configure(connection, Host(name, "popen", pool="p", state=state))
            if state is HostState.UP:
                hosts.beat(connection, name, 1.0)
    for _ in range(3):
        there.pools.look()
        time.sleep(0.02)  # longer than it may be idle
    assert sorted(there.names()) == sorted([first, second])
    with there.store.write() as connection:
        hosts.beat(connection, second, 1.0)
    there.until(lambda: there.pools.look() < 0 or not there.names())


def test_a_host_with_a_job_stays_and_goes_after_the_last_one(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake", idle=0.05, jobs=1)
    name = grown(there)
    (job,) = there.plan(name)
    there.pools.start()
    there.until(lambda: there.host(name).handle is not None)
    with there.store.write() as connection:
        hosts.beat(connection, name, 1.0)
    there.until_host(name, HostState.DRAINING)
    assert there.host(name).reason == "it was given 1 job"
    there.pools.look()
    assert there.names() == [name]
    there.give_up(job)
    there.until(lambda: not there.names())


def test_a_pool_that_is_no_more_lets_its_hosts_go(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake")
    raised = there.fakes[0].bring_up("q-1", there.pool, None)
    there.add_host("q-1", raised.spec, pool="q", handle=raised.handle)
    there.pools.start()
    there.until(lambda: not there.names() and not there.fakes[0].existing())


def test_kinds_and_options_are_checked_by_name(folder: Path) -> None:
    for pool, words in (
        (Pool("p", kind="cloud"), r"\[pools\.p\].*'cloud'(?s:.*)local"),
        (Pool("p", options={"slot": 1}), "'slot'.*slots"),
        (Pool("p", options={"slots": 0}), "slots must be"),
    ):
        with pytest.raises(UsageError, match=words):
            own.check(Settings(folder, pools=(pool,)))


def test_a_plugin_adds_a_kind(folder: Path) -> None:
    class Plugin:
        @hookimpl
        def nosejobs_pool_kinds(self) -> dict[str, Maker]:
            return {"fake": FakePool}

    found = pool_kinds(Plugin())
    assert found["fake"] is FakePool
    own.check(Settings(folder, pools=(Pool("p", kind="fake"),)), found)


# -- agents on this machine ---------------------------------------------------------------


def at_work(there: Pooled, folder: Path) -> tuple[str, str]:
    """A host that has come, and a job on it that waits until something is written to ``go``."""
    os.mkfifo(folder / "go")
    script(folder / "tests", "test_a.sh", f"read line < {folder}/go")
    there.pools.start()
    there.start()
    name = grown(there)
    there.until_host(name, HostState.UP)
    (job,) = there.plan(name)
    there.until_state(job, JobState.SUBMITTED)
    return name, job


def test_a_job_runs_on_a_host_that_comes_and_goes(make: Callable[..., Pooled]) -> None:
    there = make(idle=0.2)
    there.pools.start()
    there.start()
    name = grown(there)
    # Before it can be idle.
    (job,) = there.plan(name)
    assert there.until_state(job, JobState.ACKNOWLEDGED).how == "completed"
    there.until(lambda: not there.names())
    there.pools.close()
    assert not os.listdir(there.settings.data / "pools/local/hosts")
    assert not orphans.find(name)


def test_neither_an_agent_that_dies_nor_an_end_in_good_order_costs_a_job(
    make: Callable[..., Pooled], folder: Path
) -> None:
    there = make()
    name, job = at_work(there, folder)
    handle = there.host(name).handle
    assert handle is not None
    os.kill(handle["pid"], signal.SIGKILL)
    there.until(lambda: there.host(name).handle not in (None, handle))
    there.until_host(name, HostState.UP)
    there.links.close()
    there.pools.close()
    assert there.host(name).state is HostState.DOWN
    assert not orphans.find(name)
    there.links, there.pools = there._links(), there.new_pools()
    there.pools.start()
    there.links.start()
    there.until_host(name, HostState.UP)
    with open(folder / "go", "w") as go:
        go.write("\n")
        go.flush()
        assert there.until_state(job, JobState.ACKNOWLEDGED).attempt == 1


def test_a_host_that_a_killed_dispatcher_has_left_is_found_again(
    make: Callable[..., Pooled],
) -> None:
    """It has left a row and a process; that it is killed: ``test_up``."""
    there = make()
    raised = pool_kinds()["local"](there.settings.data / "pools/local").bring_up(
        "p-1", there.pool, None
    )
    there.add_host("p-1", raised.spec, pool="p", handle=raised.handle)
    there.pools.start()
    there.start()
    there.until_host("p-1", HostState.UP)
    (job,) = there.plan("p-1")
    there.until_state(job, JobState.ACKNOWLEDGED)
    assert there.host("p-1").handle == raised.handle
    assert there.names() == ["p-1"]


def test_hosts_of_a_file_are_none_of_a_pools(make: Callable[..., Pooled]) -> None:
    there = make(kind="fake", idle=0.01)
    with there.store.write() as connection:
        hosts.configure(connection, Host("static", "popen"))
    there.pools.start()
    there.pools.look()
    there.pools.close()
    assert there.names() == ["static"]
