"""The build job and its artifact: a tar that is the same, byte by byte, for the same files.

Must not know the database, nor when anything is built.  What a build job left comes from a host
and is not trusted: it is unpacked with limits and packed again.
"""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from pathlib import Path

from shell_runner import tree_scan
from shell_runner.config import NAME
from shell_runner.errors import NosejobsError, UsageError
from shell_runner.remote import layout
from shell_runner.remote.job import ARCHIVE, Content, JobTest
from shell_runner.remote.manifest import FILE, Entry
from shell_runner.remote.model import Execution, Test
from shell_runner.remote.package import Package
from shell_runner.remote.package_format import BadPackage
from shell_runner.remote.unpack import BadArchive, unpack
from shell_runner.text import to_single_line

from .config import BuildConfig
from .evidence import Blob, BlobStore
from .model import BUILD
from .settings import PART

#: Bytes of an artifact.
MAX_ARTIFACT_BYTES = 8 << 30
#: File that the build job leaves, and its exit status if the command left no output.
_OUTPUT, _NOTHING = "output.tar", 113
#: Date of all members, 1980: some programs that pack or install files accept no earlier one.
_DATE = 315_532_800
#: Runs the command ($1), then packs its output ($2) with modes and links.
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
    """A build job left no usable artifact, and the tree is to blame."""


def build_test(build: BuildConfig) -> JobTest:
    """Return the build command as the only test of a job, run in the root of the tree."""
    # The shell knows the file that is run as $3; it is there, as it has the command.
    argv = ("/bin/sh", "-c", _SCRIPT, BUILD, build.command, build.output)
    return JobTest(BUILD, Test(0, NAME, timeout=build.timeout, argv=argv, cwd="root"), retries=0)


def failure_reason(package: Package, build: BuildConfig) -> str:
    """Return why a build command left nothing; empty if its result says enough."""
    _, execution = _last_execution(package)
    return f"it has left no {build.output}" if execution.exit == _NOTHING else ""


def _last_execution(package: Package) -> tuple[int, Execution]:
    """Return the number of the last attempt, and its execution."""
    *_, (_, tries, execution) = package.executions()
    return tries, execution


def store_artifact(package: Package, build: BuildConfig, blobs: BlobStore) -> Blob:
    """Store the output of a build job as a tar; the same files make the same bytes.

    Raises BuildFailed if the output cannot be an artifact.
    """
    member = f"artefacts/{layout.outputs_name(0, _last_execution(package)[0])}/{_OUTPUT}"
    if member not in package.names():
        raise BuildFailed(
            f"{build.output} was not sent back: it is larger than {MAX_ARTIFACT_BYTES} bytes"
        )
    blobs.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=PART, dir=blobs.folder) as name,
        blobs.temporary_file() as part,
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
        raise BuildFailed(f"{build.output} cannot be kept: {to_single_line(str(error))}") from error
    if not any(folder.iterdir()):
        raise BuildFailed(f"{build.output} is empty: there is nothing to keep")


def pack(folder: Path, target: Path) -> None:
    """Pack a folder into a tar that depends only on names, modes and contents."""
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


def artifact_tree(blobs: BlobStore, blob: Blob, name: str) -> tuple[Content, tree_scan.SourceTree]:
    """Return a stored artifact as a job names it, and as it is shipped.

    Raises UsageError if it is no longer stored.
    """
    path = blobs.path(blob.digest)
    if not path.is_file():
        raise UsageError(f"the artefact {blob.digest[:12]} is not here any more: build it again")
    entry = Entry(path.name, FILE, 0o644, blob.digest, blob.size)
    tree = tree_scan.SourceTree(path.parent, (entry,))
    return Content(ARCHIVE, blob.digest, blob.size, name), tree
