"""Decide when a pool brings a host up, and when one of its hosts is taken down.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..configuration.settings import Pool
from ..model import Host
from .placement import Unplaced

#: Pools that are named in a reason.
_MAX_NAMED_POOLS = 4


def choose_pools_to_grow(
    unplaced: Iterable[Unplaced], pools: Sequence[Pool], hosts: Iterable[Host]
) -> tuple[str, ...]:
    """Return the pools that have to bring up a host, once for each host.

    Every host of a pool counts, in whatever state: one that fails is for a person to repair.
    """
    sizes = Counter(host.pool for host in hosts)
    names: list[str] = []
    for request in unplaced:
        for _ in range(request.missing):
            pool = _pool_for(request, pools, sizes)
            if pool is None:
                break
            sizes[pool.name] += 1
            names.append(pool.name)
    return tuple(names)


def no_pool_reason(unplaced: Unplaced, pools: Sequence[Pool]) -> str:
    """Return why no pool can bring up a matching host; empty: one can, or there are none."""
    labels = set(unplaced.labels)
    if not pools or any(labels <= set(pool.labels) for pool in pools):
        return ""
    missing = [sorted(labels - set(pool.labels)) for pool in pools]
    return "; ".join(
        f"pool {pool.name} has no label{'' if len(lacks) == 1 else 's'} {', '.join(lacks)}"
        for pool, lacks in zip(pools[:_MAX_NAMED_POOLS], missing, strict=False)
    ) + ("; ..." if len(pools) > _MAX_NAMED_POOLS else "")


def _pool_for(request: Unplaced, pools: Iterable[Pool], sizes: Counter[str]) -> Pool | None:
    """Return the first pool that has the labels, and may have another host."""
    for pool in pools:
        if sizes[pool.name] < pool.max_hosts and set(request.labels) <= set(pool.labels):
            return pool
    return None


def retirement_reason(host: Host, pool: Pool, open_jobs: int, idle: float) -> str:
    """Return why a host of a pool gets no more jobs and is then taken down; empty: it stays.

    ``idle``: seconds since it had a job.
    """
    if pool.max_jobs and host.jobs_ended + open_jobs >= pool.max_jobs:
        return f"it was given {pool.max_jobs} job{'' if pool.max_jobs == 1 else 's'}"
    if not open_jobs and idle >= pool.idle_timeout:
        return f"it was idle for {pool.idle_timeout:g} s"
    return ""
