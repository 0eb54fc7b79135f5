"""Compact storage of finished testcases until pytest writes its JUnit XML.

Pytest keeps an element tree of 2.7 KB for each testcase and writes all of them at the end.  Here a
batch of finished testcases becomes compressed text.  Pytest's own writer still makes the file: it
gets a placeholder for each batch, which the text replaces.  Must not know what a testcase means.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

#: Number of testcases that are compressed together.
BATCH_SIZE = 500

_PLACEHOLDER = "nosejobs-testcases"
#: Splits text into pieces between placeholders and the numbers of those.  Text and attributes of
#: other elements cannot match: ``<`` is escaped there.
_PLACEHOLDERS = re.compile(f'<{_PLACEHOLDER} number="([0-9]+)" />')
_BATCH_START, _BATCH_END = "<batch>", "</batch>"
#: Characters of texts and attributes that have to be escaped.
_SPECIAL = re.compile('[&<>"\r\n\t]')
_TEXT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_ATTRIBUTE_ESCAPES = _TEXT_ESCAPES | str.maketrans(
    {'"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#09;"}
)


class TestcaseStorage:
    """The finished testcases of pytest's writer of JUnit XML (``_pytest.junitxml.LogXML``)."""

    __test__ = False  # no class of tests, whatever pytest makes of its name

    def __init__(self, xml: Any) -> None:
        self._xml = xml
        self._batches: list[bytes] = []
        #: The number of the writer's entries that need not be looked at again.
        self._seen = 0

    def store_finished(self) -> None:
        """Compress the testcases that pytest has finished, once there are enough of them."""
        entries = self._xml.node_reporters_ordered
        if len(entries) - self._seen < BATCH_SIZE:
            return
        kept: list[Any] = []
        for is_finished, group in itertools.groupby(entries[self._seen :], _is_finished):
            some = list(group)
            kept += self._compress(some) if is_finished else some
        entries[self._seen :] = kept
        self._seen = len(entries)

    def _compress(self, entries: list[Any]) -> list[Any]:
        """Return the entry that stands for ``entries``, or these if their text depends on others.

        That is the case where a name has a namespace: it is declared at the root of the document.
        """
        try:
            content = serialize_elements([entry.to_xml() for entry in entries])
        except TypeError:  # pytest's writer will raise it, too, at its time
            return entries
        if content is None:
            return entries
        self._batches.append(zlib.compress(content.encode("utf-8", "surrogatepass"), 1))
        return [_StoredBatch(len(self._batches) - 1)]

    def write_file(self, write: Callable[[], object]) -> None:
        """Write the file of JUnit XML.

        ``write``: pytest's own function, which writes to ``xml.logfile``.
        """
        if not self._batches:
            write()
            return
        outline = self._make_outline(write)
        path = self._xml.logfile
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            for position, piece in enumerate(_PLACEHOLDERS.split(outline)):
                file.write(self._read_batch(int(piece)) if position % 2 else piece)

    def _make_outline(self, write: Callable[[], object]) -> str:
        """Return what pytest writes, with placeholders for the stored testcases."""
        path = self._xml.logfile
        with tempfile.TemporaryDirectory(prefix="nosejobs-junit-") as folder:
            self._xml.logfile = os.path.join(folder, "outline.xml")
            try:
                write()
                with open(self._xml.logfile, encoding="utf-8", newline="") as file:
                    return file.read()
            finally:
                self._xml.logfile = path

    def _read_batch(self, number: int) -> str:
        return zlib.decompress(self._batches[number]).decode("utf-8", "surrogatepass")


def serialize_elements(elements: Sequence[ElementTree.Element]) -> str | None:
    """Return ``elements`` as text; None if it needs declarations at the root of the document.

    Raises TypeError for values that are no strings.
    """
    parts: list[str] = []
    try:
        for each in elements:
            _append_element(each, parts)
    except _UnusualElement:
        batch = ElementTree.Element("batch")
        batch.extend(elements)
        text = ElementTree.tostring(batch, encoding="unicode")
        is_plain = text.startswith(_BATCH_START)
        return text[len(_BATCH_START) : -len(_BATCH_END)] if is_plain else None
    return "".join(parts)


class _UnusualElement(Exception):
    """An element has parts for which ElementTree itself is needed."""


def _append_element(element: ElementTree.Element, parts: list[str]) -> None:
    """Append the text of ``element``, as ElementTree makes it in 1.6 times the time."""
    tag = element.tag
    if type(tag) is not str or tag[:1] in ("{", ""):  # a namespace, a comment, ...
        raise _UnusualElement
    parts.append(f"<{tag}")
    for name, value in element.items():
        if type(name) is not str or name[:1] == "{" or type(value) is not str:
            raise _UnusualElement
        if _SPECIAL.search(value):
            value = value.translate(_ATTRIBUTE_ESCAPES)
        parts.append(f' {name}="{value}"')
    text = element.text
    if text or len(element):
        parts.append(">")
        if text:
            parts.append(_escape_text(text))
        for child in element:
            _append_element(child, parts)
        parts.append(f"</{tag}>")
    else:
        parts.append(" />")
    if element.tail:
        parts.append(_escape_text(element.tail))


def _escape_text(text: str) -> str:
    if type(text) is not str:
        raise _UnusualElement
    return text.translate(_TEXT_ESCAPES) if _SPECIAL.search(text) else text


class _StoredBatch:
    """The entry of the writer that stands for a stored batch."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def to_xml(self) -> ElementTree.Element:
        """Return the placeholder."""
        return ElementTree.Element(_PLACEHOLDER, number=str(self._number))


def _is_finished(entry: Any) -> bool:
    """Return whether pytest has finished a testcase: it has replaced all by a constant element."""
    return getattr(entry, "__dict__", {}).keys() == {"to_xml"}
