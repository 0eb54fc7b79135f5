"""Tests of collection: which files become tests, and the messages for those that cannot."""

import shutil
from pathlib import Path

import pytest

from .conftest import Project


def test_names_decide_and_data_helpers_and_folders_do_not_count(project: Project) -> None:
    tests = ["a_test", "b_test.sh", "deep/er/test_c", "d.t", "test_e.sh", "test_f b.sh", "x.bats"]
    for name in tests:
        project.add(name)
    for name in (
        "test_a.json", "test_b.txt", "test_c.md", "test_helper.sh", "test_fixture", "run.sh",
        "test_helpers_test", "node_modules/test_x.sh", ".hidden/test_x.sh",
    ):  # fmt: skip
        project.add(name)
    (project.root / "test_folder").mkdir()
    (project.root / "test_folder.sh").mkdir()
    assert sorted(project.collect()) == sorted(tests)


def test_python_files_stay_pytests(project: Project) -> None:
    project.add("test_py.py", "#!/usr/bin/env python3\ndef test_one(): pass\n")
    project.add("test_sh.sh")
    assert project.collect() == ["test_py.py::test_one", "test_sh.sh"]
    assert project.collect("test_py.py") == ["test_py.py::test_one"]


def test_links_to_programs_are_tests_and_dangling_ones_are_not(project: Project) -> None:
    project.add("bin/tool")
    (project.root / "test_link").symlink_to("bin/tool")
    (project.root / "test_dangling").symlink_to("nothing")
    assert project.collect() == ["test_link"]


def test_a_script_without_its_exec_bit_is_a_visible_error(project: Project) -> None:
    project.add("test_good.sh")
    project.add("sub/test_bad.sh", mode=0o644)
    result = project.run()
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*sub/test_bad.sh: not executable: chmod +x test_bad.sh"])


def test_errors_of_files_with_odd_names_show_no_escapes(project: Project) -> None:
    project.add("sub\x1b[2J/test_bad\x1b[31m\u202e.sh", mode=0o644)
    project.add("sub\x1b[2J/test_helper\x1b[31m.sh")
    for arguments in ((), ("-vv",), ("-o", "nosejobs_strict=true")):
        result = project.run(*arguments)
        text = result.stdout.str() + result.stderr.str()
        assert result.ret == 2
        assert "chmod +x $'test_bad" in text
        assert "ERROR sub\\x1b[2J/test_bad\\x1b[31m\\u202e.sh" in text
        assert not set(text) & set("\x1b\u202e")


def test_text_without_exec_bit_and_shebang_is_data(project: Project) -> None:
    project.file("test_notes.sh", "echo")
    project.file("test_notes", "#!/bin/sh\n")
    project.add("test_good.sh")
    assert project.collect() == ["test_good.sh"]


def test_t_and_bats_files_run_as_prove_and_bats_run_them(project: Project) -> None:
    project.file("a.t", "print qq(ok 1\\n1..1\\n); exit($] > 5 ? 0 : 1);")
    project.file("b.t", "#!/bin/sh\necho 1..1; test $# = 0 && echo ok\n")
    project.file("c.bats", "@test one {\n [ 1 = 1 ]\n}\n")
    missing = [name for name in ("perl", "bats") if not shutil.which(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    assert project.run().parseoutcomes() == {"passed": 3}


def test_a_named_file_is_taken_if_it_can_run(project: Project) -> None:
    project.add("check.sh")
    project.add("test_helper.sh")
    assert project.run("check.sh", "test_helper.sh").parseoutcomes() == {"passed": 2}


@pytest.mark.parametrize(
    ("text", "words"), [("#!/bin/sh\n", "chmod +x run.sh"), ("echo\n", "neither executable nor")]
)
def test_a_named_file_that_cannot_run_says_why(project: Project, text: str, words: str) -> None:
    project.file("run.sh", text)
    result = project.run("run.sh")
    assert result.ret != 0
    result.stdout.fnmatch_lines([f"*run.sh: *{words}*"])


def test_patterns_by_ini(project: Project) -> None:
    project.ini("nosejobs_patterns = check_* *.check")
    for name in ("check_a.sh", "b.check", "test_c.sh", "check_helper.sh"):
        project.add(name)
    assert project.collect() == ["b.check", "check_a.sh", "check_helper.sh"]


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",)])
def test_a_script_is_a_file_with_an_item(project: Project, hosts: tuple[str, ...]) -> None:
    project.add("sh/test_sort.a.sh")
    project.file(
        "conftest.py",
        """
import pytest
def pytest_collection_modifyitems(items):
    item, = items
    print("item", item.nodeid, item.location, type(item.parent).__mro__[1].__name__)
    print("found", list(item.fixturenames), dict(item.funcargs), item.getparent(pytest.Dir).name)
    print("file", item.getparent(pytest.File).nodeid, item.reportinfo()[1:])
""",
    )
    lines = project.run("--collect-only", "-s", *hosts).stdout.str()
    assert (
        "item sh/test_sort.a.sh::test_sort.a ('sh/test_sort.a.sh', 0, 'test_sort.a ') File" in lines
    )
    assert "found [] {} sh" in lines
    assert "file sh/test_sort.a.sh (0, 'test_sort.a')" in lines


def test_a_case_that_does_not_exist_is_an_error(project: Project) -> None:
    project.add("a b/test_words.sh", "echo 1..1; echo ok 1 - one")
    for case, status in (("one", 0), ("test_words", 0), ("nope", 4), ("one::two", 4)):
        result = project.run(f"a b/test_words.sh::{case}")
        assert result.ret == status, case
        message = (
            f"*not found: a b/test_words.sh::{case} (a b/test_words.sh ran and has no such case)"
        )
        if status:
            result.stdout.fnmatch_lines([message])
    result = project.run("a b/test_words.sh::nope", "a b", "--nosejobs=popen")
    assert result.ret == 4


def test_the_bare_path_deselects(project: Project) -> None:
    project.add("sub/test_a.sh")
    project.add("sub/test_b.sh")
    assert project.collect("--deselect", "sub/test_a.sh") == ["sub/test_b.sh"]


def test_ids_are_relative_where_rootdir_is_elsewhere(project: Project) -> None:
    project.add("tree/test_a.sh")
    project.file("elsewhere/pytest.ini", "[pytest]\n")
    for hosts in ((), ("--nosejobs=popen//id=x",)):
        ids = project.collect("--rootdir=elsewhere", "-c", "elsewhere/pytest.ini", "tree", *hosts)
        assert ids == ["../tree/test_a.sh"]


NAMES = [
    "test_plain.sh", "test_a b.sh", "test_é.sh", "test_a'b.sh", "d e/test_x",
    "test_$HOME.sh", "test_a.b.sh", "test_c::d.sh", "e::f/test_g",
]  # fmt: skip


def test_ids_can_be_pasted_back(project: Project) -> None:
    for name in NAMES:
        project.add(name)
    ids = project.collect()
    assert sorted(ids) == sorted(NAMES)
    for node in ids:
        assert project.collect(node) == [node]
        assert project.collect(f"{node}::{Path(node).stem}") == [node]
    assert project.run("--nosejobs=2*popen", *ids).parseoutcomes() == {"passed": len(NAMES)}


@pytest.mark.skipif(not shutil.which("perl"), reason="no perl")
@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_t_file_needs_no_perl_where_its_shebang_says(project: Project, mode: int) -> None:
    shebangs = ["#!./perl -w", "#!perl", "#!/no/such/perl", "#!/usr/bin/env perl -T"]
    text = "print qq(1..1\\n), ${^TAINT} == %d ? 'ok' : 'not ok', qq( 1\\n);\n"
    for number, shebang in enumerate(shebangs):
        taint = shebang.endswith("-T")
        project.add(f"{number}.t", f"{shebang}\n{text % taint}", mode)
    assert project.run("--nosejobs=2*popen").parseoutcomes() == {"passed": len(shebangs)}


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",)])
def test_legal_bats_tags_are_markers(project: Project, hosts: tuple[str, ...]) -> None:
    project.file("a.bats", "# bats file_tags=dep:x\n# bats test_tags=2nd,-z\n@test x {\n :\n}\n")
    project.file("b.bats", "# bats file_tags=\n@test x {\n :\n}\n")
    project.add("test_c.sh", "# nosejobs: tags=dep:y,_w")
    strict = (*hosts, "--strict-markers", "-Werror")
    assert project.collect(*strict) == ["a.bats", "b.bats", "test_c.sh"]
    assert project.collect(*strict, "-m", "2nd") == ["a.bats"]
    # With --strict-markers, pytest 9.1 and later refuse ":" in -m: it cannot be registered.
    assert project.collect(*hosts, "-m", "dep:x") == ["a.bats"]
    assert project.collect(*hosts, "-m", "dep:y and _w") == ["test_c.sh"]


def test_a_table_of_variables_for_all_tests(project: Project) -> None:
    text = (
        '[tests]\nenv = { FOO = "bar" }\nlimits = { nofile = 99 }\n[tests."*_b.sh"]\ntimeout = 9\n'
    )
    project.file("nosejobs.toml", text)
    for name in ("test_a.sh", "test_b.sh"):
        project.add(name, "test $FOO = bar && test $(ulimit -n) = 99")
    assert project.run().parseoutcomes() == {"passed": 2}


def test_a_plan_without_cases_fails_with_any_exit_status_but_zero(project: Project) -> None:
    for status in (0, 1, 77, 99):
        project.add(f"test_{status}", f"echo 1..3; exit {status}")
        project.add(f"{status}.t", f"echo 1..3; exit {status}")
    status, cases = project.cases()
    assert status == 1
    assert {name: case.outcome for name, case in cases.items()} == {
        **dict.fromkeys(["test_0", "0.t"], "error"),
        **{f"test_{status}": "failure" for status in (1, 77, 99)},
        **{f"{status}.t": "failure" for status in (1, 77, 99)},
    }


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",)])
def test_marks_keywords_and_ids_choose(project: Project, hosts: tuple[str, ...]) -> None:
    project.file("nosejobs.toml", '[tests."net_*"]\ntags = ["net"]\n')
    project.add("test_a.sh", "# nosejobs: tags=smoke,fast\n")
    project.add("test_b.sh", "# nosejobs: tags=smoke\n")
    project.add("net_test", "exit 0")
    project.file("test_py.py", "def test_smoke(): pass\n")
    strict = (*hosts, "--strict-markers", "-q")
    assert project.run("-m", "smoke", *strict).parseoutcomes() == {"passed": 2, "deselected": 2}
    assert project.run("-m", "smoke and not fast", *strict).parseoutcomes()["passed"] == 1
    assert project.run("-m", "net", *strict).parseoutcomes()["passed"] == 1
    assert project.run("-k", "test_a or test_py", *strict).parseoutcomes()["passed"] == 2
    assert project.run("test_b.sh", *strict).parseoutcomes() == {"passed": 1}


def test_collect_only_runs_nothing_and_opens_no_host(project: Project) -> None:
    project.add("test_a.sh", "touch ran")
    result = project.run("--collect-only", "--nosejobs=ssh=no-such-host.invalid")
    result.stdout.fnmatch_lines(["*test_a.sh*", "*1 test collected*"])
    assert result.ret == 0
    assert not (project.root / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("test_a.sh", "# nosejobs: timout=3", "test_a.sh:2: timout: unknown key; did you mean"),
        (
            "d/test_a.sh",
            "#\n# nosejobs: timeout=x",
            "d/test_a.sh:3: timeout: must be a time above 0",
        ),
        ("test_a.sh", "# nosejobs: tags=a;b", "test_a.sh:2: tags: "),
        (
            "test_a.sh",
            "# nosejob: timeout=3",
            "test_a.sh:2: nosejobs: must be written as # nosejobs: ",
        ),
        ("test_a.sh", "# nosejobs: timeout = 3", "test_a.sh:2: timeout: needs a value: "),
        (
            "test_a.sh",
            "# nosejobs timeout=3",
            "test_a.sh:2: nosejobs: must be written as # nosejobs: ",
        ),
    ],
)
def test_bad_metadata_is_a_collection_error(
    project: Project, name: str, text: str, error: str
) -> None:
    project.add(name, text)
    project.add("test_good.sh")
    result = project.run("--nosejobs=popen")
    assert result.ret == 2
    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines([f"*{error}*"])


def test_bad_metadata_of_a_pattern_names_the_file_and_the_pattern(project: Project) -> None:
    project.file("nosejobs.toml", '[tests."test_*"]\ntimeout = "soon"\n')
    project.add("test_a.sh")
    result = project.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*nosejobs.toml:*test_[*]*timeout: must be a time above 0*"])


def test_a_pattern_that_matches_nothing_is_checked_too(project: Project) -> None:
    project.file("nosejobs.toml", '[tests."nowhere/*"]\ntimout = 3\n')
    project.add("test_a.sh")
    result = project.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*nosejobs.toml:*timout: unknown key; did you mean 'timeout'*"])


def test_a_bad_config_is_a_usage_error(project: Project) -> None:
    project.file("nosejobs.toml", "[hosst]\n")
    result = project.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*nosejobs.toml:1: unknown key 'hosst'; did you mean 'hosts'?*"])


@pytest.mark.parametrize("ini", ["nosejobs_timeout = soon", "nosejobs_cwd = there"])
def test_a_bad_ini_value_is_a_usage_error(project: Project, ini: str) -> None:
    project.ini(ini)
    result = project.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{ini.split()[0]}*"])


def test_defaults_by_ini_patterns_and_comment_the_nearest_wins(project: Project) -> None:
    project.ini("nosejobs_timeout = 0.3\nnosejobs_tags = all")
    project.file("nosejobs.toml", '[tests."*_slow.sh"]\ntimeout = 60\n')
    project.add("test_ini.sh", "sleep 60")
    project.add("test_slow.sh", "sleep 0.5")
    project.add("test_own.sh", "# nosejobs: timeout=60\nsleep 0.5")
    result = project.run("-m", "all")
    assert result.parseoutcomes() == {"passed": 2, "failed": 1}
    result.stdout.fnmatch_lines(["*timed out after 0.3 s*"])


LOOK_ALIKES = {
    "sub/test.sh": "its name matches no pattern",
    "test-dash.sh": "its name matches no pattern",
    "test_helper_login.sh": "its name contains 'helper'",
    "test_noshebang.sh": "neither executable nor with a shebang",
}


def add_look_alikes(project: Project) -> None:
    for name in LOOK_ALIKES:
        project.add(name)
    project.file("test_noshebang.sh", "exit 0\n")
    project.add("test_good.sh")


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",)])
def test_files_that_look_like_tests_are_counted_and_named(
    project: Project, hosts: tuple[str, ...]
) -> None:
    add_look_alikes(project)
    line = f"nosejobs: 4 files look like tests and are not collected: {', '.join(LOOK_ALIKES)} (-v*"
    for arguments in ((), ("-q",), (".",), ("sub", "."), ("--collect-only",)):
        result = project.run(*hosts, *arguments)
        assert result.ret == 0
        result.stdout.fnmatch_lines([line])
    project.run(*hosts, "-v").stdout.fnmatch_lines(
        ["*files that look like tests and are not collected*"]
        + [f"{name}: *{reason}*" for name, reason in LOOK_ALIKES.items()]
    )
    named = project.run(*hosts, "test_good.sh")
    assert named.parseoutcomes() == {"passed": 1}
    named.stdout.no_fnmatch_line("*look like*")
    only = project.run(*hosts, "sub")
    assert only.ret == 5
    only.stdout.fnmatch_lines(["*1 file looks like a test and is not collected: sub/test.sh (*"])


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",), ("-n2",)])
@pytest.mark.parametrize("by_ini", [True, False])
def test_strict_mode_makes_them_errors(
    project: Project, hosts: tuple[str, ...], by_ini: bool
) -> None:
    add_look_alikes(project)
    project.ini("nosejobs_strict = true" if by_ini else "")
    strict = () if by_ini else ("--nosejobs-strict",)
    plugins = ("-p", "xdist") if hosts == ("-n2",) else ()
    result = project.run(*plugins, *hosts, *strict)
    assert result.parseoutcomes()["errors"] == 4
    for name, reason in LOOK_ALIKES.items():
        result.stdout.fnmatch_lines([f"*{name}: looks like a test, but *{reason}*"])
    assert project.run(*plugins, *hosts, *strict, "test_good.sh").parseoutcomes() == {"passed": 1}
    if not by_ini:
        ignored = [f"--ignore={name}" for name in LOOK_ALIKES]
        assert project.run(*plugins, *hosts, *strict, *ignored).ret == 0


WRAPPER = 'echo wrapped "$@"; . "$1"; [ $# = 1 ] || exit 9'


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",)])
def test_a_wrapper_runs_tests_that_need_no_exec_bit(
    project: Project, hosts: tuple[str, ...]
) -> None:
    project.add("runtest", WRAPPER)
    project.ini("nosejobs_run = ./runtest {file}")
    project.file("sub/test_a.sh", "exit 3\n")
    project.file("sub/b.t", "echo 1..1; echo ok 1\n")
    project.add("sub/test_own.sh", "# nosejobs: run='sh -e' args='x y'\n[ $2 = y ]; false")
    result = project.run(*hosts, "-v")
    assert result.parseoutcomes() == {"failed": 2, "passed": 1}
    result.stdout.fnmatch_lines(
        ["*rerun *cd sub && ../runtest ./test_a.sh*", "*wrapped */sub/test_a.sh"]
    )
    result.stdout.fnmatch_lines(["*rerun *cd sub && sh -e ./test_own.sh x y*"])


def test_arguments_and_a_preset_by_ini(project: Project) -> None:
    project.ini("nosejobs_args = -v 'a b'\nnosejobs_preset = perl\nnosejobs_cwd = dir")
    project.file("lib/Here.pm", "package Here; 1;\n")
    test = "[ $# = 2 ] && [ \"$2\" = 'a b' ] && [ -f test_a.sh ] && [ $HARNESS_ACTIVE = 1 ]"
    project.add("sub/test_a.sh", test)
    if shutil.which("perl"):
        project.file("t/a.t", "use Here; print qq(1..1\\nok 1\\n); exit $#ARGV - 1")
    assert set(project.run().parseoutcomes()) == {"passed"}


def test_a_wrapper_that_is_missing_is_named(project: Project) -> None:
    project.file("nosejobs.toml", '[tests."*.sh"]\nrun = "./no/wrapper {file}"\n')
    project.add("test_a.sh")
    project.add("test_b", "# nosejobs: run=no-such-wrapper")
    result = project.run()
    assert result.parseoutcomes() == {"errors": 2}
    result.stdout.fnmatch_lines(["*no such file: */no/wrapper*"])
    result.stdout.fnmatch_lines(["*missing interpreter: no-such-wrapper is not installed*"])


COUNT_READS = """
import shell_runner.collection.programs as programs

reads, read_file = [], programs.read_file
programs.read_file = lambda path: reads.append(path) or read_file(path)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.line(f"{len(reads)} reads of {len(set(reads))} files")
"""


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=popen",)])
def test_many_file_arguments_read_each_file_once(project: Project, hosts: tuple[str, ...]) -> None:
    """Pytest's own part is quadratic in the number of arguments; ours is not."""
    project.file("conftest.py", COUNT_READS)
    names = [f"test_{number}.sh" for number in range(40)]
    for name in names:
        project.add(name)
    result = project.run(*hosts, "--collect-only", *names)
    result.stdout.fnmatch_lines(["*40 reads of 40 files*"])


SHOW_ITEM = """
import pytest


def pytest_collection_finish(session):
    (item,) = [each for each in session.items if each.name == "test_a"]
    print("before:", *describe(item))
    item.add_marker("added")
    item.parent.add_marker("of_file")
    print("after:", *describe(item), item.parent.stash is item.parent.stash)


def describe(item):
    yield [(type(each).__name__, each.name, each.nodeid) for each in item.listchain()]
    yield [type(each).__name__ for each in item.iter_parents()]
    yield item.getparent(pytest.File), item.getparent(pytest.Dir), item.parent is item.parent
    yield item.path, str(item.fspath), item.parent.path, item.location, item.reportinfo()
    yield [mark.name for mark in item.own_markers], [mark.name for mark in item.iter_markers()]
    yield [node.name for node, _ in item.iter_markers_with_node("slow")]
    yield item.get_closest_marker("slow"), item.get_closest_marker("no_such_marker")
    yield dict(item.keywords), "test_a.sh" in item.keywords, item.listextrakeywords()
    yield item.get_report_keywords()
    yield item.user_properties, item.stash is item.stash, item.parent.ihook is item.ihook
"""


def test_an_item_is_the_same_whether_its_file_was_named_or_not(project: Project) -> None:
    """In a folder the item comes alone; its file is made when a plugin looks at it."""
    project.file("conftest.py", SHOW_ITEM)
    project.add("sub/test_a.sh", "# nosejobs: tags=slow,net")
    outputs = [
        [line for line in project.run("--collect-only", "-s", *args).outlines if ": [" in line]
        for args in (("sub/test_a.sh",), ("sub",), ("sub", "--nosejobs=popen"), ("-m", "slow"))
    ]
    named, *others = outputs
    assert [line.partition(":")[0] for line in named] == ["before", "after"]
    assert "('ProgramFile', 'test_a.sh', 'sub/test_a.sh')" in named[0]
    assert others == [named] * 3


SHOW_GARBAGE_COLLECTOR = """
import gc


def pytest_sessionstart():
    global threshold
    threshold = gc.get_threshold()


def pytest_terminal_summary(terminalreporter):
    tuned = gc.get_threshold() != threshold
    terminalreporter.line(f"frozen: {gc.get_freeze_count() > 1000}, tuned: {tuned}")
"""


@pytest.mark.parametrize(
    ("count", "python_tests", "expected"), [(1000, 0, True), (999, 0, False), (1000, 1, False)]
)
def test_garbage_is_looked_for_less_often_only_among_many_programs(
    project: Project, count: int, python_tests: int, expected: bool
) -> None:
    """Pytest finds unclosed files of Python tests by searching for garbage."""
    project.file("conftest.py", SHOW_GARBAGE_COLLECTOR)
    for number in range(count):
        project.add(f"test_{number}.sh")
    if python_tests:
        project.file("test_py.py", "def test_py(): pass\n")
    result = project.run("--collect-only", "-qq")
    result.stdout.fnmatch_lines([f"frozen: {expected}, tuned: {expected}"])
