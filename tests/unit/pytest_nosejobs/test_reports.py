"""What pytest is shown of a result; the texts are tested with ``words``."""

from pytest_nosejobs.reports import sections
from shell_runner.remote.model import Execution, Stream


def test_sections_of_silent_streams_are_left_out() -> None:
    execution = Execution(1, out=Stream("hello", 5))
    assert sections(execution, short=False) == [("Captured stdout call", "hello")]
    assert sections(Execution(1), short=True) == []
