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

from shell_runner.config_file import CONFIG_FILE_NAME
from shell_runner.errors import NosejobsError, UsageError
from shell_runner.remote.archives.extract import BadArchive, extract_archive
from shell_runner.remote.files.manifest import FILE, ManifestEntry
from shell_runner.remote.jobs import paths
from shell_runner.remote.jobs.result_package_format import BadPackage
from shell_runner.remote.jobs.result_package_reader import Package
from shell_runner.remote.protocol.job import ARCHIVE, Content, JobTest
from shell_runner.remote.protocol.model import Execution, Test
from shell_runner.shipping import tree_scan
from shell_runner.text import to_single_line

from ..configuration.pipeline import BuildConfig
from ..configuration.settings import TEMPORARY_PREFIX
from ..model import BUILD
from .blob_store import Blob, BlobStore

#: Maximum number of bytes of an artifact.
MAX_ARTIFACT_BYTES = 8 << 30
#: Name of the file with the packed output, among the artifacts of the build job.
_OUTPUT = "output.tar"
#: Exit status of the build job if the command succeeded and left no output.
_NO_OUTPUT_STATUS = 113
#: Modification time of all members, in seconds: 1980, since zip and some installers accept no
#: earlier one.
_MODIFIED_TIME = 315_532_800
#: Exit status of the build job if the host had no room for the build or its output.
_FULL_DISK_STATUS = 114
#: Runs the command ($1), then packs its output ($2) with modes and links.  After a failure, tests
#: whether a disk is full: that says nothing about the tree.
_SCRIPT = f"""
has_room() {{
    probe=$1/.nosejobs-room-$$
    (: >"$probe") 2>/dev/null || return 0
    dd if=/dev/zero of="$probe" bs=65536 count=4 2>/dev/null
    set -- $?
    rm -f "$probe"
    return $1
}}
fail() {{
    for folder in "$root" "$TEST_UNDECLARED_OUTPUTS_DIR" "${{TMPDIR:-/tmp}}"; do
        has_room "$folder" || {{ echo "the disk of $folder is full"; exit {_FULL_DISK_STATUS}; }}
    done
    exit $1
}}
root=$PWD
/bin/sh -c "$1" build || {{
    status=$?
    case $status in {_NO_OUTPUT_STATUS}|{_FULL_DISK_STATUS}) status=1 ;; esac
    fail $status
}}
[ -e "./$2" ] || {{ echo "the build command has left no $2"; exit {_NO_OUTPUT_STATUS}; }}
out=$TEST_UNDECLARED_OUTPUTS_DIR/{_OUTPUT} what=.
if [ -d "./$2" ]; then
    cd "./$2" || exit 1
else
    what=./${{2##*/}}
    case $2 in */*) cd "./${{2%/*}}" || exit 1 ;; esac
fi
if command -v tar >/dev/null 2>&1; then
    tar -cf "$out" "$what" || fail $?
else
    python3 -m tarfile -c "$out" "$what" || fail $?
fi
"""


class BuildFailed(NosejobsError):
    """A build job left no usable artifact because of the tree, not of its host."""


def build_test(build: BuildConfig) -> JobTest:
    """Return the build command as the only test of a job; it runs in the root of the tree."""
    # The file of a test is appended to its argv, so it is $3 here, where it is not needed.
    argv = ("/bin/sh", "-c", _SCRIPT, BUILD, build.command, build.output)
    return JobTest(
        BUILD, Test(0, CONFIG_FILE_NAME, timeout=build.timeout, argv=argv, cwd="root"), retries=0
    )


def failure_reason(package: Package, build: BuildConfig) -> str:
    """Return why a build command left no output; empty if it failed, as its result says."""
    _, execution = _last_execution(package)
    return f"it has left no {build.output}" if execution.exit_status == _NO_OUTPUT_STATUS else ""


def _last_execution(package: Package) -> tuple[int, Execution]:
    """Return the number of the last attempt, and its execution."""
    *_, (_, attempt, execution) = package.read_executions()
    return attempt, execution


def find_lost_output(package: Package) -> str:
    """Return why the host, not the tree, left no output of a build command; empty: it did.

    A host names each file that it is about to keep.  If it has not kept the output, because its
    disk was full or failed, the build has no verdict.
    """
    attempt, execution = _last_execution(package)
    if execution.exit_status == _FULL_DISK_STATUS:
        return f"the host has no room for the build: {_last_line(execution.stdout.text)}"
    is_named = any(name == _OUTPUT for name, _ in execution.artifacts)
    is_there = _output_member(attempt) in package.list_members()
    if execution.exit_status != 0 or not is_named or is_there:
        return ""
    return "the host has lost the output of the build command; see log.txt, and its free disk space"


def _last_line(text: str) -> str:
    lines = text.rstrip().rsplit("\n", 1)
    return to_single_line(lines[-1])


def _output_member(attempt: int) -> str:
    return f"artifacts/{paths.outputs_name(0, attempt)}/{_OUTPUT}"


def store_artifact(package: Package, build: BuildConfig, blobs: BlobStore) -> Blob:
    """Store the output of a build job as a tar; the same files make the same bytes.

    Raises BuildFailed if the output is missing, empty, too large or not a valid tar.
    """
    attempt, execution = _last_execution(package)
    member = _output_member(attempt)
    if member not in package.list_members():
        reason = f"{build.output} was removed before it was sent"
        if execution.artifacts_omitted:
            reason = f"{build.output} is larger than {MAX_ARTIFACT_BYTES} bytes, so it was not sent"
        raise BuildFailed(find_lost_output(package) or reason)
    blobs.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=blobs.folder) as name,
        blobs.temporary_file() as packed,
    ):
        folder = Path(name, "files")
        folder.mkdir()
        with open(Path(name, _OUTPUT), "wb") as file:
            file.writelines(package.read_pieces(member))
        _unpack(Path(name, _OUTPUT), folder, build)
        pack_folder(folder, packed)
        return blobs.take(packed)


def _unpack(path: Path, folder: Path, build: BuildConfig) -> None:
    """Unpack the output of a build; raise BuildFailed if it is invalid or empty."""
    try:
        extract_archive(os.fspath(path), os.fspath(folder), build.output)
    except (BadArchive, BadPackage) as error:
        raise BuildFailed(
            f"{build.output} cannot be stored: {to_single_line(str(error))}"
        ) from error
    if not any(folder.iterdir()):
        raise BuildFailed(f"{build.output} is empty")


def pack_folder(folder: Path, target: Path) -> None:
    """Pack a folder into a tar that depends only on names, modes and contents."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*"), key=os.fsencode):
            _add_member(archive, path, path.relative_to(folder).as_posix())


def _add_member(archive: tarfile.TarFile, path: Path, name: str) -> None:
    status = path.lstat()
    member = tarfile.TarInfo(name)
    member.mtime, member.mode = _MODIFIED_TIME, 0o755 if status.st_mode & 0o111 else 0o644
    if stat.S_ISLNK(status.st_mode):
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
        archive.addfile(member)
    elif stat.S_ISDIR(status.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)
    else:
        member.size = status.st_size
        with open(path, "rb") as file:
            archive.addfile(member, file)


def open_artifact(blobs: BlobStore, blob: Blob, name: str) -> tuple[Content, tree_scan.SourceTree]:
    """Return a stored artifact as a job names it, and as a tree that can be shipped.

    ``name`` is the file name of the tar on the host.  Raises UsageError if it is no longer stored.
    """
    path = blobs.path(blob.digest)
    if not path.is_file():
        raise UsageError(f"the artifact {blob.digest[:12]} is no longer stored; build it again")
    entry = ManifestEntry(path.name, FILE, 0o644, blob.digest, blob.size)
    return Content(ARCHIVE, blob.digest, blob.size, name), tree_scan.SourceTree(
        path.parent, (entry,)
    )
