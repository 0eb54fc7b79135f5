"""Fields of certificates and revocation lists that the module ``ssl`` does not show (RFC 5280).

Reads DER; no signature is checked here, which is the part of TLS.  Must not know files.
"""

import base64
import calendar
import re
import time
from typing import Iterator, List, NamedTuple, Tuple

#: Labels of PEM blocks (RFC 7468).
CERTIFICATE_LABEL = "CERTIFICATE"
CRL_LABEL = "X509 CRL"
#: Extended key usages (RFC 5280, 4.2.1.12) as the content of a DER object identifier.
SERVER_AUTH = bytes.fromhex("2b06010505070301")
CLIENT_AUTH = bytes.fromhex("2b06010505070302")

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)-----END \1-----", re.DOTALL)
_SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")
_AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("551d23")
_EXTENDED_KEY_USAGE = bytes.fromhex("551d25")
_SEQUENCE, _OBJECT_IDENTIFIER, _UTC_TIME, _INTEGER = 0x30, 0x06, 0x17, 0x02

#: Tag and content of a DER value.
_Value = Tuple[int, bytes]


class Authority(NamedTuple):
    """An authority by its name in DER and its key identifier; that is empty if it has none."""

    name: bytes
    key_identifier: bytes

    def is_same(self, other: "Authority") -> bool:
        """Return whether both can be one authority: a missing key identifier fits any."""
        identifiers = {self.key_identifier, other.key_identifier} - {b""}
        return self.name == other.name and len(identifiers) < 2


def list_pem_labels(text: str) -> List[str]:
    """Return the labels of the PEM blocks in ``text``, such as "CERTIFICATE"."""
    return [match[1] for match in _PEM_BLOCK.finditer(text)]


def decode_pem(text: str, label: str) -> List[bytes]:
    """Return the DER of the PEM blocks with a label; raise ValueError."""
    blocks = _PEM_BLOCK.finditer(text)
    return [base64.b64decode(match[2]) for match in blocks if match[1] == label]


def read_not_after(certificate: bytes) -> float:
    """Return when a certificate expires, as a Unix timestamp; raise ValueError."""
    validity = _read_certificate(certificate)[2]
    values = list(_parse_der(validity[1]))
    if len(values) != 2:
        raise ValueError("not a validity")
    tag, text = values[1]
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return float(calendar.timegm(time.strptime(text.decode("ascii"), form)))


def read_key_purposes(certificate: bytes) -> List[bytes]:
    """Return the extended key usages of a certificate, none without that extension.

    Raises ValueError.
    """
    value = _find_extension(_read_certificate(certificate), 0xA3, _EXTENDED_KEY_USAGE)
    return [oid for tag, oid in _parse_der(_unwrap(value)) if tag == _OBJECT_IDENTIFIER]


def read_subject(certificate: bytes) -> Authority:
    """Return the subject of an authority's certificate; raise ValueError."""
    fields = _read_certificate(certificate)
    value = _find_extension(fields, 0xA3, _SUBJECT_KEY_IDENTIFIER)
    return Authority(fields[3][1], _unwrap(value))


def read_crl_issuer(crl: bytes) -> Authority:
    """Return the issuer of a revocation list; raise ValueError."""
    fields = _read_signed_fields(crl)
    if fields and fields[0][0] == _INTEGER:  # the optional version
        del fields[0]
    if len(fields) < 3 or fields[1][0] != _SEQUENCE:
        raise ValueError("not a revocation list")
    extension = _unwrap(_find_extension(fields, 0xA0, _AUTHORITY_KEY_IDENTIFIER))
    identifiers = [content for tag, content in _parse_der(extension) if tag == 0x80]
    return Authority(fields[1][1], identifiers[0] if identifiers else b"")


def _read_certificate(der: bytes) -> List[_Value]:
    """Return algorithm, issuer, validity, subject, and all that follows."""
    fields = _read_signed_fields(der)
    if fields and fields[0][0] == 0xA0:  # the optional version
        del fields[0]
    if len(fields) < 6 or any(tag != _SEQUENCE for tag, _ in fields[1:6]):
        raise ValueError("not a certificate")
    return fields[1:]


def _read_signed_fields(der: bytes) -> List[_Value]:
    return list(_parse_der(_unwrap(_unwrap(der))))


def _find_extension(fields: List[_Value], tag: int, oid: bytes) -> bytes:
    """Return the value of an extension; empty if there is none.  ``tag``: that of extensions."""
    for each, content in fields:
        for _, extension in _parse_der(_unwrap(content)) if each == tag else ():
            values = list(_parse_der(extension))
            if len(values) > 1 and values[0] == (_OBJECT_IDENTIFIER, oid):
                return values[-1][1]
    return b""


def _unwrap(data: bytes) -> bytes:
    """Return the content of the first DER value in ``data``, empty without any."""
    return next(_parse_der(data), (0, b""))[1]


def _parse_der(data: bytes) -> Iterator[_Value]:
    """Yield tag and content of each DER value in ``data`` (X.690); raise ValueError."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("DER is cut")
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("DER is cut")
        yield tag, data[at : at + length]
        at += length
