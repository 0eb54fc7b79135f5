"""A reader of JUnit XML from any writer, as values that can be compared."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

#: First words of lines of a failure that depend on a host's load or on the writer.
VARYING_LINES = ("took", "rerun")
#: Properties that depend on the slot that was free.
VARYING_PROPERTIES = ("slot",)


@dataclass(frozen=True)
class Row:
    """A testcase without its times."""

    #: Tag, attributes and text of each element, in their order.
    elements: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...]
    properties: tuple[tuple[str, str], ...]
    #: Its attributes except class, name and time.
    others: tuple[tuple[str, str], ...]

    @property
    def outcome(self) -> str:
        """Return ``passed``, or the tag of the element that says otherwise."""
        tags = [tag for tag, _, _ in self.elements]
        return next((tag for tag in tags if tag in ("failure", "error", "skipped")), "passed")


def read_testcases(
    path: Path,
    root: Path | None = None,
    lines: Collection[str] = VARYING_LINES,
    properties: Collection[str] = VARYING_PROPERTIES,
) -> dict[tuple[str, str], list[Row]]:
    """Return the testcases by class and name, those with equal names in their order.

    ``root``: a folder to remove from paths, which a harvested report does not know.  ``lines``,
    ``properties``: first words of lines, and names of properties, to leave out.
    """
    cases: dict[tuple[str, str], list[Row]] = {}
    for case in ET.parse(path).iter("testcase"):
        key = case.attrib.pop("classname"), case.attrib.pop("name")
        case.attrib.pop("time")
        row = Row(
            tuple(_element(each, root, lines) for each in case if each.tag != "properties"),
            tuple(
                (each.get("name", ""), each.get("value", ""))
                for each in case.iterfind("properties/property")
                if each.get("name") not in properties
            ),
            tuple(sorted(case.attrib.items())),
        )
        cases.setdefault(key, []).append(row)
    return cases


def _element(
    element: ET.Element, root: Path | None, lines: Collection[str]
) -> tuple[str, tuple[tuple[str, str], ...], str]:
    assert len(element) == 0, element.tag
    text = element.text or ""
    if root is not None:
        text = text.replace(f"{root}/", "").replace(str(root), "ROOT")
    text = re.sub(rf"(?m)^({'|'.join(lines)}) .*$", r"\1", text)
    text = re.sub(r"(?m)^(host     .*), slot \d+$", r"\1", text)
    return element.tag, tuple(sorted(element.attrib.items())), text


def read_durations(path: Path) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of each testcase; raises ValueError if a time is not a number."""
    times: dict[tuple[str, str], list[float]] = {}
    for case in ET.parse(path).iter("testcase"):
        key = case.get("classname", ""), case.get("name", "")
        times.setdefault(key, []).append(float(case.get("time", "none")))
    return times


def read_suite(path: Path) -> dict[str, str]:
    """Return the attributes of the only suite, and tag and name of its parent."""
    root = ET.parse(path).getroot()
    (suite,) = root
    return {**suite.attrib, "tag": suite.tag, "in": root.tag, "of": root.get("name", "")}
