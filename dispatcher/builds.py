"""From a revision to a tree, its config, its tests, and the artefact that was built of it.

Owns the folder of trees, the build job, and the form of an artefact: a tar that is the same for
the same files.  Must not know the database, nor when anything is built.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shell_runner import config as tree_config
from shell_runner import shipping
from shell_runner.config import NAME, load
from shell_runner.errors import BadConfig, NosejobsError, UsageError
from shell_runner.guard import clean_line
from shell_runner.metadata import check_tests
from shell_runner.plan import plan
from shell_runner.remote import layout
from shell_runner.remote.job import ARCHIVE, TREE, Content, JobTest
from shell_runner.remote.model import Execution, Test
from shell_runner.remote.package import BadPackage, Package
from shell_runner.remote.store import FILE, LINK, Entry, check
from shell_runner.remote.unpack import BadArchive, unpack
from shell_runner.toml_document import Document, read

from . import config
from .config import BuildConfig, Stage
from .evidence import Blobs, Kept
from .git import SourceError
from .model import BUILD
from .settings import PART
from .sources import Source

#: Trees of which the manifest is kept in memory.
_TREES = 64
#: Bytes of a nosejobs.toml that are read; its parser takes less.
_CONFIG = 1 << 20
#: Patterns of tests that it can speak of, each is compared with each test; and comparisons of
#: files with patterns of inputs: some ten seconds.
_PATTERNS, _COMPARED = 1000, 5_000_000
#: Characters of what is wrong with it.
_WORDS = 900
#: Broken tests that are named.
_NAMED = 20
#: Bytes of an artefact.
ARTEFACT = 8 << 30
#: What the build job leaves, and the status with which it says that there is nothing to leave.
_OUTPUT, _NOTHING = "output.tar", 113
#: 1980: some programs that pack or install files take no earlier date.
_DATE = 315_532_800
#: Runs the command ($1), then packs the output ($2), modes and links included.
_SCRIPT = f"""
/bin/sh -c "$1" build || {{ status=$?; [ $status = {_NOTHING} ] && status=1; exit $status; }}
[ -e "./$2" ] || {{ echo "the build command has left no $2"; exit {_NOTHING}; }}
out=$TEST_UNDECLARED_OUTPUTS_DIR/{_OUTPUT} what=.
if [ -d "./$2" ]; then
    cd "./$2" || exit 1
else
    what=./${{2##*/}}
    case $2 in */*) cd "./${{2%/*}}" || exit 1 ;; esac
fi
if command -v tar >/dev/null 2>&1; then exec tar -cf "$out" "$what"; fi
exec python3 -m tarfile -c "$out" "$what"
"""


class BuildFailed(NosejobsError):
    """There is no artefact, and the tree is to blame."""


# -- trees ------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkout:
    """The files of a revision on this disk."""

    root: Path
    tree: shipping.Tree
    content: Content

    @cached_property
    def files(self) -> dict[str, str]:
        """By path, what names mode and contents: ``100644 ab12...``."""
        return {
            each.path: f"120000 {each.digest}"
            if each.kind == LINK
            else f"{stat.S_IFREG | each.mode:o} {each.digest}"
            for each in self.tree.entries
        }


class Trees:
    """A folder for each revision that is worked with; each is made once."""

    def __init__(self, folder: Path, sources: Mapping[str, Source]) -> None:
        self.folder = folder
        self._sources = sources
        self._known: OrderedDict[tuple[str, str], Checkout] = OrderedDict()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def path(self, source: str, revision: str) -> Path:
        """Where the tree of a revision is, or will be."""
        if not revision.isalnum():
            raise SourceError(f"{revision!r} is no revision")
        return self.folder / source / revision

    def get(self, source: str, revision: str, digest: str = "") -> Checkout:
        """The tree of a revision; raises SourceError.

        ``digest``: what it was when it was looked at first.  A machine that died may have left
        another one.
        """
        key = source, revision
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._known.get(key) or self._make(source, revision)
            if digest and found.content.digest != digest:
                shutil.rmtree(found.root, ignore_errors=True)
                found = self._make(source, revision)
        with self._lock:
            self._known[key] = found
            self._known.move_to_end(key)
            while len(self._known) > _TREES:
                self._known.popitem(last=False)
            if len(self._locks) > 4 * _TREES:
                self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return found

    def _make(self, source: str, revision: str) -> Checkout:
        if source not in self._sources:
            raise SourceError(f"the source {source} is not in the dispatcher's file any more")
        path = self.path(source, revision)
        self._sources[source].checkout(revision, path)
        try:
            return scanned(path, source)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error

    def forget(self, source: str, revision: str) -> None:
        """Whoever asks for it next looks at its files."""
        with self._lock:
            self._known.pop((source, revision), None)

    def recover(self) -> None:
        """Remove trees that were being written when their process died; nobody writes now."""
        for path in self.folder.glob(f"*/{PART}*"):
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, keep: Iterable[tuple[str, str]]) -> None:
        """Remove the trees of revisions that are not worked with; not what is being written."""
        wanted = {self.path(*each) for each in keep}
        found = (each for each in self.folder.glob("*/*") if not each.name.startswith(PART))
        for path in [each for each in found if each not in wanted]:
            key = path.parent.name, path.name
            with self._lock:
                lock = self._locks.setdefault(key, threading.Lock())
            with lock:
                self._known.pop(key, None)
                shutil.rmtree(path, ignore_errors=True)


def scanned(root: Path, name: str) -> Checkout:
    """A folder as what is shipped of it: all of it, for all of it was chosen before."""
    tree = shipping.Tree(root, tuple(sorted(_entries(os.fspath(root)))))
    digest, size = shipping.named(tree)
    return Checkout(root, tree, Content(TREE, digest, size, name))


def _entries(root: str) -> Iterator[Entry]:
    start = len(os.path.join(root, ""))
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            full = os.path.join(folder, name)
            yield check(_entry(full, full[start:]))


def _entry(full: str, path: str) -> Entry:
    found = os.lstat(full)
    if stat.S_ISLNK(found.st_mode):
        return Entry(path, LINK, 0, os.readlink(full))
    with open(full, "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(path, FILE, stat.S_IMODE(found.st_mode), digest, found.st_size)


# -- what a tree says -------------------------------------------------------------


@dataclass(frozen=True)
class Examined:
    """What a tree says of itself."""

    #: Its digest, and the bytes of all its files.
    tree: str
    size: int
    config: config.Tree | None = None
    #: Key for reuse; empty: it is its own build.
    inputs: str = ""
    #: Why its config cannot be understood.
    why: str = ""


def examine(checkout: Checkout) -> Examined:
    """Read the config of a tree; whatever is wrong with it is a value."""
    digest, size = checkout.content.digest, checkout.tree.size
    try:
        document = read(NAME, _text(checkout.root / NAME))
        found = understood(document, checkout.root)
        if found.build:
            _check_inputs(document, found.build, len(checkout.files))
    except UsageError as error:
        return Examined(digest, size, why=plain(str(error), checkout))
    inputs = config.inputs_digest(found.build, checkout.files) if found.build else ""
    return Examined(digest, size, found, inputs)


def understood(document: Document, root: Path) -> config.Tree:
    """Return what a tree's file says, after a check of all its tables.

    BadConfig names file, line and key.
    """
    found = config.from_document(document)
    try:
        tree = tree_config.from_document(document, root)
        if len(tree.patterns) > _PATTERNS:
            message = f"must be of at most {_PATTERNS} patterns, not {len(tree.patterns)}"
            raise document.error(("tests",), message)
        check_tests(tree)
    except UsageError as error:
        # A name of a pattern can be as long as the file.
        raise BadConfig(clean_line(str(error), _WORDS)) from None
    return found


def _check_inputs(doc: Document, build: BuildConfig, files: int) -> None:
    """Each pattern is compared with each file, on the machine of all."""
    if len(build.inputs) * files > _COMPARED:
        words = f"has {len(build.inputs)} patterns for {files} files, which are too many to compare"
        raise doc.error(("build", "inputs"), f"{words}: name folders instead")


def _text(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_CONFIG)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadConfig(f"{NAME}: {error.strerror}") from error


def stage_tests(
    checkout: Checkout, stage: Stage, labels: Iterable[str] = (), host: str = ""
) -> tuple[JobTest, ...]:
    """The tests of a stage, as a host with these labels gets them.

    UsageError: its names and tags select none, or what they select cannot be run.
    """
    found = plan(
        checkout.root,
        stage.tests,
        labels=frozenset(labels),
        host=host,
        # What is not said there is the word of [tests], if it has one.
        timeout=None if stage.timeout == Stage.timeout else stage.timeout,
        tags=stage.tags,
        tree=load(checkout.root),
    )
    if found.broken:
        more = [f"and {len(found.broken) - _NAMED} more"] if len(found.broken) > _NAMED else []
        words = "\n  ".join([*found.broken[:_NAMED], *more])
        raise UsageError(f"these look like tests and cannot run:\n  {words}")
    ids = [test.nodeid for test in found.tests]
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise UsageError(f"two tests are called {twice}")
    return found.tests


def plain(words: str, checkout: Checkout) -> str:
    """Words without the place of the tree on this disk."""
    return words.replace(f"{checkout.root}{os.sep}", "").replace(
        os.fspath(checkout.root), "the tree"
    )


# -- artefacts --------------------------------------------------------------------


def build_test(build: BuildConfig) -> JobTest:
    """The build command as the one test of a job, in the root of the tree."""
    # The shell knows the file that is run as $3; it is there, as it has the command.
    argv = ("/bin/sh", "-c", _SCRIPT, BUILD, build.command, build.output)
    return JobTest(BUILD, Test(0, NAME, timeout=build.timeout, argv=argv, cwd="root"), retries=0)


def why_failed(package: Package, build: BuildConfig) -> str:
    """In words, why a build command gave nothing; empty: its result says it all."""
    _, execution = _last(package)
    return f"it has left no {build.output}" if execution.exit == _NOTHING else ""


def _last(package: Package) -> tuple[int, Execution]:
    """The number of the last try, and what came of it."""
    *_, (_, tries, execution) = package.executions()
    return tries, execution


def artefact(package: Package, build: BuildConfig, blobs: Blobs) -> Kept:
    """Keep what a build job has left, as a tar; the same files make the same bytes.

    BuildFailed: what it left cannot be an artefact.
    """
    member = f"artefacts/{layout.outputs_name(0, _last(package)[0])}/{_OUTPUT}"
    if member not in package.names():
        raise BuildFailed(f"{build.output} was not sent back: it is larger than {ARTEFACT} bytes")
    blobs.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=PART, dir=blobs.folder) as name,
        blobs.part() as part,
    ):
        folder = Path(name, "files")
        folder.mkdir()
        with open(Path(name, _OUTPUT), "wb") as file:
            file.writelines(package.pieces(member))
        _unpack(Path(name, _OUTPUT), folder, build)
        pack(folder, part)
        return blobs.take(part)


def _unpack(path: Path, folder: Path, build: BuildConfig) -> None:
    try:
        unpack(os.fspath(path), os.fspath(folder), build.output)
    except (BadArchive, BadPackage) as error:
        raise BuildFailed(f"{build.output} cannot be kept: {clean_line(str(error))}") from error
    if not any(folder.iterdir()):
        raise BuildFailed(f"{build.output} is empty: there is nothing to keep")


def pack(folder: Path, target: Path) -> None:
    """All below a folder as a tar that depends on names, modes and contents only."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*"), key=os.fsencode):
            _pack(archive, path, path.relative_to(folder).as_posix())


def _pack(archive: tarfile.TarFile, path: Path, name: str) -> None:
    found = path.lstat()
    member = tarfile.TarInfo(name)
    member.mtime, member.mode = _DATE, 0o755 if found.st_mode & 0o111 else 0o644
    if stat.S_ISLNK(found.st_mode):
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
        archive.addfile(member)
    elif stat.S_ISDIR(found.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)
    else:
        member.size = found.st_size
        with open(path, "rb") as file:
            archive.addfile(member, file)


def artefact_tree(blobs: Blobs, kept: Kept, name: str) -> tuple[Content, shipping.Tree]:
    """An artefact as a job names it, and as it is shipped."""
    path = blobs.path(kept.digest)
    if not path.is_file():
        raise UsageError(f"the artefact {kept.digest[:12]} is not here any more: build it again")
    entry = Entry(path.name, FILE, 0o644, kept.digest, kept.size)
    return Content(ARCHIVE, kept.digest, kept.size, name), shipping.Tree(path.parent, (entry,))
