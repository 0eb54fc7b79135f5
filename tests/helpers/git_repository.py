"""Real git repositories for tests of sources."""

import os
import subprocess
from pathlib import Path

#: Variables for git: no configuration of the user, a fixed author, and a fixed date.
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
    """A repository with a work tree, on the branch ``main``."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *options)

    def git(self, *arguments: str | bytes, stdin: bytes = b"") -> str:
        """Run git in the repository, and return its output."""
        process = subprocess.run(
            ["git", *arguments], cwd=self.path, env=ENVIRONMENT, input=stdin, capture_output=True
        )
        assert process.returncode == 0, process.stderr.decode(errors="replace")
        return process.stdout.decode("utf-8", "surrogateescape").strip()

    def commit(self, subject: str = "more", **files: str) -> str:
        """Write ``files`` (text by name), commit everything, and return the revision."""
        for name, text in files.items():
            (self.path / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def commit_entries(self, *entries: tuple[str, str, bytes, bytes]) -> str:
        """Commit entries that git itself would not write, on main, and return the revision.

        Each entry has mode, kind, name and data; the data of a commit is its revision.
        """
        rows = b""
        for mode, kind, name, data in entries:
            is_commit = kind == "commit"
            digest = data.decode() if is_commit else self.git(*_HASH_OBJECT, kind, stdin=data)
            rows += b"%s %s\0" % (mode.encode(), name) + bytes.fromhex(digest)
        tree = self.git(*_HASH_OBJECT, "tree", stdin=rows)
        revision = self.git("commit-tree", "-m", "odd", tree)
        self.git("update-ref", "refs/heads/main", revision)
        return revision


_HASH_OBJECT = ("hash-object", "-w", "--literally", "--stdin", "-t")
