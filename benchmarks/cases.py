"""Memory of cases: 200 000 and 5 times 100 000 lines of TAP, with and without JUnit XML."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from measure import Contender

NAME = "cases"
#: Modules of other plugins by the names of their entry points.
_MODULES = {"rerunfailures": "pytest_rerunfailures", "xdist": "xdist"}
_NOTES = (
    "A bare interpreter with pytest and the plugin takes about 40 MB. The controller is the pytest "
    "process, which keeps all cases to the end of the run.",
)


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that all of them work."""
    one, five = (2000, 1000) if smoke else (200_000, 100_000)
    tables = []
    with measure.workspace() as folder:
        for programs, count in ((1, one), (5, five)):
            contenders = list(_contenders(folder / str(programs), programs, count))
            runs = measure.in_turn(contenders, 1)
            title = f"{programs} * {count} cases"
            tables.append(measure.table(title, runs, contenders[0].name, _NOTES, memory=True))
    return {"tables": tables}


def _contenders(folder: Path, programs: int, count: int) -> Iterator[Contender]:
    folder.mkdir()
    (folder / "pytest.ini").touch()
    awk = 'print "1..%d"; for (i = 1; i <= %d; i++) printf "ok %%d - number %%d works\\n", i, i'
    for number in range(programs):
        script = f"awk 'BEGIN {{ {awk % (count, count)} }}'"
        measure.write_script(folder / f"test_many{number}.sh", script)
    junit = folder / "junit.xml"
    options = ("-q", "-p", "no:cacheprovider")
    hosts = ("--nosejobs=popen",)
    check = functools.partial(measure.check_junit, junit, programs * count)
    yield Contender("popen", measure.pytest(*options, *hosts), folder)
    with_xml = (*options, f"--junitxml={junit}")
    yield Contender("popen, JUnit XML", measure.pytest(*with_xml, *hosts), folder, check=check)
    yield Contender("here, JUnit XML", measure.pytest(*with_xml), folder, check=check)
    plugins = [each for each in ("rerunfailures", "xdist") if measure.has_module(_MODULES[each])]
    if plugins:
        argv = measure.pytest(*with_xml, *hosts, plugins=("nosejobs", *plugins))
        yield Contender(f"popen, JUnit XML, {', '.join(plugins)} loaded", argv, folder, check=check)
