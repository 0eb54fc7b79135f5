"""Tests of the log of an attempt: its lines and its maximum size."""

from pathlib import Path

import pytest

from shell_runner.remote.jobs.job_log import JobLog


def test_a_log_is_lines_and_no_more_than_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shell_runner.remote.jobs.job_log._MAX_LOG_BYTES", 50)
    log = JobLog(str(tmp_path / "log"))
    log.write("a\nb", ["\udcff", "two\nlines"])
    for _ in range(9):
        log.note("12345678901234567890")
    log.close()
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert lines[:2] == [b"a?b | \xff", b"a?b | two lines"]
    assert lines[-1] == b"nosejobs | the log ends here: it is full"
    assert len(lines) < 6
