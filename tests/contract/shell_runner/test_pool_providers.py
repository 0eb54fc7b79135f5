"""The rules that every provider of a pool's hosts keeps.

To test your own kind, add its name to ``KINDS``, and to ``kind`` its factory and a function that
kills one of its hosts.
"""

from __future__ import annotations

import json
import os
import select
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shell_runner.config import HostEntry
from shell_runner.errors import UsageError
from shell_runner.hosts import spec as specs
from shell_runner.jobs.client import JobClient
from shell_runner.pools.local import LocalProvider
from shell_runner.pools.plugins import load_providers
from shell_runner.pools.provider import Handle, PoolOptions, Provider, ProviderFactory
from tests.helpers import job_hosts
from tests.helpers.fake_pool import FakeProvider

pytestmark = pytest.mark.timeout(120)


class Kind(NamedTuple):
    """A kind of pools with its provider."""

    factory: ProviderFactory
    #: Kills a host without the provider.
    kill: Callable[[str, Handle], None]
    #: Whether its hosts can run jobs.
    can_run_jobs: bool


def kill_process(name: str, handle: Handle) -> None:
    descriptor = os.pidfd_open(handle["pid"])
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert select.select([descriptor], [], [], 20)[0]
    os.close(descriptor)


KINDS = ["fake", "local"]
NAME = "pool-0123abcd"
POOL = PoolOptions("pool", max_hosts=2)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "local":
        return Kind(LocalProvider, kill_process, True)
    return Kind(FakeProvider, FakeProvider(tmp_path / "pool").kill, False)


@pytest.fixture
def new_provider(kind: Kind, tmp_path: Path) -> Callable[[], Provider]:
    """Return the provider of another process, in the same folder."""
    return lambda: kind.factory(tmp_path / "pool")


@pytest.fixture
def provider(new_provider: Callable[[], Provider]) -> Iterator[Provider]:
    provider = new_provider()
    yield provider
    for name in provider.existing():
        provider.take_down(name, None)
    assert not list(provider.existing())


def stored(handle: Handle) -> Handle:
    """Return a handle as it is read from the database."""
    copy = json.loads(json.dumps(dict(handle)))
    assert copy == dict(handle)
    return dict(copy)


def is_alive(provider: Provider, handle: Handle, name: str = NAME) -> bool:
    return provider.is_alive(name, stored(handle))


def test_a_host_has_a_spec_and_a_handle(provider: Provider) -> None:
    host = provider.bring_up(NAME, POOL, None)
    (spec,) = specs.parse_specs([NAME], {NAME: HostEntry(NAME, host.spec)})
    assert spec.id == NAME
    assert is_alive(provider, host.handle)
    assert host.slots >= 0
    assert list(provider.existing()) == [NAME]


def test_a_host_that_runs_is_returned_as_it_is(provider: Provider) -> None:
    host = provider.bring_up(NAME, POOL, None)
    assert provider.bring_up(NAME, POOL, stored(host.handle)) == host


def test_a_host_whose_handle_was_not_stored_exists_once_after_the_next_start(
    provider: Provider, new_provider: Callable[[], Provider]
) -> None:
    first = provider.bring_up(NAME, POOL, None)
    second = new_provider().bring_up(NAME, POOL, None)
    assert is_alive(provider, second.handle)
    assert list(provider.existing()) == [NAME]
    assert second.handle == first.handle or not is_alive(provider, first.handle)


def test_a_host_that_was_killed_is_started_again_under_its_name(
    kind: Kind, provider: Provider
) -> None:
    first = provider.bring_up(NAME, POOL, None)
    kind.kill(NAME, first.handle)
    assert not is_alive(provider, first.handle)
    second = provider.bring_up(NAME, POOL, stored(first.handle))
    assert is_alive(provider, second.handle)
    assert not is_alive(provider, first.handle)


def test_nothing_is_left_of_a_host_that_was_taken_down(provider: Provider) -> None:
    host = provider.bring_up(NAME, POOL, None)
    for _ in range(2):
        provider.take_down(NAME, stored(host.handle))
        assert not is_alive(provider, host.handle)
        assert not list(provider.existing())


def test_a_host_that_never_existed_can_be_taken_down(provider: Provider) -> None:
    provider.take_down(NAME, None)
    provider.take_down(NAME, {"unknown": "key"})
    assert not provider.is_alive(NAME, {})
    assert not provider.is_alive(NAME, {"unknown": "key"})


def test_taking_down_a_host_leaves_the_others(provider: Provider) -> None:
    first, second = (provider.bring_up(f"{NAME}{n}", POOL, None) for n in (1, 2))
    assert sorted(provider.existing()) == [f"{NAME}1", f"{NAME}2"]
    provider.take_down(f"{NAME}1", first.handle)
    assert is_alive(provider, second.handle, f"{NAME}2")


def test_another_process_finds_the_hosts_of_a_killed_one(
    provider: Provider, new_provider: Callable[[], Provider]
) -> None:
    host = provider.bring_up(NAME, POOL, None)
    other = new_provider()
    assert list(other.existing()) == [NAME]
    assert is_alive(other, host.handle)
    assert other.bring_up(NAME, POOL, stored(host.handle)) == host
    other.take_down(NAME, None)
    assert not is_alive(provider, host.handle)


def test_an_unknown_option_is_an_error(provider: Provider) -> None:
    pool = PoolOptions("pool", options={"no such option": 1})
    with pytest.raises(UsageError, match=r"pools\.pool"):
        provider.check(pool)
    with pytest.raises(UsageError, match=r"pools\.pool"):
        provider.bring_up(NAME, pool, None)


def test_hosts_can_be_brought_up_after_a_close(
    provider: Provider, new_provider: Callable[[], Provider]
) -> None:
    first = provider.bring_up(NAME, POOL, None)
    provider.close()
    assert is_alive(
        new_provider(), new_provider().bring_up(NAME, POOL, stored(first.handle)).handle
    )


def test_a_host_runs_a_job(kind: Kind, provider: Provider, tmp_path: Path) -> None:
    if not kind.can_run_jobs:
        return
    host = provider.bring_up(NAME, POOL, None)
    (spec,) = specs.parse_specs([NAME], {NAME: HostEntry(NAME, host.spec)})
    job_hosts.write_script(tmp_path / "tests", "test_a.sh")
    job = str(uuid.uuid4())
    with JobClient(spec) as client:
        job_hosts.submit_job(client, tmp_path / "tests", job)
        assert client.wait(job).outcomes == {"passed": 1}


def test_the_built_in_kind_is_known() -> None:
    assert load_providers()["local"] is LocalProvider
