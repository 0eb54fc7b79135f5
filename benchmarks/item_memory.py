"""Memory of a collected test, ours and the plain item of pytest, collected and run."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import trivial

NAME = "item_memory"
_HOSTS = "--nosejobs=2*popen"
_NOTES = (
    "Difference of a session with many scripts and one with few, by their number: resident memory, "
    "and bytes that Python has allocated (tracemalloc), at the end of the collection or of the "
    "run. The plain item: a conftest.py makes a pytest.File and a pytest.Item for each script, and "
    "the plugin is not loaded.",
)
#: Makes the plain items of pytest.
_CONFTEST = """\
import pytest

class PlainItem(pytest.Item):
    def runtest(self):
        pass

class PlainFile(pytest.File):
    def collect(self):
        yield PlainItem.from_parent(self, name=self.path.name)

def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".sh":
        return PlainFile.from_parent(parent, path=file_path)
"""


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run has 60 scripts."""
    few, many, ran = (20, 60, 60) if smoke else (200, 10_000, 3000)
    rows = []
    with measure.workspace() as folder:
        trees = {count: _make_tree(folder / str(count), count) for count in {few, many, ran}}
        for name, options, plain in (
            ("plain items of pytest, collected", ("--collect-only",), True),
            ("ours, collected", ("--collect-only",), False),
            ("ours, collected for hosts", ("--collect-only", _HOSTS), False),
            ("plain items of pytest, run", (), True),
            ("ours, run on 2*popen", (_HOSTS,), False),
        ):
            most = many if "--collect-only" in options else ran
            costs = []
            for is_traced in (False, True):
                small, large = (
                    _measure(trees[count], options, plain, is_traced) for count in (few, most)
                )
                costs.append(round((large - small) / (most - few)))
            rows.append({"what": name, "resident bytes": costs[0], "allocated bytes": costs[1]})
    title = f"each script beyond {few}, of {many} collected and {ran} run"
    return {"tables": [measure.Table(title, rows, list(_NOTES)).as_dict()]}


def _make_tree(tree: Path, count: int) -> Path:
    trivial.make_tree(tree, count)
    (tree / "pytest.ini").touch()
    return tree


def _measure(tree: Path, options: tuple[str, ...], plain: bool, is_traced: bool) -> float:
    """Return the bytes of one session; raises RunFailed."""
    conftest = tree / "conftest.py"
    if plain:
        conftest.write_text(_CONFTEST)
    else:
        conftest.unlink(missing_ok=True)
    plugins = () if plain else ("-p", "nosejobs")
    result = tree.parent / "bytes.json"
    argv = [sys.executable, __file__, str(result), str(int(is_traced)), "-q", *plugins, *options]
    done = subprocess.run(
        [*argv, "-p", "no:cacheprovider"], cwd=tree, env=measure.environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise measure.RunFailed(f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(json.loads(result.read_text()))


class _Recorder:
    """A plugin that records the memory at the end of the session, while all items are there."""

    def __init__(self, is_traced: bool) -> None:
        self.bytes = 0.0
        self._is_traced = is_traced

    def pytest_sessionfinish(self) -> None:
        gc.collect()
        if self._is_traced:
            import tracemalloc

            self.bytes = tracemalloc.get_traced_memory()[0]
        else:
            with open("/proc/self/statm") as file:
                self.bytes = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def _run_session(result: Path, is_traced: bool, arguments: list[str]) -> int:
    if is_traced:
        import tracemalloc

        tracemalloc.start()
    import pytest

    recorder = _Recorder(is_traced)
    status = pytest.main(arguments, plugins=[recorder])
    result.write_text(json.dumps(recorder.bytes))
    return int(status)


if __name__ == "__main__":
    sys.exit(_run_session(Path(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:]))
