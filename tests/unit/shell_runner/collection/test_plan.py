"""Tests of the plan of a tree's tests, which is made without pytest."""

from pathlib import Path

import pytest

from shell_runner.collection.metadata import DEFAULT_TIMEOUT, Metadata
from shell_runner.collection.plan import Plan, make_plan
from shell_runner.config import load_config
from shell_runner.errors import InvalidConfig, InvalidMetadata, UsageError
from tests.helpers.single_host_run import write_program


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    script(root / "test_a.sh")
    script(root / "net/test_ping.sh", "tags=net,slow timeout=5")
    script(root / "net/deep/test_dns", "tags=net requires=docker,gpu retries=2")
    script(root / "db/test_x.t", "repeat=2", 0o644)
    write_program(root / "net/tool.sh", "#!/bin/sh\n", 0o755)
    write_program(root / "py/test_py.py", "", 0o644)
    write_program(root / "data/x.json", "", 0o644)
    return root


def script(path: Path, metadata: str = "", mode: int = 0o755) -> None:
    write_program(path, f"#!/bin/sh\n# nosejobs: {metadata}\n" if metadata else "#!/bin/sh\n", mode)


def ids(plan: Plan) -> list[str]:
    return [test.nodeid for test in plan.tests]


X = ["db/test_x.t::repeat-1-of-2", "db/test_x.t::repeat-2-of-2"]
NET = ["net/deep/test_dns", "net/test_ping.sh"]


def test_without_names_all_tests_are_selected(tree: Path) -> None:
    plan = make_plan(tree)
    assert ids(plan) == [*X, *NET, "test_a.sh"]
    assert [test.test.id for test in plan.tests] == [0, 1, 2, 3, 4]
    assert [test.test.path for test in plan.tests[:2]] == ["db/test_x.t"] * 2
    assert (plan.invalid_tests, plan.python_tests) == ((), ("py/test_py.py",))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["net"], NET),
        (["net/", "./net/deep"], NET),
        (["net/deep", "net"], NET),
        (["."], [*X, *NET, "test_a.sh"]),
        (["net/tool.sh"], ["net/tool.sh"]),
        (["net", "net/tool.sh", "net/tool.sh"], [*NET, "net/tool.sh"]),
        (["net/*"], NET),
        (["test_[p]*"], ["net/test_ping.sh"]),
        (["**/test_*.sh"], ["net/test_ping.sh", "test_a.sh"]),
        (["*.sh", "db"], ["net/test_ping.sh", "test_a.sh", *X]),
        ([X[1]], X[1:]),
        ([X[1], "db"], X[::-1]),
        (["test_a.sh::a case :: of it"], ["test_a.sh"]),
    ],
)
def test_names_select_tests(tree: Path, names: list[str], expected: list[str]) -> None:
    plan = make_plan(tree, names)
    assert ids(plan) == expected
    assert [test.test.id for test in plan.tests] == list(range(len(expected)))


def test_absolute_names_are_of_the_tree_too(tree: Path) -> None:
    assert ids(make_plan(tree, [str(tree / "net")])) == NET


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net/test_pin.sh", "no such file or folder; did you mean 'net/test_ping.sh'?"),
        ("nett", "no such file or folder; did you mean 'net'?"),
        ("qqqq", "no such file or folder; there are db, db/test_x.t, net, net/deep, "),
        ("*.bats", "no test matches; there are db, db/test_x.t, net"),
        ("*.py", "only Python tests, which run with pytest only"),
        ("py", "only Python tests, which run with pytest only"),
        ("py/test_py.py", "Python tests run with pytest only"),
        ("data", "no tests in this folder (patterns of names: test_*, *_test, *.t, *.bats)"),
        ("db/test_x.t::repeat-3-of-2", "no such run; did you mean"),
        ("../tree2/test_a.sh", "outside of the tree of tests"),
        ("/etc/passwd", "outside of the tree of tests"),
        ("..", "outside of the tree of tests"),
        ("a\0b", "outside of the tree of tests"),
        ("x" * 5000, "no such file or folder"),
        ("link", "neither a regular file nor a folder"),
    ],
)
def test_a_name_that_selects_nothing_is_an_error(tree: Path, name: str, message: str) -> None:
    (tree / "link").symlink_to("nowhere")
    with pytest.raises(UsageError) as caught:
        make_plan(tree, ["net", name])
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_named_file_that_cannot_run_is_invalid(tree: Path) -> None:
    plan = make_plan(tree, ["data/x.json", "test_a.sh"])
    assert ids(plan) == ["test_a.sh"]
    (message,) = plan.invalid_tests
    assert message.startswith("data/x.json: not runnable: neither executable nor ")


def test_an_invalid_test_is_reported_once(tree: Path) -> None:
    script(tree / "net/test_b.sh", mode=0o644)
    script(tree / "net/test_c.sh", "timeout=never")
    plan = make_plan(tree, ["net", "net/test_b.sh", "net/*"])
    assert ids(plan) == NET
    assert plan.invalid_tests == (
        "net/test_b.sh: not executable: chmod +x test_b.sh",
        "net/test_c.sh:2: timeout: must be a time above 0, "
        'as 90, "90s", "10m", "2h" or "7d", not \'never\'',
    )


def test_tags_choose_any_of_them(tree: Path) -> None:
    assert ids(make_plan(tree, tags=["slow"])) == ["net/test_ping.sh"]
    plan = make_plan(tree, tags=["slow", "net"])
    assert ids(plan) == NET
    assert [test.test.id for test in plan.tests] == [0, 1]


def test_a_tag_that_no_test_has_is_an_error(tree: Path) -> None:
    with pytest.raises(UsageError, match="no test has the marker 'nett'; did you mean 'net'"):
        make_plan(tree, tags=["nett"])
    with pytest.raises(UsageError, match="no test has the marker 'net'; there are no markers"):
        make_plan(tree, ["test_a.sh"], tags=["net"])


def test_an_unmet_requirement_has_the_message_of_a_live_run(tree: Path) -> None:
    def unmet(*labels: str, host: str = "") -> str:
        (test,) = make_plan(tree, ["net/deep"], labels=frozenset(labels), host=host).tests
        return test.unmet

    message = "requires docker, gpu: no host of this run has "
    assert unmet() == f"{message}all of them"
    assert unmet("gpu", host="lab") == f"{message}docker (hosts: lab)"
    assert unmet("gpu", "docker", "more", host="lab") == ""


def test_retries_and_properties_are_those_of_the_test(tree: Path) -> None:
    plan = {test.nodeid: test for test in make_plan(tree).tests}
    assert plan["net/deep/test_dns"].retries == 2
    assert plan["test_a.sh"].retries is None
    assert plan[X[1]].properties == (("repeat", "2 of 2"),)
    assert plan["test_a.sh"].properties == ()


def test_repeat_of_the_run_is_stronger_than_that_of_a_test(tree: Path) -> None:
    assert ids(make_plan(tree, ["db"], repeat=1)) == ["db/test_x.t"]
    assert len(make_plan(tree, ["test_a.sh"], repeat=12).tests) == 12


@pytest.mark.parametrize(
    ("toml", "timeout", "expected"),
    [
        ("", None, DEFAULT_TIMEOUT),
        ("[tests]\ntimeout = 7", None, 7.0),
        ("[tests]\ntimeout = 7", 9.0, 9.0),
        ('[tests]\ntimeout = 7\n[tests."*.sh"]\ntimeout = 8', 9.0, 8.0),
    ],
)
def test_the_timeout_of_a_test_takes_precedence(
    tree: Path, toml: str, timeout: float | None, expected: float
) -> None:
    write_program(tree / "nosejobs.toml", toml, 0o644)
    (test,) = make_plan(tree, ["test_a.sh"], timeout=timeout).tests
    assert test.test.timeout == expected
    (own,) = make_plan(tree, ["net/test_ping.sh"], timeout=timeout).tests
    assert own.test.timeout == 5.0


def test_defaults_patterns_and_comments_add_up(tree: Path) -> None:
    write_program(
        tree / "nosejobs.toml", '[tests]\ntags = ["b"]\n[tests."net/*"]\ncwd = "root"\n', 0o644
    )
    (test,) = make_plan(
        tree, ["net/test_ping.sh"], defaults=Metadata(tags=("a",)), tags=["a"]
    ).tests
    assert test.test.cwd == "root"
    for tag in ("a", "b", "net"):
        assert make_plan(
            tree, ["net/test_ping.sh"], defaults=Metadata(tags=("a",)), tags=[tag]
        ).tests


def test_nosejobs_toml_is_that_of_the_root_or_the_nearest_above(tree: Path) -> None:
    write_program(tree / "nosejobs.toml", "[tests]\ntimeout = 7\n", 0o644)
    assert make_plan(tree / "net", ["deep"]).tests[0].test.timeout == 7.0
    alone = make_plan(tree / "net", ["deep"], tree=load_config(tree / "net"))
    assert alone.tests[0].test.timeout == DEFAULT_TIMEOUT


def test_a_bad_nosejobs_toml_is_an_error_at_once(tree: Path) -> None:
    write_program(tree / "nosejobs.toml", '[tests."no/such/*"]\ntimeuot = 3\n', 0o644)
    with pytest.raises(InvalidMetadata, match="timeuot"):
        make_plan(tree)
    write_program(tree / "nosejobs.toml", "[tets]\n", 0o644)
    with pytest.raises(InvalidConfig, match="tets"):
        make_plan(tree)


def test_formats_are_chosen_by_suffix(tree: Path) -> None:
    assert make_plan(tree, ["db"]).tests[0].test.output_format == "tap"
    assert (
        make_plan(tree, ["db"], formats_by_suffix={".t": "mine"}).tests[0].test.output_format
        == "mine"
    )
    assert make_plan(tree, ["test_a.sh"]).tests[0].test.output_format == ""


def test_patterns_of_the_user_replace_ours(tree: Path) -> None:
    assert ids(make_plan(tree, patterns=["tool"])) == ["net/tool.sh"]


def test_links_to_a_parent_folder_are_not_followed(tree: Path) -> None:
    (tree / "net/loop").symlink_to("..")
    (tree / "net/deep/self").symlink_to(".")
    assert ids(make_plan(tree, ["net"]))[-2:] == ["net/loop/test_a.sh", "net/test_ping.sh"]
    assert ids(make_plan(tree)) == [*X, *NET, "test_a.sh"]


def test_an_empty_tree_has_no_tests(tmp_path: Path) -> None:
    assert make_plan(tmp_path) == Plan(())
    with pytest.raises(UsageError, match="there are no tests in this tree"):
        make_plan(tmp_path, ["x"])
    with pytest.raises(UsageError, match="no such folder"):
        make_plan(tmp_path / "none")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    script(tmp_path / "test_\udcff")
    (test,) = make_plan(tmp_path).tests
    assert (test.nodeid, test.test.path) == ("test_\\xff", "test_\udcff")
    assert make_plan(tmp_path, ["test_\\xff"]).tests == (test,)  # as reports have it
    assert make_plan(tmp_path, ["test_\udcff"]).tests == (test,)


def test_files_that_look_like_tests_have_a_reason(tree: Path) -> None:
    assert make_plan(tree).uncollected == ()
    write_program(tree / "odd/test-dash.sh", "#!/bin/sh\n")
    write_program(tree / "odd/test_no.sh", "exit\n", 0o644)
    dash, no = make_plan(tree).uncollected
    assert dash.startswith("odd/test-dash.sh: its name matches no pattern")
    assert no.startswith("odd/test_no.sh: not runnable")
    for name in ("odd", "odd/*.sh"):
        with pytest.raises(UsageError, match=r"no tests; odd/test-dash\.sh: its name matches no"):
            make_plan(tree, [name])
    assert ids(make_plan(tree, ["odd/test-dash.sh"])) == ["odd/test-dash.sh"]
