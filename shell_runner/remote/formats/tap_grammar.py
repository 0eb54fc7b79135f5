"""The grammar of TAP lines, and the diagnostics that follow a test point.

Holds the patterns of the line types, the parser of descriptions and directives, and the reader of
comments and YAML blocks.  This module must not know documents, plans or subtests.
"""

import re
from typing import NamedTuple, Optional

from ..protocol.model import PASSED, Case
from .bounds import MAX_MESSAGE_CHARS, Excerpt, parse_seconds, truncate

# Each matches a line without its indentation.
match_point = re.compile(r"(not )?ok(?:[ \t]+([0-9]+)\b)?(?:[ \t]+(.*))?\Z", re.S).match
match_plan = re.compile(r"1\.\.([0-9]+)[ \t]*(?:#[ \t]*(.*)|(skip.*))?\Z", re.S | re.I).match
match_version = re.compile(r"TAP\s+version\s+([0-9]+)\s*\Z", re.I).match
match_pragma = re.compile(r"pragma\s+([+-][\w-]+(?:\s*,\s*[+-][\w-]+)*)\s*\Z").match
match_bail_out = re.compile(r"Bail out!\s*(.*)\Z", re.S | re.I).match
match_subtest = re.compile(r"# Subtest(?:: ?(.*))?\Z", re.S).match

_SKIP_WORD = re.compile(r"skip\S*\s*", re.I)
_find_hashes = re.compile(r"\\[\\#]|#").finditer
_match_directive = re.compile(r"\s*(skip|todo)(\S*)(?:\s+(.*))?\Z", re.S | re.I).match
_match_time = re.compile(r"\s*time=([0-9.]+)(ms|s)\b(.*)\Z", re.S).match
_ESCAPE = re.compile(r"\\([\\#])")
_match_yaml_duration = re.compile(r"duration(_ms)?:\s*[\"']?([0-9.eE+-]+)[\"']?\s*\Z").match
_match_yaml_message = re.compile(r"(?:message|error):\s+(.*)\Z", re.S).match


class Description(NamedTuple):
    """The text of a test point after its number."""

    name: str
    #: ``skip``, ``todo`` or empty.
    directive: str = ""
    reason: str = ""
    #: Seconds, or None.
    duration: Optional[float] = None


def parse_description(rest: str, has_escapes: bool = True) -> Description:
    r"""Split a description from its directive (TAP 14, "Directive" and "Escaping").

    ``has_escapes``: whether ``\\`` stands for a backslash, which it does since TAP 14.

    The delimiter is the first unescaped ``#`` with white space around it.  A ``#`` that
    lacks the space on one side counts if a directive follows.
    """
    for match in _find_hashes(rest):
        at = match.start()
        if len(match.group()) == 2:
            continue
        space_before = at == 0 or rest[at - 1].isspace() or rest[at - 2 : at] == "\\\\"
        space_after = rest[at + 1 : at + 2].isspace()
        if not (space_before or space_after):
            continue
        description = _parse_directive(rest[:at], rest[at + 1 :], space_before, has_escapes)
        if description is not None or (space_before and space_after):
            return description or Description(unescape(rest, has_escapes))
    return Description(unescape(rest, has_escapes))


def _parse_directive(
    before: str, after: str, space_before: bool, has_escapes: bool
) -> Optional[Description]:
    name = unescape(before.strip(), has_escapes)
    # Only words near the hash can be a directive; the pattern must not run on
    # over a long text for each of many hashes.
    head = after[:32].lstrip()[:5].lower()
    if head.startswith(("skip", "todo")):
        match = _match_directive(after)
        if match is not None:
            reason = unescape((match.group(3) or "").strip(), has_escapes)
            return Description(name, match.group(1).lower(), reason)
    if head == "time=" and space_before:
        return _parse_time(name, after)
    return None


def _parse_time(name: str, after: str) -> Optional[Description]:
    """Parse node-tap's ``# time=12.3ms``, which must not become part of a name."""
    match = _match_time(after)
    if match is None:
        return None
    duration = parse_seconds(match.group(1))
    if duration is not None and match.group(2) == "ms":
        duration /= 1000
    return Description(name, "", "", duration)


def parse_skip_reason(text: str) -> str:
    """Return the reason behind the word SKIP of the plan ``1..0``."""
    return unescape(_SKIP_WORD.sub("", text, count=1).strip())


def unescape(text: str, has_escapes: bool = True) -> str:
    r"""Replace the escapes ``\#`` and, unless ``has_escapes`` is false, ``\\`` of TAP 14.

    Perl's Test::More has always written ``\#``, but a backslash as it is.
    """
    if "\\" not in text:
        return text
    return _ESCAPE.sub(r"\1" if has_escapes else _unescape_hash, text)


def _unescape_hash(match: "re.Match[str]") -> str:
    return match.group(1) if match.group(1) == "#" else match.group()


class Diagnostics:
    """The comments, or the YAML block, that follow a test point and belong to it."""

    __slots__ = ("depth", "duration", "excerpt", "in_yaml", "lines", "message", "want_message")

    def __init__(self, depth: int) -> None:
        #: Nesting depth of the test point.
        self.depth = depth
        self.excerpt = Excerpt()
        #: Number of lines that say more than a duration.
        self.lines = 0
        self.duration: Optional[float] = None
        self.message = ""
        #: The next line is the first of a YAML block scalar with the message.
        self.want_message = False
        self.in_yaml = False

    def add_comment(self, text: str) -> None:
        """Add a comment line."""
        text = text[2:] if text.startswith("# ") else text[1:]
        self.lines += 1
        self.excerpt.add(text + "\n")
        if not self.message:
            self.message = text.strip()

    def add_yaml(self, line: str) -> bool:
        """Add a line of the YAML block.  Return False if the line does not belong to it."""
        indent = self.depth * 4 + 2
        if line[:indent].strip(" "):
            self.in_yaml = False
            return False
        text = line[indent:]
        if text.rstrip() == "...":
            self.in_yaml = False
        else:
            self._add_yaml_text(text)
        return True

    def _add_yaml_text(self, text: str) -> None:
        if self.want_message:
            self.message, self.want_message = text.strip(), False
        if text.startswith("duration"):
            self._parse_yaml_duration(text)
        elif text.startswith(("message:", "error:")):
            self._parse_yaml_message(text)
        else:
            self.lines += 1
        self.excerpt.add(text + "\n")

    def _parse_yaml_duration(self, text: str) -> None:
        match = _match_yaml_duration(text)
        value = parse_seconds(match.group(2)) if match else None
        if match is not None and value is not None:
            self.duration = value / 1000 if match.group(1) else value

    def _parse_yaml_message(self, text: str) -> None:
        self.lines += 1
        match = _match_yaml_message(text)
        value = match.group(1).strip() if match else ""
        self.want_message = value[:1] in ("|", ">")
        if not self.want_message and value:
            is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            self.message = value[1:-1] if is_quoted else value

    def apply_to(self, case: Case) -> Case:
        """Return the case with these diagnostics."""
        # A block that holds nothing but the duration would only repeat it.
        details = self.excerpt.text().rstrip("\n") if self.lines else case.details
        duration = case.duration if self.duration is None else self.duration
        message = case.message or truncate(self.message, MAX_MESSAGE_CHARS)
        if case.outcome == PASSED:
            message = case.message
        return case._replace(details=details, duration=duration, message=message)
