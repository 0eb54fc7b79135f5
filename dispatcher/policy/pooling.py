"""When a pool brings a host up, and when one of its hosts goes down again.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..model import Host
from ..settings import Pool
from .placement import Waits

#: Pools that are told of in words.
_MANY = 4


def grow(waits: Iterable[Waits], pools: Sequence[Pool], hosts: Iterable[Host]) -> tuple[str, ...]:
    """The pools that have to bring up a host, once for each host.

    Every host of a pool counts, in whatever state: one that is in trouble is somebody's to look at.
    """
    have = Counter(host.pool for host in hosts)
    found: list[str] = []
    for each in waits:
        for _ in range(each.missing):
            pool = _roomy(each, pools, have)
            if pool is None:
                break
            have[pool.name] += 1
            found.append(pool.name)
    return tuple(found)


def no_help(waits: Waits, pools: Sequence[Pool]) -> str:
    """Why no pool will ever bring up what fits; empty: one can, or nobody said there were pools."""
    wanted = set(waits.labels)
    if not pools or any(wanted <= set(pool.labels) for pool in pools):
        return ""
    missing = [sorted(wanted - set(pool.labels)) for pool in pools]
    return "; ".join(
        f"pool {pool.name} has no label{'' if len(lacks) == 1 else 's'} {', '.join(lacks)}"
        for pool, lacks in zip(pools[:_MANY], missing, strict=False)
    ) + ("; ..." if len(pools) > _MANY else "")


def _roomy(waits: Waits, pools: Iterable[Pool], have: Counter[str]) -> Pool | None:
    for pool in pools:
        if have[pool.name] < pool.most and set(waits.labels) <= set(pool.labels):
            return pool
    return None


def retire(host: Host, pool: Pool, open_jobs: int, idle: float) -> str:
    """Why a pool's host gets nothing new and goes down once it is idle; empty: it stays.

    ``idle``: seconds since it had a job.
    """
    if pool.jobs and host.jobs + open_jobs >= pool.jobs:
        return f"it was given {pool.jobs} job{'' if pool.jobs == 1 else 's'}"
    if not open_jobs and idle >= pool.idle:
        return f"it was idle for {pool.idle:g} s"
    return ""
