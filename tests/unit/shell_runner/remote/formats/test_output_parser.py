"""Tests of the choice of readers for an output, and of the sum of their results."""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote import formats
from shell_runner.remote.formats.output_parser import SessionFormats
from shell_runner.remote.protocol.model import (
    ERROR,
    FAILED,
    PASSED,
    Case,
    Execution,
    ParsedOutput,
    execution_from_row,
    parsed_output_from_row,
)

BUILTIN = tuple((name, "") for name in formats.BUILTIN_NAMES)
XML = "<testsuite><testcase name='%s'/></testsuite>"


def read(
    output: bytes, folder: Path, output_format: str = "", formats_known: Any = BUILTIN
) -> ParsedOutput | None:
    readers = SessionFormats(formats_known).new_parser(output_format)
    for start in range(0, len(output), 3):
        readers.feed(output[start : start + 3])
    return readers.close(str(folder), sorted(path.name for path in folder.iterdir()))


def test_output_without_a_format_gives_none(tmp_path: Path) -> None:
    assert read(b"hello\n", tmp_path) is None
    assert read(b"", tmp_path) is None


def test_output_of_a_known_format_must_be_of_that_format(tmp_path: Path) -> None:
    for output in (b"", b"hello\n"):
        parsed = read(output, tmp_path, output_format="tap")
        assert parsed
        assert parsed.problem
    # No other reader is used.
    parsed = read(b'{"Action":"pass","Package":"p"}\n', tmp_path, output_format="tap")
    assert parsed
    assert parsed.format == "tap"


def test_output_and_files_add_up(tmp_path: Path) -> None:
    (tmp_path / "b.xml").write_text(XML % "b")
    (tmp_path / "a.xml").write_text(XML % "a")
    (tmp_path / "page.xml").write_text("<html/>")
    (tmp_path / "notes.txt").write_text(XML % "not looked at")
    (tmp_path / "folder.xml").mkdir()
    (tmp_path / "link.xml").symlink_to(tmp_path / "notes.txt")
    parsed = read(b"1..1\nok 1 - t\n", tmp_path)
    assert parsed
    assert [case.name for case in parsed.cases] == ["t", "a", "b"]
    assert parsed.format == "tap+junit"


def test_all_problems_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<testsuite>")
    parsed = read(b"1..3\nok 1\n", tmp_path)
    assert parsed
    assert "planned 3" in parsed.problem
    assert "XML" in parsed.problem


def test_a_format_that_skips_all_does_not_skip_another(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(XML % "a")
    parsed = read(b"1..0 # SKIP why\n", tmp_path)
    assert parsed
    assert parsed.skip_all is None
    assert len(parsed.cases) == 1


def test_no_format_is_loaded_for_a_silent_program(tmp_path: Path) -> None:
    formats_known = SessionFormats((("broken", "1 / 0"),))
    assert formats_known.new_parser("").close(str(tmp_path), []) is None
    parser = SessionFormats((("broken", "1 / 0"),)).new_parser("")
    parser.feed(b"x")
    parsed = parser.close(str(tmp_path), [])
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
    parsed = read(b"1..1\nok 1\n", tmp_path, formats_known=(("x", source), *BUILTIN))
    assert parsed
    assert parsed.problem.startswith("the reader of its output failed")
    assert not [case for case in parsed.cases if case.outcome != PASSED]


def test_a_broken_reader_of_files_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "a.x").touch()
    source = "NAME = 'x'\nPATTERNS = ('*.x',)\ndef read_file(path): 1 / 0"
    parsed = read(b"1..1\nok 1\n", tmp_path, formats_known=(("x", source), *BUILTIN))
    assert parsed
    assert len(parsed.cases) == 1
    assert "ZeroDivisionError" in parsed.problem


def test_a_plug_in_can_use_data_classes_and_our_values(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport dataclasses\n"
        "from shell_runner.remote.protocol.model import Case, ParsedOutput\nNAME = 'x'\n"
        "@dataclasses.dataclass\nclass Reader:\n    forced: bool\n    refused: bool = False\n"
        "    def feed(self, data): pass\n"
        "    def close(self): return ParsedOutput(NAME, [Case('a', 'passed')])\n"
    )
    parsed = read(b"x", tmp_path, formats_known=(("x", text),))
    assert parsed == ParsedOutput("x", [Case("a", PASSED)])


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
def test_a_row_that_is_not_a_parsed_output_is_refused(row: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parsed_output_from_row(row)
    if row:
        text = json.dumps(Execution(0)._replace(parsed=row))
        with pytest.raises(ValueError):  # noqa: PT011
            execution_from_row(json.loads(text))


def test_a_parsed_output_survives_json() -> None:
    cases = [Case("a", FAILED, "m", "d", 0.5, "g", (("k", "v"),)), Case("b", ERROR)]
    parsed = ParsedOutput("tap", cases, "p", "s")
    restored = parsed_output_from_row(json.loads(json.dumps(parsed)))
    assert restored._replace(cases=[]) == parsed._replace(cases=[])
    assert [case[:6] for case in restored.cases] == [case[:6] for case in cases]


def test_every_built_in_format_is_one_that_plug_ins_could_write() -> None:
    for name in formats.BUILTIN_NAMES:
        module = importlib.import_module(f"{formats.__name__}.{name}")
        assert "import pytest" not in inspect.getsource(module)
