"""Credentials on disk: a bundle holds key, certificate, authority and revocation list (CRL).

Owns the TLS context of a host, the reloading of files that have changed, and the expiry of
certificates.  Must not know connections.  Never shows the content of a key.
"""

import base64
import os
import re
import ssl
import stat
import time
from typing import Callable, Iterator, List, Optional, Tuple

#: Days before the expiry of a certificate in which a warning is shown.
EXPIRY_WARNING_DAYS = 30
_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATE_LABEL = "CERTIFICATE"
_CRL_LABEL = "X509 CRL"

#: Modification time in ns, size in bytes and inode, by which a change of a file is noticed.
_FileVersion = Tuple[int, int, int]


class BadCredentials(Exception):
    """An error: a bundle or a revocation list cannot be used."""


def list_pem_labels(text: str) -> List[str]:
    """Return the labels of the PEM blocks in ``text``, such as "CERTIFICATE" (RFC 7468)."""
    return [match[1] for match in _PEM_BLOCK.finditer(text)]


def _read(path: str, missing_hint: str = "") -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(8 << 20)
    except OSError as error:
        hint = missing_hint if isinstance(error, FileNotFoundError) else ""
        raise BadCredentials("%s: %s%s" % (path, error.strerror, hint)) from error


def _read_version(path: str) -> Optional[_FileVersion]:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Credentials:
    """The TLS credentials of a host, reloaded when their files change."""

    def __init__(self, bundle: str, crl: str = "") -> None:
        """Load the files; raise BadCredentials if they cannot be used.

        Without ``crl``, a file ``crl.pem`` beside the bundle is used as soon as it exists.
        """
        self._bundle = bundle
        self._crl = crl or os.path.join(os.path.dirname(bundle) or ".", "crl.pem")
        self._needs_crl = bool(crl)
        self._versions: List[Optional[_FileVersion]] = []
        self._context = self._load()

    def get_context(self, report_error: Callable[[str], None]) -> ssl.SSLContext:
        """Return the TLS context of the current files.

        If they are invalid, pass a message to ``report_error`` and return the last valid context.
        """
        if [_read_version(path) for path in self._list_paths()] != self._versions:
            try:
                self._context = self._load()
            except BadCredentials as error:
                report_error(str(error))
        return self._context

    def _load(self) -> ssl.SSLContext:
        paths = self._list_paths()
        self._versions = [_read_version(path) for path in paths]
        context = create_server_context(paths[0], paths[1:])
        self._needs_crl = len(paths) > 1  # a list that disappears from now on is an error
        return context

    def _list_paths(self) -> List[str]:
        if self._needs_crl or os.path.lexists(self._crl):
            return [self._bundle, self._crl]
        return [self._bundle]


def create_server_context(bundle: str, crls: List[str]) -> ssl.SSLContext:
    """Return a context for TLS 1.3 that requires a certificate of the bundle's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # no resumption: each connection presents its certificate
    load_into_context(context, bundle, crls)
    return context


def load_into_context(context: ssl.SSLContext, bundle: str, crls: List[str]) -> None:
    """Load key, certificate, authority and revocation lists into a context.

    Raises BadCredentials.
    """
    labels = list_pem_labels(_read_private_file(bundle))
    for label, name in (("PRIVATE KEY", "private key"), (_CERTIFICATE_LABEL, "certificate")):
        if label not in labels:
            raise BadCredentials("%s: contains no %s" % (bundle, name))
    for path in crls:
        if _CRL_LABEL not in list_pem_labels(_read(path)):
            raise BadCredentials("%s: not a revocation list" % path)
    try:
        context.load_cert_chain(bundle)
        for path in [bundle, *crls]:
            context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise BadCredentials("%s: %s" % (bundle, error)) from error
    if crls or _CRL_LABEL in labels:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _read_private_file(bundle: str) -> str:
    text = _read(bundle, "; nosejobs ca issue HOST writes it")
    mode = stat.S_IMODE(os.stat(bundle).st_mode)
    if mode & 0o037:
        raise BadCredentials(
            "%s: the key is accessible to other users (mode %04o); chmod 600 %s"
            % (bundle, mode, bundle)
        )
    return text


# -- expiry -------------------------------------------------------------------------


def _parse_der(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """Yield tag and content of each DER value in ``data`` (X.690)."""
    at = 0
    while at + 2 <= len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        yield tag, data[at : at + length]
        at += length


def _parse_not_after(der: bytes) -> float:
    certificate = next(_parse_der(der))[1]
    signed = next(_parse_der(certificate))[1]
    values = list(_parse_der(signed))
    # RFC 5280: optional version, serial number, algorithm, issuer, validity.
    validity = values[4 if values[0][0] == 0xA0 else 3][1]
    tag, text = list(_parse_der(validity))[1]
    form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"
    return float(_to_timestamp(time.strptime(text.decode("ascii"), form)))


def _to_timestamp(moment: time.struct_time) -> int:
    return ssl.cert_time_to_seconds(time.strftime("%b %d %H:%M:%S %Y GMT", moment))


def read_expiry(path: str) -> float:
    """Return when the certificate of a bundle expires, as a Unix timestamp.

    Raises BadCredentials.
    """
    for match in _PEM_BLOCK.finditer(_read(path)):
        if match[1] == _CERTIFICATE_LABEL:
            try:
                return _parse_not_after(base64.b64decode(match[2]))
            except (ValueError, IndexError, StopIteration) as error:
                raise BadCredentials("%s: invalid certificate" % path) from error
    raise BadCredentials("%s: contains no certificate" % path)


def describe_expiry(path: str, now: Optional[float] = None) -> str:
    """Return a warning if the certificate of a bundle has expired or will expire soon; else "".

    ``now``: a Unix timestamp, for tests; default: the current time.
    """
    try:
        end = read_expiry(path)
    except BadCredentials:
        return ""
    seconds_left = end - (time.time() if now is None else now)
    date = time.strftime("%Y-%m-%d", time.gmtime(end))
    if seconds_left < 0:
        return "%s expired on %s: renew it" % (path, date)
    if seconds_left < EXPIRY_WARNING_DAYS * 86400:
        return "%s expires on %s, in %d days: renew it" % (path, date, seconds_left // 86400)
    return ""
