"""Tests of hosts of pools: they start on demand, end when idle, and are found after a kill."""

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
from dispatcher.hosts import pool_manager
from dispatcher.hosts.pool_manager import PoolManager
from dispatcher.model import Host, HostState, JobState
from dispatcher.policy.placement import Unplaced
from dispatcher.store import hosts
from shell_runner.errors import UsageError
from shell_runner.pools.hookspecs import hookimpl
from shell_runner.pools.plugins import load_providers
from shell_runner.pools.provider import ProviderFactory
from shell_runner.remote.processes import orphans
from tests.helpers.connection_fixtures import ConnectionHarness
from tests.helpers.fake_pool import FakeProvider, no_machines_error
from tests.helpers.job_hosts import write_script

pytestmark = pytest.mark.timeout(120)
UNPLACED = [Unplaced(1, "it waits for a host", 1)]


class PoolHarness(ConnectionHarness):
    """A database, connections, and one pool."""

    def __init__(self, folder: Path, pool: Pool) -> None:
        write_script(folder / "tests", "test_a.sh")
        super().__init__(folder / "data", folder / "tests")
        #: Fake providers in the order in which managers made them.
        self.providers: list[FakeProvider] = []
        self.pool, self._answer_timeout = pool, 120.0
        self.settings = replace(self.settings, pools=(pool,))
        self.manager = self.new_manager()

    def _fake_provider(self, folder: Path) -> FakeProvider:
        self.providers.append(FakeProvider(folder))
        return self.providers[-1]

    def new_manager(self) -> PoolManager:
        """Return a manager that is not started, as a new process has it."""
        factories: dict[str, ProviderFactory] = {**load_providers(), "fake": self._fake_provider}
        return PoolManager(
            self.store,
            self.settings,
            factories,
            answer_timeout=self._answer_timeout,
            retry_delay=lambda failures: 0.01,
        )

    def set_answer_timeout(self, seconds: float) -> None:
        """Replace the time in which a host has to answer; call it before the manager starts."""
        self._answer_timeout = seconds
        self.manager = self.new_manager()

    def names(self) -> list[str]:
        """Return the names of hosts with a row."""
        with self.store.read() as connection:
            return [host.name for host in hosts.list_all(connection)]

    def close(self) -> None:
        """Take down all hosts, and close everything."""
        self.manager.close()
        for name in self.names():
            with self.store.write() as connection:
                hosts.delete_host(connection, name)
        # Hosts that ``close`` has not taken down have no row now.
        self.manager = self.new_manager()
        self.manager._sweep()
        self.manager.close()
        super().close()


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[..., PoolHarness]]:
    harnesses: list[PoolHarness] = []

    def new(**fields: Any) -> PoolHarness:
        harnesses.append(PoolHarness(folder, Pool("p", **fields)))
        return harnesses[-1]

    yield new
    for harness in harnesses:
        harness.close()


def request_host(harness: PoolHarness) -> str:
    """Request one host, and return its name."""
    (name,) = harness.manager.request_hosts(UNPLACED)
    return name


# -- rows, with hosts that are files -----------------------------------------------------


def test_a_host_that_is_wanted_is_started(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake", labels=("linux",))
    harness.manager.start()
    name = request_host(harness)
    assert harness.manager.request_hosts(UNPLACED) == []
    harness.wait_until(lambda: harness.host(name).handle is not None)
    host = harness.host(name)
    assert (host.state, host.spec, host.slots) == (HostState.STARTING, "popen", 2)
    assert (host.labels, host.pool) == (("linux",), "p")
    assert list(harness.providers[0].existing()) == [name]


def test_the_row_of_a_host_is_written_before_it_is_started(
    make: Callable[..., PoolHarness],
) -> None:
    harness = make(kind="fake")
    name = request_host(harness)
    assert (harness.host(name).spec, harness.host(name).handle) == ("", None)
    assert not harness.providers[0].existing()
    harness.manager.start()
    harness.wait_until(lambda: harness.host(name).handle is not None)


def test_a_host_without_a_row_is_taken_down_at_the_start(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake")
    harness.providers[0].bring_up("p-orphan", harness.pool.provider_options, None)
    harness.manager.start()
    assert not harness.providers[0].existing()


def test_a_host_that_cannot_be_started_is_tried_again(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake")
    harness.providers[0].errors = [no_machines_error(), OSError(28, "No space left")]
    harness.manager.start()
    name = request_host(harness)
    harness.wait_until(lambda: harness.host(name).handle is not None)
    assert harness.host(name).consecutive_failures == 2


def test_a_host_that_never_starts_goes_into_quarantine(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake")
    harness.providers[0].errors = [no_machines_error()] * 10
    harness.manager.start()
    name = request_host(harness)
    harness.wait_for_host(name, HostState.QUARANTINED)
    assert "there are no machines left" in harness.host(name).reason
    harness.manager.update()
    assert len(harness.providers[0].errors) == 7


def test_a_host_that_never_answers_is_started_again(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake")
    harness.set_answer_timeout(0.05)
    harness.manager.start()
    name = request_host(harness)
    harness.wait_for_host(name, HostState.QUARANTINED)
    assert "it has not answered for" in harness.host(name).reason


def test_a_host_that_was_killed_is_started_again(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake")
    harness.manager.start()
    name = request_host(harness)
    harness.wait_until(lambda: harness.host(name).handle is not None)
    first = harness.host(name).handle
    assert first is not None
    harness.providers[0].kill(name, first)
    with harness.store.write() as connection:
        hosts.record_contact(connection, name, 1.0)
        hosts.mark_down(connection, name, "as its connection reports")
    harness.wait_until(lambda: harness.host(name).handle not in (None, first))


def test_an_idle_host_is_taken_down(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake", idle_timeout=0.1)
    harness.manager.start()
    name = request_host(harness)
    harness.wait_until(lambda: harness.host(name).handle is not None)
    with harness.store.write() as connection:
        hosts.record_contact(connection, name, 1.0)
    harness.wait_until(lambda: not harness.names() and not harness.providers[0].existing())


def test_a_host_is_not_idle_while_another_one_starts(make: Callable[..., PoolHarness]) -> None:
    """A stage gets both of its hosts; otherwise the first would end before the last starts."""
    harness = make(kind="fake", idle_timeout=0.01, max_hosts=2)
    first, second = harness.manager.request_hosts([Unplaced(1, "it waits for two hosts", 2)])
    for name, state in ((first, HostState.UP), (second, HostState.STARTING)):
        with harness.store.write() as connection:
            hosts.configure(connection, Host(name, "popen", pool="p", state=state))
            if state is HostState.UP:
                hosts.record_contact(connection, name, 1.0)
    for _ in range(3):
        harness.manager.update()
        time.sleep(0.02)  # longer than its idle timeout
    assert sorted(harness.names()) == sorted([first, second])
    with harness.store.write() as connection:
        hosts.record_contact(connection, second, 1.0)
    harness.wait_until(lambda: harness.manager.update() < 0 or not harness.names())


def test_a_host_with_a_job_stays_and_is_taken_down_after_its_last_one(
    make: Callable[..., PoolHarness],
) -> None:
    harness = make(kind="fake", idle_timeout=0.05, max_jobs=1)
    name = request_host(harness)
    (job,) = harness.plan(name)
    harness.manager.start()
    harness.wait_until(lambda: harness.host(name).handle is not None)
    with harness.store.write() as connection:
        hosts.record_contact(connection, name, 1.0)
    harness.wait_for_host(name, HostState.DRAINING)
    assert harness.host(name).reason == "it was given 1 job"
    harness.manager.update()
    assert harness.names() == [name]
    harness.give_up(job)
    harness.wait_until(lambda: not harness.names())


def test_the_hosts_of_a_removed_pool_are_taken_down(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake")
    host = harness.providers[0].bring_up("q-1", harness.pool.provider_options, None)
    harness.add_host("q-1", host.spec, pool="q", handle=host.handle)
    harness.manager.start()
    harness.wait_until(lambda: not harness.names() and not harness.providers[0].existing())


def test_kinds_and_options_are_checked_by_name(folder: Path) -> None:
    for pool, message in (
        (Pool("p", kind="cloud"), r"\[pools\.p\].*'cloud'(?s:.*)local"),
        (Pool("p", options={"slot": 1}), "'slot'.*slots"),
        (Pool("p", options={"slots": 0}), "slots must be"),
    ):
        with pytest.raises(UsageError, match=message):
            pool_manager.check(Settings(folder, pools=(pool,)))


def test_a_plugin_adds_a_kind(folder: Path) -> None:
    class Plugin:
        @hookimpl
        def nosejobs_pool_kinds(self) -> dict[str, ProviderFactory]:
            return {"fake": FakeProvider}

    factories = load_providers(Plugin())
    assert factories["fake"] is FakeProvider
    pool_manager.check(Settings(folder, pools=(Pool("p", kind="fake"),)), factories)


# -- agents on this machine ---------------------------------------------------------------


def start_job(harness: PoolHarness, folder: Path) -> tuple[str, str]:
    """Start a host, and a job on it that waits for the FIFO ``go``; return name and job id."""
    os.mkfifo(folder / "go")
    write_script(folder / "tests", "test_a.sh", f"read line < {folder}/go")
    harness.manager.start()
    harness.start()
    name = request_host(harness)
    harness.wait_for_host(name, HostState.UP)
    (job,) = harness.plan(name)
    harness.wait_for_state(job, JobState.SUBMITTED)
    return name, job


def test_a_job_runs_on_a_host_that_is_started_for_it(make: Callable[..., PoolHarness]) -> None:
    harness = make(idle_timeout=0.2)
    harness.manager.start()
    harness.start()
    name = request_host(harness)
    # The job is planned before the host can become idle.
    (job,) = harness.plan(name)
    assert harness.wait_for_state(job, JobState.ACKNOWLEDGED).end_reason == "completed"
    harness.wait_until(lambda: not harness.names())
    harness.manager.close()
    assert not os.listdir(harness.settings.data / "pools/local/hosts")
    assert not orphans.find_orphans(name)


def test_neither_a_killed_agent_nor_a_restart_loses_a_job(
    make: Callable[..., PoolHarness], folder: Path
) -> None:
    harness = make()
    name, job = start_job(harness, folder)
    handle = harness.host(name).handle
    assert handle is not None
    os.kill(handle["pid"], signal.SIGKILL)
    harness.wait_until(lambda: harness.host(name).handle not in (None, handle))
    harness.wait_for_host(name, HostState.UP)
    harness.connections.close()
    harness.manager.close()
    assert harness.host(name).state is HostState.DOWN
    assert not orphans.find_orphans(name)
    harness.connections, harness.manager = harness.new_connections(), harness.new_manager()
    harness.manager.start()
    harness.connections.start()
    harness.wait_for_host(name, HostState.UP)
    with open(folder / "go", "w") as go:
        go.write("\n")
        go.flush()
        assert harness.wait_for_state(job, JobState.ACKNOWLEDGED).attempt == 1


def test_a_host_that_a_killed_dispatcher_has_left_is_found_again(
    make: Callable[..., PoolHarness],
) -> None:
    """The row and the process remain after the kill.  (``test_up`` kills a real dispatcher.)"""
    harness = make()
    host = load_providers()["local"](harness.settings.data / "pools/local").bring_up(
        "p-1", harness.pool.provider_options, None
    )
    harness.add_host("p-1", host.spec, pool="p", handle=host.handle)
    harness.manager.start()
    harness.start()
    harness.wait_for_host("p-1", HostState.UP)
    (job,) = harness.plan("p-1")
    harness.wait_for_state(job, JobState.ACKNOWLEDGED)
    assert harness.host("p-1").handle == host.handle
    assert harness.names() == ["p-1"]


def test_configured_hosts_are_not_taken_down(make: Callable[..., PoolHarness]) -> None:
    harness = make(kind="fake", idle_timeout=0.01)
    with harness.store.write() as connection:
        hosts.configure(connection, Host("static", "popen"))
    harness.manager.start()
    harness.manager.update()
    harness.manager.close()
    assert harness.names() == ["static"]
