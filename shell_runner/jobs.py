"""The client of durable jobs: one host's queue, over one gateway at a time.

Owns the session with a host's desk, and that a connection that breaks is opened again where
what was asked for can be asked again.  What a host says is checked here: nobody behind this
module has to doubt it.  Must not know command lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import CannotOpen, HostError, HostLost, JobRefused, UsageError
from .gateways import Gateway
from .guard import LIMIT, clean_line
from .heartbeat import Pulse, Sign, backoff
from .hosts import HostSpec
from .remote import wire
from .remote.job import ARCHIVE, TREE, Content, JobConfig, JobTest, NewJob, is_uuid
from .remote.model import ERROR, FAILED, OUTCOMES, Test, execution_from_row
from .remote.store import is_digest
from .remote.verdict import judge
from .shipping import Brought, Tree, bring

#: The module that answers on the host, and what we speak with it.
PROGRAM, PROTOCOL = "desk", 1
#: Seconds of silence after which a host is lost.
TIMEOUT = 10.0
#: Seconds that a host may be at one request, its signs of life coming.
_PATIENCE = 600.0
#: Seconds that a request waits on the host for news, before it is asked again.
_LOOK = 20.0
#: How often a lost host is opened again for one request.
_TRIES = 4
#: Bytes that a host may have sent before they are read.
_UNREAD = 2 * LIMIT
#: Bytes that are asked for at once.
_PIECE = 1 << 20
#: A sign of life.
_PONG = b'J[["pong",'
#: Items of a list that a host may answer with.
_MANY = 10_000

_STATES = frozenset(["queued", "running", "packaging", "ready", "harvested"])
#: Those in which a job has ended, and a package is there.
DONE = frozenset(["ready", "harvested"])

T = TypeVar("T")


# -- what a host says, checked ----------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a list shows of a job."""

    id: str
    number: int
    name: str
    labels: tuple[str, ...]
    priority: int
    #: How many tests it has.
    count: int
    state: str
    #: How it ended; empty while it has not.
    how: str
    detail: str
    cancelled: bool
    #: Why it does not get on; empty if it does.
    trouble: str
    submitted: float
    ended: float | None
    #: SHA-256 and bytes of its package.
    package: str
    size: int
    harvested: float | None
    attempts: int
    #: Where its last attempt is.
    step: str
    #: Tests of the last attempt, by outcome.
    outcomes: Mapping[str, int]

    @property
    def is_done(self) -> bool:
        """It has ended, and its package can be harvested."""
        return self.state in DONE

    @property
    def failed(self) -> int:
        """Tests that have failed so far, errors among them."""
        return self.outcomes.get(FAILED, 0) + self.outcomes.get(ERROR, 0)


@dataclass(frozen=True)
class Attempt:
    """One start of a job."""

    id: str
    number: int
    step: str
    detail: str
    began: float
    ended: float | None


@dataclass(frozen=True)
class FailedTest:
    """A test that has failed, and why in a few words."""

    nodeid: str
    outcome: str
    words: str


@dataclass(frozen=True)
class Report:
    """What is known of one job."""

    job: Job
    #: Jobs before it in the queue.
    ahead: int
    attempts: tuple[Attempt, ...]
    #: The first of the tests that have failed, and how many there are.
    failed: tuple[FailedTest, ...]
    failures: int
    config: Mapping[str, Any]
    build: Content | None
    tests: Content | None
    #: Why no worker could be started; empty if one is there or not needed.
    no_worker: str = ""


@dataclass(frozen=True)
class Listing:
    """Jobs of a host, newest first, and how many it has in each state."""

    jobs: tuple[Job, ...]
    counts: Mapping[str, int]
    no_worker: str = ""


class _Odd(ValueError):
    """A host says what cannot be."""


class _Fields:
    """The values of a JSON object that a host has sent; _Odd for what cannot be."""

    def __init__(self, values: Any) -> None:
        if not isinstance(values, dict):
            raise _Odd("no table")
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values.get(key)

    def text(self, key: str, most: int = 1000) -> str:
        value = self._values.get(key)
        if not isinstance(value, str):
            raise _Odd(f"{key} {value!r:.50}")
        return clean_line(value, most)

    def whole(self, key: str, least: int = 0) -> int:
        value = self._values.get(key)
        if type(value) is not int or not least <= value < 1 << 62:
            raise _Odd(f"{key} {value!r:.50}")
        return value

    def number(self, key: str) -> float:
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _Odd(f"{key} {value!r:.50}")
        if not -1e12 < value < 1e12:
            raise _Odd(f"{key} {value!r:.50}")
        return float(value)

    def date(self, key: str) -> float | None:
        return None if self._values.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        if not isinstance(self._values.get(key), bool):
            raise _Odd(f"{key} {self._values.get(key)!r:.50}")
        return bool(self._values[key])

    def items(self, key: str, most: int = _MANY) -> list[Any]:
        value = self._values.get(key)
        if not isinstance(value, list) or len(value) > most:
            raise _Odd(f"{key} is no list, or too long")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(_word(each) for each in self.items(key))

    def counts(self, key: str, names: frozenset[str]) -> dict[str, int]:
        found = _Fields(self._values.get(key))
        for name in found._values:
            if name not in names:
                raise _Odd(f"{key} {name!r:.50}")
        return {name: found.whole(name) for name in found._values}


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise _Odd(f"{value!r:.50} where a text is")
    return clean_line(value)


def _job(values: Any) -> Job:
    found = _Fields(values)
    state, package = found.text("state"), found.text("package")
    if not is_uuid(found["id"]) or state not in _STATES or (package and not is_digest(package)):
        raise _Odd(f"job {found['id']!r:.50}, state {state!r}")
    return Job(
        id=found["id"],
        number=found.whole("number"),
        name=found.text("name"),
        labels=found.texts("labels"),
        priority=found.whole("priority", -(1 << 31)),
        count=found.whole("count"),
        state=state,
        how=found.text("how"),
        detail=found.text("detail"),
        cancelled=found.flag("cancelled"),
        trouble=found.text("trouble"),
        submitted=found.number("submitted"),
        ended=found.date("ended"),
        package=package,
        size=found.whole("size"),
        harvested=found.date("harvested"),
        attempts=found.whole("attempts"),
        step=found.text("step"),
        outcomes=found.counts("outcomes", OUTCOMES),
    )


def _attempt(values: Any) -> Attempt:
    found = _Fields(values)
    if not is_uuid(found["id"]):
        raise _Odd(f"attempt {found['id']!r:.50}")
    return Attempt(
        found["id"], found.whole("number"), found.text("step"), found.text("detail"),
        found.number("began"), found.date("ended"),
    )  # fmt: skip


def _failed(row: Any) -> FailedTest:
    if not isinstance(row, list) or len(row) != 4 or row[1] not in OUTCOMES:
        raise _Odd(f"a failed test {row!r:.50}")
    words = ""
    if row[3] is not None:
        try:
            words = judge(Test(*row[2]), execution_from_row(row[3])).words
        except (TypeError, ValueError, AttributeError) as error:
            raise _Odd(str(error)) from error
    return FailedTest(_word(row[0]), row[1], clean_line(words))


def _content(row: Any) -> Content | None:
    if row is None:
        return None
    if not isinstance(row, list) or len(row) != 4 or not is_digest(str(row[1])):
        raise _Odd(f"contents {row!r:.50}")
    if row[0] not in (TREE, ARCHIVE) or type(row[2]) is not int:
        raise _Odd(f"contents {row!r:.50}")
    return Content(row[0], row[1], row[2], _word(row[3]))


def _config(values: Any) -> dict[str, Any]:
    """To be shown only: texts without control characters, and no secret."""
    found = _Fields(values)
    known = [name for name in JobConfig._fields if name != "secret"]
    return {name: _shown(found[name]) for name in known}


def _shown(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return clean_line(value, 4000)
    if isinstance(value, list) and len(value) <= _MANY and depth < 3:
        return [_shown(each, depth + 1) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise _Odd(f"config {value!r:.50}")


def _report(values: Any) -> Report:
    found, failed = _Fields(values), _Fields(_Fields(values)["failed"])
    return Report(
        job=_job(values),
        ahead=found.whole("ahead"),
        attempts=tuple(map(_attempt, found.items("tried"))),
        failed=tuple(map(_failed, failed.items("first"))),
        failures=failed.whole("count"),
        config=_config(found["config"]),
        build=_content(found["build"]),
        tests=_content(found["contents"]),
        no_worker=found.text("no_worker"),
    )


def _listing(values: Any) -> Listing:
    found = _Fields(values)
    jobs = tuple(map(_job, found.items("jobs")))
    return Listing(jobs, found.counts("counts", _STATES), found.text("no_worker"))


# -- one connection ---------------------------------------------------------------


class Session:
    """A conversation with the desk of one host: one request at a time."""

    def __init__(self, spec: HostSpec, timeout: float = TIMEOUT) -> None:
        """Open the host; raises CannotOpen.  ``timeout``: seconds of silence to put up with."""
        self.host = spec.id
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._came = self._taken = 0
        self._ended = threading.Event()
        #: Why the connection was given up by us.
        self._verdict = ""
        self._gateway = Gateway(spec, self._receive, silence=timeout * 1.5, program=PROGRAM)
        self._pulse = Pulse(timeout, time.monotonic())
        threading.Thread(target=self._listen, daemon=True, name=f"pulse {spec.id}").start()
        try:
            self.call("hello", protocol=PROTOCOL)
        except BaseException:
            self.close()
            raise

    def _receive(self, frame: bytes | None) -> None:
        """Called in the gateway's thread: only enqueues."""
        if frame is None:
            self._ended.set()
        elif frame.startswith(_PONG):
            return
        else:
            self._came += len(frame)
            if self._came - self._taken > _UNREAD:
                self._give_up("sent more than it was asked for")
                return
        self._answers.put(frame)

    def _listen(self) -> None:
        """A host that is stopped, or a network that drops all, says nothing."""
        while not self._ended.wait(self._pulse.interval):
            sign = self._pulse.look(time.monotonic(), self._gateway.heard)
            if sign is Sign.ASK:
                self._gateway.ping()
            elif sign is Sign.LOST:
                self._give_up(f"has not answered for {self._pulse.limit:g} s")

    def _give_up(self, why: str) -> None:
        self._verdict = why
        self._ended.set()
        self._gateway.kill()
        self._answers.put(None)

    def _lost(self) -> HostLost:
        words = self._verdict or clean_line(self._gateway.epitaph()) or "the connection ended"
        return HostLost(self.host, words)

    def _odd(self, error: object) -> HostError:
        """It is not to be believed: nothing more is asked of it."""
        self._give_up("says odd things")
        return HostError(self.host, f"says odd things: {clean_line(str(error))}")

    def _next(self) -> list[Any] | wire.Blob:
        """The next message that is more than a sign of life."""
        while True:
            try:
                frame = self._answers.get(timeout=_PATIENCE)
            except queue.Empty:
                raise HostLost(self.host, f"has been at it for {_PATIENCE:g} s") from None
            if frame is None:
                self._answers.put(None)
                raise self._lost()
            self._taken += len(frame)
            try:
                found = wire.unpack(frame)
            except ValueError as error:
                raise self._odd(error) from error
            if isinstance(found, tuple):
                return found
            if found == [["took"]]:
                continue
            if len(found) != 1:
                raise self._odd(f"{len(found)} answers to one request")
            if found[0][0] == "trouble":
                words = clean_line(str(found[0][1:]))
                raise HostError(self.host, words)
            return found[0]

    def _send(self, frame: bytes) -> None:
        try:
            self._gateway.send(frame)
        except OSError as error:
            raise self._lost() from error

    def _ask(self, name: str, arguments: Mapping[str, Any]) -> tuple[Any, bytes | None]:
        self._send(wire.pack([["call", name, dict(arguments)]]))
        found = self._next()
        body: bytes | None = None
        if isinstance(found, tuple):
            found, body = found
        if isinstance(found, list) and len(found) == 2 and found[0] == "answer":
            return found[1], body
        if isinstance(found, list) and len(found) == 3 and found[0] == "refused":
            raise JobRefused(self.host, clean_line(str(found[1])), clean_line(str(found[2])))
        raise self._odd(f"no answer: {str(found)[:50]!r}")

    def call(self, request: str, /, **arguments: Any) -> Any:
        """The answer to one request; JobRefused, HostLost, or HostError for nonsense."""
        value, body = self._ask(request, arguments)
        if body is not None:
            raise self._odd("bytes that nobody asked for")
        return value

    def fetch(self, request: str, /, **arguments: Any) -> tuple[Any, bytes]:
        """The same for a request that is answered with bytes."""
        value, body = self._ask(request, arguments)
        if body is None:
            raise self._odd("no bytes where some were asked for")
        return value, body

    def read(self, parse: Callable[[Any], T], value: Any) -> T:
        """What ``parse`` makes of a value; HostError for what cannot be."""
        try:
            return parse(value)
        except _Odd as error:
            raise self._odd(error) from error

    def bring(self, tree: Tree, progress: Callable[[int, int], None]) -> Brought:
        """All contents of a tree are on the host, and stay until the session's next job is in."""

        def wait(name: str) -> list[Any]:
            found = self._next()
            if isinstance(found, tuple) or found[0] != name:
                raise self._odd(f"{str(found)[:50]!r} where {name!r} is expected")
            return found[1:]

        try:
            return bring(tree, self._send, wait, progress)
        except ValueError as error:
            raise self._odd(error) from error

    def close(self) -> None:
        """End the connection."""
        self._ended.set()
        self._gateway.send_if_room(wire.pack([["stop"]]), patience=0.2)
        self._gateway.close()


# -- logs -------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Up to where a log has been read: attempt, bytes, and the CRC-32 of all of them."""

    attempt: int = 0
    offset: int = 0
    crc: int = 0

    def __str__(self) -> str:
        return f"{self.attempt}:{self.offset}:{self.crc:08x}"


def place_of(text: str) -> Place:
    """``2:4096:89abcdef``; raises UsageError."""
    try:
        attempt, offset, crc = text.split(":")
        found = Place(int(attempt), int(offset), int(crc, 16))
    except ValueError:
        found = Place(-1)
    if found.attempt < 1 or found.offset < 0 or not 0 <= found.crc < 1 << 32:
        raise UsageError(f"{text!r} is no place in a log, as 1:2048:89abcdef is")
    return found


class Gap(HostError):
    """A log is not the one that was read before."""


@dataclass(frozen=True)
class Piece:
    """Some of a log, and the place behind it."""

    place: Place
    data: bytes
    #: Nothing more will come.
    is_end: bool = False


# -- one host ---------------------------------------------------------------------


class Client:
    """The queue of one host; opens it when it is needed, and again when it was lost."""

    def __init__(
        self,
        spec: HostSpec,
        timeout: float = TIMEOUT,
        say: Callable[[str], None] = lambda words: None,
        open_session: Callable[[HostSpec, float], Session] = Session,
    ) -> None:
        """``say``: told in words what takes long or went wrong and is tried again."""
        self.spec = spec
        self._timeout = timeout
        self._say = say
        self._open = open_session
        self._session: Session | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _with_session(self, request: Callable[[Session], T]) -> T:
        """What can be asked again is asked again, over a new connection."""
        opened = False
        for number in range(_TRIES):
            try:
                if self._session is None:
                    self._session = self._open(self.spec, self._timeout)
                opened = True
                return request(self._session)
            except (HostLost, CannotOpen) as error:
                self.close()
                # A host that was never there is not waited for.
                if not opened or number == _TRIES - 1:
                    raise
                self._say(f"{error}; opening it again")
                time.sleep(backoff(number))
            except HostError:
                self.close()
                raise
        raise AssertionError("unreachable")

    def _call(self, parse: Callable[[Any], T], request: str, /, **arguments: Any) -> T:
        return self._with_session(lambda s: s.read(parse, s.call(request, **arguments)))

    def _call_of(self, job: str, name: str, **arguments: Any) -> Job:
        """A request that is answered with the job of which it is."""
        return self._call(_same(job, _job), name, job=job, **arguments)

    # -- handing in ---------------------------------------------------------------

    def submit(
        self,
        job: NewJob,
        trees: Sequence[Tree] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Job, list[Brought]]:
        """Bring what the host lacks of the trees, then hand in the job; safe to be repeated."""

        def request(session: Session) -> tuple[Job, list[Brought]]:
            brought = [session.bring(tree, progress) for tree in trees]
            answer = session.call("submit", job=_row(job))
            return session.read(_same(job.id, _job), answer), brought

        return self._with_session(request)

    def rerun(self, job: str, id: str, tests: Sequence[str], failed: bool) -> Job:
        """A new job ``id``: some tests of ``job`` again, with the same contents and config."""
        return self._call(_same(id, _job), "rerun", job=job, id=id, tests=tests, failed=failed)

    # -- looking ------------------------------------------------------------------

    def jobs(self, states: Sequence[str] = (), label: str = "", limit: int = 100) -> Listing:
        """The newest jobs."""
        return self._call(_listing, "jobs", states=states, label=label, limit=limit)

    def job(self, job: str) -> Report:
        """All that is known of one job, by its UUID or the beginning of it."""

        def parse(value: Any) -> Report:
            report = _report(value)
            if not report.job.id.startswith(job):
                raise _Odd(f"job {report.job.id} where {job} was asked for")
            return report

        return self._call(parse, "job", job=job)

    def find(self, job: str) -> str:
        """The UUID that begins so."""
        return job if is_uuid(job) else self.job(job).job.id

    def wait(self, job: str) -> Job:
        """The job, once it has ended and can be harvested."""
        while True:
            found = self._call_of(job, "package", seconds=_LOOK)
            if found.is_done:
                return found

    def log(
        self, job: str, start: Place = Place(), follow: bool = False, attempt: int = 0
    ) -> Iterator[Piece]:
        """The log of an attempt (0: the last one), from ``start`` on.

        ``follow``: as it grows, and those of later attempts, until the job has ended.  A
        connection that breaks is opened again; raises Gap if the log is another one then.
        """
        place = start if start.attempt else Place(attempt)
        seen: list[Any] | None = None
        while True:
            found, data = self._log(job, place, seen, follow)
            seen = found.mark
            place = Place(found.attempt, place.offset + len(data), zlib.crc32(data, place.crc))
            more = bool(data) or (follow and not found.is_end)
            yield Piece(place, data, not more)
            if not more:
                return
            if follow and found.over and not data and found.attempt < found.attempts:
                place = Place(found.attempt + 1)

    def _log(self, job: str, place: Place, seen: Any, follow: bool) -> tuple[_LogFacts, bytes]:
        def request(session: Session) -> tuple[_LogFacts, bytes]:
            value, data = session.fetch(
                "log", job=job, attempt=place.attempt, offset=place.offset,
                seconds=_LOOK if follow else 0.0, seen=seen, size=_PIECE,
            )  # fmt: skip
            found = session.read(_log_facts, value)
            if len(data) > _PIECE or (place.attempt and found.attempt != place.attempt):
                raise session._odd("another piece of a log than was asked for")
            return found, data

        try:
            found, data = self._with_session(request)
        except JobRefused as error:
            if error.kind == "differs":
                raise self._gap(job, place, str(error)) from error
            raise
        if place.offset and found.crc != place.crc:
            raise self._gap(job, place, "the bytes before are others")
        return found, data

    def _gap(self, job: str, place: Place, why: str) -> Gap:
        words = f"the log of job {job}, attempt {place.attempt}, is not the one of which "
        words += f"{place.offset} bytes were read before ({why})"
        return Gap(self.spec.id, words, f"nosejobs job logs {job}, from its beginning")

    # -- the package --------------------------------------------------------------

    def download(
        self,
        job: str,
        path: Path,
        verify: Callable[[Path], None],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Job:
        """The package of a job that has ended, whole and with the digest that the host says.

        Into ``path``, by ``path.part``, which goes on where it was left.  ``verify``: raises
        for a package that is none; then nothing of it stays.
        """
        found = self._call_of(job, "package", seconds=0.0)
        if not found.is_done or not found.package:
            words = f"job {found.id} is {found.state}: there is no package yet"
            hint = f"nosejobs job harvest --wait {found.id}"
            raise JobRefused(self.spec.id, "state", words, hint)
        if path.exists() and _digest(path) == found.package:
            verify(path)
            return found
        with _part(path) as (part, name):
            self._fetch(found, part, path, progress)
            try:
                verify(name)
            except BaseException:
                part.truncate(0)
                raise
            os.replace(name, path)
        return found

    def _fetch(self, job: Job, part: Any, path: Path, progress: Callable[[int, int], None]) -> None:
        resumed = seen = _begun(part, job.size)
        _refuse_without_room(path, job.size - seen.size)
        while True:
            while seen.size < job.size:
                data = self._piece(job, seen.size)
                part.write(data)
                seen = seen.add(data)
                progress(seen.size, job.size)
            if seen.hash.hexdigest() == job.package:
                part.flush()
                os.fsync(part.fileno())
                return
            part.truncate(0)
            part.seek(0)
            if not resumed.size:
                words = f"the package of job {job.id} does not have the digest that it names"
                raise HostError(self.spec.id, words, "harvest it again; nothing was acknowledged")
            # What was there before is of another package.
            resumed = seen = _Seen(0, hashlib.sha256())

    def _piece(self, job: Job, offset: int) -> bytes:
        size = min(_PIECE, job.size - offset)

        def request(session: Session) -> bytes:
            _, data = session.fetch("fetch", job=job.id, offset=offset, size=size)
            if len(data) > size or not data:
                raise session._odd(f"{len(data)} bytes of a package where {size} are asked for")
            return data

        return self._with_session(request)

    def acknowledge(self, job: str, digest: str) -> Job:
        """The package is safe here: the host may let it go."""
        return self._call_of(job, "acknowledge", digest=digest)

    # -- changing -----------------------------------------------------------------

    def cancel(self, job: str) -> Job:
        """The job is to end; what has run of it comes as a package like any other."""
        return self._call_of(job, "cancel")

    def forget(self, job: str, force: bool = False) -> Job:
        """Nothing of the job stays on the host."""
        return self._call_of(job, "forget", force=force)

    def limits(self) -> Mapping[str, int]:
        """What the host's queue is bounded by."""
        return self._call(_limits, "limits")

    def set_limit(self, name: str, value: int) -> Mapping[str, int]:
        """The same, after one has been changed."""
        return self._call(_limits, "limit", name=name, value=value)


def _same(job: str, parse: Callable[[Any], Job]) -> Callable[[Any], Job]:
    def check(value: Any) -> Job:
        found = parse(value)
        if found.id != job:
            raise _Odd(f"job {found.id} where {job} was asked for")
        return found

    return check


def _limits(value: Any) -> dict[str, int]:
    found = _Fields(value)
    if len(found._values) > 100:
        raise _Odd("too many limits")
    return {clean_line(str(name), 100): found.whole(name) for name in found._values}


@dataclass(frozen=True)
class _LogFacts:
    """What a host says of a log beside its bytes."""

    mark: list[Any]
    attempt: int
    attempts: int
    #: This attempt writes no more.
    over: bool
    crc: int
    #: The job has ended.
    is_end: bool


def _log_facts(value: Any) -> _LogFacts:
    found = _Fields(value)
    mark = found.items("mark", 10)
    attempt, attempts, over = found.whole("attempt"), found.whole("attempts"), found.flag("over")
    ended = over and attempt >= attempts and bool(found.text("how"))
    return _LogFacts(
        [_shown(each) for each in mark], attempt, attempts, over, found.whole("crc"), ended
    )


def _row(job: NewJob) -> dict[str, Any]:
    """As it travels."""
    return {**job._asdict(), "config": job.config._asdict()}


@dataclass(frozen=True)
class _Seen:
    """What has come of a package."""

    size: int
    hash: Any

    def add(self, data: bytes) -> _Seen:
        self.hash.update(data)
        return _Seen(self.size + len(data), self.hash)


def _begun(part: Any, size: int) -> _Seen:
    """What an earlier harvest has left; nothing if it is of a larger package."""
    if os.fstat(part.fileno()).st_size > size:
        part.truncate(0)
    seen = _Seen(0, hashlib.sha256())
    part.seek(0)
    while data := part.read(_PIECE):
        seen = seen.add(data)
    return seen


@contextlib.contextmanager
def _part(path: Path) -> Iterator[tuple[Any, Path]]:
    """The file in which a package grows, ours alone."""
    name = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}") from error
    with open(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{name}: another harvest is at it") from error
        try:
            yield file, name
        finally:
            # What is complete has been renamed; an empty one is of no use.
            with contextlib.suppress(OSError):
                if not name.stat().st_size:
                    name.unlink()


def _refuse_without_room(path: Path, size: int) -> None:
    found = os.statvfs(path.parent)
    room = found.f_bavail * found.f_frsize
    if size > room:
        raise UsageError(f"{path}: the package needs {size} bytes more, the disk has {room}")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_job(
    id: str,
    tests: Content,
    build: Content | None,
    config: JobConfig,
    cases: Sequence[JobTest],
    name: str = "",
    labels: Sequence[str] = (),
    priority: int = 0,
) -> NewJob:
    """A job whose tests are numbered in their order."""
    numbered = (
        case._replace(test=case.test._replace(id=number)) for number, case in enumerate(cases)
    )
    return NewJob(id, tests, build, config, tuple(numbered), name, tuple(labels), priority)
