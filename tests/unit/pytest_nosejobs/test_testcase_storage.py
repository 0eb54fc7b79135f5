"""Tests that JUnit XML out of stored testcases is, byte by byte, what pytest writes."""

from __future__ import annotations

import datetime
import itertools
import random
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from _pytest.junitxml import LogXML

from pytest_nosejobs import junit_xml, pytest_internals, testcase_storage
from pytest_nosejobs.testcase_storage import TestcaseStorage

#: Maximum bytes that a finished testcase takes.
MAX_BYTES = 256
#: An element of an earlier attempt.
ATTEMPT = ("flakyFailure", "failed", "why", "text")
#: Texts that XML cannot hold as they are.
ODD_TEXTS = (
    "", "plain", "a < b && c > \"d\" 'e'", "one\ntwo\r\nthree\rfour\tfive", "\x1b[31m\x00\x7f\x85",
    "\ud800 \udfff \ufffe", "\U0001f600 ä \u202e", "]]>", "<testcase />", "</batch>", "xmlns:ns0=",
    '<nosejobs-testcases number="0" />', "x" * 3000,
)  # fmt: skip
#: Phases and outcomes of the reports of one test, and whether it was expected to fail.
TESTS = (
    ("setup passed", "call passed", "teardown passed"),
    ("call passed",),
    ("setup passed", "call failed", "teardown passed"),
    ("setup passed", "call skipped", "teardown passed"),
    ("setup skipped", "teardown passed"),
    ("setup failed", "teardown passed"),
    ("setup passed", "call passed", "teardown failed"),
    ("setup passed", "call failed", "teardown failed"),
    ("setup passed", "call skipped xfail", "teardown passed"),
    ("setup passed", "call failed xfail", "teardown passed"),
    ("setup passed", "call passed xfail", "teardown passed"),
    ("setup passed", "call rerun", "setup passed", "call passed", "teardown passed"),
    ("setup passed", "call passed"),
)


class SuiteStart:
    """A start of a session whose time is always the same."""

    def elapsed(self) -> Any:
        return SimpleNamespace(seconds=12.5)

    def as_utc(self) -> datetime.datetime:
        return datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


class Session:
    """A session that writes JUnit XML, whose only plugin is pytest's writer."""

    def __init__(self, path: Path, stores: bool, **settings: Any) -> None:
        self.path = path
        self.xml: Any = LogXML(path, **settings)
        self.xml.suite_start = SuiteStart()
        self.manager = pytest.PytestPluginManager()
        self.manager.register(self.xml)
        self.storage = TestcaseStorage(self.xml)
        if stores:
            config: Any = SimpleNamespace(hook=self.manager.hook)
            write = self.storage.write_file
            assert pytest_internals.replace_junit_writing(config, self.xml, write)
        self._stores = stores

    def log(self, report: Any) -> None:
        """Pass a report to the writer, with what the plugin does before and after it."""
        self.xml.pytest_runtest_logreport(report)
        if report.outcome == "rerun":
            junit_xml.remove_testcase(self.xml, report)
        elif report.when == "call" and report.passed and report.only:
            junit_xml.attach_files(self.xml, report)
            junit_xml.add_earlier_attempts(self.xml, report, [ATTEMPT])
            junit_xml.finish_testcase(self.xml, report)
        if self._stores:
            self.storage.store_finished()

    def write(self) -> bytes:
        self.manager.hook.pytest_sessionfinish(session=None, exitstatus=0)
        return self.path.read_bytes()


def make_report(number: int, step: str, only: bool, texts: random.Random) -> Any:
    when, outcome, *xfail = step.split()
    text = texts.choice(ODD_TEXTS)
    name = f"tests/test_many.sh::case {number} {text}"
    longrepr: Any = None
    if outcome == "failed":
        longrepr = text
    elif outcome == "skipped":
        longrepr = ("tests/test_many.sh", 3, f"Skipped: {text}")
    sections = [(f"Captured {each}", texts.choice(ODD_TEXTS)) for each in ("stdout call", "log")]
    more = {"wasxfail": f"reason: {text}"} if xfail else {}
    return pytest.TestReport(
        f"tests/test_many.sh::case {number}", ("tests/test_many.sh", None, name), {},
        outcome, longrepr, when, sections, number / 7,
        user_properties=[("host", text), ("number", number)], only=only,
        nosejobs_files=["artifacts/a.log"], **more,
    )  # fmt: skip


def log_everything(session: Session, seed: int) -> None:
    """Log every kind of test, each with every odd text, in random order, some side by side."""
    texts = random.Random(seed)
    tests = [*TESTS * 8]
    texts.shuffle(tests)
    queues = [
        [make_report(number, step, len(steps) == 1, texts) for step in steps]
        for number, steps in enumerate(tests)
    ]
    open_tests: list[list[Any]] = []
    while queues or open_tests:
        if queues and len(open_tests) < 3:
            open_tests.append(queues.pop())
        reports = texts.choice(open_tests)
        session.log(reports.pop(0))
        open_tests = [each for each in open_tests if each]
    session.xml.add_global_property("suite", texts.choice(ODD_TEXTS))


@pytest.mark.parametrize("family", ["xunit1", "xunit2", "legacy"])
@pytest.mark.parametrize("logging", ["no", "all", "out-err"])
@pytest.mark.parametrize("batch_size", [1, 3, 40, 10_000])
def test_the_file_is_what_pytest_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Any, logging: Any, batch_size: int
) -> None:
    monkeypatch.setattr(testcase_storage, "BATCH_SIZE", batch_size)
    choices: Any = itertools.product([None, "a.prefix"], [True, False], ["total", "call"])
    for seed, (prefix, log_passing_tests, report_duration) in enumerate(choices):
        settings = {
            "prefix": prefix, "suite_name": "<suite>", "logging": logging, "family": family,
            "log_passing_tests": log_passing_tests, "report_duration": report_duration,
        }  # fmt: skip
        written = []
        for stores in (False, True):
            session = Session(tmp_path / f"new/{seed}-{stores}.xml", stores, **settings)
            log_everything(session, seed)
            written.append(session.write())
            assert session.xml.logfile == str(session.path)
            assert bool(session.storage._batches) is (stores and batch_size < 100)
        assert written[0] == written[1]
        ElementTree.fromstring(written[1])


def test_a_name_with_a_namespace_stays_with_pytest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testcase_storage, "BATCH_SIZE", 2)
    written = []
    for stores in (False, True):
        session = Session(tmp_path / f"{stores}.xml", stores, prefix=None, family="xunit1")
        for number in range(9):
            report = make_report(number, "call passed", False, random.Random(1))
            if number == 4:
                session.xml.node_reporter(report).add_attribute("{http://a.example}kind", "odd")
            session.log(report)
            session.xml.finalize(report)
        assert len(session.storage._batches) == (3 if stores else 0)
        written.append(session.write())
    assert written[0] == written[1]
    assert b"xmlns:ns0" in written[1]


def test_a_file_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testcase_storage, "BATCH_SIZE", 1)
    (tmp_path / "folder.xml").mkdir()
    session = Session(tmp_path / "folder.xml", True, prefix=None)
    log_everything(session, 1)
    with pytest.raises(IsADirectoryError, match=r"folder\.xml"):
        session.write()


@pytest.mark.parametrize("missing", ["logfile", "node_reporters_ordered"])
def test_another_writer_is_left_alone(missing: str) -> None:
    class Writer:
        logfile = "x.xml"

        def __init__(self) -> None:
            self.node_reporters_ordered: list[Any] = []

        def pytest_sessionfinish(self) -> None:
            return None

    def is_replaced(writer: Any) -> bool:
        manager = pytest.PytestPluginManager()
        manager.register(writer)
        config: Any = SimpleNamespace(hook=manager.hook)
        return pytest_internals.replace_junit_writing(config, writer, lambda write: None)

    assert is_replaced(Writer())
    if missing == "logfile":
        del Writer.logfile
        assert not is_replaced(Writer())
    else:
        other: Any = Writer()
        other.node_reporters_ordered = ()
        assert not is_replaced(other)


def test_a_finished_testcase_takes_less_than_its_limit(tmp_path: Path) -> None:
    count = 4 * testcase_storage.BATCH_SIZE
    session = Session(tmp_path / "x.xml", True, prefix=None)
    sizes = []
    tracemalloc.start()
    try:
        for number in range(2 * count):
            report = make_report(number, "call passed", True, random.Random(1))
            session.log(report)
            if number % count == count - 1:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < count * MAX_BYTES


#: Names of elements and attributes; those with a namespace are declared at the root.
NAMES = ("testcase", "property", "a-b", "with:prefix")
NAMESPACED = ("{urn:x}name", "{http://www.w3.org/XML/1998/namespace}lang")


def _make_random_element(rng: random.Random, names: tuple[str, ...], depth: int = 3) -> Any:
    element = ElementTree.Element(rng.choice(names))
    texts = [each for each in ODD_TEXTS if "\ud800" not in each]
    for _ in range(rng.randrange(4)):
        element.set(rng.choice(names), rng.choice(texts))
    element.text, element.tail = rng.choice([None, *texts]), rng.choice([None, None, *texts])
    if depth:
        for _ in range(rng.randrange(4)):
            element.append(_make_random_element(rng, names, depth - 1))
    if not rng.randrange(10):
        element.append(ElementTree.Comment("a comment"))
    return element


@pytest.mark.parametrize("names", [NAMES, NAMES + NAMESPACED], ids=["plain", "namespaces"])
def test_elements_are_serialized_as_by_element_tree(names: tuple[str, ...]) -> None:
    seen_none = False
    for seed in range(300):
        rng = random.Random(seed)
        elements = [_make_random_element(rng, names) for _ in range(rng.randrange(4))]
        root = ElementTree.Element("root")
        root.extend(elements)
        expected = ElementTree.tostring(root, encoding="unicode")
        content = testcase_storage.serialize_elements(elements)
        if content is None:
            assert "xmlns:" in expected.partition(">")[0]
            seen_none = True
        else:
            inner = f"<root>{content}</root>" if content else "<root />"
            assert inner == expected
    assert seen_none == (names != NAMES)


@pytest.mark.parametrize("value", [1, b"bytes", None])
def test_values_that_are_no_strings_raise_as_in_element_tree(value: Any) -> None:
    element = ElementTree.Element("testcase", {"name": value})
    with pytest.raises(TypeError):
        ElementTree.tostring(element, encoding="unicode")
    with pytest.raises(TypeError):
        testcase_storage.serialize_elements([element])
