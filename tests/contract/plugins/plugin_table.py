"""The plugins of the compatibility suite with their versions: the only place that names these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plugin:
    """A plugin from PyPI, pinned."""

    #: Name of the distribution.
    name: str
    version: str
    #: Entry points in the group ``pytest11``, for ``-p``.
    entry_points: tuple[str, ...]
    #: Options of the run that is compared with one without the plugin.
    options: tuple[str, ...] = ()
    #: Python tests that use the plugin, beside the programs; all of them pass.
    sample: str = ""
    #: Whether the plugin replaces pytest's short summary, also that of Python tests.
    has_own_summary: bool = False

    @property
    def load_options(self) -> list[str]:
        """Return the options that load the plugin."""
        return [word for name in self.entry_points for word in ("-p", name)]


PLUGINS = (
    Plugin("allure-pytest", "2.16.2", ("allure_pytest",), ("--alluredir=out/allure",)),
    Plugin(
        "hypothesis", "6.170.17", ("hypothesispytest",),
        sample="from hypothesis import given, strategies\n"
        "@given(strategies.integers())\ndef test_sample(n): assert n == n\n",
    ),
    Plugin(
        "pytest-asyncio", "1.5.0", ("asyncio",), ("--asyncio-mode=auto",),
        sample="import asyncio\nasync def test_sample(): await asyncio.sleep(0)\n",
    ),
    Plugin(
        "pytest-bdd", "9.0.1", ("pytest-bdd",), ("--cucumberjson=out/cucumber.json",),
        sample="import pathlib\nfrom pytest_bdd import given, scenario\n"
        "pathlib.Path(__file__).with_name('a.feature').write_text(\n"
        "    'Feature: a\\n  Scenario: b\\n    Given c\\n')\n"
        "@scenario('a.feature', 'b')\ndef test_sample(): pass\n@given('c')\ndef c(): pass\n",
    ),
    Plugin(
        "pytest-benchmark", "5.3.1", ("benchmark",), ("--benchmark-json=out/benchmark.json",),
        sample="def test_sample(benchmark): benchmark.pedantic(int, rounds=2)\n",
    ),
    Plugin(
        "pytest-check", "3.0.3", ("check",),
        sample="def test_sample(check): check.equal(1, 1)\n",
    ),
    Plugin("pytest-cov", "7.1.0", ("pytest_cov",), ("--cov=.", "--cov-report=xml:out/cov.xml")),
    Plugin("pytest-dependency", "0.6.1", ("dependency",)),
    Plugin(
        "pytest-github-actions-annotate-failures", "0.4.2",
        ("pytest_github_actions_annotate_failures",),
    ),
    Plugin("pytest-html", "4.2.0", ("metadata", "html"), ("--html=out/report.html",)),
    Plugin("pytest-instafail", "0.5.0", ("instafail",), ("--instafail",)),
    Plugin(
        "pytest-json-report", "1.5.0", ("metadata", "pytest_jsonreport"),
        ("--json-report", "--json-report-file=out/report.json"),
    ),
    Plugin("pytest-metadata", "3.1.1", ("metadata",), ("--metadata", "a", "b")),
    Plugin("pytest-order", "1.5.0", ("pytest_order",), ("--order-scope=module",)),
    Plugin("pytest-random-order", "1.2.0", ("random_order",), ("--random-order-bucket=global",)),
    Plugin("pytest-randomly", "5.1.0", ("randomly",), ("-p", "no:cacheprovider")),
    Plugin("pytest-repeat", "0.9.4", ("repeat",), ("--count=1",)),
    Plugin("pytest-reportlog", "1.0.0", ("pytest_reportlog",), ("--report-log=out/log.jsonl",)),
    Plugin("pytest-rerunfailures", "16.7", ("rerunfailures",), ("--reruns=0",)),
    Plugin("pytest-retry", "1.7.0", ("pytest-retry",), ("--retries=0",)),
    Plugin(
        "pytest-split", "0.11.0", ("pytest-split",),
        ("--store-durations", "--durations-path=out/durations"),
    ),
    Plugin(
        "pytest-subtests", "0.15.0", ("subtests",),
        sample="def test_sample(subtests):\n    with subtests.test('one'): pass\n",
    ),
    Plugin("pytest-sugar", "1.1.1", ("sugar",), ("--force-sugar",), has_own_summary=True),
    Plugin("pytest-timeout", "2.4.0", ("timeout",), ("--timeout=60",)),
    Plugin("pytest-xdist", "3.8.0", ("xdist", "xdist.looponfail"), ("-n", "0")),
    Plugin(
        "syrupy", "7.0.2", ("syrupy",), ("--snapshot-update",),
        sample="def test_sample(snapshot): assert [1] == snapshot\n",
    ),
    Plugin("teamcity-messages", "1.33", ("pytest-teamcity",), ("--teamcity",)),
)  # fmt: skip

#: The distributions that the plugins import.
REQUIREMENTS = (
    "allure-python-commons==2.16.2", "attrs==26.1.0", "coverage==7.17.5", "execnet==2.1.2",
    "gherkin-official==42.0.1", "jinja2==3.1.6", "mako==1.4.3", "markupsafe==3.0.4",
    "packaging==26.4", "parse==1.22.4", "parse-type==0.6.6", "py-cpuinfo2==10.1.1", "six==1.17.0",
    "sortedcontainers==2.4.0", "termcolor==3.3.0", "typing-extensions==4.16.0",
)  # fmt: skip
