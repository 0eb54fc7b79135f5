"""A table of the places where text of a host or a test enters, each with the same hostile text."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from shell_runner import errors, text
from shell_runner.hosts import fleet
from shell_runner.hosts import gateway as gateways
from shell_runner.hosts.frame_guard import FrameGuard, ProtocolViolation
from shell_runner.hosts.proxy_errors import ErrorFile
from shell_runner.hosts.spec import parse_specs
from shell_runner.remote.protocol.model import (
    CapturedStream,
    Case,
    Execution,
    HostFacts,
    ParsedOutput,
    Test,
    execution_from_row,
)
from shell_runner.remote.protocol.verdict import format_leftovers, judge
from shell_runner.reporting.report_text import (
    FailureContext,
    case_properties,
    describe_case_failure,
    describe_failure,
    execution_properties,
    name_cases,
    skip_reason,
)
from shell_runner.run import controller

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1m\r\u202egnp\u2066\x00\ud800"
SPOOF = f"nosejobs-cannot: {HOSTILE}\nnosejobs-try: curl evil\n  try: curl evil\n"


def _explain(said: str, kind: str) -> str:
    (spec,) = parse_specs([kind], {})
    error_file = ErrorFile()
    try:
        with open(error_file.path, "w", errors="replace") as file:
            file.write("nosejobs-pid: 1\n" + said)
        gateway: Any = gateways.Gateway.__new__(gateways.Gateway)
        gateway.spec, gateway._errors = spec, error_file
        return str(gateway._explain_failure(None))
    finally:
        error_file.close()


def _guard_start(words: str) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        FrameGuard().feed(words.encode("utf-8", "replace"))
    return str(caught.value)


def _make_execution(**fields: Any) -> Execution:
    raw = Execution(1, exit_status=1, leftovers=(HOSTILE, "sleep"))._replace(**fields)
    return execution_from_row(list(raw))


def _describe(execution: Execution) -> str:
    failure = describe_failure(Test(1, "t"), execution, FailureContext("t", "./t", "t"))
    return "\n".join([*failure.lines, failure.output])


def _describe_case(words: str) -> str:
    case = Case(words, "failed", words, words, None, words, ((words, words),))
    execution = _make_execution(parsed=ParsedOutput("tap", [case], words))
    ((_, names),) = name_cases([case])
    failure = describe_case_failure(case, execution, FailureContext("t", "./t", "t"), True)
    return "\n".join([*failure.lines, failure.output, str(case_properties(case)), *names])


def _make_facts(words: str) -> str:
    return " ".join(map(str, fleet._sanitize_facts(HostFacts(words, words, words, words, 1))))


#: Each entry of text of a host or a test, as it is shown.
ENTRIES: dict[str, Callable[[], str]] = {
    "error of a host": lambda: str(errors.HostError("h", SPOOF, HOSTILE)),
    "cause of an error": lambda: errors.HostOpenError("h", SPOOF).cause,
    "lost host": lambda: str(errors.HostLost("h", SPOOF)),
    "refused job": lambda: str(errors.JobRefused("h", HOSTILE, SPOOF, HOSTILE)),
    "stderr of ssh": lambda: _explain(SPOOF, "ssh=h"),
    "not found": lambda: _explain(f"sh: 1: {HOSTILE}: not found\n", "ssh=h"),
    "refused key": lambda: _explain(f"Permission denied ({SPOOF})\n", "ssh=h"),
    "reason of the proxy": lambda: _explain(f"nosejobs-reason: {HOSTILE}\n", "ssh=h"),
    "old Python": lambda: _explain(f"nosejobs-needs-python: {HOSTILE}\n", "ssh=h"),
    "agent": lambda: _explain(f"nosejobs-cannot: {HOSTILE}\nnosejobs-try: {HOSTILE}\n", "agent=h"),
    "login shell": lambda: _guard_start(HOSTILE),
    "facts": lambda: _make_facts(HOSTILE),
    "lock": lambda: controller._waiting_reason("lock", text.to_single_line(HOSTILE)),
    "leftovers": lambda: format_leftovers(_make_execution().leftovers),
    "leftovers in a failure": lambda: _describe(_make_execution()),
    "leftovers in a verdict": lambda: (
        judge(Test(1, "t", leftovers="fail"), _make_execution(exit_status=0)).message
    ),
    "output": lambda: _describe(
        _make_execution(
            stdout=CapturedStream("\x1b\u202e", 4), stderr=CapturedStream("\x07\x9b", 3)
        )
    ),
    "problem": lambda: _describe(_make_execution(problem=HOSTILE, detail=HOSTILE)),
    "case": lambda: _describe_case(HOSTILE),
    "properties": lambda: str(execution_properties(_make_execution(), "h")),
    "skip": lambda: skip_reason(_make_execution(stdout=CapturedStream("\x1b\u202ewhy"))),
    "skip all": lambda: skip_reason(_make_execution(parsed=ParsedOutput("tap", [], "", HOSTILE))),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_no_text_of_a_host_or_test_controls_the_terminal(name: str) -> None:
    shown = ENTRIES[name]()
    assert shown
    unsafe = [char for char in shown if not char.isprintable() and char not in "\n\t"]
    assert unsafe == []
    hints = [line for line in shown.splitlines() if line.strip().startswith("try: curl")]
    assert hints == []


@pytest.mark.parametrize("code", [*range(32), *range(127, 160), 0x202A, 0x202E, 0x2066, 0xD800])
@pytest.mark.parametrize(
    "function",
    [text.make_readable, text.strip_control_chars, text.to_single_line, text.escape_unprintable],
)
def test_each_function_makes_each_control_harmless(
    function: Callable[[str], str], code: int
) -> None:
    shown = function(f"a{chr(code)}b")
    assert chr(code) not in shown or (chr(code) in "\n\t")


def test_a_hint_of_ours_stays() -> None:
    said = f"nosejobs-cannot: no agent{os.linesep}nosejobs-try: start one\n"
    assert _explain(said, "agent=h") == "host h: no agent\n  try: start one"
