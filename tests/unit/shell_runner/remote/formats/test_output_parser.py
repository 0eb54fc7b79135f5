"""Which readers see an output, and what they make of it together."""

import inspect
import json
import types
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote import formats
from shell_runner.remote.formats.output_parser import Formats
from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    Case,
    Execution,
    Parsed,
    execution_from_row,
    parsed_from_row,
)

BUILTIN = tuple((module.NAME, "") for module in formats.builtin())
XML = "<testsuite><testcase name='%s'/></testsuite>"


def read(output: bytes, folder: Path, spoken: str = "", known: Any = BUILTIN) -> Parsed | None:
    readers = Formats(known).readers(spoken)
    for start in range(0, len(output), 3):
        readers.feed(output[start : start + 3])
    return readers.close(str(folder), sorted(path.name for path in folder.iterdir()))


def test_no_format_is_none(tmp_path: Path) -> None:
    assert read(b"hello\n", tmp_path) is None
    assert read(b"", tmp_path) is None


def test_what_is_known_to_speak_a_format_must_speak_it(tmp_path: Path) -> None:
    for output in (b"", b"hello\n"):
        found = read(output, tmp_path, spoken="tap")
        assert found
        assert found.problem
    # And no other reader is asked.
    found = read(b'{"Action":"pass","Package":"p"}\n', tmp_path, spoken="tap")
    assert found
    assert found.format == "tap"


def test_output_and_files_add_up(tmp_path: Path) -> None:
    (tmp_path / "b.xml").write_text(XML % "b")
    (tmp_path / "a.xml").write_text(XML % "a")
    (tmp_path / "page.xml").write_text("<html/>")
    (tmp_path / "notes.txt").write_text(XML % "not looked at")
    (tmp_path / "folder.xml").mkdir()
    (tmp_path / "link.xml").symlink_to(tmp_path / "notes.txt")
    found = read(b"1..1\nok 1 - t\n", tmp_path)
    assert found
    assert [case.name for case in found.cases] == ["t", "a", "b"]
    assert found.format == "tap+junit"


def test_all_problems_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<testsuite>")
    found = read(b"1..3\nok 1\n", tmp_path)
    assert found
    assert "planned 3" in found.problem
    assert "XML" in found.problem


def test_skipping_all_of_one_skips_not_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(XML % "a")
    found = read(b"1..0 # SKIP why\n", tmp_path)
    assert found
    assert found.skip_all is None
    assert len(found.cases) == 1


def test_nothing_is_loaded_for_a_silent_program(tmp_path: Path) -> None:
    known = Formats((("broken", "1 / 0"),))
    assert known.readers("").close(str(tmp_path), []) is None
    found = Formats((("broken", "1 / 0"),)).readers("")
    found.feed(b"x")
    parsed = found.close(str(tmp_path), [])
    assert parsed
    assert "ZeroDivisionError" in parsed.problem


@pytest.mark.parametrize(
    "body",
    [
        "def __init__(self, forced): 1 / 0",
        "def __init__(self, forced): pass\n def feed(self, data): pass",
        "refused = False\n def __init__(self, forced): pass\n def feed(self, data): 1 / 0",
        "refused = False\n def __init__(self, forced): pass\n def feed(self, data): pass",
        "refused = False\n def __init__(self, forced): pass\n def feed(self, data): pass\n"
        " def close(self): return 7",
    ],
)
def test_a_broken_reader_is_one_problem(tmp_path: Path, body: str) -> None:
    source = f"NAME = 'x'\nclass Reader:\n {body}\n"
    found = read(b"1..1\nok 1\n", tmp_path, known=(("x", source), *BUILTIN))
    assert found
    assert found.problem.startswith("the reader of its output failed")
    assert not [case for case in found.cases if case.outcome != PASSED]


def test_a_broken_reader_of_files_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "a.x").touch()
    source = "NAME = 'x'\nPATTERNS = ('*.x',)\ndef read_file(path): 1 / 0"
    found = read(b"1..1\nok 1\n", tmp_path, known=(("x", source), *BUILTIN))
    assert found
    assert len(found.cases) == 1
    assert "ZeroDivisionError" in found.problem


def test_a_plug_in_can_have_data_classes_and_our_values(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport dataclasses\n"
        "from shell_runner.remote.protocol.model import Case, Parsed\nNAME = 'x'\n"
        "@dataclasses.dataclass\nclass Reader:\n    forced: bool\n    refused: bool = False\n"
        "    def feed(self, data): pass\n"
        "    def close(self): return Parsed(NAME, [Case('a', 'passed')])\n"
    )
    found = read(b"x", tmp_path, known=(("x", text),))
    assert found == Parsed("x", [Case("a", PASSED)])


@pytest.mark.parametrize(
    "row",
    [
        7, [], ["x"], ["x", 7], ["x", [7]], ["x", [[]]], ["x", [["a"]]],
        ["x", [["a", "fail"]]], ["x", [["a", "PASSED"]]], ["x", [["a", None]]],
        ["x", [["a", []]]], ["x", [[7, "passed"]]], ["x", [["a", "passed", 7]]],
        ["x", [["a", "passed", "", "", "1"]]], ["x", [["a", "passed", "", "", -1]]],
        ["x", [["a", "passed", "", "", float("nan")]]],
        ["x", [["a", "passed", "", "", float("inf")]]],
        ["x", [["a", "passed", "", "", None, 7]]],
        ["x", [["a", "passed", "", "", None, "", [7]]]],
        ["x", [["a", "passed", "", "", None, "", [["key", 7]]]]],
        ["x", [], 7], ["x", [], "", 7], [7, []],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_parsed_is_refused(row: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parsed_from_row(row)
    if row:
        text = json.dumps(Execution(0)._replace(parsed=row))
        with pytest.raises(ValueError):  # noqa: PT011
            execution_from_row(json.loads(text))


def test_a_parsed_comes_back_from_json() -> None:
    cases = [Case("a", FAILED, "m", "d", 0.5, "g", (("k", "v"),)), Case("b", ERROR)]
    parsed = Parsed("tap", cases, "p", "s")
    found = parsed_from_row(json.loads(json.dumps(parsed)))
    assert found._replace(cases=[]) == parsed._replace(cases=[])
    assert [case[:6] for case in found.cases] == [case[:6] for case in cases]


def test_every_built_in_format_is_one_that_plug_ins_could_write() -> None:
    for module in formats.builtin():
        assert isinstance(module, types.ModuleType)
        assert "import pytest" not in inspect.getsource(module)
