"""The reader of result packages; it trusts no member before the whole package was verified.

Must not know queues, jobs or hosts.
"""

import hashlib
import json
import os
import stat
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Tuple

from ..archives import limits as archive
from ..archives import zip_reader
from ..archives.extraction_directory import ExtractionDirectory, FileAttributes
from ..archives.limits import BadArchive, ExtractionBudget
from ..protocol.fields import abbreviate
from ..protocol.model import Execution, execution_from_row
from .result_package_format import (
    EXECUTIONS,
    FORMAT,
    INSTALL,
    LIMITS,
    MANIFEST,
    BadPackage,
    Limits,
    MemberNames,
    count_values,
)


def open_package(path: str, limits: Limits = LIMITS) -> "Package":
    """Open the package ``path`` after verifying all of it; raises :exc:`BadPackage`."""
    file = open(path, "rb")
    try:
        return Package(file, limits)
    except BadArchive as error:
        file.close()
        raise BadPackage(error.member, error.reason) from None
    except BaseException:
        file.close()
        raise


class Package:
    """A package whose every byte was compared with its manifest."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        bounds = archive.Limits(limits.members, limits.size, limits.ratio, limits.free)
        self._bounds = bounds
        self._zip = zip_reader.ZipReader(file, limits.members, bounds.total_name_bytes)
        self._entries = self._read_directory()
        #: The content of ``manifest.json``.
        self.manifest = self._read_manifest()
        self._digests = self._compare_with_manifest()
        for name in self._digests:
            for _ in self._read_verified(name):
                pass

    def __enter__(self) -> "Package":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; no member can be read after that."""
        self._file.close()

    def list_members(self) -> List[str]:
        """Return the names of all members but the manifest, in their order."""
        return [name for name in self._entries if name != MANIFEST]

    def get_size(self, name: str) -> int:
        """Return the size of a member in bytes."""
        return self._get_entry(name).size

    def read(self, name: str) -> bytes:
        """Return the content of a member of at most ``Limits.read`` bytes; raises BadPackage."""
        if self._get_entry(name).size > self._limits.read:
            message = "%d bytes are too many to read at once; extract the package"
            raise BadPackage(name, message % self._get_entry(name).size)
        return b"".join(self._read_verified(name))

    def read_pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a member of any size in pieces."""
        return self._read_verified(name)

    def read_executions(self, name: str = EXECUTIONS) -> Iterator[Tuple[int, int, Execution]]:
        """Yield number of the test, attempt and Execution, in this order; raises BadPackage."""
        last = (-1, 0)
        for number, line in enumerate(self._read_lines(name), 1):
            try:
                row = _parse_execution_row(_parse_json(line, self._limits))
            except ValueError as error:
                raise BadPackage(name, "line %d: %s" % (number, error)) from None
            if row[:2] <= last:
                message = "line %d: attempt %d of test %d is repeated or out of order"
                raise BadPackage(name, message % (number, row[1], row[0]))
            last = row[:2]
            yield row

    def read_install(self, name: str = INSTALL) -> Optional[Execution]:
        """Return the Execution of the install command; None if there was none."""
        if name not in self._entries:
            return None
        try:
            return _parse_execution(_parse_json(self.read(name), self._limits))
        except ValueError as error:
            raise BadPackage(name, str(error)) from None

    def extract(self, folder: str) -> None:
        """Extract all members below ``folder``, which must be empty or is created.

        Raises BadPackage, or OSError (for example for a full disk); nothing of the package is left
        then.
        """
        made = not os.path.isdir(folder)
        os.makedirs(folder, exist_ok=True)
        if os.listdir(folder):
            raise FileExistsError("%s is not empty: nothing is extracted into it" % folder)
        try:
            self._extract_members(folder)
        except BaseException:
            if made:
                os.rmdir(folder)
            raise

    def _extract_members(self, folder: str) -> None:
        extraction = ExtractionDirectory(
            folder, ExtractionBudget(self._bounds, os.fstat(self._file.fileno()).st_size)
        )
        try:
            for name, entry in self._entries.items():
                extraction.add_file(
                    entry.raw_name,
                    FileAttributes(0o644, 0.0),
                    entry.size,
                    self._read_verified(name),
                )
            extraction.finish()
        except BadArchive as error:
            extraction.remove_all()
            raise BadPackage(error.member, error.reason) from None
        except BaseException:
            extraction.remove_all()
            raise

    def _read_directory(self) -> Dict[str, zip_reader.ZipEntry]:
        """Return the entries by name, after checking all numbers that could cost time or memory."""
        names, entries, total = MemberNames(), {}, 0
        for entry in self._zip.entries():
            name = archive.decode_name(entry.raw_name)
            names.add(name)
            total += entry.size
            if total > self._limits.size:
                raise BadPackage(name, "more than %d bytes in total" % self._limits.size)
            if entry.attributes >> 16 and not stat.S_ISREG(entry.attributes >> 16):
                raise BadPackage(name, "not a regular file")
            entries[name] = entry
        names.check_folders()
        self._zip.verify()
        return entries

    def _read_manifest(self) -> Dict[str, Any]:
        if MANIFEST not in self._entries:
            raise BadPackage("", "it has no %s" % MANIFEST)
        entry = self._entries[MANIFEST]
        if entry.size > self._limits.manifest:
            raise BadPackage(MANIFEST, "more than %d bytes" % self._limits.manifest)
        try:
            manifest = _parse_json(b"".join(self._zip.read_contents(entry)), self._limits)
        except ValueError as error:
            raise BadPackage(MANIFEST, str(error)) from None
        if not isinstance(manifest, dict) or not isinstance(manifest.get("members"), list):
            raise BadPackage(MANIFEST, "it has no list of members")
        if manifest.get("format") != FORMAT:
            message = "format %s; this version of nosejobs reads format %d"
            raise BadPackage(MANIFEST, message % (abbreviate(manifest.get("format")), FORMAT))
        return manifest

    def _compare_with_manifest(self) -> Dict[str, str]:
        """Return digests by name; names and sizes of members must be those of the manifest."""
        digests: Dict[str, str] = {}
        for row in self.manifest["members"]:
            name, size, digest = _parse_member_row(row)
            if name in digests or name == MANIFEST:
                raise BadPackage(name, "the manifest names it twice")
            if name not in self._entries:
                raise BadPackage(name, "the manifest names it, but it is missing")
            if self._entries[name].size != size:
                message = "it has %d bytes, but the manifest says %d"
                raise BadPackage(name, message % (self._entries[name].size, size))
            digests[name] = digest
        for name in self._entries:
            if name not in digests and name != MANIFEST:
                raise BadPackage(name, "the manifest does not name it")
        return digests

    def _get_entry(self, name: str) -> zip_reader.ZipEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise BadPackage(name, "unknown member") from None

    def _read_verified(self, name: str) -> Iterator[bytes]:
        """Yield a member's content and verify it again: the file may have changed meanwhile."""
        seen = hashlib.sha256()
        try:
            for piece in self._zip.read_contents(self._get_entry(name)):
                seen.update(piece)
                yield piece
        except BadArchive as error:
            raise BadPackage(error.member, error.reason) from None
        if name != MANIFEST and seen.hexdigest() != self._digests[name]:
            raise BadPackage(name, "its SHA-256 differs from that of the manifest")

    def _read_lines(self, name: str) -> Iterator[bytes]:
        rest: List[bytes] = []
        size = 0
        for piece in self._read_verified(name):
            *lines, last = piece.split(b"\n")
            for line in lines:
                yield b"".join([*rest, line])
                rest, size = [], 0
            rest.append(last)
            size += len(last)
            if size > self._limits.row:
                raise BadPackage(name, "a line of more than %d bytes" % self._limits.row)
        if size:
            raise BadPackage(name, "its last line has no end")


def _parse_member_row(row: Any) -> Tuple[str, int, str]:
    if not isinstance(row, dict):
        raise BadPackage(MANIFEST, "a member that is not an object: %s" % abbreviate(row))
    name, size, digest = row.get("name"), row.get("size"), row.get("sha256")
    texts = isinstance(name, str) and isinstance(digest, str)
    if not texts or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadPackage(MANIFEST, "a member without name, size and sha256: %s" % abbreviate(row))
    return str(name), size, str(digest)


def _parse_json(text: bytes, limits: Limits) -> Any:
    """Parse untrusted JSON; ValueError for too many values, deep nesting or invalid numbers."""
    if count_values(text) > limits.values:
        raise ValueError("more than %d values" % limits.values)
    try:
        return json.loads(
            text.decode("utf-8"),
            parse_int=_parse_integer,
            parse_float=_parse_real,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parse_integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number of %d digits" % len(text))
    return int(text)


def _parse_real(text: str) -> float:
    value = float(text) if len(text) < 400 else float("inf")
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number that is too large: %s" % text[:40])
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError("an invalid number: %s" % text)


def _parse_execution_row(row: Any) -> Tuple[int, int, Execution]:
    if not isinstance(row, list) or len(row) != 3:
        raise ValueError("not [test, attempt, execution]")
    test, number, values = row
    if type(test) is not int or type(number) is not int or test < 0 or number < 1:
        message = "invalid test or attempt: %s, %s"
        raise ValueError(message % (abbreviate(test), abbreviate(number)))
    return test, number, _parse_execution(values)


def _parse_execution(values: Any) -> Execution:
    if not isinstance(values, list):
        raise ValueError("not an execution: %s" % abbreviate(values))
    try:
        return execution_from_row(values)
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError("not an execution: %s" % error) from None
