"""From a commit to ship, and a commit that is stopped: `make demo-dispatcher`.

Makes a repository of the folder tree/, starts a dispatcher for it, and looks at it with the same
commands that a person has.  Everything is in a folder that is removed at the end.
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
#: A name for the commits; nothing of the user's configuration.
GIT = {
    **{f"GIT_{who}_{what}": f"demo{'@example.org' * (what == 'EMAIL')}"
       for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


class Failed(Exception):
    """The demo has not gone as it should."""


def say(words: str) -> None:
    """What a person would like to know before the next command."""
    print(f"\n# {words}", flush=True)


def git(folder: Path, *arguments: str) -> str:
    """What git says."""
    command = ["git", "-c", "gc.auto=0", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **GIT}, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode().strip()


def commit(app: Path, words: str) -> str:
    """Commit all there is; the revision."""
    git(app, "add", "-A")
    git(app, "commit", "-q", "-m", words)
    print(f"$ git commit -m '{words}'", flush=True)
    return git(app, "rev-parse", "HEAD")


@contextmanager
def dispatcher(folder: Path) -> Iterator[None]:
    """`nosejobs up`, until it answers, and then ended by Ctrl-C."""
    say("A repository \"app\", a dispatcher for it, and two hosts on this machine.")
    print("$ nosejobs up", flush=True)
    process = subprocess.Popen([*NOSEJOBS, "up"], cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "data" / "url").is_file():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed("the dispatcher has not started")
            time.sleep(0.02)
        yield
    finally:
        say("Ctrl-C.")
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def nosejobs(folder: Path, *arguments: str) -> int:
    """A command, as a person would type it; its exit status."""
    print(f"$ nosejobs {' '.join(arguments)}", flush=True)
    return subprocess.run([*NOSEJOBS, *arguments], cwd=folder).returncode


def poked(folder: Path, revision: str) -> str:
    """A commit that the dispatcher knows of, by a name that is short enough to be read."""
    nosejobs(folder, "poke", "app")
    return revision[:10]


def main() -> None:
    """All of it; exits 1 if it has not gone as it should."""
    with tempfile.TemporaryDirectory(prefix="nosejobs-demo-") as name:
        folder, app = Path(name), Path(name) / "app"
        shutil.copy(HERE / "dispatcher.toml", folder)
        shutil.copytree(HERE / "tree", app)
        git(app, "init", "-q", "-b", "main")
        with dispatcher(folder):
            say("A commit that is fine: it is built, passes all stages, and comes to ship.")
            good = poked(folder, commit(app, "tally counts words"))
            if nosejobs(folder, "show", "-f", good) != 0:
                raise Failed("the first commit should have come to ship")
            source = app / "src" / "tally.awk"
            source.write_text(source.read_text().replace("NF", 'gsub(/ /, " ") + 1'))
            say("A commit with a mistake: a unit test fails, and nothing that needs it is run.")
            bad = poked(folder, commit(app, "tally counts blanks, which is faster"))
            if nosejobs(folder, "show", "-f", bad) != 1:
                raise Failed("the second commit should have been stopped")
            say("Why it failed, and where both builds stand.")
            nosejobs(folder, "logs", bad, "unit")
            nosejobs(folder, "builds")
    say("That was examples/dispatcher. For a project of your own: docs/dispatcher.md")


if __name__ == "__main__":
    try:
        main()
    except (Failed, subprocess.CalledProcessError, KeyboardInterrupt) as error:
        sys.exit(f"demo: {error or 'interrupted'}")
