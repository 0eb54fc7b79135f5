"""Archives, byte by byte, as no sound program would write them."""

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
    """A tar header with a right sum; ``more`` goes where its name says."""
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
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, data: bytes = b"", **more: bytes) -> bytes:
    return tar_header(name, size=len(data), **more) + padded(data)


def folder(name: bytes, **more: bytes) -> bytes:
    return tar_header(name, b"5", **more)


def link(name: bytes, target: bytes) -> bytes:
    return tar_header(name, b"2", target=target)


def hard_link(name: bytes, target: bytes) -> bytes:
    return tar_header(name, b"1", target=target)


def long_name(data: bytes, kind: bytes = b"L") -> bytes:
    return tar_header(b"././@LongLink", kind, len(data)) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(b"%d" % size) + len(rest) != size:
        size += 1
    return b"%d" % size + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return tar_header(b"pax", kind, len(data)) + padded(data)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + END


def sparse(*pieces: tuple[int, int], real: int, more: bytes = b"\0") -> bytes:
    """The fields of an old GNU header that tell where data is."""
    rows = b"".join(b"%011o\0%011o\0" % piece for piece in pieces)
    return rows.ljust(96, b"\0") + more + b"%011o\0" % real


class ZipBuilder:
    """A zip archive of which every field can lie."""

    def __init__(self) -> None:
        self.data = b""
        self.rows: list[bytes] = []
        self.ends: dict[str, int] = {}

    def add(self, name: bytes, data: bytes = b"", **lies: Any) -> ZipBuilder:
        """``local_X``: X in the local header; else X in the directory, and there too."""
        method = lies.get("method", 0)
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = lies.get("packed_data", data)
        if method == 8 and "packed_data" not in lies:
            packed = deflater.compress(data) + deflater.flush()
        facts: dict[str, Any] = {
            "name": name, "flags": 0, "method": method, "crc": zlib.crc32(data),
            "packed": len(packed), "size": len(data), "at": len(self.data),
            "mode": 0o100644, "system": 3, "extra": b"", "disk": 0,
        }  # fmt: skip
        there = {key: lies.get(key, value) for key, value in facts.items()}
        here = {key: lies.get("local_" + key, value) for key, value in there.items()}
        self.rows.append(
            struct.pack(
                "<4s4B4H3L5H2L", b"PK\1\2", 20, there["system"], 20, 0, there["flags"],
                there["method"], 0, 0x21, there["crc"], there["packed"], there["size"],
                len(there["name"]), len(there["extra"]), 0, there["disk"], 0,
                there["mode"] << 16, there["at"],
            )
            + there["name"] + there["extra"]
        )  # fmt: skip
        if not lies.get("no_data"):
            self.data += struct.pack(
                "<4s5H3L2H", b"PK\3\4", 20, here["flags"], here["method"], 0, 0x21, here["crc"],
                here["packed"], here["size"], len(here["name"]), len(here["extra"]),
            )  # fmt: skip
            self.data += here["name"] + here["extra"] + packed
        return self

    def to_bytes(self, tail: bytes = b"", **lies: int) -> bytes:
        directory = b"".join(self.rows)
        end = {
            "disk": 0, "first": 0, "here": len(self.rows), "count": len(self.rows),
            "size": len(directory), "at": len(self.data), "comment": len(tail),
        }  # fmt: skip
        end.update(lies)
        return self.data + directory + struct.pack("<4s4H2LH", b"PK\5\6", *end.values()) + tail


def python_tar(mode: str, build: Callable[[tarfile.TarFile], None], **options: Any) -> bytes:
    """An archive by ``tarfile``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as archive:  # type: ignore[call-overload]
        build(archive)
    return out.getvalue()


def python_zip(files: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = 8) -> bytes:
    """An archive by ``zipfile``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out.getvalue()
