"""The choices that a user has about JUnit XML, of a live run and of a job."""

from __future__ import annotations

from dataclasses import dataclass

#: Places of properties: in each testcase, in the testsuite, or nowhere.  The schema of Jenkins'
#: xunit plugin (junit-10.xsd) has none in a testcase.
IN_TESTCASES, IN_SUITE, NOWHERE = "case", "suite", "none"
PROPERTY_PLACES = (IN_TESTCASES, IN_SUITE, NOWHERE)


@dataclass(frozen=True)
class JunitStyle:
    """Settings of JUnit XML."""

    #: Text in front of the class of each testcase; empty: none.
    prefix: str = ""
    #: One of ``PROPERTY_PLACES``.
    properties: str = IN_TESTCASES


DEFAULT_STYLE = JunitStyle()
