"""The frozen values that travel between a controller and its hosts.

Owns their shape and nothing else: no I/O, no clock, no judgement.  Every value
is a named tuple of plain JSON values, so ``Test(*json.loads(text))`` restores
it; new fields go to the end and have a default.
"""

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

#: What a Case or a Result can be.  ``xfailed`` and ``xpassed`` are the outcomes
#: of a test point marked TODO (TAP 14, "TODO tests").
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
    outcome: str
    message: str = ""
    #: Longer text: diagnostics, a traceback.
    details: str = ""
    #: Seconds, or None when the program did not say.
    duration: Optional[float] = None
    #: Groups of the case, outermost first, joined with " > ".
    group: str = ""
    properties: Tuple[Tuple[str, str], ...] = ()


class ParsedOutput(NamedTuple):
    """What a reader understood of a program's output."""

    format: str
    cases: List[Case]
    #: Why the output cannot be trusted as it stands ("planned 5, saw 3");
    #: empty when all is well.
    problem: str = ""
    #: The program said that all of it was skipped, and why.
    skip_all: Optional[str] = None


class Test(NamedTuple):
    """One program to run, as a host needs to know it."""

    #: Number of the test within its session.
    id: int
    #: Relative to the root of the tree, with ``/``; undecodable bytes are surrogates.
    path: str
    #: Seconds until the test is stopped.
    timeout: float = 600.0
    #: What runs the file, put in front of its path; empty: the file itself is executed.
    argv: Tuple[str, ...] = ()
    #: ``dir``: starts in its own directory; ``root``: in the root of the tree.
    cwd: str = "dir"
    #: ``private``: a fresh HOME; ``keep``: the HOME of the host's user.
    home: str = "private"
    #: Variables for this test only.
    env: Tuple[Tuple[str, str], ...] = ()
    #: Names of variables (``*`` allowed) that are passed on from the host.
    pass_env: Tuple[str, ...] = ()
    #: Seconds that it is expected to take; None when nothing is known.
    estimate: Optional[float] = None
    attempt: int = 1
    #: The format that it is known to speak; empty: whatever its output turns out to be.
    output_format: str = ""
    #: What processes come to that outlive the program: ``warn``, ``fail`` or ``ignore``.
    leftovers: str = "warn"
    #: Resource limits of the program: their names, as in RLIMIT_NAME, and values.
    limits: Tuple[Tuple[str, int], ...] = ()
    #: ``shared``: runs in the tree of the session; ``copy``: in a private copy of it.
    isolation: str = "shared"
    #: Locks of the host that it needs.
    locks: Tuple[str, ...] = ()
    #: Nothing else runs on the host meanwhile.
    serial: bool = False


#: No class of tests, whatever its name says to pytest.
Test.__test__ = False  # type: ignore[attr-defined]


class Setup(NamedTuple):
    """What all tests of a session share on a host."""

    #: Absolute path of the tree on that host.
    root: str
    #: Programs that run at the same time; 0: as many as the host has cores.
    slots: int = 1
    #: Seconds between SIGTERM and SIGKILL.
    grace: float = 2.0
    #: Bytes of each output stream that are kept, half from its start, half from its end.
    output_limit: int = 1 << 20
    #: Names of variables (``*`` allowed) that are passed on from the host.
    pass_env: Tuple[str, ...] = ()
    #: Variables for every test.
    env: Tuple[Tuple[str, str], ...] = ()
    #: One pipe for standard output and error: exact order, no telling them apart.
    merge_output: bool = False
    #: Formats of output, in the order in which they are asked: name and source; the
    #: source of a built-in one is empty.
    formats: Tuple[Tuple[str, str], ...] = ()
    #: Bytes that one test may send back from its outputs directory; 0: nothing is sent.
    artefacts_limit: int = 0
    #: Send lines of output while the test runs.
    live_output: bool = False
    #: Slots and locks are those of the host, which other runs use too.
    shared_resources: bool = False


class CapturedStream(NamedTuple):
    """What was kept of one output stream."""

    #: Undecodable bytes are surrogates (``surrogateescape``).
    text: str = ""
    #: Bytes that the program wrote.
    total_bytes: int = 0
    #: Where in ``text`` bytes are missing, or -1 when it is complete.
    cut_index: int = -1


class Problem:
    """Why a test came to no end of its own; the kinds that ``Execution.problem`` has."""

    NO_INTERPRETER = "no-interpreter"
    FOREIGN_BINARY = "foreign-binary"
    PERMISSION_DENIED = "permission-denied"
    NO_SUCH_FILE = "no-such-file"
    NOT_STARTED = "not-started"
    SLOT_DIED = "slot-died"
    HOST_LOST = "host-lost"
    CANCELED = "cancelled"
    UNMET_REQUIREMENT = "unmet-requirement"
    #: What had to succeed before it has not: the job's install command, its unpacking.
    NOT_RUN = "not-run"


class Execution(NamedTuple):
    """What happened to one test on one host: facts, and no judgement."""

    id: int
    attempt: int = 1
    slot: int = 0
    #: Seconds since the epoch, by the host's clock.
    started_at: float = 0.0
    #: Seconds, by a clock that nobody sets.
    duration: float = 0.0
    #: Exit status, or None when a signal ended it or it never ran.
    exit_status: Optional[int] = None
    signal: Optional[int] = None
    timed_out: bool = False
    #: One of Problem, or empty.
    problem: str = ""
    #: What a person needs to know of the problem.
    detail: str = ""
    stdout: CapturedStream = CapturedStream()
    stderr: CapturedStream = CapturedStream()
    #: Names of processes that outlived the program and were killed.
    leftovers: Tuple[str, ...] = ()
    #: Peak resident memory of the program and the children it waited for, KiB.
    max_rss: int = 0
    #: Processor seconds of the program and the children it waited for.
    cpu_seconds: float = 0.0
    #: What its output said, if it was in one of the formats.
    parsed: Optional[ParsedOutput] = None
    #: Files that were sent back: path below the outputs directory, and bytes.
    artefacts: Tuple[Tuple[str, int], ...] = ()
    #: Files that were not sent, because of the bound.
    artefacts_omitted: int = 0


class Result(NamedTuple):
    """The verdict on an execution."""

    #: ``passed``, ``failed``, ``skipped`` or ``error``.
    outcome: str
    #: A few words: "exit 3", "killed by SIGSEGV", "timed out after 5 s".
    message: str
    #: Infrastructure, not the test, is to blame.
    infrastructure: bool = False


def execution_from_row(row: List[Any]) -> Execution:
    """Restore an Execution from its JSON row; ValueError if it cannot be one."""
    try:
        found = Execution(*row)
        out, err = CapturedStream(*found.stdout), CapturedStream(*found.stderr)
        rows: Any = found.parsed
        parsed = None if rows is None else parsed_output_from_row(rows)
        execution = found._replace(
            out=out,
            err=err,
            leftovers=tuple(found.leftovers),
            parsed=parsed,
            artefacts=tuple((path, size) for path, size in found.artefacts),
        )
        _check_fields(execution)
    except TypeError as error:
        raise ValueError("not an execution: %s" % error) from None
    return execution


def _check_fields(found: Execution) -> None:
    """ValueError or TypeError for what would only fail, or mislead, those who judge and report."""
    numbers: List[Any] = [*found[:5], found.max_rss, found.cpu_seconds, found.artefacts_omitted]
    texts: List[Any] = [found.problem, found.detail, *found.leftovers]
    for stream in (found.stdout, found.stderr):
        texts.append(stream.text)
        numbers += stream[1:]
        _check_stream(stream)
    for path, size in found.artefacts:
        texts.append(path)
        numbers.append(size)
    if not are_numbers(numbers):
        raise ValueError("not an execution: a number that cannot be")
    if not are_strings(texts):
        raise ValueError("not an execution: something else than text")
    if not all(isinstance(code, (int, type(None))) for code in (found.exit_status, found.signal)):
        raise ValueError("not an execution: no exit status")


def _check_stream(stream: CapturedStream) -> None:
    """A place inside the text, and text that stands for bytes."""
    if not isinstance(stream.text, str):
        raise ValueError("not an execution: something else than text")
    if not (isinstance(stream.cut_index, int) and -1 <= stream.cut_index <= len(stream.text)):
        raise ValueError("not an execution: output cut at %r" % (stream.cut_index,))
    if not stream.text.isascii():
        stream.text.encode("utf-8", "surrogateescape")


def parsed_output_from_row(row: Any) -> ParsedOutput:
    """Restore a Parsed, of which a plug-in's reader or a host says that it is one.

    ValueError if it is not: a case with an outcome that nobody knows must not count as
    one that has passed.
    """
    try:
        found = ParsedOutput(*row)
        cases = [_case(row) for row in found.cases]
        texts = [found.format, found.problem, found.skip_all or ""]
        for name, outcome, message, details, duration, group, properties in cases:
            if outcome not in OUTCOMES:
                raise ValueError("a case has the outcome %r" % (outcome,))
            if duration is not None and not is_number(duration):
                raise ValueError("a case took %r seconds" % (duration,))
            texts += (name, message, details, group)
            for key, value in properties:
                texts += (key, value)
    except TypeError as error:
        raise ValueError("not what was read of an output: %s" % error) from None
    if not are_strings(texts):
        raise ValueError("a case holds something else than text")
    return found._replace(cases=cases)


def _case(row: Any) -> Case:
    case = Case(*row)
    if not case.properties:
        return case
    return case._replace(properties=tuple((key, value) for key, value in case.properties))


#: No number of seconds or bytes of ours comes near; infinity and NaN are not below it.
MAX_NUMBER = 1e12


def is_number(value: Any, minimum: float = 0) -> bool:
    """Return whether it is a number from ``minimum`` on that something can have."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and minimum <= value < MAX_NUMBER


def are_numbers(values: Iterable[Any]) -> bool:
    """Return whether all are finite numbers."""
    return all(is_number(value, -MAX_NUMBER) for value in values)


def are_strings(values: Iterable[Any]) -> bool:
    """Return whether all are texts; fast for the many values of a result."""
    return all(issubclass(kind, str) for kind in set(map(type, values)))


def host_facts_from_json(values: Dict[str, Any]) -> "HostFacts":
    """Restore HostFacts from JSON, ignoring what a newer host adds."""
    known = {key: values[key] for key in HostFacts._fields if key in values}
    return HostFacts(**known)


class HostFacts(NamedTuple):
    """What a host says of itself."""

    name: str
    system: str
    machine: str
    python: str
    cores: int
    slots: int = 0
    #: Where the host keeps the tree of this session.
    root: str = ""
    #: What a person should know of it.
    note: str = ""
