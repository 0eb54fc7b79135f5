"""The hosts of all stage runs that need some, or the reasons why they have to wait.

Pure: the requests of all builds and the load of hosts in, actions out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..configuration import host_supply
from ..configuration.settings import Pool
from ..model import HostState, StageEvent, StageState
from . import placement, pool_scaling
from .action_types import (
    WAITING_FOR,
    Action,
    MoveRun,
    NotifyPoolShortage,
    PlanJobs,
    PlannedPart,
    RequestHosts,
    SetRunDetail,
    TestsToSplit,
    cut_detail,
    make_run_key,
)
from .placement import HostLoad, Unplaced


def free_places(hosts: Iterable[HostLoad], depth: int) -> int:
    """Return how many more jobs hosts could take; ``depth``: jobs that a host has at a time."""
    up = (load for load in hosts if load.host.state is HostState.UP)
    return sum(max(0, depth - load.jobs) for load in up)


def may_begin(builds_every_change: bool, places: int, is_idle: bool) -> bool:
    """Return whether a new build may begin.

    A source that builds only the newest change waits until there is a free place, so that newer
    changes can supersede this one.  It does not wait if nothing runs and nothing needs a host that
    there can be (``is_idle``): then no event would end the wait.
    """
    return builds_every_change or places > 0 or is_idle


def select_possible(
    requests: Iterable[RequestHosts], loads: Sequence[HostLoad], pools: Sequence[Pool]
) -> list[RequestHosts]:
    """Return the requests that can be placed, now or later."""
    return [request for request in requests if not _never_placed(request, loads, pools)]


def place_runs(
    requests: Sequence[RequestHosts],
    hosts: Iterable[HostLoad],
    depth: int,
    pools: Sequence[Pool],
    now: float,
) -> list[Action]:
    """Return the jobs of all requests for which there are hosts, and why the others wait.

    ``requests`` come oldest first.  ``depth``: jobs that a host has at a time.  ``pools``: where
    further hosts can come from.  A request that can never be placed reserves nothing, and no pool
    brings up hosts for it.
    """
    actions: list[Action] = []
    loads = list(hosts)
    hopeless = {request.placement.id: _never_placed(request, loads, pools) for request in requests}
    possible = [r.placement for r in requests if not hopeless[r.placement.id]]
    answers = {each.request: each for each in placement.place(possible, loads, depth)}
    for request in requests:
        answer = answers.get(request.placement.id)
        if answer is None:
            actions += _wait(request, hopeless[request.placement.id])
        elif isinstance(answer, Unplaced):
            actions.append(NotifyPoolShortage(answer))
            reasons = [answer.reason, pool_scaling.no_pool_reason(answer, pools)]
            actions += _wait(request, "; ".join(filter(None, reasons)))
        else:
            actions.append(_plan_jobs(request, answer.hosts, now))
    return actions


def _never_placed(request: RequestHosts, loads: Iterable[HostLoad], pools: Sequence[Pool]) -> str:
    needed = request.placement
    hosts = (load.host for load in loads)
    return host_supply.never_placed_reason(
        request.run.stage, needed.labels, needed.count, hosts, pools, needed.taken
    )


def _wait(request: RequestHosts, reason: str) -> list[Action]:
    """Return the change of a run's detail; most runs that wait have the same detail already."""
    run = request.run
    if run.state is StageState.RUNNING:
        detail = cut_detail(f"{request.reason}; {WAITING_FOR}{reason}")
        return [] if run.detail == detail else [SetRunDetail(make_run_key(run), detail)]
    detail = cut_detail(reason)
    if run.state is StageState.PLACING and run.detail == detail:
        return []
    return [MoveRun(make_run_key(run), StageEvent.READY, detail)]


def _plan_jobs(request: RequestHosts, hosts: tuple[str, ...], now: float) -> PlanJobs:
    run = request.run
    began = None if run.state is StageState.RUNNING else run.started_at or now
    return PlanJobs(request, hosts, cut_detail(request.reason), began)


def split_tests(
    split: TestsToSplit, durations: Mapping[str, float], count: int
) -> tuple[PlannedPart, ...]:
    """Return the shards of a stage run as parts; ``durations``: seconds by node id."""
    shards = placement.split_into_shards(split.tests, durations, count)
    return tuple(PlannedPart(part, tests=tests) for part, tests in enumerate(shards))
