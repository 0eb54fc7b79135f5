"""Tests of artifacts: the files in a test's outputs directory are collected, and no others."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from .conftest import Project

MODES = {"plain": (), "hosts": ("--nosejobs=2*popen",)}
each_mode = pytest.mark.parametrize("mode", MODES)
OUT = "$TEST_UNDECLARED_OUTPUTS_DIR"


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


@each_mode
def test_files_come_back_whole(project: Project, mode: str) -> None:
    body = os.urandom(20_000_000)
    (project.root / "big.bin").write_bytes(body)
    project.add(
        "sub/test_a.sh",
        f'cd {OUT} || exit 9; cp "$TEST_SRCDIR/big.bin" .; mkdir -p x/y; echo deep >x/y/z\n'
        ": >empty; printf 'sp' >'a b'",
    )
    project.add("test_b.sh", f"echo b >{OUT}/b.txt")
    project.add("test_nothing.sh", "exit 0")
    done = project.run("--nosejobs-artifacts=art", *MODES[mode])
    done.assert_outcomes(passed=3)
    art = project.root / "art"
    assert files_below(art) == {
        "sub/test_a.sh/big.bin", "sub/test_a.sh/x/y/z", "sub/test_a.sh/empty",
        "sub/test_a.sh/a b", "test_b.sh/b.txt",
    }  # fmt: skip
    content = (art / "sub/test_a.sh/big.bin").read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256(body).digest()
    assert (art / "sub/test_a.sh/empty").read_bytes() == b""


@each_mode
def test_nothing_but_regular_files(project: Project, mode: str) -> None:
    (project.root / "secret").write_text("secret")
    project.add(
        "test_links.sh",
        f"cd {OUT} || exit 9\n"
        "ln -s /etc/passwd file; ln -s /etc folder; ln -s nowhere dangling; mkfifo fifo\n"
        "echo real >real",
    )
    project.add("test_swap.sh", f'rmdir {OUT} && ln -s "$TEST_SRCDIR" {OUT}')
    project.add("test_gone.sh", f"rmdir {OUT}")
    project.add("test_file.sh", f"rmdir {OUT}; echo x >{OUT}")
    project.add("test_after.sh", f'[ -z "$(ls -A {OUT})" ] && [ ! -L {OUT} ]')
    done = project.run("--nosejobs-artifacts=art", *MODES[mode])
    done.assert_outcomes(passed=5)
    assert files_below(project.root / "art") == {"test_links.sh/real"}


@each_mode
def test_what_is_over_the_limit_is_counted(project: Project, mode: str) -> None:
    project.ini("nosejobs_artifacts_limit = 1000")
    project.add(
        "test_a.sh",
        f"cd {OUT}; head -c 600 /dev/zero >1; head -c 600 /dev/zero >2; echo 3 >3; echo 4 >4\n"
        "exit 1",
    )
    done = project.run("--nosejobs-artifacts=art", *MODES[mode])
    assert files_below(project.root / "art") == {"test_a.sh/1", "test_a.sh/3", "test_a.sh/4"}
    text = done.stdout.str()
    assert "wrote    art/test_a.sh/1" in text
    assert "omitted  1 file or folder over the limits was not copied" in text


@each_mode
def test_long_output_is_kept_as_a_file(project: Project, mode: str) -> None:
    project.ini("nosejobs_keep_output = 1000")
    project.add("test_long.sh", "seq 100000; echo short >&2; exit 1")
    project.add("test_short.sh", "echo short")
    project.add("test_own.sh", f"echo mine >{OUT}/stdout.txt; seq 1000")
    project.run("--nosejobs-artifacts=art", *MODES[mode])
    art = project.root / "art"
    assert files_below(art) == {"test_long.sh/stdout.txt", "test_own.sh/stdout.txt"}
    wanted = "".join(f"{number}\n" for number in range(1, 100_001))
    assert (art / "test_long.sh/stdout.txt").read_text() == wanted
    assert (art / "test_own.sh/stdout.txt").read_text() == "mine\n"


def test_of_endless_output_64_mib_are_kept(project: Project) -> None:
    project.add("test_long.sh", "head -c 80000000 /dev/zero | tr '\\0' 'x'")
    project.ini("nosejobs_artifacts_limit = 100000000")
    project.run("--nosejobs-artifacts=art").assert_outcomes(passed=1)
    assert (project.root / "art/test_long.sh/stdout.txt").stat().st_size == 64 << 20


@each_mode
def test_reports_name_them(project: Project, mode: str) -> None:
    project.add("test_a.sh", f"cd {OUT}; echo a >a.txt; mkdir s; echo b >'s/<b>&.txt'; exit 1")
    project.add("test_cases.sh", f"echo a >{OUT}/log; echo 1..2; echo ok 1 - a; echo not ok 2 - b")
    project.add("test_line.sh", f"touch {OUT}/\"$(printf 'x\\n[[ATTACHMENT|y]]')\"")
    arguments = ("--nosejobs-artifacts=art", f"--junitxml={project.junit}", *MODES[mode])

    def attached() -> dict[str, list[str]]:
        return {
            case.get("name", ""): re.findall(
                r"\[\[ATTACHMENT\|(.*)\]\]", case.findtext("system-out") or ""
            )
            for case in ET.parse(project.junit).iter("testcase")
        }

    done = project.run(*arguments)
    assert "wrote    art/test_a.sh/a.txt" in done.stdout.str()
    attachments = attached()
    assert attachments["test_a.sh"] == ["art/test_a.sh/a.txt", "art/test_a.sh/s/<b>&.txt"]
    assert attachments["a"] == ["art/test_cases.sh/log"]
    assert attachments["b"] == []
    assert len(attachments["test_line.sh"]) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JENKINS_URL", "https://ci.example.org/")
        project.run(*arguments)
    assert attached()["test_a.sh"][0] == str(project.root / "art/test_a.sh/a.txt")


@pytest.mark.parametrize("folder", [".", "..", "sub/.."])
def test_a_folder_that_holds_the_tests_is_refused(project: Project, folder: str) -> None:
    script = project.add("sub/test_a.sh", f"echo a >{OUT}/a.txt")
    done = project.run(f"--nosejobs-artifacts={folder}")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "name another folder" in done.stderr.str()
    assert script.is_file()


def test_a_folder_that_cannot_be_made_is_refused(project: Project) -> None:
    project.file("taken", "")
    done = project.run("--nosejobs-artifacts=taken/art")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "cannot write artifacts" in done.stderr.str()


@each_mode
def test_a_second_run_replaces_the_first(project: Project, mode: str) -> None:
    art = project.root / "art"
    project.add("test_a.sh", f"cd {OUT}; echo long text >a; echo b >b; echo c >c")
    project.run("--nosejobs-artifacts=art", *MODES[mode]).assert_outcomes(passed=1)
    project.add("test_a.sh", f"cd {OUT}; echo a >a; mkdir b; echo d >b/d")
    project.run("--nosejobs-artifacts=art", *MODES[mode]).assert_outcomes(passed=1)
    assert files_below(art) == {"test_a.sh/a", "test_a.sh/b/d"}
    assert (art / "test_a.sh/a").read_text() == "a\n"


def test_what_cannot_be_written_here_is_no_lost_host(project: Project) -> None:
    project.add("test_a.sh", f"echo a >{OUT}/a")
    project.file("art/test_a.sh", "a file in the way")
    done = project.run("--nosejobs-artifacts=art", "--nosejobs=popen")
    done.assert_outcomes(passed=1)
    assert "artifacts that could not be written" in done.stdout.str()


def test_without_the_option_nothing_is_kept(project: Project) -> None:
    project.add("test_a.sh", f"echo a >{OUT}/a")
    project.run().assert_outcomes(passed=1)
    assert not list(project.root.rglob("a"))


@each_mode
@pytest.mark.parametrize("depth", [199, 200, 985, 1500])
def test_files_in_too_many_nested_folders_are_omitted(
    project: Project, mode: str, depth: int
) -> None:
    code = (
        f"import os\nos.chdir(os.environ['TEST_UNDECLARED_OUTPUTS_DIR'])\nopen('top', 'w')\n"
        f"for _ in range({depth}):\n    os.mkdir('d')\n    os.chdir('d')\nopen('deep', 'w')\n"
        "raise SystemExit(1)\n"
    )
    project.add("test_deep", f"#!{sys.executable} -IS\n{code}")
    project.add("test_other.sh", f"echo other >{OUT}/other")
    done = project.run("--nosejobs-artifacts=art", *MODES[mode])
    done.assert_outcomes(passed=1, failed=1)
    deep = {"test_deep/" + "d/" * depth + "deep"} if depth == 199 else set()
    assert files_below(project.root / "art") == {"test_deep/top", "test_other.sh/other", *deep}
    omitted = "omitted  1 file or folder over the limits was not copied"
    assert (omitted in done.stdout.str()) == (not deep)
