"""JUnit XML as values that can be compared, whoever wrote it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

#: Lines of a failure that depend on the load of a host, or on who tells of it.
LINES = ("took", "rerun")
#: Properties that depend on which slot was free.
PROPERTIES = ("slot",)


@dataclass(frozen=True)
class Row:
    """What a testcase says, but for its times."""

    #: Tag, attributes and text of each element, in their order.
    elements: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...]
    properties: tuple[tuple[str, str], ...]
    #: Its attributes, but for class, name and time.
    others: tuple[tuple[str, str], ...]

    @property
    def outcome(self) -> str:
        """``passed``, or the element that says otherwise."""
        tags = [tag for tag, _, _ in self.elements]
        return next((tag for tag in tags if tag in ("failure", "error", "skipped")), "passed")


def cases(
    path: Path,
    root: Path | None = None,
    lines: Collection[str] = LINES,
    properties: Collection[str] = PROPERTIES,
) -> dict[tuple[str, str], list[Row]]:
    """By class and name; two testcases with the same are both there, in their order.

    ``root``: a folder whose paths are told relative to it (who harvests a job knows no place of
    its tests); ``lines``, ``properties``:
    what is left out of them.
    """
    found: dict[tuple[str, str], list[Row]] = {}
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
        found.setdefault(key, []).append(row)
    return found


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


def times(path: Path) -> dict[tuple[str, str], list[float]]:
    """Seconds of each testcase; ValueError for what is no number."""
    found: dict[tuple[str, str], list[float]] = {}
    for case in ET.parse(path).iter("testcase"):
        key = case.get("classname", ""), case.get("name", "")
        found.setdefault(key, []).append(float(case.get("time", "none")))
    return found


def suite(path: Path) -> dict[str, str]:
    """The attributes of the one suite, and what holds it."""
    root = ET.parse(path).getroot()
    (found,) = root
    return {**found.attrib, "tag": found.tag, "in": root.tag, "of": root.get("name", "")}
