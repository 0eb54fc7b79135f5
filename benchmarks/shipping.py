"""Trees over ssh to this machine: seconds and bytes of a cold and a warm run, beside rsync."""

from __future__ import annotations

import functools
import os
import random
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import ssh
from measure import Contender, Run, RunFailed

NAME = "shipping"
_NOTES = (
    "A run of ours: start of the interpreter, connection, scan, sending, the tree over there, "
    "one slot ready, end. A run of rsync updates the tree that it left. Cold: the host has "
    "nothing, and nothing is known of the tree here. Warm: nothing has changed. Changed: one "
    "file of 1 KB has. Files are in memory where the machine allows it, on both sides. "
    "Ratio: to the cold run of ours.",
)
#: Seconds after which a file can be trusted to be as it was when it was read.
_SETTLED = 2.2
_MB = 1 << 20
#: Files of a tree whose run costs what a run costs without files.
_FEW = 10


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that it works."""
    count, size, rounds = (50, 8 * _MB, 1) if smoke else (10_000, 2048 * _MB, 3)
    if ssh.missing_program():
        return {"tables": [], "skipped": [f"{ssh.missing_program()} is not installed"]}
    found: dict[str, Any] = {"tables": [], "skipped": []}
    if shutil.which("rsync") is None:
        found["skipped"].append("rsync is not installed")
    with measure.workspace() as folder, ssh.server(folder) as config:
        for title, make in (
            (f"{count} files", functools.partial(_many, count)),
            (f"a sparse file of {size // _MB} MiB", functools.partial(_sparse, size)),
        ):
            tree = folder / re.sub(r"\W", "_", title) / "tree"
            make(tree)
            time.sleep(_SETTLED)
            runs = measure.in_turn(list(_contenders(tree, config)), rounds)
            words = f"{title}, {measure.format_rounds(rounds)}"
            base = next(iter(runs))
            found["tables"].append(measure.table(words, runs, base, _NOTES, memory=True))
            if make.func is _many:
                found["tables"].append(_measure_further(folder, config, runs, count, rounds))
            found |= {f"{title}, {name}: bytes sent": _bytes(done) for name, done in runs.items()}
    return found


def _measure_further(
    folder: Path, config: Path, runs: dict[str, list[Run]], count: int, rounds: int
) -> dict[str, Any]:
    """Return the cost of the files alone: without that of a run with few files."""
    tree = folder / "few" / "tree"
    _many(_FEW, tree)
    few = measure.in_turn(list(_contenders(tree, config)), rounds)
    costs = {
        name: [
            Run(max(b.wall - a.wall, 0.001), b.cpu - a.cpu, 0, 0)
            for a, b in zip(few[name], many, strict=True)
        ]
        for name, many in runs.items()
    }
    title = f"{count - _FEW} further files alone, {measure.format_rounds(rounds)}"
    note = (
        f"Difference of a run with {count} files and one with {_FEW}, which starts the same "
        "interpreters and connections. Ratio: to a cold rsync -a, or to our own cold run."
    )
    base = "rsync -a, cold" if "rsync -a, cold" in costs else next(iter(costs))
    return measure.table(title, costs, base, [note])


def _bytes(runs: list[Run]) -> int:
    return int(sorted(run.found for run in runs)[len(runs) // 2])


# -- trees ------------------------------------------------------------------------


def _many(count: int, tree: Path) -> None:
    words = random.Random(1)
    for number in range(count):
        path = tree / str(number // 100) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{number} {words.random()}\n" for _ in range(40)))
    measure.write_script(tree / "test_one.sh", "exit 0")


def _sparse(size: int, tree: Path) -> None:
    """Write a sparse file with sixteen pieces that cannot be compressed."""
    tree.mkdir(parents=True)
    with open(tree / "disk.img", "wb") as file:
        for number in range(16):
            file.seek(size * number // 16)
            file.write(random.Random(number).randbytes(size >> 11))
        file.truncate(size)
    measure.write_script(tree / "test_one.sh", "exit 0")


def _change(tree: Path) -> None:
    (tree / "changed.txt").write_text(f"{time.time_ns()}\n" * 50)


# -- contenders -------------------------------------------------------------------


def _contenders(tree: Path, config: Path) -> Iterator[Contender]:
    _change(tree)
    base, stats = tree.parent, tree.parent / "bytes"
    here, there, copy = base / "here", config.parent / "cache", base / "copy"
    spec = f"ssh=bench//slots=1//ssh_config={config}//python={sys.executable}"
    argv = [sys.executable, __file__, str(tree), spec, str(here), str(stats)]
    forget = functools.partial(_remove, here, there)
    yield from _three("nosejobs", argv, tree, forget, functools.partial(_number, stats))
    if shutil.which("rsync") is None:
        return
    for options in ("-a", "-aSz"):
        shell = f"ssh -F {shlex.quote(str(config))}"
        command = shlex.join(
            ["rsync", options, "--delete", "--stats", "-e", shell, f"{tree}/", f"bench:{copy}/"]
        )
        argv = ["sh", "-c", f"exec {command} >{shlex.quote(str(stats))}"]
        check = functools.partial(_sent, stats, tree, copy)
        yield from _three(f"rsync {options}", argv, tree, functools.partial(_remove, copy), check)


def _three(
    name: str, argv: list[str], tree: Path, forget: Callable[[], None], check: Callable[[], float]
) -> Iterator[Contender]:
    folder, change = tree.parent, functools.partial(_change, tree)
    yield Contender(f"{name}, cold", argv, folder, before=forget, check=check)
    yield Contender(f"{name}, warm", argv, folder, check=check)
    yield Contender(f"{name}, one file changed", argv, folder, before=change, check=check)


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _number(stats: Path) -> float:
    return float(stats.read_text())


def _sent(stats: Path, tree: Path, copy: Path) -> float:
    """Return the bytes that rsync says it has sent."""
    found = re.search(r"Total bytes sent: ([\d,.]+)", stats.read_text())
    changed = Path("changed.txt")
    if not found or (copy / changed).read_bytes() != (tree / changed).read_bytes():
        raise RunFailed(f"rsync: {stats.read_text()}")
    return float(re.sub(r"\D", "", found[1]))


# -- one run of ours, in a process of its own ---------------------------------------


def _once(tree: Path, spec: str, cache: str, stats: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from shell_runner.hosts import spec as hosts
    from shell_runner.hosts.fleet import Fleet, HostEnded
    from shell_runner.remote.protocol.model import Setup
    from shell_runner.shipping import tree_scan

    fleet = Fleet(hosts.parse_specs([spec], {}), Setup(str(tree), 1))
    fleet.open()
    fleet.provide_tree(tree_scan.scan(tree, []))
    event = fleet.events.get(timeout=600)
    shipped = fleet.hosts[0].shipped
    fleet.close()
    if isinstance(event, HostEnded) or shipped is None:
        raise SystemExit(f"not ready: {event}")
    stats.write_text(str(shipped.wire_bytes))


if __name__ == "__main__":
    _once(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
