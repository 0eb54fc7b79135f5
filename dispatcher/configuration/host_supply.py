"""Compare the hosts that a stage needs with those that can ever exist.

Pure: labels and counts in, a text out.  Must not depend on what hosts do now: a host that is down
or busy can come back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from shell_runner.config_file import CONFIG_FILE_NAME
from shell_runner.text import format_count, pluralize, shorten_list
from shell_runner.validators import format_similar

from ..model import BUILD, Host
from .settings import FILE_NAME, Pool, Settings

#: Beginning of the reason why a stage has no hosts if no host and no pool can ever change that.
NEVER_PLACED = "can never be placed: "
#: Hosts and pools that are named in a reason.
_MAX_NAMED = 8


def list_configured_hosts(settings: Settings) -> list[Host]:
    """Return the hosts of a dispatcher that has not started yet."""
    return [Host(each.name, each.spec, each.labels) for each in settings.hosts.values()]


def format_demand(count: int, labels: Sequence[str]) -> str:
    """Return what a stage needs, as ``needs 2 hosts with label gpu``."""
    suffix = f" with {pluralize('label', len(labels))} {', '.join(labels)}" if labels else ""
    return f"needs {format_count(count, 'host')}{suffix}"


def never_placed_reason(
    stage: str,
    labels: Sequence[str],
    count: int,
    hosts: Iterable[Host],
    pools: Sequence[Pool],
    taken: Collection[str] = (),
) -> str:
    """Return why a stage can never have its hosts, and what to change; empty: it can.

    ``taken``: names of hosts that run other parts of the stage.  A host of a pool among them can be
    replaced by another one, so that it counts as free.
    """
    rows = list(hosts)
    names = {pool.name for pool in pools}
    # The hosts of a pool that is no longer configured exist until they are taken down.
    fixed = [host for host in rows if host.pool not in names]
    supply = sum(_fits(labels, host.labels) and host.name not in taken for host in fixed)
    supply += sum(_size_of_pool(pool, labels, rows) for pool in pools)
    if supply >= count:
        return ""
    there = "is" if supply == 1 else "are"
    have = f"there {there} {supply or 'none'}{' more' if taken else ''}"
    table = "[build]" if stage == BUILD else f"[stages.{stage}]"
    return "; ".join(
        [
            f"{NEVER_PLACED}{format_demand(count, labels)}, and {have}",
            f"the dispatcher has {_describe(labels, fixed, pools)}",
            *_unknown_labels(labels, rows, pools),
            f"add hosts or labels to {FILE_NAME} and restart the dispatcher, "
            f"or change {table} in {CONFIG_FILE_NAME}",
        ]
    )


def _fits(labels: Iterable[str], offered: Collection[str]) -> bool:
    return set(labels) <= set(offered)


def _size_of_pool(pool: Pool, labels: Sequence[str], rows: Iterable[Host]) -> int:
    """Return the number of matching hosts of a pool that there are or can be."""
    existing = sum(host.pool == pool.name and _fits(labels, host.labels) for host in rows)
    return max(existing, pool.max_hosts if _fits(labels, pool.labels) else 0)


def _describe(labels: Sequence[str], hosts: Iterable[Host], pools: Iterable[Pool]) -> str:
    """Return the names and labels of hosts and pools; those that match come first."""
    offers = [(not _fits(labels, h.labels), f"host {h.name} ({_labels(h.labels)})") for h in hosts]
    for pool in pools:
        size = format_count(pool.max_hosts, "host")
        text = f"pool {pool.name} ({_labels(pool.labels)}, at most {size})"
        offers.append((not _fits(labels, pool.labels), text))
    texts = [text for _, text in sorted(offers, key=lambda offer: offer[0])]
    return ", ".join(shorten_list(texts, _MAX_NAMED)) or "no hosts and no pools"


def _labels(labels: Sequence[str]) -> str:
    return f"{pluralize('label', len(labels))} {', '.join(labels)}" if labels else "no labels"


def _unknown_labels(
    labels: Iterable[str], hosts: Iterable[Host], pools: Iterable[Pool]
) -> Iterator[str]:
    """Yield a text for each label that no host and no pool has; it may be misspelled."""
    known = {label for host in hosts for label in host.labels}
    known.update(label for pool in pools for label in pool.labels)
    for label in labels:
        if label not in known:
            similar = format_similar(label, known).replace("; ", ", ")
            yield f"nothing has the label {label!r}{similar}"
