"""TAP 12, 13 and 14 on stdout.

Owns what a line of TAP means (https://testanything.org, "TAP 14 specification",
and Perl's TAP::Parser where the specification leaves room).  Knows nothing of
the program, its exit status or where the stream comes from.

What is TAP: the first significant line is a version, a plan or a test point, and
a plan stands anywhere; blank lines, comments and pragmas are not significant.  A
version line or a bail out stands in for the plan, since prose holds neither: a
stream that declares itself and is then cut short must not pass for no TAP.

The order of numbers: TAP 14 allows any order but each number once.  In older TAP
a number out of sequence is an error, as it is for ``prove``.

Subtests: their points become cases, in the group of their parents' names.  The
parent's own point is a case of its own only if the cases below it do not account
for what it says:

* it failed and none below it did; or it has SKIP or TODO and none below it shows
  that outcome;
* the subtest was itself in trouble (no plan, a wrong plan): then an error;
* the subtest had no points: then with the parent's outcome, or skipped if the
  parent is ok (its plan was ``1..0``).

TODO on the parent makes failures below it xfailed, SKIP makes them skipped.
Indented lines that nothing introduces as a subtest (no ``# Subtest``, no plan)
are plain text unless one of them is a ``not ok``: doubt never turns a failure
green, and never turns plain text into an error.
"""

import re
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, XPASSED, Case, Parsed
from .bounds import MAX_CASES, MAX_MESSAGE, Collector, Excerpt, clip, new_case, seconds
from .lines import Lines

NAME = "tap"
#: Programs that always speak TAP, as for prove and bats.
SUFFIXES = (".t", ".bats")

VERSIONS = (12, 13, 14)
#: Subtests that are deeper are passed over, which is a problem: a line of nothing
#: but spaces must not open thousands of documents.
MAX_DEPTH = 100
#: Characters of a point's description that are looked at.
_MAX_REST = 16 * 1024
#: What a document costs of the room for cases.
_DOCUMENT_COST = 100

_POINT = re.compile(r"(not )?ok(?:[ \t]+([0-9]+)\b)?(?:[ \t]+(.*))?\Z", re.S).match
_PLAN = re.compile(r"1\.\.([0-9]+)[ \t]*(?:#[ \t]*(.*)|(skip.*))?\Z", re.S | re.I).match
_VERSION = re.compile(r"TAP\s+version\s+([0-9]+)\s*\Z", re.I).match
_PRAGMA = re.compile(r"pragma\s+([+-][\w-]+(?:\s*,\s*[+-][\w-]+)*)\s*\Z").match
_BAIL = re.compile(r"Bail out!\s*(.*)\Z", re.S | re.I).match
_SUBTEST = re.compile(r"# Subtest(?:: ?(.*))?\Z", re.S).match
_SKIP_WORD = re.compile(r"skip\S*\s*", re.I)
_HASH = re.compile(r"\\[\\#]|#").finditer
_DIRECTIVE = re.compile(r"\s*(skip|todo)(\S*)(?:\s+(.*))?\Z", re.S | re.I).match
_TIME = re.compile(r"\s*time=([0-9.]+)(ms|s)\b(.*)\Z", re.S).match
_ESCAPE = re.compile(r"\\([\\#])")
_YAML_DURATION = re.compile(r"duration(_ms)?:\s*[\"']?([0-9.eE+-]+)[\"']?\s*\Z").match
_YAML_MESSAGE = re.compile(r"(?:message|error):\s+(.*)\Z", re.S).match

#: (TODO or SKIP, failed) -> outcome.
_OUTCOMES = {
    ("", False): PASSED,
    ("", True): FAILED,
    ("skip", False): SKIPPED,
    ("skip", True): SKIPPED,
    ("todo", False): XPASSED,
    ("todo", True): XFAILED,
}
#: A parent's outcome -> what failures below it become.
_SOFTENED = {XFAILED: XFAILED, XPASSED: XFAILED, SKIPPED: SKIPPED}
_BAD = {FAILED, ERROR}


class _Text(NamedTuple):
    """A point's text after its number."""

    name: str
    directive: str = ""
    reason: str = ""
    duration: Optional[float] = None


class _Group:
    """The name of a document below the names of those above it.

    All that a case needs to keep of the documents that it stood in.
    """

    __slots__ = ("above", "full", "name")

    def __init__(self, name: str, above: Optional["_Group"]) -> None:
        self.name = name
        self.above = above
        self.full: Optional[str] = None if above is not None else ""

    def full_name(self) -> str:
        """The names of the subtests that lead here, outermost first."""
        if self.full is None:
            # Not kept for those above: most of them have no cases of their own.
            names = [self.name]
            group = self.above
            while group is not None and group.above is not None:
                names.append(group.name)
                group = group.above
            self.full = clip(" > ".join(clip(name, 256) for name in reversed(names)))
        return self.full


class _Document:
    """One TAP document: the stream itself, or a subtest of any depth."""

    __slots__ = (
        "any_order", "beyond", "group", "highest", "opener", "parent", "plan", "plan_after",
        "seen", "skip", "start", "strict", "titled", "touched", "troubles", "upto", "whole",
    )  # fmt: skip

    def __init__(self, parent: Optional["_Document"], title: Optional[str], start: int) -> None:
        self.parent = parent
        self.titled = title is not None
        above: Optional[_Group] = parent.group if parent is not None else None
        self.group: _Group = _Group(title or "subtest", above)
        self.start = start
        self.strict: bool = parent is not None and parent.strict
        self.any_order: bool = parent is not None and parent.any_order
        self.plan: Optional[int] = None
        self.plan_after = 0
        self.skip: Optional[str] = None
        self.seen = 0
        self.highest = 0
        #: All numbers to here were seen, and these beyond it.
        self.upto = 0
        self.beyond: Optional[Set[int]] = None
        self.troubles: Dict[str, str] = {}
        #: The point that opened a buffered subtest, and its name as it was written.
        self.opener: Optional[Case] = None
        self.whole = ""
        self.touched = False

    def trouble(self, kind: str, text: str) -> None:
        """Note what is wrong; the first of a kind counts."""
        self.troubles.setdefault(kind, text)

    def take_number(self, digits: Optional[str]) -> int:
        """Count a point and check its number, making one up if it has none."""
        self.seen = seen = self.seen + 1
        number = self._numbered(digits)
        if number > self.highest:
            self.highest = number
        if self.any_order:
            self._check_unique(number)
        elif number != seen:
            self.trouble("order", "out of sequence: found %d, expected %d" % (number, self.seen))
        return number

    def _numbered(self, digits: Optional[str]) -> int:
        if digits is None:
            return self.upto + 1 if self.any_order else self.seen
        # int() of a very long number is slow, and beyond any plan anyway.
        return int(digits) if len(digits) < 10 else 10**9

    def _check_unique(self, number: int) -> None:
        beyond = self.beyond = self.beyond or set()
        if number == self.upto + 1:
            self.upto = number
            while self.upto + 1 in beyond:
                self.upto += 1
                beyond.discard(self.upto)
        elif number <= self.upto or number in beyond:
            self.trouble("order", "test %d was seen twice" % number)
        elif len(beyond) < MAX_CASES:
            beyond.add(number)

    def take_plan(self, digits: str, reason: str) -> None:
        """Note the plan; there must be one, before or after all points."""
        if self.plan is not None:
            self.trouble("plan", "two plans")
            return
        self.plan = int(digits) if len(digits) < 10 else 10**9
        self.plan_after = self.seen
        if self.plan == 0:
            self.skip = _unescape(_SKIP_WORD.sub("", reason, count=1).strip())

    def finish(self) -> str:
        """What is wrong with the document as a whole, or ""."""
        if self.plan is None:
            self.trouble("plan", "no plan")
        else:
            self._check_plan(self.plan)
        return "; ".join(self.troubles.values())

    def _check_plan(self, plan: int) -> None:
        if 0 < self.plan_after < self.seen:
            self.trouble("plan", "the plan stands in the middle")
        if self.seen != plan:
            self.trouble("count", "planned %d, saw %d" % (plan, self.seen))
        elif self.highest > plan:
            self.trouble("range", "test %d is outside the plan 1..%d" % (self.highest, plan))


class _Notes:
    """What follows a test point and belongs to it: comments or a YAML block."""

    __slots__ = ("depth", "duration", "excerpt", "in_yaml", "lines", "message", "want_message")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.excerpt = Excerpt()
        self.lines = 0
        self.duration: Optional[float] = None
        self.message = ""
        self.want_message = False
        self.in_yaml = False

    def comment(self, text: str) -> None:
        """Add a line of diagnostics."""
        text = text[2:] if text.startswith("# ") else text[1:]
        self.lines += 1
        self.excerpt.add(text + "\n")
        if not self.message:
            self.message = text.strip()

    def yaml(self, line: str) -> bool:
        """Take a line of the YAML block; False if it does not belong to it."""
        indent = self.depth * 4 + 2
        if line[:indent].strip(" "):
            self.in_yaml = False
            return False
        text = line[indent:]
        if text.rstrip() == "...":
            self.in_yaml = False
        else:
            self._yaml_text(text)
        return True

    def _yaml_text(self, text: str) -> None:
        if self.want_message:
            self.message, self.want_message = text.strip(), False
        if text.startswith("duration"):
            self._yaml_duration(text)
        elif text.startswith(("message:", "error:")):
            self._yaml_message(text)
        else:
            self.lines += 1
        self.excerpt.add(text + "\n")

    def _yaml_duration(self, text: str) -> None:
        found = _YAML_DURATION(text)
        value = seconds(found.group(2)) if found else None
        if found is not None and value is not None:
            self.duration = value / 1000 if found.group(1) else value

    def _yaml_message(self, text: str) -> None:
        self.lines += 1
        found = _YAML_MESSAGE(text)
        value = found.group(1).strip() if found else ""
        self.want_message = value[:1] in ("|", ">")
        if not self.want_message and value:
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            self.message = value[1:-1] if quoted else value

    def onto(self, case: Case) -> Case:
        """The case with all that was noted of it."""
        # A block that tells the duration alone would only repeat it.
        details = self.excerpt.text().rstrip("\n") if self.lines else case.details
        duration = case.duration if self.duration is None else self.duration
        message = case.message or clip(self.message, MAX_MESSAGE)
        if case.outcome == PASSED:
            message = case.message
        return case._replace(details=details, duration=duration, message=message)


class Reader:
    """Reads one TAP stream."""

    def __init__(self, forced: bool = False) -> None:
        self.refused = False
        self._forced = forced
        self._claimed = forced
        self._bailed: Optional[str] = None
        self._lines = Lines()
        self._kept = Collector()
        self._root = _Document(None, None, 0)
        self._stack = [self._root]
        #: Names that a ``# Subtest`` comment announced, by the comment's depth.
        self._announced: Dict[int, str] = {}
        #: Where the cases of subtests stand, for their groups' names come last.
        self._nested: List[Tuple[int, _Group]] = []
        self._notes: Optional[_Notes] = None
        #: The depth of the last point, and whether it is the last case.
        self._point_depth = -1
        self._point_kept = False
        self._take = self._begin
        self._handlers: Dict[str, Callable[[int, str], bool]] = {
            "o": self._point, "n": self._point, "1": self._plan, "T": self._version,
            "t": self._version, "p": self._pragma, "B": self._bail, "b": self._bail,
            "{": self._open_brace, "}": self._close_brace,
        }  # fmt: skip

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.refused or self._bailed is not None:
            return
        for lines in self._lines.feed(data):
            for line in lines:
                self._take(line)
            if self._take == self._ignore:
                return

    def close(self) -> Optional[Parsed]:
        """The cases, or None if this is not TAP."""
        if not self.refused and self._bailed is None:
            for line in self._lines.end():
                self._take(line)
        if self.refused or not (self._claimed or self._root.plan is not None):
            return None
        self._end_notes()
        if self._bailed is None:
            self._finish()
        self._name_groups()
        problem = self._problem()
        skip = self._root.skip if self._root.seen == 0 else None
        return Parsed(NAME, self._kept.cases, problem, skip)

    # -- what stands in the stream ---------------------------------------------------

    def _ignore(self, line: str) -> None:
        """After a bail out or a refusal nothing counts."""

    def _begin(self, line: str) -> None:
        """The first line may start with a byte order mark."""
        self._take = self._body if self._forced else self._first
        self._take(line[1:] if line[:1] == "\ufeff" else line)

    def _first(self, line: str) -> None:
        """Until the first significant line: is this TAP at all?"""
        text = line.strip()
        if not text or text[0] == "#" or _PRAGMA(text):
            self._body(line)
        elif self._is_tap(line):
            self._take = self._body
            self._body(line)
        else:
            self.refused = True
            self._take = self._ignore

    def _is_tap(self, line: str) -> bool:
        if line[:1] == " " and self._announced:
            line = line.lstrip(" ")
        return bool(_POINT(line) or _PLAN(line) or _VERSION(line))

    def _body(self, line: str) -> None:
        if self._notes is not None and self._notes.in_yaml and self._notes.yaml(line):
            return
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        handler = self._handlers.get(text[:1])
        if handler is not None:
            if not indent & 3 and handler(indent >> 2, text):
                return
        elif text[:1] == "#":
            self._comment(indent >> 2, text)
            return
        elif not text.strip() or (text[:3] == "---" and self._begins_yaml(indent)):
            return
        self._unknown(indent >> 2, text)

    def _point(self, depth: int, text: str) -> bool:
        match = _POINT(text)
        if match is None or (depth >= len(self._stack) and not self._enter(depth)):
            return False
        if self._notes is not None:
            self._end_notes()
        # A point ends what was opened below its level.
        child = self._child_of(depth) if len(self._stack) > depth + 1 else None
        doc = self._stack[depth]
        failed, digits, rest = match.groups()
        number = doc.take_number(digits)
        doc.touched = True
        if rest and rest[-1] == "{" and (rest == "{" or rest[-2] in " \t"):
            return self._buffered(depth, number, failed is not None, rest, child)
        case = self._case(depth, number, failed is not None, rest or "")
        if child is not None:
            self._settle(child, case, depth)
        else:
            self._keep(case, depth)
        return True

    def _case(self, depth: int, number: int, failed: bool, rest: str) -> Case:
        title = self._announced.pop(depth, "") if self._announced else ""
        rest = rest[:_MAX_REST].strip()
        if rest[:1] == "-" and rest[1:2] in ("", " ", "\t"):
            rest = rest[1:].lstrip()
        if "#" in rest or "\\" in rest:
            text = _parse_text(rest)
            outcome = _OUTCOMES[text.directive, failed]
            name = clip(text.name or title) or "test %d" % number
            return Case(name, outcome, clip(text.reason, MAX_MESSAGE), "", text.duration)
        name = clip(rest or title) or "test %d" % number
        return new_case(Case, (name, FAILED if failed else PASSED, "", "", None, "", ()))

    def _plan(self, depth: int, text: str) -> bool:
        match = _PLAN(text)
        if match is None or (match.group(3) and match.group(1).strip("0")):
            return False
        if not self._enter(depth):
            return False
        self._forget_point()
        doc = self._stack[depth]
        doc.touched = True
        doc.take_plan(match.group(1), match.group(2) or match.group(3) or "")
        return True

    def _version(self, depth: int, text: str) -> bool:
        match = _VERSION(text)
        if match is None or not self._enter(depth):
            return False
        self._forget_point()
        doc = self._stack[depth]
        digits = match.group(1)
        version = int(digits) if len(digits) < 10 else 10**9
        if doc.touched:
            doc.trouble("version", "the version line is not the first")
        if version not in VERSIONS:
            doc.trouble("version", "TAP version %d is not supported" % version)
        doc.any_order = version >= 14
        doc.touched = True
        self._claimed = self._claimed or depth == 0
        return True

    def _pragma(self, depth: int, text: str) -> bool:
        match = _PRAGMA(text)
        if match is None:
            return False
        # A pragma may come first in a subtest, but prose starts with the word too.
        if depth >= len(self._stack) and not (self._announced and self._enter(depth)):
            return False
        for switch in match.group(1).split(","):
            if switch.strip()[1:] == "strict":
                self._stack[depth].strict = switch.strip()[0] == "+"
        return True

    def _bail(self, depth: int, text: str) -> bool:
        """It ends the whole stream, also in a subtest (TAP 14, "Subtest Bailouts")."""
        match = _BAIL(text)
        if match is None or (depth >= len(self._stack) and not self._announced):
            return False
        self._end_notes()
        self._bailed = _unescape(clip(match.group(1).strip(), MAX_MESSAGE))
        self._claimed = True
        self._take = self._ignore
        return True

    def _comment(self, depth: int, text: str) -> None:
        match = _SUBTEST(text)
        if match is not None and depth <= MAX_DEPTH:
            self._forget_point()
            self._announced[depth] = (match.group(1) or "").strip()
        elif depth != self._point_depth or not self._point_kept:
            return
        elif self._kept.cases[-1].outcome != PASSED:
            self._noting().comment(text)

    def _begins_yaml(self, indent: int) -> bool:
        if indent != self._point_depth * 4 + 2:
            return False
        self._noting().in_yaml = True
        return True

    def _unknown(self, depth: int, text: str) -> None:
        doc = self._stack[min(depth, len(self._stack) - 1)]
        if doc.strict:
            doc.trouble("strict", "not TAP, and the pragma is strict: %s" % clip(text, 80))

    # -- buffered subtests: "ok 1 - name {" ... "}" ----------------------------------

    def _buffered(
        self, depth: int, number: int, failed: bool, rest: str, child: Optional[_Document]
    ) -> bool:
        case = self._case(depth, number, failed, rest[:-1])
        if child is not None:
            # It ends a subtest, so the brace is part of its name.
            self._settle(child, case._replace(name=case.name + " {"), depth)
        else:
            self._open(depth, case, case.name + " {")
        return True

    def _open(self, depth: int, opener: Case, whole: str) -> None:
        self._forget_point()
        self._kept.charge(_DOCUMENT_COST)
        doc = _Document(self._stack[depth], opener.name, len(self._kept.cases))
        doc.opener, doc.whole = opener, whole
        self._stack.append(doc)

    def _open_brace(self, depth: int, text: str) -> bool:
        """A brace alone opens the subtest of the point before it (and its YAML)."""
        if text.rstrip() != "{" or depth != self._point_depth or not self._point_kept:
            return False
        self._end_notes()
        opener = self._kept.cases.pop()
        if self._nested and self._nested[-1][0] == len(self._kept.cases):
            self._nested.pop()
        self._open(depth, opener._replace(group=""), opener.name)
        return True

    def _close_brace(self, depth: int, text: str) -> bool:
        if text.rstrip() != "}" or depth + 1 >= len(self._stack):
            return False
        if self._stack[depth + 1].opener is None:
            return False
        self._end_notes()
        child = self._collapse_to(depth + 1)
        self._stack.pop()
        assert child.opener is not None
        self._settle(child, child.opener, depth)
        return True

    # -- documents and their cases -----------------------------------------------------

    def _enter(self, depth: int) -> bool:
        """Open the documents down to this depth, if they are not yet."""
        if depth > MAX_DEPTH:
            self._root.trouble("depth", "subtests are nested deeper than %d" % MAX_DEPTH)
            return False
        while len(self._stack) <= depth:
            self._end_notes()
            level = len(self._stack)
            title = self._announced.pop(level - 1, None)
            if title is None:
                # Older Test::More announced a subtest at the subtest's own indentation.
                title = self._announced.pop(level, None)
            if not self._kept.charge(_DOCUMENT_COST):
                return False
            self._stack.append(_Document(self._stack[-1], title, len(self._kept.cases)))
        return True

    def _child_of(self, depth: int) -> Optional[_Document]:
        """The subtest that ends with a point at this depth; None if there is none."""
        child = self._collapse_to(depth + 1)
        self._stack.pop()
        for level in [level for level in self._announced if level > depth]:
            del self._announced[level]
        if child.opener is None:
            return child
        # A buffered subtest has its point already, so this point is another's.
        self._unclosed(child, depth)
        return None

    def _unclosed(self, child: _Document, depth: int) -> None:
        assert child.opener is not None
        if child.touched:
            child.trouble("brace", "the subtest was not closed")
            self._settle(child, child.opener, depth)
        else:
            self._keep(child.opener._replace(name=clip(child.whole)), depth)
        self._forget_point()

    def _collapse_to(self, depth: int) -> _Document:
        """Give up the documents below the one at this depth; no point ended them."""
        while len(self._stack) > depth + 1:
            doc = self._stack.pop()
            if doc.opener is not None:
                self._unclosed(doc, len(self._stack) - 1)
            else:
                self._abandon(doc)
        return self._stack[depth]

    def _abandon(self, doc: _Document) -> None:
        bad = self._outcomes(doc) & _BAD
        if not (doc.titled or doc.troubles or bad):
            # "Harnesses should treat unterminated Subtests as non-TAP."
            self._drop(doc)
        elif doc.parent is not None:
            name = clip(doc.group.name, 80)
            doc.parent.trouble("unended", "the subtest %r was not ended by a test point" % name)

    def _settle(self, child: _Document, point: Case, depth: int) -> None:
        """Decide what the point that ends a subtest adds to the cases of it."""
        outcomes = self._outcomes(child)
        introduced = child.titled or child.plan is not None
        if not introduced and not child.troubles and not outcomes & _BAD:
            self._drop(child)
            self._keep(point, depth)
            return
        if point.outcome in _SOFTENED:
            outcomes = self._soften(child, outcomes, _SOFTENED[point.outcome])
        point = self._named(child, point)
        problem = child.finish()
        if problem and point.outcome == PASSED:
            point = point._replace(outcome=ERROR, message="subtest: " + problem)
        elif problem and not point.message:
            point = point._replace(message="subtest: " + problem)
        elif child.skip is not None and point.outcome == PASSED:
            point = point._replace(outcome=SKIPPED, message=child.skip)
        if problem or not outcomes or not _explained(point.outcome, outcomes):
            self._keep(point, depth)
        else:
            self._forget_point(depth)

    def _named(self, child: _Document, point: Case) -> Case:
        """Let parent and subtest agree on a name, preferring the announced one."""
        announced = child.group.name
        if not child.titled or announced == "subtest" or child.opener is not None:
            child.group.name = point.name
        elif point.name != announced and not point.message:
            # Test::More replaces the name by a sentence when the subtest is empty.
            return point._replace(name=clip(announced), message=point.name)
        else:
            return point._replace(name=clip(announced))
        return point

    def _outcomes(self, doc: _Document) -> Set[str]:
        # This looks at each case once a level, and each level of it is four bytes
        # of input, so the time stays linear in the bytes.
        return {case.outcome for case in self._kept.cases[doc.start :]}

    def _soften(self, doc: _Document, outcomes: Set[str], soft: str) -> Set[str]:
        if not outcomes & _BAD:
            return outcomes
        cases = self._kept.cases
        for index in range(doc.start, len(cases)):
            if cases[index].outcome in _BAD:
                cases[index] = cases[index]._replace(outcome=soft)
        return self._outcomes(doc)

    def _drop(self, doc: _Document) -> None:
        self._kept.drop_from(doc.start)
        while self._nested and self._nested[-1][0] >= doc.start:
            self._nested.pop()
        self._forget_point()

    def _keep(self, case: Case, depth: int) -> None:
        self._point_depth = depth
        self._point_kept = self._kept.add(case)
        if depth and self._point_kept:
            self._nested.append((len(self._kept.cases) - 1, self._stack[depth].group))

    # -- what follows a point ------------------------------------------------------------

    def _noting(self) -> _Notes:
        if self._notes is None:
            self._notes = _Notes(self._point_depth)
        return self._notes

    def _end_notes(self) -> None:
        notes, self._notes = self._notes, None
        if notes is not None and self._point_kept:
            self._kept.amend_last(notes.onto(self._kept.cases[-1]))

    def _forget_point(self, depth: int = -1) -> None:
        """What follows belongs to no case; a YAML block at this depth is passed over."""
        self._end_notes()
        self._point_depth = depth
        self._point_kept = False

    # -- the end ---------------------------------------------------------------------------

    def _finish(self) -> None:
        self._collapse_to(0)
        if self._root.touched:
            self._root.finish()
        else:
            self._root.trouble("plan", "no TAP in the output")

    def _problem(self) -> str:
        found = [] if self._bailed is None else [("bailed out: " + self._bailed).rstrip(": ")]
        found.extend(self._root.troubles.values())
        if self._kept.problem:
            found.append(self._kept.problem)
        return "; ".join(found)

    def _name_groups(self) -> None:
        cases = self._kept.cases
        for index, group in self._nested:
            # A group's name is one string for all its cases, and is paid for once.
            if group.full is None and not self._kept.charge(len(group.full_name())):
                return
            cases[index] = cases[index]._replace(group=group.full_name())


def _explained(outcome: str, below: Set[str]) -> bool:
    """Whether the cases of a subtest account for its point's outcome."""
    if outcome == PASSED:
        return True
    return bool(below & _BAD) if outcome in _BAD else outcome in below


def _parse_text(rest: str) -> _Text:
    """Split a description from its directive (TAP 14, "Directive" and "Escaping").

    The delimiter is the first unescaped ``#`` with white space around it.  One that
    lacks the space on one side counts if a directive follows.
    """
    for found in _HASH(rest):
        at = found.start()
        if len(found.group()) == 2:
            continue
        spaced = at == 0 or rest[at - 1].isspace() or rest[at - 2 : at] == "\\\\"
        then_space = rest[at + 1 : at + 2].isspace()
        if not (spaced or then_space):
            continue
        text = _with_directive(rest[:at], rest[at + 1 :], spaced)
        if text is not None or (spaced and then_space):
            return text or _Text(_unescape(rest))
    return _Text(_unescape(rest))


def _with_directive(before: str, after: str, spaced: bool) -> Optional[_Text]:
    name = _unescape(before.strip())
    # Only words near the hash can be a directive; the pattern must not run on
    # over a long text for each of many hashes.
    head = after[:32].lstrip()[:5].lower()
    if head.startswith(("skip", "todo")):
        match = _DIRECTIVE(after)
        if match is not None:
            return _Text(name, match.group(1).lower(), _unescape((match.group(3) or "").strip()))
    if head == "time=" and spaced:
        return _with_time(name, after)
    return None


def _with_time(name: str, after: str) -> Optional[_Text]:
    """node-tap writes ``# time=12.3ms``; it must not be part of a name."""
    match = _TIME(after)
    if match is None:
        return None
    duration = seconds(match.group(1))
    if duration is not None and match.group(2) == "ms":
        duration /= 1000
    return _Text(name, "", "", duration)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text
