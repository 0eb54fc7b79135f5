"""TAP 12, 13 and 14 on stdout.

Reads the lines of a TAP stream (https://testanything.org, "TAP 14 specification", and Perl's
TAP::Parser where the specification leaves room).  This module must not know the program, its exit
status or the source of the stream.  ``tap_grammar`` holds the patterns, ``tap_documents`` the
rules for plans and subtests.

A stream is TAP if its first significant line is a version, a plan or a test point, and if it has a
plan; blank lines, comments and pragmas are not significant.  A version line or a bail out replaces
the plan, since prose holds neither: a stream that declares itself and is then cut short must not
be read as plain text.

TAP 14 allows any order of numbers but each number once.  In older TAP a number out of sequence is
an error, as it is for ``prove``.
"""

from typing import Callable, Dict, Optional

from ..protocol.model import (
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Case,
    ParsedOutput,
)
from .bounds import MAX_MESSAGE_CHARS, new_case, truncate
from .lines import LineSplitter
from .tap_documents import MAX_DEPTH, Document, DocumentTree, to_number
from .tap_grammar import (
    match_bail_out,
    match_plan,
    match_point,
    match_pragma,
    match_subtest,
    match_version,
    parse_description,
    unescape,
)

NAME = "tap"
#: Suffixes of programs that always write TAP, as for prove and bats.
SUFFIXES = (".t", ".bats")
#: Versions of TAP that are read.
VERSIONS = (12, 13, 14)
#: Characters of a point's description that are read.
_MAX_DESCRIPTION_CHARS = 16 * 1024

#: (directive, failed) -> outcome.
_OUTCOMES = {
    ("", False): PASSED,
    ("", True): FAILED,
    ("skip", False): SKIPPED,
    ("skip", True): SKIPPED,
    ("todo", False): XPASSED,
    ("todo", True): XFAILED,
}


class Reader(DocumentTree):
    """Reads one TAP stream."""

    def __init__(self, forced: bool = False) -> None:
        super().__init__()
        self.refused = False
        self._forced = forced
        self._is_tap = forced
        self._bail_out_reason: Optional[str] = None
        self._lines = LineSplitter()
        self._handle_line = self._handle_first_line
        #: Handlers by the first character of a line.  Each returns False if the line is not TAP.
        self._handlers: Dict[str, Callable[[int, str], bool]] = {
            "o": self._handle_point, "n": self._handle_point, "1": self._handle_plan,
            "T": self._handle_version, "t": self._handle_version, "p": self._handle_pragma,
            "B": self._handle_bail_out, "b": self._handle_bail_out,
            "{": self._handle_open_brace, "}": self._handle_close_brace,
        }  # fmt: skip

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the stream."""
        if self.refused or self._bail_out_reason is not None:
            return
        for lines in self._lines.feed(data):
            for line in lines:
                self._handle_line(line)
            if self._handle_line == self._ignore_line:
                return

    def close(self) -> Optional[ParsedOutput]:
        """Return the cases, or None if the stream is not TAP."""
        if not self.refused and self._bail_out_reason is None:
            for line in self._lines.finish():
                self._handle_line(line)
        if self.refused or not (self._is_tap or self._root.plan is not None):
            return None
        self._end_diagnostics()
        if self._bail_out_reason is None:
            self._finish_documents()
        self._name_groups()
        problem = self._format_problem()
        skip_reason = self._root.skip_reason if self._root.point_count == 0 else None
        return ParsedOutput(NAME, self._collector.cases, problem, skip_reason)

    def _finish_documents(self) -> None:
        self._close_below(0)
        if self._root.has_content:
            self._root.finish()
        else:
            self._root.add_problem("plan", "no TAP in the output")

    def _format_problem(self) -> str:
        problems = []
        if self._bail_out_reason is not None:
            problems.append(("bailed out: " + self._bail_out_reason).rstrip(": "))
        problems.extend(self._root.problems.values())
        if self._collector.problem:
            problems.append(self._collector.problem)
        return "; ".join(problems)

    # -- states: how the next line is handled ------------------------------------------

    def _ignore_line(self, line: str) -> None:
        """Ignore a line after a bail out or a refusal."""

    def _handle_first_line(self, line: str) -> None:
        """Handle the first line, which may start with a byte order mark."""
        self._handle_line = self._handle_tap_line if self._forced else self._detect_format
        self._handle_line(line[1:] if line[:1] == "\ufeff" else line)

    def _detect_format(self, line: str) -> None:
        """Decide by the first significant line whether the stream is TAP."""
        text = line.strip()
        if not text or text[0] == "#" or match_pragma(text):
            self._handle_tap_line(line)
        elif self._is_tap_line(line):
            self._handle_line = self._handle_tap_line
            self._handle_tap_line(line)
        else:
            self.refused = True
            self._handle_line = self._ignore_line

    def _is_tap_line(self, line: str) -> bool:
        if line[:1] == " " and self._announced:
            line = line.lstrip(" ")
        return bool(match_point(line) or match_plan(line) or match_version(line))

    def _handle_tap_line(self, line: str) -> None:
        diagnostics = self._diagnostics
        if diagnostics is not None and diagnostics.in_yaml and diagnostics.add_yaml(line):
            return
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        handler = self._handlers.get(text[:1])
        if handler is not None:
            if not indent & 3 and handler(indent >> 2, text):
                return
        elif text[:1] == "#":
            self._handle_comment(indent >> 2, text)
            return
        elif not text.strip() or (text[:3] == "---" and self._start_yaml(indent)):
            return
        self._handle_unknown(indent >> 2, text)

    # -- lines by type -------------------------------------------------------------------

    def _handle_point(self, depth: int, text: str) -> bool:
        match = match_point(text)
        if match is None or (depth >= len(self._stack) and not self._open_to_depth(depth)):
            return False
        if self._diagnostics is not None:
            self._end_diagnostics()
        # A point ends the documents that are open below its level.
        child = self._close_child(depth) if len(self._stack) > depth + 1 else None
        document = self._stack[depth]
        failed, digits, rest = match.groups()
        number = document.count_point(digits)
        document.has_content = True
        if rest and rest[-1] == "{" and (rest == "{" or rest[-2] in " \t"):
            return self._handle_buffered_point(depth, number, failed is not None, rest, child)
        case = self._make_case(depth, number, failed is not None, rest or "")
        if child is not None:
            self._settle_subtest(child, case, depth)
        else:
            self._add_case(case, depth)
        return True

    def _make_case(self, depth: int, number: int, failed: bool, rest: str) -> Case:
        title = self._announced.pop(depth, "") if self._announced else ""
        rest = rest[:_MAX_DESCRIPTION_CHARS].strip()
        if rest[:1] == "-" and rest[1:2] in ("", " ", "\t"):
            rest = rest[1:].lstrip()
        if "#" in rest or "\\" in rest:
            parsed = parse_description(rest, has_escapes=self._stack[depth].any_order)
            outcome = _OUTCOMES[parsed.directive, failed]
            name = truncate(parsed.name or title) or "test %d" % number
            reason = truncate(parsed.reason, MAX_MESSAGE_CHARS)
            return Case(name, outcome, reason, "", parsed.duration)
        name = truncate(rest or title) or "test %d" % number
        return new_case(Case, (name, FAILED if failed else PASSED, "", "", None, "", ()))

    def _handle_plan(self, depth: int, text: str) -> bool:
        match = match_plan(text)
        if match is None or (match.group(3) and match.group(1).strip("0")):
            return False
        if not self._open_to_depth(depth):
            return False
        self._forget_last_point()
        document = self._stack[depth]
        document.has_content = True
        document.set_plan(match.group(1), match.group(2) or match.group(3) or "")
        return True

    def _handle_version(self, depth: int, text: str) -> bool:
        match = match_version(text)
        if match is None or not self._open_to_depth(depth):
            return False
        self._forget_last_point()
        document = self._stack[depth]
        version = to_number(match.group(1))
        if document.has_content:
            document.add_problem("version", "the version line is not the first")
        if version not in VERSIONS:
            document.add_problem("version", "TAP version %d is not supported" % version)
        document.any_order = version >= 14
        document.has_content = True
        self._is_tap = self._is_tap or depth == 0
        return True

    def _handle_pragma(self, depth: int, text: str) -> bool:
        match = match_pragma(text)
        if match is None:
            return False
        # A pragma may come first in a subtest, but prose starts with the word too.
        if depth >= len(self._stack) and not (self._announced and self._open_to_depth(depth)):
            return False
        for switch in match.group(1).split(","):
            if switch.strip()[1:] == "strict":
                self._stack[depth].strict = switch.strip()[0] == "+"
        return True

    def _handle_bail_out(self, depth: int, text: str) -> bool:
        """End the whole stream, also from a subtest (TAP 14, "Subtest Bailouts")."""
        match = match_bail_out(text)
        if match is None or (depth >= len(self._stack) and not self._announced):
            return False
        self._end_diagnostics()
        self._bail_out_reason = unescape(truncate(match.group(1).strip(), MAX_MESSAGE_CHARS))
        self._is_tap = True
        self._handle_line = self._ignore_line
        return True

    def _handle_comment(self, depth: int, text: str) -> None:
        match = match_subtest(text)
        if match is not None and depth <= MAX_DEPTH:
            self._forget_last_point()
            self._announced[depth] = (match.group(1) or "").strip()
        elif depth != self._last_point_depth or not self._is_last_point_kept:
            return
        elif self._collector.cases[-1].outcome != PASSED:
            self._get_diagnostics().add_comment(text)

    def _start_yaml(self, indent: int) -> bool:
        if indent != self._last_point_depth * 4 + 2:
            return False
        self._get_diagnostics().in_yaml = True
        return True

    def _handle_unknown(self, depth: int, text: str) -> None:
        document = self._stack[min(depth, len(self._stack) - 1)]
        if document.strict:
            message = "not TAP, and the pragma is strict: %s" % truncate(text, 80)
            document.add_problem("strict", message)

    # -- buffered subtests: "ok 1 - name {" ... "}" ----------------------------------

    def _handle_buffered_point(
        self, depth: int, number: int, failed: bool, rest: str, child: Optional[Document]
    ) -> bool:
        case = self._make_case(depth, number, failed, rest[:-1])
        if child is not None:
            # It ends a subtest, so the brace is part of its name.
            self._settle_subtest(child, case._replace(name=case.name + " {"), depth)
        else:
            self._open_buffered(depth, case, case.name + " {")
        return True

    def _handle_open_brace(self, depth: int, text: str) -> bool:
        """Open the subtest of the point before a lone brace (and before its YAML block)."""
        if text.rstrip() != "{" or depth != self._last_point_depth:
            return False
        if not self._is_last_point_kept:
            return False
        self._reopen_last_point(depth)
        return True

    def _handle_close_brace(self, depth: int, text: str) -> bool:
        if text.rstrip() != "}" or depth + 1 >= len(self._stack):
            return False
        if self._stack[depth + 1].opening_point is None:
            return False
        self._close_buffered(depth)
        return True
