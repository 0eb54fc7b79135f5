"""Rates at which output becomes cases: TAP a line, and JUnit XML against ElementTree.

Run by itself (``python benchmarks/readers.py [--smoke]``) or through ``main``.
Figures are the best of a few rounds, since a machine is only ever slowed down.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shell_runner.remote.formats import junit, tap


def main(smoke: bool) -> dict[str, Any]:
    """Measure both readers; a smoke run only shows that they work."""
    count, rounds = (2000, 1) if smoke else (100000, 5)
    found: dict[str, Any] = {"cases": count}
    found.update(_tap(count, rounds))
    found.update(_junit(count, rounds))
    return found


def _best(rounds: int, run: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


def _tap(count: int, rounds: int) -> dict[str, Any]:
    whole = b"1..%d\n" % count + b"".join(
        b"ok %d - number %d works\n" % (number, number) for number in range(1, count + 1)
    )
    doubled = b"# Subtest: s\n    ok 1 - a\n    1..1\nok %d - s\n"
    nested = b"1..%d\n" % count + b"".join(doubled % number for number in range(1, count + 1))
    spent = _best(rounds, lambda: _read_tap(whole, count))
    return {
        "tap_seconds": spent,
        "tap_lines_per_second": count / spent,
        # Four lines each, so this is a figure a subtest and not a line.
        "tap_subtests_per_second": count / _best(rounds, lambda: _read_tap(nested, count)),
        "tap_seconds_in_chunks_of_one_byte": _best(1, lambda: _read_tap(whole, count, 1)),
        "tap_time_of_twice_as_much": _best(rounds, lambda: _read_tap(_twice(whole), count)) / spent,
    }


def _twice(whole: bytes) -> bytes:
    return whole + whole


def _read_tap(data: bytes, count: int, size: int = 65536) -> None:
    reader = tap.Reader()
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    parsed = reader.close()
    if parsed is None or len(parsed.cases) < count:
        raise AssertionError("the reader lost cases")


def _junit(count: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "report.xml")
        _write_report(path, count)
        # By turns, so that a machine that slows down slows both.
        pairs = [
            (_best(1, lambda: _read_junit(path, count)), _best(1, lambda: _iterate(path)))
            for _ in range(rounds)
        ]
    ours, plain = (min(times) for times in zip(*pairs, strict=True))
    return {"junit_seconds": ours, "iterparse_seconds": plain, "junit_ratio": ours / plain}


def _write_report(path: str, count: int) -> None:
    case = '<testcase classname="a.b.C%d" name="test_%d" time="0.%03d"%s\n'
    failure = '><failure message="1 == 2">line\nline &lt; 2\n</failure></testcase>'
    with open(path, "w", encoding="utf-8") as file:
        file.write('<testsuites><testsuite name="s" tests="%d">\n' % count)
        for number in range(count):
            tail = "/>" if number % 100 else failure
            file.write(case % (number % 50, number, number % 1000, tail))
        file.write("</testsuite></testsuites>\n")


def _read_junit(path: str, count: int) -> None:
    parsed = junit.read_file(path)
    if parsed is None or len(parsed.cases) != count or parsed.problem:
        raise AssertionError("the reader lost cases")


def _iterate(path: str) -> None:
    for _event, element in ElementTree.iterparse(path):
        element.clear()


if __name__ == "__main__":
    print(json.dumps(main("--smoke" in sys.argv[1:]), indent=2))
