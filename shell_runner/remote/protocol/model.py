"""The frozen values that travel between a controller and its hosts.

Every value is a named tuple of plain JSON values, so ``Test(*json.loads(text))`` restores it; new
fields go to the end and have a default.  This module performs no I/O, reads no clock and judges
nothing.
"""

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

#: Outcomes of a Case or a Result.  ``xfailed`` and ``xpassed`` are those of a test point
#: marked TODO (TAP 14, "TODO tests").
PASSED = "passed"
FAILED = "failed"
SKIPPED = "skipped"
ERROR = "error"
XFAILED = "xfailed"
XPASSED = "xpassed"
OUTCOMES = frozenset([PASSED, FAILED, SKIPPED, ERROR, XFAILED, XPASSED])


class Case(NamedTuple):
    """A sub-result that a program named in its output."""

    name: str
    #: One of OUTCOMES.
    outcome: str
    #: The reason of a failure or a skip, in one line.
    message: str = ""
    #: Longer text, such as diagnostics or a traceback.
    details: str = ""
    #: Seconds, or None if the program did not report a duration.
    duration: Optional[float] = None
    #: Names of the groups around the case, outermost first, joined with " > ".
    group: str = ""
    #: Pairs of name and value, as in JUnit's ``properties``.
    properties: Tuple[Tuple[str, str], ...] = ()


class ParsedOutput(NamedTuple):
    """The cases that a reader found in a program's output."""

    #: Name of the format; several are joined with ``+``.
    format: str
    cases: List[Case]
    #: The reason why the output cannot be trusted ("planned 5, saw 3"), or empty.
    problem: str = ""
    #: The reason if the program skipped all of its tests (TAP's ``1..0``), else None.
    skip_all: Optional[str] = None


class Test(NamedTuple):
    """One program to run: everything that a host needs to run it."""

    #: Number of the test within its session.
    id: int
    #: Path of the program relative to the root of the tree, with ``/``; undecodable bytes are
    #: surrogates (``surrogateescape``).
    path: str
    #: Seconds until the test is stopped.
    timeout: float = 600.0
    #: Interpreter and options in front of the path; empty: the file itself is executed.
    argv: Tuple[str, ...] = ()
    #: ``dir``: it starts in its own directory; ``root``: in the root of the tree.
    cwd: str = "dir"
    #: ``private``: an empty HOME; ``keep``: the HOME of the host's user.
    home: str = "private"
    #: Environment variables of this test: pairs of name and value; ``{root}`` in a value stands
    #: for the root of the tree.
    env: Tuple[Tuple[str, str], ...] = ()
    #: Names of environment variables (``*`` allowed) that are passed on from the host.
    pass_env: Tuple[str, ...] = ()
    #: Expected duration in seconds; None: unknown.
    estimate: Optional[float] = None
    #: Number of the attempt at the test, from 1.
    attempt: int = 1
    #: Name of the format that the program always writes; empty: detected from its output.
    output_format: str = ""
    #: Effect of processes that outlive the program: ``warn``, ``fail`` or ``ignore``.
    leftovers: str = "warn"
    #: Resource limits: pairs of name (``cpu`` for RLIMIT_CPU) and value, in the unit of
    #: setrlimit(2).
    limits: Tuple[Tuple[str, int], ...] = ()
    #: ``shared``: it runs in the tree of the session; ``copy``: in a private copy of the tree.
    isolation: str = "shared"
    #: Names of the host's locks that the test holds while it runs.
    locks: Tuple[str, ...] = ()
    #: No other test runs on the host at the same time.
    serial: bool = False
    #: Words of the command that runs the program, in place of ``argv``; ``{file}`` stands for its
    #: path, ``{root}`` for the root of the tree.  Empty: no wrapper.
    run: Tuple[str, ...] = ()
    #: Arguments of the program or of the wrapper, after all other words.
    args: Tuple[str, ...] = ()


#: Tells pytest not to collect this class because of its name.
Test.__test__ = False  # type: ignore[attr-defined]


class Setup(NamedTuple):
    """The settings that all tests of a session share on a host."""

    #: Absolute path of the tree on that host.
    root: str
    #: Number of programs that run at the same time; 0: the number of the host's cores.
    slots: int = 1
    #: Seconds between SIGTERM and SIGKILL.
    grace: float = 2.0
    #: Bytes kept of each output stream, half from its start, half from its end.
    output_limit: int = 1 << 20
    #: Names of environment variables (``*`` allowed) that are passed on from the host.
    pass_env: Tuple[str, ...] = ()
    #: Environment variables of every test: pairs of name and value.
    env: Tuple[Tuple[str, str], ...] = ()
    #: Use one pipe for stdout and stderr: the order is exact, but the two are not distinguished.
    merge_output: bool = False
    #: Output formats in the order in which they are tried: pairs of name and source code; the
    #: source of a built-in format is empty.
    formats: Tuple[Tuple[str, str], ...] = ()
    #: Maximum bytes that one test may send from its outputs directory; 0: nothing is sent.
    artifacts_limit: int = 0
    #: Send lines of output while a test runs.
    live_output: bool = False
    #: Use the slots and locks that all runs on the host share.
    shared_resources: bool = False


class CapturedStream(NamedTuple):
    """The part of one output stream that was kept."""

    #: Decoded as UTF-8; undecodable bytes are surrogates (``surrogateescape``).
    text: str = ""
    #: Number of bytes that the program wrote.
    total_bytes: int = 0
    #: Index in ``text`` at which bytes are missing, or -1 if it is complete.
    cut_index: int = -1


class Problem:
    """The values of ``Execution.problem``: reasons why a test did not end by itself."""

    NO_INTERPRETER = "no-interpreter"
    FOREIGN_BINARY = "foreign-binary"
    PERMISSION_DENIED = "permission-denied"
    NO_SUCH_FILE = "no-such-file"
    NOT_STARTED = "not-started"
    SLOT_DIED = "slot-died"
    HOST_LOST = "host-lost"
    CANCELED = "canceled"
    UNMET_REQUIREMENT = "unmet-requirement"
    #: A step before the test failed, such as the job's install command.
    NOT_RUN = "not-run"


class Execution(NamedTuple):
    """The facts about one attempt at a test on one host, without a verdict."""

    #: The number of the test, as in Test.id.
    id: int
    #: Number of the attempt, from 1.
    attempt: int = 1
    #: Number of the slot that ran it.
    slot: int = 0
    #: Seconds since the epoch, by the host's clock.
    started_at: float = 0.0
    #: Seconds, by the host's monotonic clock.
    duration: float = 0.0
    #: Exit status, or None if a signal ended the program or it never ran.
    exit_status: Optional[int] = None
    #: Number of the signal that ended the program, or None.
    signal: Optional[int] = None
    #: Stopped at its time limit.
    timed_out: bool = False
    #: One of the values of Problem, or empty.
    problem: str = ""
    #: The problem in words, for people.
    detail: str = ""
    #: With Setup.merge_output, stdout holds both streams.
    stdout: CapturedStream = CapturedStream()
    stderr: CapturedStream = CapturedStream()
    #: Names of processes that outlived the program and were killed.
    leftovers: Tuple[str, ...] = ()
    #: Peak resident memory in KiB of the program and the children it waited for.
    max_rss: int = 0
    #: CPU seconds of the program and the children it waited for.
    cpu_seconds: float = 0.0
    #: The cases that its output named, or None if it was in none of the formats.
    parsed: Optional[ParsedOutput] = None
    #: Files that were sent: pairs of path below the outputs directory and size in bytes.
    artifacts: Tuple[Tuple[str, int], ...] = ()
    #: Number of files or folders that were not sent because they are over a limit.
    artifacts_omitted: int = 0


class Result(NamedTuple):
    """The verdict on an execution."""

    #: ``passed``, ``failed``, ``skipped`` or ``error``.
    outcome: str
    #: The reason in a few words: "exit 3", "killed by SIGSEGV", "timed out after 5 s".
    message: str
    #: The cause is the infrastructure, not the test.
    infrastructure: bool = False


def execution_from_row(row: List[Any]) -> Execution:
    """Restore an Execution from its JSON row; raises ValueError if the row is invalid."""
    try:
        raw = Execution(*row)
        parsed_row: Any = raw.parsed
        execution = raw._replace(
            stdout=CapturedStream(*raw.stdout),
            stderr=CapturedStream(*raw.stderr),
            leftovers=tuple(map(_make_printable, raw.leftovers)),
            parsed=None if parsed_row is None else parsed_output_from_row(parsed_row),
            artifacts=tuple((path, size) for path, size in raw.artifacts),
        )
        _check_fields(execution)
    except (TypeError, AttributeError) as error:
        raise ValueError("not an execution: %s" % error) from None
    return execution


def _make_printable(name: str) -> str:
    """Return the name of a process, which is any 15 bytes, without control characters."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _check_fields(execution: Execution) -> None:
    """Raise ValueError or TypeError for a field that would mislead or break judge and reports."""
    numbers: List[Any] = [
        *execution[:5],
        execution.max_rss,
        execution.cpu_seconds,
        execution.artifacts_omitted,
    ]
    texts: List[Any] = [execution.problem, execution.detail, *execution.leftovers]
    for stream in (execution.stdout, execution.stderr):
        texts.append(stream.text)
        numbers += stream[1:]
        _check_stream(stream)
    for path, size in execution.artifacts:
        texts.append(path)
        numbers.append(size)
    if not are_numbers(numbers):
        raise ValueError("not an execution: a number is out of range")
    if not are_strings(texts):
        raise ValueError("not an execution: a value is not a string")
    for code in (execution.exit_status, execution.signal):
        if code is not None and not (type(code) is int and 0 <= code <= MAX_STATUS):
            raise ValueError("not an execution: the exit status or signal is %.50r" % (code,))


def _check_stream(stream: CapturedStream) -> None:
    """Raise ValueError unless the text stands for bytes and the cut is inside of it."""
    if not isinstance(stream.text, str):
        raise ValueError("not an execution: a value is not a string")
    if not (isinstance(stream.cut_index, int) and -1 <= stream.cut_index <= len(stream.text)):
        raise ValueError("not an execution: output cut at %.80r" % (stream.cut_index,))
    if not stream.text.isascii():
        stream.text.encode("utf-8", "surrogateescape")


def parsed_output_from_row(row: Any) -> ParsedOutput:
    """Restore a ParsedOutput from the row that a host or a plug-in's reader returned.

    Raises ValueError if it is invalid: a case with an unknown outcome must not count as passed.
    """
    try:
        parsed = ParsedOutput(*row)
        cases = [_case_from_row(row) for row in parsed.cases]
        texts = [parsed.format, parsed.problem, parsed.skip_all or ""]
        for name, outcome, message, details, duration, group, properties in cases:
            if outcome not in OUTCOMES:
                raise ValueError("a case has the outcome %.80r" % (outcome,))
            if duration is not None and not is_number(duration):
                raise ValueError("a case has the duration %.80r" % (duration,))
            texts += (name, message, details, group)
            for key, value in properties:
                texts += (key, value)
    except (TypeError, RecursionError) as error:
        raise ValueError("not a parsed output: %s" % error) from None
    if not are_strings(texts):
        raise ValueError("a value of a case is not a string")
    return parsed._replace(cases=cases)


def _case_from_row(row: Any) -> Case:
    case = Case(*row)
    if not case.properties:
        return case
    return case._replace(properties=tuple((key, value) for key, value in case.properties))


#: Maximum exit status and signal number of wait(2).
MAX_STATUS = 255
#: Exclusive upper bound of every number of seconds or bytes; it excludes infinity and NaN.
MAX_NUMBER = 1e12


def is_number(value: Any, minimum: float = 0) -> bool:
    """Return whether ``value`` is a number of at least ``minimum`` and below MAX_NUMBER."""
    has_type = isinstance(value, (int, float)) and not isinstance(value, bool)
    return has_type and minimum <= value < MAX_NUMBER


def is_digest(value: Any) -> bool:
    """Return whether ``value`` is a SHA-256 digest in hexadecimal digits, safe in a path."""
    return isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef")


def are_numbers(values: Iterable[Any]) -> bool:
    """Return whether all values are numbers between -MAX_NUMBER and MAX_NUMBER."""
    return all(is_number(value, -MAX_NUMBER) for value in values)


def are_strings(values: Iterable[Any]) -> bool:
    """Return whether all values are strings; fast for the many values of a result."""
    return all(issubclass(kind, str) for kind in set(map(type, values)))


def host_facts_from_json(values: Dict[str, Any]) -> "HostFacts":
    """Restore HostFacts from a JSON object, ignoring fields that a newer host adds."""
    known = {key: values[key] for key in HostFacts._fields if key in values}
    return HostFacts(**known)


class HostFacts(NamedTuple):
    """The description that a host gives of itself."""

    #: Its host name, as uname(2) returns it.
    name: str
    #: Operating system and release.
    system: str
    #: Hardware, such as ``x86_64``.
    machine: str
    #: Version of its Python.
    python: str
    #: Number of CPUs that its processes may use.
    cores: int
    #: Number of tests that it runs at the same time.
    slots: int = 0
    #: Directory in which the host keeps the tree of this session.
    root: str = ""
    #: A remark for people, or empty.
    note: str = ""
