"""Tests of the messages about shipping a tree to a host."""

import re
import shutil
import subprocess

from tests.acceptance.pytest_nosejobs.conftest import Project
from tests.helpers.sshd import Sshd

SLOW = """
import time
from pytest_nosejobs import progress_line
from shell_runner.remote.protocol import compression

progress_line._FIRST_DELAY = 0.0
progress_line._PLAIN_INTERVAL = 0.0
encode_body = compression.encode_body

def slow(data):
    time.sleep(0.7)
    return encode_body(data)

compression.encode_body = slow
"""


def read_header_end(project: Project, spec: str) -> str:
    """Run the tests on a host; return the end of its line in the header."""
    done = project.run(f"--nosejobs={spec}", "tree")
    assert done.ret == 0
    (line,) = [line for line in done.outlines if line.startswith("nosejobs: there: 1 slot, Py")]
    return re.sub(r".*?, Linux [^,]*, ", "", line)


def test_the_header_says_what_was_shipped(project: Project, sshd: Sshd) -> None:
    shutil.rmtree(sshd.cache, ignore_errors=True)
    spec = sshd.spec(slots=1)
    project.ini("nosejobs_root = tree")
    project.add("tree/test_a.sh", "exit 0")
    project.add("tree/test_b.sh", "cat data.txt")
    data = project.file("tree/data.txt", "one")
    total = sum(path.stat().st_size for path in data.parent.iterdir())
    assert read_header_end(project, spec) == f"shipped 3 files ({total} bytes)"
    assert read_header_end(project, spec) == "all files of the tree are there already"
    data.write_text("three")
    assert read_header_end(project, spec) == "shipped 1 file (5 bytes)"


def test_what_takes_long_is_told_a_line_at_a_time(project: Project, sshd: Sshd) -> None:
    project.file("conftest.py", SLOW)
    for number in range(300):
        project.file(f"data/{number}", f"{number} {project.root}")
    project.add("test_a.sh", "exit 0")
    done = project.run(f"--nosejobs={sshd.spec(slots=1)}")
    done.stdout.re_match_lines(
        [
            r"nosejobs: reading [1-9]\d* of \d+ kB of the tree",
            r"nosejobs: there: shipping 0 of \d+ kB",
            r"nosejobs: there: 1 slot, Python .*, shipped 30\d files \(.*\)",
        ]
    )
    assert done.ret == 0
    assert "nosejobs" not in project.run("-q", f"--nosejobs={sshd.spec(slots=1)}").stdout.str()


def test_the_header_names_what_is_not_shipped(project: Project, sshd: Sshd) -> None:
    spec = f"--nosejobs={sshd.spec(slots=1)}"
    subprocess.run(["git", "init", "-q", project.root], check=True)
    project.ini("nosejobs_ship_not = runpytest-*")
    project.file(".gitignore", "build\n*.o\n.cache\n")
    project.add("test_app.sh", "test -e build/app || exit 77")
    for name in ("build/app", "build/node_modules/x", "a.o", *(f"{n}.pem" for n in range(5))):
        project.file(name, "")
    keys = [f"{number}.pem: looks like a secret" for number in range(5)]
    secrets = (
        f"nosejobs: not shipped: {'; '.join(keys[:3])}; and 2 more (ini nosejobs_ship sends it)"
    )
    built = "not shipped: what git ignores (a.o, build/) (ini nosejobs_ship = built sends it)"
    done = project.run(spec)
    assert secrets in done.outlines
    assert f"nosejobs: {built}" in done.outlines
    done.assert_outcomes(skipped=1)
    quiet = project.run("-q", spec)
    assert secrets in quiet.outlines
    assert built not in quiet.stdout.str()
    for option in ("-v", "-vv"):
        text = project.run(option, spec).stdout.str()
        assert all(key in text for key in keys)
        assert "more" not in text
    project.ini("nosejobs_ship = built\nnosejobs_ship_not = *.pem runpytest-*")
    done = project.run(spec)
    done.assert_outcomes(passed=1)
    assert "looks like" not in done.stdout.str()
    done.stdout.fnmatch_lines(
        ["nosejobs: not shipped: 1 folder node_modules (ini nosejobs_ship = node_modules sends it)"]
    )


def test_names_from_the_path_of_the_program_are_the_same_on_each_host(
    project: Project, sshd: Sshd
) -> None:
    script = '# nosejobs: isolation={}\necho 1..1\necho "ok 1 - $(realpath "$0"): works"'
    project.add("sub/test_a.sh", script.format("shared"))
    project.add("sub/test_b.sh", script.format("copy"))
    names = {f"sub/test_{letter}.sh: works" for letter in "ab"}
    for options in ((), ("--nosejobs=1*popen",), (f"--nosejobs={sshd.spec(slots=1)}",)):
        _, cases = project.cases(*options)
        assert {*cases} == names
