"""Run benchmarks: ``python benchmarks/run.py [NAME ...] [--smoke] [--json FILE]``.

A benchmark is a module beside this one with a one-line docstring, a ``main(smoke)``
that gives a dict of figures, and a ``NAME`` (else its file's name counts).  None of
them asserts speed: the exit status is 1 only if something does not work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import measure
import report

_HERE = Path(__file__).resolve().parent
_PARTS = ("run", "measure", "report", "compare")


def discover() -> dict[str, ModuleType]:
    """Return all benchmarks by name."""
    found: dict[str, ModuleType] = {}
    for path in sorted(_HERE.glob("*.py")):
        if path.stem not in _PARTS and not path.stem.startswith("_"):
            module = importlib.import_module(path.stem)
            if hasattr(module, "main"):
                found[getattr(module, "NAME", path.stem)] = module
    return found


def summary(module: ModuleType) -> str:
    """Return the first line of a benchmark's docstring."""
    return (module.__doc__ or "").strip().split("\n", 1)[0]


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure nosejobs beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)}, or all")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--smoke", action="store_true", help="small and quick: does it work?")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of a benchmark's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE",
        help="write a page for the docs; for a folder, NAME.md in it",
    )  # fmt: skip
    chosen = parser.parse_args()
    unknown = set(chosen.names) - {*names, "all"}
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return chosen


def main() -> int:
    """Run the command."""
    benchmarks = discover()
    chosen = _arguments(list(benchmarks))
    if chosen.list:
        width = max(map(len, benchmarks))
        for name, module in benchmarks.items():
            print(f"{name.ljust(width)}  {summary(module)}")
        return 0
    measure.set_rounds(chosen.rounds)
    every = not chosen.names or "all" in chosen.names
    names = list(benchmarks) if every else list(dict.fromkeys(chosen.names))
    facts = report.machine()
    print("\n".join(report.describe_machine(facts)))
    results, failed = {}, False
    for name in names:
        module = benchmarks[name]
        try:
            found = module.main(smoke=chosen.smoke)
        except Exception:
            print(f"\n== {name}: broken\n{traceback.format_exc()}", flush=True)
            failed = True
            continue
        results[name] = {"summary": summary(module), "found": found}
        print("\n" + report.text(name, summary(module), found), flush=True)
    _write(chosen, facts, results)
    return int(failed)


def _write(chosen: argparse.Namespace, facts: dict[str, Any], results: dict[str, Any]) -> None:
    if chosen.json:
        figures = {name: result["found"] for name, result in results.items()}
        whole = {"machine": facts, "smoke": chosen.smoke, "figures": figures}
        chosen.json.write_text(json.dumps(whole, indent=2) + "\n")
    if chosen.markdown and chosen.markdown.is_dir():
        for name, result in results.items():
            page = report.page(facts, {name: result})
            (chosen.markdown / f"{name}.md").write_text(page)
    elif chosen.markdown:
        chosen.markdown.write_text(report.page(facts, results))


if __name__ == "__main__":
    sys.exit(main())
