"""Tests of names of cases in node ids and in JUnit XML."""

import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nosejobs import junit_xml
from pytest_nosejobs.reports import ReportContext, make_reports
from shell_runner.remote.protocol.model import PASSED, Case, Execution, ParsedOutput, Test


def reports_of(*cases: Case, nodeid: str = "sub/test_a.sh") -> list[Any]:
    item: Any = SimpleNamespace(
        nodeid=f"{nodeid}::test_a",
        program_id=nodeid,
        file_id=nodeid,
        name="test_a",
        get_location=lambda name: (nodeid, 0, name),
        user_properties=[],
        path="p",
        get_report_keywords=dict,
        earlier_attempts=[],
        get_attempt_attributes=dict,
    )
    execution = Execution(0, exit_status=0, duration=1.0, parsed=ParsedOutput("tap", list(cases)))
    return list(make_reports(ReportContext(item, Test(0, "p"), execution, "here")))


def ids_of(*names: str) -> list[str]:
    made = reports_of(*[Case(name, PASSED) for name in names])
    return [each.nodeid.removeprefix("sub/test_a.sh::") for each in made if each.when == "call"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("", "(nameless)"),
        ("  ", "(nameless)"),
        ("red \x1b[31mword\x1b[0m", "red word"),
        ("bell \x07", "bell \\x07"),
        ("byte \udcff", "byte \\xff"),
        ("a::b [c]", "a::b [c]"),
    ],
)
def test_names_are_one_readable_line(name: str, shown: str) -> None:
    assert ids_of(name) == [shown]


def test_the_group_comes_first() -> None:
    made = reports_of(Case("name", PASSED, group="outer > inner"))
    assert made[0].nodeid == "sub/test_a.sh::outer > inner > name"


@given(st.lists(st.sampled_from(["a", "a #2", "a #3", "a #2 #2", ""]), min_size=1, max_size=12))
def test_no_two_cases_share_a_name(names: list[str]) -> None:
    ids = ids_of(*names)
    assert len(set(ids)) == len(names)
    for name in names:
        assert (name or "(nameless)") in ids


def test_each_case_has_three_reports_and_time_is_not_lost() -> None:
    made = reports_of(Case("a", PASSED, duration=0.25), Case("b", PASSED))
    assert [each.when for each in made] == ["setup", "call", "teardown"] * 2
    assert sum(each.duration for each in made) == pytest.approx(1.0)
    assert made[1].duration == 0.25


@pytest.mark.parametrize(
    ("nodeid", "case", "expected"),
    [
        ("sub/deep/test_a.sh", None, ("sub.deep", "test_a.sh")),
        ("test_a.sh", None, (".", "test_a.sh")),
        ("sub/test_a.sh", ("", "x::y"), ("sub.test_a.sh", "x::y")),
        ("sub/test_a.sh", ("g", "x"), ("sub.test_a.sh.g", "x")),
    ],
)
def test_names_in_junit(
    nodeid: str, case: tuple[str, str] | None, expected: tuple[str, str]
) -> None:
    attributes = {}
    reporter = SimpleNamespace(add_attribute=attributes.__setitem__)
    xml = SimpleNamespace(node_reporter=lambda _: reporter, prefix=None)
    made: Any = SimpleNamespace(nosejobs_program=nodeid, nosejobs_case=case)
    junit_xml.set_names(xml, made)
    assert (attributes["classname"], attributes["name"]) == expected


def test_attachments_are_lines_of_their_own() -> None:
    added: list[ET.Element] = []
    xml = SimpleNamespace(node_reporter=lambda _: added)
    junit_xml.attach_files(xml, SimpleNamespace(nosejobs_files=["a/b", "c\n[[ATTACHMENT|d]]"]))
    assert (added[0].text or "").split("\n") == [
        "[[ATTACHMENT|a/b]]", "[[ATTACHMENT|c\\n[[ATTACHMENT|d]]]]",
    ]  # fmt: skip
    added.clear()
    junit_xml.attach_files(xml, SimpleNamespace(nosejobs_files=[]))
    assert not added
