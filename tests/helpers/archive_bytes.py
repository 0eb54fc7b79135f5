"""Builders of archives, including invalid ones that no program would write."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)


def tar_header(name: bytes, kind: bytes = b"0", size: int | bytes = 0, **more: bytes) -> bytes:
    """Return a tar header with a valid checksum; ``more`` sets other fields by name."""
    fields = {
        "name": (0, name[:100]),
        "mode": (100, more.get("mode", b"0000644\0")),
        "size": (124, size if isinstance(size, bytes) else b"%011o\0" % size),
        "mtime": (136, more.get("mtime", b"00000000000\0")),
        "kind": (156, kind),
        "target": (157, more.get("target", b"")),
        "magic": (257, more.get("magic", b"ustar\x0000")),
        "prefix": (345, more.get("prefix", b"")),
        "sparse": (386, more.get("sparse", b"")),
    }
    block = bytearray(BLOCK)
    for at, value in fields.values():
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = more.get("sum", b"%06o\0 " % sum(block))
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Pad contents to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, data: bytes = b"", **more: bytes) -> bytes:
    """Return a regular file of a tar archive."""
    return tar_header(name, size=len(data), **more) + padded(data)


def folder(name: bytes, **more: bytes) -> bytes:
    """Return a folder of a tar archive."""
    return tar_header(name, b"5", **more)


def link(name: bytes, target: bytes) -> bytes:
    """Return a symbolic link of a tar archive."""
    return tar_header(name, b"2", target=target)


def hard_link(name: bytes, target: bytes) -> bytes:
    """Return a hard link of a tar archive."""
    return tar_header(name, b"1", target=target)


def long_name(data: bytes, kind: bytes = b"L") -> bytes:
    """Return a GNU header with the long name of the next member."""
    return tar_header(b"././@LongLink", kind, len(data)) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    """Return one record of a pax header."""
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(b"%d" % size) + len(rest) != size:
        size += 1
    return b"%d" % size + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """Return a pax header for the next member."""
    data = b"".join(records)
    return tar_header(b"pax", kind, len(data)) + padded(data)


def tar(*members: bytes) -> bytes:
    """Return a tar archive of these members."""
    return b"".join(members) + END


def sparse(*pieces: tuple[int, int], real: int, more: bytes = b"\0") -> bytes:
    """Return the fields of an old GNU header that describe the data of a sparse file."""
    rows = b"".join(b"%011o\0%011o\0" % piece for piece in pieces)
    return rows.ljust(96, b"\0") + more + b"%011o\0" % real


class ZipBuilder:
    """Builds a zip archive in which every field can be wrong."""

    def __init__(self) -> None:
        self.data = b""
        self.rows: list[bytes] = []
        self.ends: dict[str, int] = {}

    def add(self, name: bytes, data: bytes = b"", **wrong: Any) -> ZipBuilder:
        """Add a member.

        ``wrong`` sets fields by name in the directory and the local header; with the prefix
        ``local_`` only in the local header.
        """
        method = wrong.get("method", 0)
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = wrong.get("packed_data", data)
        if method == 8 and "packed_data" not in wrong:
            packed = deflater.compress(data) + deflater.flush()
        fields: dict[str, Any] = {
            "name": name, "flags": 0, "method": method, "crc": zlib.crc32(data),
            "packed": len(packed), "size": len(data), "at": len(self.data),
            "mode": 0o100644, "system": 3, "extra": b"", "disk": 0,
        }  # fmt: skip
        central = {key: wrong.get(key, value) for key, value in fields.items()}
        local = {key: wrong.get("local_" + key, value) for key, value in central.items()}
        self.rows.append(
            struct.pack(
                "<4s4B4H3L5H2L", b"PK\1\2", 20, central["system"], 20, 0, central["flags"],
                central["method"], 0, 0x21, central["crc"], central["packed"], central["size"],
                len(central["name"]), len(central["extra"]), 0, central["disk"], 0,
                central["mode"] << 16, central["at"],
            )
            + central["name"] + central["extra"]
        )  # fmt: skip
        if not wrong.get("no_data"):
            self.data += struct.pack(
                "<4s5H3L2H", b"PK\3\4", 20, local["flags"], local["method"], 0, 0x21, local["crc"],
                local["packed"], local["size"], len(local["name"]), len(local["extra"]),
            )  # fmt: skip
            self.data += local["name"] + local["extra"] + packed
        return self

    def to_bytes(self, tail: bytes = b"", **wrong: int) -> bytes:
        """Return the archive; ``wrong`` sets fields of the end record by name."""
        directory = b"".join(self.rows)
        end = {
            "disk": 0, "first": 0, "here": len(self.rows), "count": len(self.rows),
            "size": len(directory), "at": len(self.data), "comment": len(tail),
        }  # fmt: skip
        end.update(wrong)
        return self.data + directory + struct.pack("<4s4H2LH", b"PK\5\6", *end.values()) + tail


def python_tar(mode: str, build: Callable[[tarfile.TarFile], None], **options: Any) -> bytes:
    """Return an archive that ``tarfile`` writes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:  # type: ignore[call-overload]
        build(archive)
    return out.getvalue()


def python_zip(files: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = 8) -> bytes:
    """Return an archive that ``zipfile`` writes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out.getvalue()
