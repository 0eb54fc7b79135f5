"""Tests of the cases in the dialects of JUnit XML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shell_runner.remote.formats import junit
from shell_runner.remote.protocol.model import ParsedOutput

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture
def read(tmp_path):
    def read_it(data: str | bytes) -> ParsedOutput | None:
        path = tmp_path / "report.xml"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return junit.read_file(str(path))

    return read_it


GTEST = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="4" failures="1" disabled="1" errors="0" time="0.01" name="AllTests">
  <testsuite name="Math" tests="4" failures="1" disabled="1" skipped="1" errors="0">
    <testcase name="Adds" file="a.cc" line="3" status="run" result="completed" time="0.001"
              classname="Math"><properties><property name="key" value="v"/></properties></testcase>
    <testcase name="Fails" status="run" result="completed" time="0." classname="Math">
      <failure message="a.cc:9&#x0A;Expected" type=""><![CDATA[a.cc:9
Expected]]></failure><failure message="second" type=""/>
    </testcase>
    <testcase name="DISABLED_x" status="notrun" result="suppressed" time="0." classname="Math" />
    <testcase name="Skips" status="run" result="skipped" time="0." classname="Math">
      <skipped message="no gpu"><![CDATA[no gpu]]></skipped></testcase>
  </testsuite></testsuites>"""
CATCH2 = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites><testsuite name="exe" errors="0" failures="2" skipped="0" tests="5" time="0.1">
<testcase classname="exe.global" name="adds/one" time="0.00" status="run">
<failure message="1 == 2" type="CHECK">FAILED:
  CHECK( 1 == 2 )
</failure><failure message="2 == 3" type="CHECK">FAILED again</failure></testcase>
<testcase classname="exe.global" name="fine" time="0.00" status="run"/>
<system-out>noise</system-out><system-err/></testsuite></testsuites>"""
SUREFIRE = """<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" name="com.T"
 time="1,234.5" tests="4" errors="1" skipped="1" failures="1">
<properties><property name="java.version" value="17"/></properties>
<testcase name="slow" classname="com.T" time="1,234.5"/>
<testcase name="flaky" classname="com.T" time="0.1">
 <flakyFailure message="once" type="E"><stackTrace>at x</stackTrace></flakyFailure></testcase>
<testcase name="bad" classname="com.T" time="0,005"><failure message="no" type="E">at y</failure>
 <rerunFailure message="again" type="E"/><system-out>printed</system-out></testcase>
<testcase name="error" classname="com.T"><error type="java.lang.Error"/></testcase>
<testcase name="off" classname="com.T"><skipped/></testcase></testsuite>"""
JEST = """<testsuites name="jest tests" tests="2" failures="1" errors="0" time="1.2">
<testsuite name="sum" errors="0" failures="1" skipped="0" tests="2">
<testcase classname="sum adds" name="sum adds" time="0.002"></testcase>
<testcase classname="sum fails" name="sum fails" time="0.003">
<failure>Error: expect(received).toBe(expected)</failure></testcase></testsuite></testsuites>"""
DIALECTS = {
    "GoogleTest": (
        GTEST,
        [("passed", "Adds", ""), ("failed", "Fails", "a.cc:9\nExpected"),
         ("skipped", "DISABLED_x", ""), ("skipped", "Skips", "no gpu")],
    ),
    "Catch2": (CATCH2, [("failed", "adds/one", "1 == 2"), ("passed", "fine", "")]),
    "Surefire": (
        SUREFIRE,
        [("passed", "slow", ""), ("passed", "flaky", ""), ("failed", "bad", "no"),
         ("error", "error", ""), ("skipped", "off", "")],
    ),
    "Jest": (JEST, [("passed", "sum adds", ""), ("failed", "sum fails", "")]),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_reads_as_its_tool_means_it(name, read):
    text, expected = DIALECTS[name]
    parsed = read(text)
    assert [(case.outcome, case.name, case.message) for case in parsed.cases] == expected
    assert parsed.problem == ""


def test_a_real_report_of_pytest_reads_as_pytest_means_it():
    parsed = junit.read_file(str(SAMPLES / "pytest.xml"))
    assert [case.outcome for case in parsed.cases] == [
        "passed", "failed", "skipped", "xfailed", "error",
    ]  # fmt: skip
    assert parsed.cases[0].properties == (("build", "7"),)
    assert parsed.cases[1].group == "test_x"
    assert "assert 1 == 2" in parsed.cases[1].details


def test_a_flaky_test_passes_and_says_so(read):
    assert read(SUREFIRE).cases[1].properties == (("flakyFailure", "once"),)


def test_output_is_kept_of_a_failure_alone(read):
    assert read(SUREFIRE).cases[2].details == "at y\nprinted"
    text = '<testsuite><testcase name="a"><system-out>noise</system-out></testcase></testsuite>'
    assert read(text).cases[0].details == ""


def test_nested_suites_are_the_group_where_there_is_no_class(read):
    text = (
        '<testsuites name="root"><testsuite name="a"><testsuite name="b"><testcase name="x"/>'
        '</testsuite><testcase name="y" classname="C"/></testsuite></testsuites>'
    )
    assert [case.group for case in read(text).cases] == ["a > b", "C"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("1,234.5", 1234.5), ("0,005", 0.005), ("1,5", 1.5), ("nan", None),
     ("inf", None), ("-1", None), ("", None), ("fast", None), ("1e400", None)],
)  # fmt: skip
def test_a_time_is_a_number_that_can_be_added_or_none(text, value, read):
    assert read('<testsuite><testcase time="%s"/></testsuite>' % text).cases[0].duration == value


@pytest.mark.parametrize(
    "data",
    ["<html></html>", "<a/>", "<!DOCTYPE html><html/>", "<testcase name='x'/>"],
)
def test_xml_with_another_root_is_another_format(data, read):
    assert read(data) is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "not well-formed XML"),
        ("not xml", "not well-formed XML"),
        ('<testsuite><testcase name="a"/><testcase', "not well-formed XML"),
        ('<testsuite><testcase name="a"/></wrong>', "not well-formed XML"),
        ('<testsuite><testcase name="a"/>&nosuch;</testsuite>', "not well-formed XML"),
        ("<!DOCTYPE testsuite><testsuite/>", "a DOCTYPE is refused"),
        ("<!DOCTYPE report><testsuite/>", "a DOCTYPE is refused"),
        ('<!DOCTYPE testsuites [<!ENTITY a "aa">]><testsuites/>', "a DOCTYPE is refused: it"),
        ('<?xml version="1.0" encoding="gbk"?><testsuite/>', "the encoding is not supported"),
        ('<?xml version="1.0" encoding="nope"?><testsuite/>', "the encoding is not supp"),
        ("<testsuite>" + "<testsuite>" * 200, "elements are nested deeper"),
        ("<testsuite><testcase>" + "<a>" * 200, "elements are nested deeper"),
        ('<testsuite name="s" errors="2"><testcase/></testsuite>', "the suite 's' counts 2"),
    ],
)
def test_an_error_in_a_file_is_its_problem(data, problem, read):
    assert problem in read(data).problem


def test_cases_before_a_break_are_kept(read):
    text = '<testsuite><testcase name="a"/><testcase name="b"><failure message="m">half'
    parsed = read(text)
    assert [(case.name, case.outcome) for case in parsed.cases] == [
        ("a", "passed"),
        ("b", "failed"),
    ]
    assert parsed.problem


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "cp1252"])
def test_a_declared_encoding_is_obeyed(encoding, read):
    text = '<?xml version="1.0" encoding="%s"?><testsuite><testcase name="\xe9t\xe9"/></testsuite>'
    assert read((text % encoding).encode(encoding)).cases[0].name == "\xe9t\xe9"


def test_a_suite_that_broke_outside_of_any_case_is_an_error_case(read):
    parsed = read('<testsuite name="s" errors="1"><error message="import failed"/></testsuite>')
    assert [(case.name, case.outcome) for case in parsed.cases] == [("s", "error")]
    assert parsed.problem == ""


def test_a_tag_that_is_too_long_is_a_problem(read, monkeypatch):
    monkeypatch.setattr(junit, "MAX_TOKEN_BYTES", 300000)
    parsed = read('<testsuite><testcase name="%s"/></testsuite>' % ("x" * 10**6))
    assert "longer than" in parsed.problem


def test_a_file_that_is_too_large_is_a_problem(read, monkeypatch):
    monkeypatch.setattr(junit, "MAX_FILE_BYTES", 100)
    assert "larger than" in read("<testsuite>%s</testsuite>" % (" " * 200)).problem


def test_opening_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.xml")
    assert junit.read_file(str(tmp_path / "pipe.xml")) is None


def test_a_missing_file_is_a_problem_and_no_exception(tmp_path):
    assert "cannot be read" in junit.read_file(str(tmp_path / "none.xml")).problem


TAGS = ["<testsuite>", "</testsuite>", "<testcase name='a'>", "</testcase>", "<failure>", "&lt;",
        "</failure>", "<system-out>", "</system-out>", "<error/>", "text", "<![CDATA[", "]]>",
        "<"]  # fmt: skip


@given(st.lists(st.sampled_from(TAGS), max_size=20).map("".join))
@settings(max_examples=150, deadline=None)
def test_any_order_of_tags_raises_nothing(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.xml"
    path.write_text("<testsuites>" + text)
    assert isinstance(junit.read_file(str(path)), ParsedOutput)
