"""A bundle on disk: key, certificate, authority and revocation list in one file.

Owns the TLS settings of a host, the reading of files that may change at any time, and
when a certificate ends.  Must not know connections.  Never shows what is in a key.
"""

import base64
import os
import re
import ssl
import stat
import time
from typing import Callable, Iterator, List, Optional, Tuple

#: Days before the end of a certificate from which on it is worth a warning.
WARN_DAYS = 30
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATE = "CERTIFICATE"
_LIST = "X509 CRL"

#: What tells that a file has changed.
_Stamp = Tuple[int, int, int]


class BadCredentials(Exception):
    """A bundle or a list cannot be used."""


def blocks(text: str) -> List[str]:
    """The kinds of the PEM blocks in a file."""
    return [match[1] for match in _BLOCK.finditer(text)]


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(8 << 20)
    except OSError as error:
        raise BadCredentials("%s: %s" % (path, error.strerror)) from error


def _stamp(path: str) -> Optional[_Stamp]:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Credentials:
    """What a host shows and whom it lets in; follows its files when they change."""

    def __init__(self, bundle: str, crl: str = "") -> None:
        """Raises BadCredentials if they cannot be used now.

        Without ``crl``, a ``crl.pem`` beside the bundle counts, from when it is there.
        """
        self._bundle = bundle
        self._list = crl or os.path.join(os.path.dirname(bundle) or ".", "crl.pem")
        self._needs_list = bool(crl)
        self._stamps: List[Optional[_Stamp]] = []
        self._context = self._load()

    def context(self, complain: Callable[[str], None]) -> ssl.SSLContext:
        """The settings of now; when the files are spoilt, the last good ones and a complaint."""
        if [_stamp(path) for path in self._paths()] != self._stamps:
            try:
                self._context = self._load()
            except BadCredentials as error:
                complain(str(error))
        return self._context

    def _load(self) -> ssl.SSLContext:
        paths = self._paths()
        self._stamps = [_stamp(path) for path in paths]
        context = server_context(paths[0], paths[1:])
        self._needs_list = len(paths) > 1  # if it goes away now, that is a complaint
        return context

    def _paths(self) -> List[str]:
        if self._needs_list or os.path.lexists(self._list):
            return [self._bundle, self._list]
        return [self._bundle]


def server_context(bundle: str, lists: List[str]) -> ssl.SSLContext:
    """TLS 1.3 only, and nobody without a certificate of the bundle's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # nobody resumes: each connection shows its certificate
    fill(context, bundle, lists)
    return context


def fill(context: ssl.SSLContext, bundle: str, lists: List[str]) -> None:
    """Key, certificate, authority and lists; raises BadCredentials."""
    kinds = blocks(_checked(bundle))
    for kind, words in (("PRIVATE KEY", "a private key"), (_CERTIFICATE, "a certificate")):
        if kind not in kinds:
            raise BadCredentials("%s: there is not %s in it" % (bundle, words))
    known = [_LIST] if _LIST in kinds else []
    for path in lists:
        if _LIST not in blocks(_read(path)):
            raise BadCredentials("%s: it is not a revocation list" % path)
        known.append(path)
    try:
        context.load_cert_chain(bundle)
        for path in [bundle, *lists]:
            context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise BadCredentials("%s: %s" % (bundle, error)) from error
    if known:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _checked(bundle: str) -> str:
    text = _read(bundle)
    mode = stat.S_IMODE(os.stat(bundle).st_mode)
    if mode & 0o037:
        raise BadCredentials(
            "%s: others may use its key (mode %04o); chmod 600 %s" % (bundle, mode, bundle)
        )
    return text


# -- the end of a certificate -------------------------------------------------------


def _fields(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """Tags and contents of the DER values in ``data``."""
    at = 0
    while at + 2 <= len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        yield tag, data[at : at + length]
        at += length


def _not_after(der: bytes) -> float:
    certificate = next(_fields(der))[1]
    signed = next(_fields(certificate))[1]
    values = list(_fields(signed))
    # An optional version, serial, algorithm, issuer, validity.
    validity = values[4 if values[0][0] == 0xA0 else 3][1]
    tag, text = list(_fields(validity))[1]
    form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"
    return float(_utc(time.strptime(text.decode("ascii"), form)))


def _utc(moment: time.struct_time) -> int:
    return ssl.cert_time_to_seconds(time.strftime("%b %d %H:%M:%S %Y GMT", moment))


def expires(path: str) -> float:
    """When the certificate of a bundle ends, in seconds since 1970; raises BadCredentials."""
    for match in _BLOCK.finditer(_read(path)):
        if match[1] == _CERTIFICATE:
            try:
                return _not_after(base64.b64decode(match[2]))
            except (ValueError, IndexError, StopIteration) as error:
                raise BadCredentials("%s: its certificate cannot be read" % path) from error
    raise BadCredentials("%s: there is no certificate in it" % path)


def expiry_warning(path: str, now: Optional[float] = None) -> str:
    """A sentence if the certificate of a bundle has ended or soon will; else an empty text."""
    try:
        end = expires(path)
    except BadCredentials:
        return ""
    left = end - (time.time() if now is None else now)
    date = time.strftime("%Y-%m-%d", time.gmtime(end))
    if left < 0:
        return "%s expired on %s: renew it" % (path, date)
    if left < WARN_DAYS * 86400:
        return "%s expires on %s, in %d days: renew it" % (path, date, left // 86400)
    return ""
