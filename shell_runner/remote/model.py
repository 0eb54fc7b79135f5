"""The frozen values that travel between a controller and its hosts.

Owns their shape and nothing else: no I/O, no clock, no judgement.  Every value
is a named tuple of plain JSON values, so ``Test(*json.loads(text))`` restores
it; new fields go to the end and have a default.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

#: What a Case or a Result can be.  ``xfailed`` and ``xpassed`` are the outcomes
#: of a test point marked TODO (TAP 14, "TODO tests").
PASSED = "passed"
FAILED = "failed"
SKIPPED = "skipped"
ERROR = "error"
XFAILED = "xfailed"
XPASSED = "xpassed"


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


class Parsed(NamedTuple):
    """What a reader understood of a program's output."""

    format: str
    cases: List[Case]
    #: Why the output cannot be trusted as it stands ("planned 5, saw 3");
    #: empty when all is well.
    problem: str = ""
    #: The program said that all of it was skipped, and why.
    skip_all: Optional[str] = None
