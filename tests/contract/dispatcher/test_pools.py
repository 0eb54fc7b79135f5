"""What every provider of hosts keeps, whatever its hosts are.

For a kind of your own: give its maker and a way to kill one of its hosts to ``KINDS``.
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

from dispatcher.configuration.settings import Pool
from dispatcher.hosts.hookspecs import Handle, Maker, Provider
from dispatcher.hosts.local_pool import Local
from dispatcher.hosts.pool_plugins import pool_kinds
from shell_runner.config import HostEntry
from shell_runner.errors import UsageError
from shell_runner.hosts import spec as specs
from shell_runner.jobs.client import JobClient
from tests.helpers import job_hosts
from tests.helpers.fake_pool import FakePool

pytestmark = pytest.mark.timeout(120)


class Kind(NamedTuple):
    """A kind of pools."""

    maker: Maker
    #: Ends a host as if by itself.
    kill: Callable[[str, Handle], None]
    #: It has hosts that answer.
    answers: bool


def kill_process(name: str, handle: Handle) -> None:
    descriptor = os.pidfd_open(handle["pid"])
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert select.select([descriptor], [], [], 20)[0]
    os.close(descriptor)


KINDS = ["fake", "local"]
NAME = "pool-0123abcd"
POOL = Pool("pool", most=2)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "local":
        return Kind(Local, kill_process, True)
    return Kind(FakePool, FakePool(tmp_path / "pool").kill, False)


@pytest.fixture
def again(kind: Kind, tmp_path: Path) -> Callable[[], Provider]:
    """Another dispatcher over the same data."""
    return lambda: kind.maker(tmp_path / "pool")


@pytest.fixture
def provider(again: Callable[[], Provider]) -> Iterator[Provider]:
    found = again()
    yield found
    for name in found.existing():
        found.take_down(name, None)
    assert not list(found.existing())


def written(handle: Handle) -> Handle:
    """As it comes out of the database."""
    found = json.loads(json.dumps(dict(handle)))
    assert found == dict(handle)
    return dict(found)


def alive(provider: Provider, handle: Handle, name: str = NAME) -> bool:
    return provider.is_alive(name, written(handle))


def test_a_host_comes_with_a_spec_and_a_handle(provider: Provider) -> None:
    raised = provider.bring_up(NAME, POOL, None)
    (spec,) = specs.parse([NAME], {NAME: HostEntry(NAME, raised.spec)})
    assert spec.id == NAME
    assert alive(provider, raised.handle)
    assert raised.slots >= 0
    assert list(provider.existing()) == [NAME]


def test_a_host_that_lives_is_given_as_it_is(provider: Provider) -> None:
    raised = provider.bring_up(NAME, POOL, None)
    assert provider.bring_up(NAME, POOL, written(raised.handle)) == raised


def test_a_host_whose_handle_was_lost_comes_again_and_there_is_one(
    provider: Provider, again: Callable[[], Provider]
) -> None:
    first = provider.bring_up(NAME, POOL, None)
    second = again().bring_up(NAME, POOL, None)
    assert alive(provider, second.handle)
    assert list(provider.existing()) == [NAME]
    assert second.handle == first.handle or not alive(provider, first.handle)


def test_a_host_that_died_comes_again_under_its_name(kind: Kind, provider: Provider) -> None:
    first = provider.bring_up(NAME, POOL, None)
    kind.kill(NAME, first.handle)
    assert not alive(provider, first.handle)
    second = provider.bring_up(NAME, POOL, written(first.handle))
    assert alive(provider, second.handle)
    assert not alive(provider, first.handle)


def test_nothing_is_left_of_a_host_that_was_taken_down(provider: Provider) -> None:
    raised = provider.bring_up(NAME, POOL, None)
    for _ in range(2):
        provider.take_down(NAME, written(raised.handle))
        assert not alive(provider, raised.handle)
        assert not list(provider.existing())


def test_what_was_never_there_can_be_taken_down(provider: Provider) -> None:
    provider.take_down(NAME, None)
    provider.take_down(NAME, {"of": "somebody else"})
    assert not provider.is_alive(NAME, {})
    assert not provider.is_alive(NAME, {"of": "somebody else"})


def test_hosts_are_each_their_own(provider: Provider) -> None:
    one, two = (provider.bring_up(f"{NAME}{n}", POOL, None) for n in (1, 2))
    assert sorted(provider.existing()) == [f"{NAME}1", f"{NAME}2"]
    provider.take_down(f"{NAME}1", one.handle)
    assert alive(provider, two.handle, f"{NAME}2")


def test_another_dispatcher_finds_what_a_killed_one_left(
    provider: Provider, again: Callable[[], Provider]
) -> None:
    raised = provider.bring_up(NAME, POOL, None)
    other = again()
    assert list(other.existing()) == [NAME]
    assert alive(other, raised.handle)
    assert other.bring_up(NAME, POOL, written(raised.handle)) == raised
    other.take_down(NAME, None)
    assert not alive(provider, raised.handle)


def test_options_that_nobody_knows_are_refused(provider: Provider) -> None:
    pool = Pool("pool", options={"no such option": 1})
    with pytest.raises(UsageError, match=r"pools\.pool"):
        provider.check(pool)
    with pytest.raises(UsageError, match=r"pools\.pool"):
        provider.bring_up(NAME, pool, None)


def test_after_the_end_in_good_order_hosts_go_on_or_come_again(
    provider: Provider, again: Callable[[], Provider]
) -> None:
    first = provider.bring_up(NAME, POOL, None)
    provider.close()
    assert alive(again(), again().bring_up(NAME, POOL, written(first.handle)).handle)


def test_a_host_runs_a_job(kind: Kind, provider: Provider, tmp_path: Path) -> None:
    if not kind.answers:
        return
    raised = provider.bring_up(NAME, POOL, None)
    (spec,) = specs.parse([NAME], {NAME: HostEntry(NAME, raised.spec)})
    job_hosts.script(tmp_path / "tests", "test_a.sh")
    job = str(uuid.uuid4())
    with JobClient(spec) as client:
        job_hosts.submit(client, tmp_path / "tests", job)
        assert client.wait(job).outcomes == {"passed": 1}


def test_the_embedded_kind_is_known() -> None:
    assert pool_kinds()["local"] is Local
