"""The selection of the files of a tree that are shipped, and of those that are left out.

Owns the rules: files that git tracks or would track, patterns of the user, secrets, the usual
ignored folders.  Must not read files, nor know how they are sent.
"""

from __future__ import annotations

import bisect
import fnmatch
import functools
import itertools
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..remote.files.copy_tree import IGNORED_FOLDERS
from ..remote.files.path_limits import MAX_PATH_COMPONENTS
from ..text import escape_unprintable, format_count, shorten_list

#: Never shipped unless a pattern of the user names them.
SECRET_PATTERNS = (
    ".env", ".env.*", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", ".pgpass", ".htpasswd",
    ".npmrc", ".pypirc", "credentials", "credentials.json", ".git-credentials", "*.kdbx",
    "*.gpg", "*.asc",
)  # fmt: skip
#: The end of the reason why a secret is not shipped.
SECRET_REASON = "looks like a secret"
#: A word in the place of a pattern: all that git ignores, except the usual ignored folders.
BUILT = "built"
#: Ignored folders that no program needs; they are not reported as left out.
_UNREPORTED_FOLDERS = IGNORED_FOLDERS - {
    ".tox", ".nox", ".venv", "venv", "node_modules", "__pycache__", ".eggs",
}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Patterns of the user, beyond the rules; they read like those of .gitignore."""

    #: May contain :data:`BUILT`.
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def include_patterns(self) -> tuple[str, ...]:
        """The patterns of ``include``, without :data:`BUILT`."""
        return tuple(pattern for pattern in self.include if pattern != BUILT)


#: No patterns of the user.
RULES_ONLY = Selection()


@dataclass(frozen=True)
class SelectedPaths:
    """The paths of a tree by what becomes of them."""

    #: To be shipped; some may not be files.
    wanted: set[str]
    #: Paths that a pattern of the user names.
    named: set[str]
    #: Not shipped because of their names, although they are part of the tree.
    secrets: set[str]


def select_paths(
    root: Path, tests: Iterable[str], selection: Selection, all_files: bool
) -> SelectedPaths:
    """Return the paths to ship; ``tests`` are among them in any case.

    With ``all_files``, neither git nor the usual ignored folders are considered.
    """
    listed = None if all_files else list_git_files(root, "-co")
    paths = set(_walk(root, () if all_files else IGNORED_FOLDERS) if listed is None else listed)
    if listed is not None and BUILT in selection.include:
        ignored = list_git_files(root, "-oi") or ()
        paths.update(path for path in ignored if not _find_ignored_folder(path))
    named = set(_find_included(root, selection.include_patterns))
    is_excluded = make_matcher(selection.exclude)
    secrets = set(filter(is_secret, paths - named))
    wanted = (paths | named) - secrets
    return SelectedPaths(
        set(itertools.filterfalse(is_excluded, wanted)) | set(tests),
        named,
        set(itertools.filterfalse(is_excluded, secrets)) - set(tests),
    )


def list_git_files(root: Path, which: str, *options: str) -> list[str] | None:
    """Return the paths below ``root`` that git lists; None if git cannot tell.

    ``which``: ``-co`` for what git tracks or would track, ``-oi`` for what it ignores.
    """
    command = ["git", "-C", os.fspath(root), "ls-files", "-z", which, "--exclude-standard"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def walk_files(root: Path) -> Iterator[str]:
    """Yield the paths of all files and links below ``root``."""
    return _walk(root, ())


def _walk(root: Path, ignored: Container[str]) -> Iterator[str]:
    """Yield the paths of files and links; a folder with a path over a limit counts as a file."""
    start = len(os.path.join(root, ""))
    unread: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unread.append):
        folders[:] = [name for name in folders if name not in ignored]
        if folder.count("/", start) + 1 >= MAX_PATH_COMPONENTS:
            files += folders
            folders.clear()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            yield os.path.join(folder, name)[start:]
    yield from (os.fspath(error.filename)[start:] for error in unread if error.filename != root)


def _find_included(root: Path, patterns: Sequence[str]) -> Iterator[str]:
    """Yield the paths that the user names, also those in folders that are ignored otherwise."""
    if patterns:
        is_included = make_matcher(patterns)
        yield from (path for path in _walk(root, (".git",)) if is_included(path))


# -- patterns ---------------------------------------------------------------------


def make_matcher(patterns: Sequence[str], flags: int = 0) -> Callable[[str], bool]:
    """Return a predicate: does a path match one of the patterns, which are like .gitignore's?

    A pattern without a slash, except a trailing one, applies to any part of the path; another
    pattern applies to the path from the root on, or to a folder that contains it.
    """
    plain = [pattern.removesuffix("/") for pattern in patterns if "/" not in pattern[:-1]]
    rooted = [pattern.removeprefix("./").strip("/") for pattern in patterns if "/" in pattern[:-1]]
    is_part, is_path = _compile_patterns(plain, flags), _compile_patterns(rooted, flags)

    def matches(path: str) -> bool:
        parts = path.split("/")
        return any(map(is_part, parts)) or (
            bool(rooted) and any(map(is_path, _leading_paths(parts)))
        )

    return matches if patterns else lambda path: False


def _leading_paths(parts: Sequence[str]) -> Iterator[str]:
    """Yield ``a``, ``a/b``, ``a/b/c``."""
    return itertools.accumulate(parts, "{}/{}".format)


def _compile_patterns(patterns: Sequence[str], flags: int) -> Callable[[str], re.Match[str] | None]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)", flags).match


@functools.cache
def _make_secret_matcher() -> Callable[[str], bool]:
    return make_matcher(SECRET_PATTERNS, re.IGNORECASE)


def is_secret(path: str) -> bool:
    """Return whether a path, or a folder that contains it, has the name of a secret."""
    return _make_secret_matcher()(path)


# -- files that are left out -------------------------------------------------------------


def list_left_out(root: Path, shipped: Sequence[str], selection: Selection) -> list[str]:
    """Return the files and folders that the rules leave out although nobody excluded them.

    ``shipped``: the paths of the tree, sorted.  A folder without shipped files is listed as a
    whole, with a slash at the end; ``venv/ (in part)`` is one of the usual ignored folders of
    which some files are shipped.  Folders of version control, caches of tools, and the secrets of
    the tree are not listed.
    """
    ignored = list_git_files(root, "-oi")
    if ignored is None:
        ignored = list(_walk_ignored_folders(root))
    is_named = make_matcher((*selection.include_patterns, *selection.exclude))
    reported_as_secret = is_secret if BUILT in selection.include else is_named
    sent = set(shipped)
    paths = {
        path
        for path in ignored
        if not (path in sent or is_named(path.rstrip("/")) or reported_as_secret(path))
        and _UNREPORTED_FOLDERS.isdisjoint(path.split("/"))
    }
    return _shorten_to_folders(paths, shipped)


def _shorten_to_folders(paths: set[str], shipped: Sequence[str]) -> list[str]:
    """Return ``paths`` with one folder for all that are in a folder of which nothing is shipped."""
    folders = {parent for path in shipped for parent in _leading_paths(path.split("/")[:-1])}
    usual = {path: _find_ignored_folder(path) for path in paths}
    others = {_find_unshipped(path, folders) for path in paths if not usual[path]}
    whole = tuple(path for path in others if path.endswith("/"))
    for folder in set(filter(None, usual.values())):
        if not folder.startswith(whole):
            others.add(f"{folder} (in part)" if _has_prefix(shipped, folder) else folder)
    return sorted(others)


def _find_unshipped(path: str, folders: Container[str]) -> str:
    """Return the outermost folder of ``path`` that is not in ``folders``; else ``path``."""
    parents = _leading_paths(path.split("/")[:-1])
    return next((f"{parent}/" for parent in parents if parent not in folders), path)


def _walk_ignored_folders(root: Path) -> Iterator[str]:
    start = len(os.path.join(root, ""))
    for folder, folders, _ in os.walk(root):
        for name in folders:
            if name in IGNORED_FOLDERS:
                yield os.path.join(folder, name, "")[start:]
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]


def _find_ignored_folder(path: str) -> str:
    """Return the usual ignored folder in which a path is, with a slash; else an empty text."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1], 1):
        if part in IGNORED_FOLDERS:
            return "/".join(parts[:number]) + "/"
    return ""


def _has_prefix(paths: Sequence[str], prefix: str) -> bool:
    at = bisect.bisect_left(paths, prefix)
    return at < len(paths) and paths[at].startswith(prefix)


def describe_left_out(paths: Sequence[str], limit: int) -> str:
    """Return one line about left out files: ``limit`` names, and how many there are of which kind.

    Folders such as ``__pycache__`` are counted by their name.
    """
    usual = Counter(
        name for path in paths if (name := _get_name(path)) in IGNORED_FOLDERS
    )  # fmt: skip
    others = [escape_unprintable(path) for path in paths if _get_name(path) not in IGNORED_FOLDERS]
    parts = []
    if others:
        parts.append(f"what git ignores ({', '.join(shorten_list(others, limit))})")
    parts += [
        f"{format_count(count, 'folder')} {escape_unprintable(name)}"
        for name, count in sorted(usual.items())
    ]
    return ", ".join(parts)


def suggest_pattern(paths: Sequence[str]) -> str:
    """Return the pattern that ships the most important part of what is left out."""
    names = [_get_name(path) for path in paths]
    if any(name not in IGNORED_FOLDERS for name in names):
        return BUILT
    return next((name for name in names if name != "__pycache__"), "__pycache__")


def _get_name(path: str) -> str:
    return path.removesuffix(" (in part)").rstrip("/").rpartition("/")[2]
