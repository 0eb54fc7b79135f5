"""The demo of the dispatcher, `make demo-dispatcher`: one commit reaches ship, another one fails.

Makes a repository of the folder tree/, starts a dispatcher for it, and uses the same commands as a
person.  Everything is in a folder that is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
NOSEJOBS = (sys.executable, "-m", "dispatcher")
#: Environment of git: an author of the commits, without the user's configuration.
GIT = {
    **{f"GIT_{who}_{what}": f"demo{'@example.org' * (what == 'EMAIL')}"
       for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


class DemoFailed(Exception):
    """The demo had an unexpected result."""


def explain(text: str) -> None:
    """Print what the next command is about."""
    print(f"\n# {text}", flush=True)


def git(folder: Path, *arguments: str) -> str:
    """Run git; return its output."""
    command = ["git", "-c", "gc.auto=0", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **GIT}, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode().strip()


def commit(app: Path, subject: str) -> str:
    """Commit all changes; return the revision."""
    git(app, "add", "-A")
    git(app, "commit", "-q", "-m", subject)
    print(f"$ git commit -m '{subject}'", flush=True)
    return git(app, "rev-parse", "HEAD")


@contextmanager
def dispatcher(folder: Path) -> Iterator[None]:
    """Run `nosejobs up`; stop it by Ctrl-C at the end."""
    explain('A repository "app", a dispatcher for it, and two hosts on this machine.')
    print("$ nosejobs up", flush=True)
    process = subprocess.Popen([*NOSEJOBS, "up"], cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "data" / "url").is_file():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed("the dispatcher has not started")
            time.sleep(0.02)
        yield
    finally:
        explain("Ctrl-C stops the dispatcher.")
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def nosejobs(folder: Path, *arguments: str) -> int:
    """Run a command as a person would type it; return its exit status."""
    print(f"$ nosejobs {' '.join(arguments)}", flush=True)
    return subprocess.run([*NOSEJOBS, *arguments], cwd=folder).returncode


def poll(folder: Path, revision: str) -> str:
    """Let the dispatcher poll the repository; return the short form of a revision."""
    nosejobs(folder, "poke", "app")
    return revision[:10]


def main() -> None:
    """Run the demo.  Raises ``DemoFailed``."""
    with tempfile.TemporaryDirectory(prefix="nosejobs-demo-") as name:
        folder, app = Path(name), Path(name) / "app"
        shutil.copy(HERE / "dispatcher.toml", folder)
        shutil.copytree(HERE / "tree", app)
        git(app, "init", "-q", "-b", "main")
        with dispatcher(folder):
            explain("A good commit: it is built, passes all stages, and reaches the level ship.")
            good = poll(folder, commit(app, "tally counts words"))
            if nosejobs(folder, "show", "-f", good) != 0:
                raise DemoFailed("the first commit should have reached the level ship")
            source = app / "src" / "tally.awk"
            source.write_text(source.read_text().replace("NF", 'gsub(/ /, " ") + 1'))
            explain("A commit with a mistake: a unit test fails, and later stages do not run.")
            bad = poll(folder, commit(app, "tally counts blanks, which is faster"))
            if nosejobs(folder, "show", "-f", bad) != 1:
                raise DemoFailed("the second commit should have been stopped")
            explain("The log of the failed stage, and the state of both builds.")
            nosejobs(folder, "logs", bad, "unit")
            nosejobs(folder, "builds")
    explain("This was examples/dispatcher. For your own project, see docs/dispatcher.md.")


if __name__ == "__main__":
    try:
        main()
    except (DemoFailed, subprocess.CalledProcessError, KeyboardInterrupt) as error:
        sys.exit(f"demo: {error or 'interrupted'}")
