"""TAP documents, nested by subtests, and the cases that they add up to.

Checks numbers and plans (TAP 14, "Plan" and "Test Points"), and decides which points become cases.
This module must not know how a line is written.

The points of a subtest become cases, in the group of their parents' names.  The parent's own point
is a case of its own only if the cases below it do not account for what it says:

* it failed and none below it did; or it has SKIP or TODO and none below it shows that outcome;
* the subtest itself is invalid (no plan, a wrong plan): then it is an error;
* the subtest had no points: then it has the parent's outcome, or is skipped if the parent is ok
  (its plan was ``1..0``).

TODO on the parent makes failures below it xfailed, SKIP makes them skipped.  Indented lines that
nothing introduces as a subtest (no ``# Subtest``, no plan) are plain text unless one of them is a
``not ok``: doubt never turns a failure green, and never turns plain text into an error.
"""

from typing import Dict, List, Optional, Set, Tuple

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, XPASSED, Case
from .bounds import MAX_CASES, CaseCollector, truncate
from .tap_grammar import Diagnostics, parse_skip_reason

#: Levels of subtests that are read; a deeper one is a problem of the stream.  A line of nothing
#: but spaces must not open thousands of documents.
MAX_DEPTH = 100
#: Characters that one document takes from the collector's limit.
_DOCUMENT_COST_CHARS = 100
#: Numbers of this many digits or more are beyond every plan; int() of a very long one is slow.
_MAX_DIGITS = 10
_TOO_LARGE = 10**9

#: The outcome of a parent's point -> the outcome that failures below it get.
_SOFTENED = {XFAILED: XFAILED, XPASSED: XFAILED, SKIPPED: SKIPPED}
_FAILING = {FAILED, ERROR}


def to_number(digits: str) -> int:
    """Return the number, or 1 000 000 000 for any that has ten digits or more."""
    return int(digits) if len(digits) < _MAX_DIGITS else _TOO_LARGE


class Group:
    """The name of a document, linked to those of the documents around it.

    A case keeps nothing else of the documents that it stood in.
    """

    __slots__ = ("cached_name", "name", "parent")

    def __init__(self, name: str, parent: Optional["Group"]) -> None:
        self.name = name
        self.parent = parent
        #: The result of full_name once it was computed.
        self.cached_name: Optional[str] = None if parent is not None else ""

    def full_name(self) -> str:
        """Return the names of the subtests that lead here, outermost first."""
        if self.cached_name is None:
            # Not cached for the parents: most of them have no cases of their own.
            names = [self.name]
            group = self.parent
            while group is not None and group.parent is not None:
                names.append(group.name)
                group = group.parent
            self.cached_name = truncate(" > ".join(truncate(name, 256) for name in reversed(names)))
        return self.cached_name


class Document:
    """One TAP document: the stream itself, or a subtest at any depth."""

    __slots__ = (
        "any_order", "first_case", "group", "has_content", "highest_number", "is_announced",
        "opening_name", "opening_point", "parent", "plan", "point_count", "points_before_plan",
        "problems", "seen_beyond", "seen_up_to", "skip_reason", "strict",
    )  # fmt: skip

    def __init__(self, parent: Optional["Document"], title: Optional[str], first_case: int) -> None:
        self.parent = parent
        self.is_announced = title is not None
        parent_group: Optional[Group] = parent.group if parent is not None else None
        self.group: Group = Group(title or "subtest", parent_group)
        #: Index of its first case in the collector.
        self.first_case = first_case
        self.strict: bool = parent is not None and parent.strict
        #: The document is TAP 14, which allows any order of numbers and has escapes.
        self.any_order: bool = parent is not None and parent.any_order
        self.plan: Optional[int] = None
        self.points_before_plan = 0
        self.skip_reason: Optional[str] = None
        self.point_count = 0
        self.highest_number = 0
        #: All numbers up to this one were seen, and those in seen_beyond.
        self.seen_up_to = 0
        self.seen_beyond: Optional[Set[int]] = None
        #: The first message of each kind of problem.
        self.problems: Dict[str, str] = {}
        #: The point that opened a buffered subtest, and its name as written.
        self.opening_point: Optional[Case] = None
        self.opening_name = ""
        self.has_content = False

    def add_problem(self, kind: str, message: str) -> None:
        """Record a problem; the first of each kind counts."""
        self.problems.setdefault(kind, message)

    def count_point(self, digits: Optional[str]) -> int:
        """Count a point, check its number, and return it; a point without one gets the next."""
        self.point_count = count = self.point_count + 1
        if digits is not None:
            number = to_number(digits)
        else:
            number = self.seen_up_to + 1 if self.any_order else count
        if number > self.highest_number:
            self.highest_number = number
        if self.any_order:
            self._check_unique(number)
        elif number != count:
            self.add_problem("order", "out of sequence: found %d, expected %d" % (number, count))
        return number

    def _check_unique(self, number: int) -> None:
        beyond = self.seen_beyond = self.seen_beyond or set()
        if number == self.seen_up_to + 1:
            self.seen_up_to = number
            while self.seen_up_to + 1 in beyond:
                self.seen_up_to += 1
                beyond.discard(self.seen_up_to)
        elif number <= self.seen_up_to or number in beyond:
            self.add_problem("order", "test %d was seen twice" % number)
        elif len(beyond) < MAX_CASES:
            beyond.add(number)

    def set_plan(self, digits: str, reason: str) -> None:
        """Record the plan; a document must have one, before or after all points."""
        if self.plan is not None:
            self.add_problem("plan", "two plans")
            return
        self.plan = to_number(digits)
        self.points_before_plan = self.point_count
        if self.plan == 0:
            self.skip_reason = parse_skip_reason(reason)

    def finish(self) -> str:
        """Return the problems of the complete document, or an empty text."""
        if self.plan is None:
            self.add_problem("plan", "no plan")
        else:
            self._check_plan(self.plan)
        return "; ".join(self.problems.values())

    def _check_plan(self, plan: int) -> None:
        if 0 < self.points_before_plan < self.point_count:
            self.add_problem("plan", "the plan stands in the middle")
        if self.point_count != plan:
            self.add_problem("count", "planned %d, saw %d" % (plan, self.point_count))
        elif self.highest_number > plan:
            message = "test %d is outside the plan 1..%d" % (self.highest_number, plan)
            self.add_problem("range", message)


class DocumentTree:
    """The open documents of one stream, outermost first, and the cases collected so far."""

    def __init__(self) -> None:
        self._collector = CaseCollector()
        self._root = Document(None, None, 0)
        self._stack = [self._root]
        #: Names that ``# Subtest`` comments announced, by the comment's depth.
        self._announced: Dict[int, str] = {}
        #: Indexes of the cases of subtests; the names of their groups are known at the end.
        self._nested_cases: List[Tuple[int, Group]] = []
        self._diagnostics: Optional[Diagnostics] = None
        #: The depth of the last point, and whether that point is the last case.
        self._last_point_depth = -1
        self._is_last_point_kept = False

    # -- opening documents ---------------------------------------------------------------

    def _open_to_depth(self, depth: int) -> bool:
        """Open the documents down to ``depth``.  Return False if a limit forbids it."""
        if depth > MAX_DEPTH:
            self._root.add_problem("depth", "subtests are nested deeper than %d" % MAX_DEPTH)
            return False
        while len(self._stack) <= depth:
            self._end_diagnostics()
            level = len(self._stack)
            title = self._announced.pop(level - 1, None)
            if title is None:
                # Older Test::More announced a subtest at the subtest's own indentation.
                title = self._announced.pop(level, None)
            if not self._collector.reserve(_DOCUMENT_COST_CHARS):
                return False
            first_case = len(self._collector.cases)
            self._stack.append(Document(self._stack[-1], title, first_case))
        return True

    def _open_buffered(self, depth: int, point: Case, full_name: str) -> None:
        """Open the buffered subtest of ``point``, which is settled when the subtest closes."""
        self._forget_last_point()
        self._collector.reserve(_DOCUMENT_COST_CHARS)
        document = Document(self._stack[depth], point.name, len(self._collector.cases))
        document.opening_point, document.opening_name = point, full_name
        self._stack.append(document)

    def _reopen_last_point(self, depth: int) -> None:
        """Turn the last case back into a point that opens a buffered subtest."""
        self._end_diagnostics()
        point = self._collector.cases.pop()
        if self._nested_cases and self._nested_cases[-1][0] == len(self._collector.cases):
            self._nested_cases.pop()
        self._open_buffered(depth, point._replace(group=""), point.name)

    # -- closing documents -----------------------------------------------------------------

    def _close_buffered(self, depth: int) -> None:
        """Close the buffered subtest below ``depth``."""
        self._end_diagnostics()
        child = self._close_below(depth + 1)
        self._stack.pop()
        assert child.opening_point is not None
        self._settle_subtest(child, child.opening_point, depth)

    def _close_child(self, depth: int) -> Optional[Document]:
        """Close the subtest that a point at ``depth`` ends; return None if there is none."""
        child = self._close_below(depth + 1)
        self._stack.pop()
        for level in [level for level in self._announced if level > depth]:
            del self._announced[level]
        if child.opening_point is None:
            return child
        # A buffered subtest has its point already, so this point belongs to another test.
        self._settle_unclosed(child, depth)
        return None

    def _settle_unclosed(self, child: Document, depth: int) -> None:
        assert child.opening_point is not None
        if child.has_content:
            child.add_problem("brace", "the subtest was not closed")
            self._settle_subtest(child, child.opening_point, depth)
        else:
            self._add_case(child.opening_point._replace(name=truncate(child.opening_name)), depth)
        self._forget_last_point()

    def _close_below(self, depth: int) -> Document:
        """Abandon the documents below the one at ``depth``, which no point ended; return it."""
        while len(self._stack) > depth + 1:
            document = self._stack.pop()
            if document.opening_point is not None:
                self._settle_unclosed(document, len(self._stack) - 1)
            else:
                self._abandon(document)
        return self._stack[depth]

    def _abandon(self, document: Document) -> None:
        has_failures = self._case_outcomes(document) & _FAILING
        if not (document.is_announced or document.problems or has_failures):
            # "Harnesses should treat unterminated Subtests as non-TAP."
            self._discard_cases(document)
        elif document.parent is not None:
            name = truncate(document.group.name, 80)
            message = "the subtest %r was not ended by a test point" % name
            document.parent.add_problem("unended", message)

    def _settle_subtest(self, child: Document, point: Case, depth: int) -> None:
        """Decide what the point that ends a subtest adds to the subtest's cases."""
        outcomes = self._case_outcomes(child)
        is_introduced = child.is_announced or child.plan is not None
        if not is_introduced and not child.problems and not outcomes & _FAILING:
            self._discard_cases(child)
            self._add_case(point, depth)
            return
        if point.outcome in _SOFTENED:
            outcomes = self._soften_failures(child, outcomes, _SOFTENED[point.outcome])
        point = _agree_on_name(child, point)
        problem = child.finish()
        if problem and point.outcome == PASSED:
            point = point._replace(outcome=ERROR, message="subtest: " + problem)
        elif problem and not point.message:
            point = point._replace(message="subtest: " + problem)
        elif child.skip_reason is not None and point.outcome == PASSED:
            point = point._replace(outcome=SKIPPED, message=child.skip_reason)
        if problem or not outcomes or not _is_explained(point.outcome, outcomes):
            self._add_case(point, depth)
        else:
            self._forget_last_point(depth)

    # -- cases -----------------------------------------------------------------------------

    def _case_outcomes(self, document: Document) -> Set[str]:
        # This visits each case once a level, and each level of it is four bytes
        # of input, so the time stays linear in the bytes.
        return {case.outcome for case in self._collector.cases[document.first_case :]}

    def _soften_failures(self, document: Document, outcomes: Set[str], softened: str) -> Set[str]:
        if not outcomes & _FAILING:
            return outcomes
        cases = self._collector.cases
        for index in range(document.first_case, len(cases)):
            if cases[index].outcome in _FAILING:
                cases[index] = cases[index]._replace(outcome=softened)
        return self._case_outcomes(document)

    def _discard_cases(self, document: Document) -> None:
        self._collector.discard_from(document.first_case)
        while self._nested_cases and self._nested_cases[-1][0] >= document.first_case:
            self._nested_cases.pop()
        self._forget_last_point()

    def _add_case(self, case: Case, depth: int) -> None:
        self._last_point_depth = depth
        self._is_last_point_kept = self._collector.add(case)
        if depth and self._is_last_point_kept:
            index = len(self._collector.cases) - 1
            self._nested_cases.append((index, self._stack[depth].group))

    def _name_groups(self) -> None:
        cases = self._collector.cases
        for index, group in self._nested_cases:
            # A group's name is one string for all its cases, and is counted once.
            if group.cached_name is None and not self._collector.reserve(len(group.full_name())):
                return
            cases[index] = cases[index]._replace(group=group.full_name())

    # -- diagnostics that follow a point -----------------------------------------------------

    def _get_diagnostics(self) -> Diagnostics:
        if self._diagnostics is None:
            self._diagnostics = Diagnostics(self._last_point_depth)
        return self._diagnostics

    def _end_diagnostics(self) -> None:
        diagnostics, self._diagnostics = self._diagnostics, None
        if diagnostics is not None and self._is_last_point_kept:
            self._collector.replace_last(diagnostics.apply_to(self._collector.cases[-1]))

    def _forget_last_point(self, depth: int = -1) -> None:
        """Let what follows belong to no case; a YAML block at ``depth`` is still passed over."""
        self._end_diagnostics()
        self._last_point_depth = depth
        self._is_last_point_kept = False


def _agree_on_name(child: Document, point: Case) -> Case:
    """Give parent point and subtest the same name, preferring the announced one."""
    announced = child.group.name
    if not child.is_announced or announced == "subtest" or child.opening_point is not None:
        child.group.name = point.name
    elif point.name != announced and not point.message:
        # Test::More replaces the name by a sentence when the subtest is empty.
        return point._replace(name=truncate(announced), message=point.name)
    else:
        return point._replace(name=truncate(announced))
    return point


def _is_explained(outcome: str, outcomes_below: Set[str]) -> bool:
    """Return whether the cases of a subtest account for the outcome of its point."""
    if outcome == PASSED:
        return True
    return bool(outcomes_below & _FAILING) if outcome in _FAILING else outcome in outcomes_below
