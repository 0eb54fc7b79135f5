"""Compare the processor time of pytest's process in two environments, in turn.

``python benchmarks/processor_time.py OLD/bin/python NEW/bin/python [--rounds 7]``

Both need the plugin installed, not editable, so that their modules have bytecode.  It prints the
median of each environment and the ratios to the first one, with their spread: of the collection of
10 000 trivial scripts in 100 folders, with hosts and without, and of a run of 3000 on two slots.
It is no benchmark of ``run.py``, which has only one environment.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

#: Runs pytest, and prints the processor seconds of this process only.
_RUN = """
import os, resource, sys
import pytest
status = pytest.main(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_SELF)
print("\\nseconds:", usage.ru_utime + usage.ru_stime, flush=True)
os._exit(status)
"""
_HOSTS = "--nosejobs=2*popen"
_PER_FOLDER = 100


def make_tree(root: Path, scripts: int) -> Path:
    """Write trivial scripts, 100 in a folder, and an ini file; return ``root``."""
    for number in range(scripts):
        path = root / f"d{number // _PER_FOLDER}" / f"test_{number}.sh"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
    (root / "pytest.ini").write_text("[pytest]\n")
    return root


def measure(python: str, tree: Path, *arguments: str) -> float:
    """Return the processor seconds of pytest's process."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [python, "-c", _RUN, "-q", "-p", "no:cacheprovider", *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return float(result.stdout.rpartition("seconds:")[2])


def compare(
    title: str, pythons: Sequence[str], rounds: int, measure_one: Callable[[str], float]
) -> None:
    """Measure all environments in turn, after one round to warm up, and print the result."""
    rows: list[list[float]] = []
    for number in range(rounds + 1):
        order = pythons if number % 2 else [*reversed(pythons)]
        seconds = {python: measure_one(python) for python in order}
        if number:
            rows.append([seconds[python] for python in pythons])
    print(title)
    for column, python in enumerate(pythons):
        ratios = sorted(row[column] / row[0] for row in rows)
        median = statistics.median(row[column] for row in rows)
        print(
            f"  {python}: {median:.6f} s; ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def run_command() -> None:
    """Compare the environments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nosejobs-") as folder:
        many = make_tree(Path(folder) / "many", 10_000)
        some = make_tree(Path(folder) / "some", 3000)
        one = make_tree(Path(folder) / "one", 1)
        junit = f"--junitxml={folder}/junit.xml"
        for title, hosts in (("collection, with hosts", [_HOSTS]), ("collection", [])):
            compare(
                title,
                options.pythons,
                options.rounds,
                lambda python, hosts=hosts: measure(python, many, "--collect-only", *hosts),
            )
        compare(
            "run, per test",
            options.pythons,
            options.rounds,
            lambda python: (
                (measure(python, some, _HOSTS, junit) - measure(python, one, _HOSTS, junit)) / 3000
            ),
        )


if __name__ == "__main__":
    run_command()
