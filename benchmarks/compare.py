"""Compare two revisions: ``python benchmarks/compare.py REV_A REV_B NAME [--rounds N] [--smoke]``.

Each revision is installed in a virtual environment of its own, with the extra packages that the
environment of this command has.  The benchmark NAME of this checkout is then run by both in turn,
and for each row of its tables the ratio of B to A is printed: median, smallest and largest of the
rounds.  It is no benchmark of ``run.py``, which has only one environment.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
#: Figures by the title of a table and the name of a row.
Figures = Mapping[tuple[str, str], float]


def read_figures(text: str, name: str) -> Figures:
    """Return the median of each row of the benchmark ``name`` in what ``--json`` has written."""
    tables: Iterable[Mapping[str, Any]] = json.loads(text)["figures"][name].get("tables", ())
    return {
        (table["title"], row["what"]): row["median"] for table in tables for row in table["rows"]
    }


def format_rows(rounds: Sequence[tuple[Figures, Figures]]) -> list[str]:
    """Return a line for each row that both revisions have in all rounds."""
    lines, last = [], ""
    for title, what in rounds[0][0]:
        values = [(a.get((title, what)), b.get((title, what))) for a, b in rounds]
        pairs = [(a, b) for a, b in values if a and b is not None]
        if len(pairs) < len(rounds):
            continue
        if title != last:
            lines += ["", title]
            last = title
        ratios = sorted(b / a for a, b in pairs)
        first, second = (statistics.median(each) for each in zip(*pairs, strict=True))
        lines.append(
            f"  {what}: {first:.6g} -> {second:.6g}, ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    return lines


def install(revision: str, folder: Path) -> Path:
    """Install a revision in a new environment; return its interpreter."""
    source, environment = folder / "source", folder / "environment"
    source.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", str(_HERE.parent), "archive", revision], check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{source}[dispatcher]", *list_packages()], check=True)
    return python


def list_packages() -> list[str]:
    """Return the plugins of pytest and the peers of this environment, with their versions."""
    return [
        f"{each.name}=={each.version}"
        for each in importlib.metadata.distributions()
        if each.name != "pytest-nosejobs"
        and (each.name == "lit" or any(e.group == "pytest11" for e in each.entry_points))
    ]


def run(python: Path, name: str, options: Sequence[str], folder: Path) -> Figures:
    """Run the benchmark once with an interpreter.  Raise CalledProcessError if it fails."""
    target = folder / "figures.json"
    command = [str(python), str(_HERE / "run.py"), name, "--json", str(target), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read_figures(target.read_text(), name)


def run_command() -> None:
    """Compare the revisions of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("revisions", nargs=2, metavar="REVISION")
    parser.add_argument("name", metavar="NAME", help="a benchmark; see run.py --list")
    parser.add_argument("--rounds", type=int, default=5, help="of both revisions (default 5)")
    parser.add_argument("--smoke", action="store_true", help="small and quick")
    chosen = parser.parse_args()
    options = ["--rounds", "1", *(["--smoke"] if chosen.smoke else [])]
    rounds: list[tuple[Figures, Figures]] = []
    with tempfile.TemporaryDirectory(prefix="nosejobs-compare-") as name:
        folder = Path(name)
        pythons = [
            install(revision, folder / str(number))
            for number, revision in enumerate(chosen.revisions)
        ]
        for number in range(chosen.rounds):
            order = pythons if number % 2 == 0 else pythons[::-1]
            found = {python: run(python, chosen.name, options, folder) for python in order}
            rounds.append((found[pythons[0]], found[pythons[1]]))
            print(f"round {number + 1} of {chosen.rounds} is done", file=sys.stderr)
    print(f"{chosen.revisions[0]} -> {chosen.revisions[1]}, {chosen.rounds} rounds")
    print("\n".join(format_rows(rounds)))


if __name__ == "__main__":
    run_command()
