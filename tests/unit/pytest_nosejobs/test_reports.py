"""Tests of the sections in pytest reports; their texts are tested in test_report_text.py."""

from pytest_nosejobs.reports import make_sections
from shell_runner.remote.protocol.model import CapturedStream, Execution


def test_sections_of_silent_streams_are_left_out() -> None:
    execution = Execution(1, stdout=CapturedStream("hello", 5))
    assert make_sections(execution, short=False) == [("Captured stdout call", "hello")]
    assert make_sections(Execution(1), short=True) == []
