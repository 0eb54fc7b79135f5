"""Credentials on disk: a bundle holds key, certificate, authority and revocation list (CRL).

Owns the TLS context of a host, the reloading of files that have changed, and the expiry of
certificates.  Must not know connections.  Never shows the content of a key.
"""

import os
import ssl
import stat
import time
from typing import Callable, List, Optional, Tuple

from . import x509_fields
from .x509_fields import (
    CERTIFICATE_LABEL,
    CRL_LABEL,
    Authority,
    decode_pem,
    list_pem_labels,
    read_crl_issuer,
)

#: The end of the mark of a certificate, of which OpenSSL knows three.
_CERTIFICATE_END = "CERTIFICATE-----"
#: Days before the expiry of a certificate in which a warning is shown.
EXPIRY_WARNING_DAYS = 30

#: Modification time in ns, size in bytes and inode, by which a change of a file is noticed.
_FileVersion = Tuple[int, int, int]


class BadCredentials(Exception):
    """An error: a bundle or a revocation list cannot be used."""


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
    """Load a host's key, certificate, authority and revocation lists into a context.

    Raises BadCredentials.
    """
    text = _read_private_file(bundle)
    labels = list_pem_labels(text)
    for label, name in (("PRIVATE KEY", "private key"), (CERTIFICATE_LABEL, "certificate")):
        if label not in labels:
            raise BadCredentials("%s: contains no %s" % (bundle, name))
    _check_key_purpose(bundle)
    for path in crls:
        check_crl(path, bundle)
    try:
        context.load_cert_chain(bundle)
        for path in [bundle, *crls]:
            context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise BadCredentials("%s: %s" % (bundle, error)) from error
    if crls or CRL_LABEL in labels:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _check_key_purpose(bundle: str) -> None:
    """Raise BadCredentials unless the first certificate of a bundle is that of a host."""
    try:
        purposes = x509_fields.read_key_purposes(_decode_certificates(bundle)[0])
    except ValueError as error:
        raise BadCredentials("%s: invalid certificate" % bundle) from error
    if x509_fields.SERVER_AUTH not in purposes:
        kind = "of a client" if x509_fields.CLIENT_AUTH in purposes else "without serverAuth"
        raise BadCredentials(
            "%s: a certificate %s, not of a host; nosejobs ca issue HOST writes one"
            % (bundle, kind)
        )


def check_crl(path: str, bundle: str) -> None:
    """Raise BadCredentials unless a file contains a revocation list of the bundle's authority.

    OpenSSL ignores the list of another authority, and would use the older one of the bundle.  It
    trusts all certificates in the file, under any of its labels.
    """
    text = _read(path)
    if CRL_LABEL not in list_pem_labels(text):
        raise BadCredentials("%s: not a revocation list" % path)
    if _CERTIFICATE_END in text:
        raise BadCredentials(
            "%s: a revocation list with a certificate, whose owner would become an authority; "
            "remove the certificate" % path
        )
    try:
        issuers = [read_crl_issuer(crl) for crl in decode_pem(text, CRL_LABEL)]
    except ValueError as error:
        raise BadCredentials("%s: invalid revocation list" % path) from error
    if not _has_any_same(issuers, _read_subjects(bundle)):
        raise BadCredentials(
            "%s: a revocation list of another authority than that of %s; copy the crl.pem of "
            "the fleet's authority here" % (path, bundle)
        )


def share_authority(path: str, other: str) -> bool:
    """Return whether two files contain certificates with the same subject, as of one authority.

    Raises BadCredentials.
    """
    return _has_any_same(_read_subjects(path), _read_subjects(other))


def _has_any_same(authorities: List[Authority], others: List[Authority]) -> bool:
    return any(one.is_same(other) for one in authorities for other in others)


def _read_subjects(path: str) -> List[Authority]:
    """Return the subjects of the certificates in a file; raise BadCredentials."""
    try:
        return [x509_fields.read_subject(der) for der in _decode_certificates(path)]
    except ValueError as error:
        raise BadCredentials("%s: invalid certificate" % path) from error


def _decode_certificates(path: str) -> List[bytes]:
    """Return the certificates of a bundle in DER, at least one; raise BadCredentials."""
    try:
        certificates = decode_pem(_read(path), CERTIFICATE_LABEL)
    except ValueError as error:
        raise BadCredentials("%s: invalid certificate" % path) from error
    if not certificates:
        raise BadCredentials("%s: contains no certificate" % path)
    return certificates


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


def read_expiry(path: str) -> float:
    """Return when the certificate of a bundle expires, as a Unix timestamp.

    Raises BadCredentials.
    """
    try:
        return x509_fields.read_not_after(_decode_certificates(path)[0])
    except ValueError as error:
        raise BadCredentials("%s: invalid certificate" % path) from error


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
