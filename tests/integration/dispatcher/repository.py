"""Real repositories for tests of sources."""

import os
import subprocess
from pathlib import Path

#: Nothing of the user's configuration, a name, a fixed date.
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@example.org",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.org",
    "GIT_AUTHOR_DATE": "2001-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z",
}


class Repository:
    """A repository with a work tree."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *options)

    def git(self, *arguments: str | bytes, feed: bytes = b"") -> str:
        """What git says."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=ENVIRONMENT, input=feed, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def commit(self, subject: str = "more", **files: str) -> str:
        """Write files, commit everything; the revision."""
        for name, text in files.items():
            (self.path / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def tree(self, *entries: tuple[str, str, bytes, bytes]) -> str:
        """A commit, on main, of entries that no sane git would write: mode, kind, name, data."""
        rows = b""
        for mode, kind, name, data in entries:
            is_commit = kind == "commit"
            digest = data.decode() if is_commit else self.git(*_LITERALLY, kind, feed=data)
            rows += b"%s %s\0" % (mode.encode(), name) + bytes.fromhex(digest)
        tree = self.git(*_LITERALLY, "tree", feed=rows)
        revision = self.git("commit-tree", "-m", "odd", tree)
        self.git("update-ref", "refs/heads/main", revision)
        return revision


_LITERALLY = ("hash-object", "-w", "--literally", "--stdin", "-t")
