"""The certificate authority of a fleet: certificates for hosts and clients, in one folder of files.

Responsible for the key of the authority, the list of issued certificates, and the revocation list.
Must not know hosts or TLS connections.  Needs ``cryptography`` (the extra ``fleet``).  No key is
ever shown.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import UsageError
from ..validators import format_suggestion

#: Days of validity of the certificate of an authority, and of one that it issues.
AUTHORITY_DAYS = 3650
LEAF_DAYS = 365
#: Certificates are valid this much earlier, since the clocks of a fleet differ.
_CLOCK_SKEW = timedelta(hours=1)
#: The extended key usage of each role; neither can act as the other.
_KEY_PURPOSES = {"host": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_CLIENT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
#: Maximum characters of a common name (RFC 5280).
_MAX_NAME_CHARS = 64


class AuthorityError(UsageError):
    """The authority cannot do what was requested."""


@dataclass(frozen=True)
class IssuedCertificate:
    """One certificate, as recorded in ``issued.json``."""

    name: str
    #: ``host`` or ``client``.
    role: str
    #: The serial number in hexadecimal.
    serial: str
    addresses: tuple[str, ...]
    not_before: str
    not_after: str
    #: The time of its revocation (ISO 8601); empty if it is not revoked.
    revoked_at: str = ""

    def days_left(self, now: datetime) -> int:
        """Return the whole days until it expires; negative if it has expired."""
        return (datetime.fromisoformat(self.not_after) - now) // timedelta(days=1)


def default_folder() -> Path:
    """Return ``$NOSEJOBS_CA``, else ``ca`` in the configuration folder."""
    path = os.environ.get("NOSEJOBS_CA")
    return Path(path) if path else config_folder() / "ca"


def config_folder() -> Path:
    """Return the folder of the user's configuration files."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nosejobs"


def write_private_file(path: Path, text: str, force: bool = True) -> None:
    """Write a file of mode 0600 atomically.

    Raises :exc:`AuthorityError` if it exists, unless ``force`` is true.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        raise AuthorityError(f"{path} exists\n  try: --force, or --out another file") from None
    finally:
        temporary.unlink(missing_ok=True)


class CertificateAuthority:
    """The certificate authority whose files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        """Load the authority; raise :exc:`AuthorityError` if there is none."""
        self.folder = folder
        try:
            self._certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except FileNotFoundError as error:
            message = f"no authority in {folder}: {Path(error.filename).name} is missing"
            raise AuthorityError(f"{message}\n  try: nosejobs ca init") from error
        except (OSError, ValueError, TypeError) as error:
            raise AuthorityError(f"cannot read the authority in {folder}: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AuthorityError(f"{folder / 'ca.key'}: not a key of an authority of nosejobs")
        self._key = key

    @classmethod
    def create(
        cls, folder: Path, now: datetime, name: str = "nosejobs fleet"
    ) -> CertificateAuthority:
        """Create an authority; raise :exc:`AuthorityError` if there is one already."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock_folder(folder):
            if any((folder / file).exists() for file in ("ca.key", "ca.pem", "issued.json")):
                message = f"{folder} already contains an authority"
                raise AuthorityError(f"{message}\n  try: nosejobs ca list, or --dir another folder")
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _authority_certificate(key, name, now)
            write_private_file(folder / "issued.json", "[]\n")
            write_private_file(folder / "ca.key", _encode_key(key))
            write_private_file(folder / "ca.pem", _encode_certificate(certificate))
            authority = cls(folder)
            authority._write_crl((), now)
        return authority

    # -- what has been issued ---------------------------------------------------

    def list_issued(self) -> tuple[IssuedCertificate, ...]:
        """Return all issued certificates, the oldest first."""
        path = self.folder / "issued.json"
        try:
            rows = json.loads(path.read_text())
            return tuple(
                IssuedCertificate(**{**row, "addresses": tuple(row["addresses"])}) for row in rows
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise AuthorityError(f"cannot read {path}: {error}") from error

    def find_newest(self, name: str) -> IssuedCertificate:
        """Return the newest certificate of ``name``; raise :exc:`AuthorityError` without one."""
        certificates = [each for each in self.list_issued() if each.name == name]
        if not certificates:
            hint = format_suggestion(
                name, {each.name for each in self.list_issued()} or {"nothing"}
            )
            raise AuthorityError(f"no certificate was issued for {name!r}{hint}")
        return certificates[-1]

    def _write_issued(self, rows: Sequence[IssuedCertificate]) -> None:
        text = json.dumps([asdict(row) for row in rows], indent=1)
        write_private_file(self.folder / "issued.json", text + "\n")

    # -- issuing ----------------------------------------------------------------

    def issue_host(
        self, name: str, addresses: Sequence[str], now: datetime, days: int = LEAF_DAYS
    ) -> str:
        """Issue a certificate for a host; return its bundle as PEM text.

        ``addresses``: other names or addresses of the host.
        """
        for address in (name, *addresses):
            if not _HOST_NAME.fullmatch(address) and not _is_address(address):
                raise AuthorityError(f"{address!r} is not a host name or an address")
        return self._issue(name, "host", tuple(addresses), now, days)

    def issue_client(self, name: str, now: datetime, days: int = LEAF_DAYS) -> str:
        """Issue a certificate for a client (a controller); return its bundle as PEM text."""
        if not _CLIENT_NAME.fullmatch(name):
            raise AuthorityError(f"{name!r} is not a client name; use letters, digits, .@+-_")
        return self._issue(name, "client", (), now, days)

    def renew(self, name: str, now: datetime, days: int = LEAF_DAYS) -> str:
        """Issue a new bundle with a new key; the old one stays valid until it expires."""
        old = self.find_newest(name)
        return self._issue(name, old.role, old.addresses, now, days)

    def _issue(
        self, name: str, role: str, addresses: tuple[str, ...], now: datetime, days: int
    ) -> str:
        if len(name) > _MAX_NAME_CHARS:
            raise AuthorityError(
                f"{name!r} is too long; a name has at most {_MAX_NAME_CHARS} characters"
            )
        with _lock_folder(self.folder):
            rows = self.list_issued()
            for row in rows:
                if row.name == name and row.role != role:
                    raise AuthorityError(
                        f"{name!r} is already the name of a {row.role}; use another name"
                    )
            key = ec.generate_private_key(ec.SECP256R1())
            leaf = self._create_certificate(key, name, role, addresses, now, days)
            self._write_issued([*rows, _describe_certificate(leaf, name, role, addresses)])
            revocations = (self.folder / "crl.pem").read_text()
        return (
            _encode_key(key)
            + _encode_certificate(leaf)
            + _encode_certificate(self._certificate)
            + revocations
        )

    def _create_certificate(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        role: str,
        addresses: tuple[str, ...],
        now: datetime,
        days: int,
    ) -> x509.Certificate:
        end = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - _CLOCK_SKEW)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_KEY_PURPOSES[role]]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(self._key_identifier(), critical=False)
        )
        if role == "host":
            names = [_general_name(each) for each in dict.fromkeys((name, *addresses))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    # -- revoking ---------------------------------------------------------------

    def revoke(self, name: str, now: datetime) -> int:
        """Revoke all certificates of ``name``; return how many were not revoked before."""
        self.find_newest(name)
        with _lock_folder(self.folder):
            rows = self.list_issued()
            new = [row for row in rows if row.name == name and not row.revoked_at]
            moment = now.isoformat(timespec="seconds")
            rows = tuple(replace(row, revoked_at=moment) if row in new else row for row in rows)
            self._write_issued(rows)
            self._write_crl(rows, now)
        return len(new)

    def update_crl(self, now: datetime) -> str:
        """Write a new revocation list; return it as PEM text."""
        with _lock_folder(self.folder):
            self._write_crl(self.list_issued(), now)
            return (self.folder / "crl.pem").read_text()

    def _write_crl(self, rows: Sequence[IssuedCertificate], now: datetime) -> None:
        path = self.folder / "crl.pem"
        moment, number = now - _CLOCK_SKEW, 1
        if path.exists():
            old = x509.load_pem_x509_crl(path.read_bytes())
            # Of two lists the one with the later date counts, so that no two may have the same.
            moment = max(moment, old.last_update_utc + timedelta(seconds=1))
            number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(moment)
            # Lists are not distributed regularly: one is valid until there is a newer one.
            .next_update(self._certificate.not_valid_after_utc)
            .add_extension(self._key_identifier(), critical=False)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for row in rows:
            if row.revoked_at:
                builder = builder.add_revoked_certificate(_revocation_entry(row))
        signed = builder.sign(self._key, hashes.SHA256())
        write_private_file(path, signed.public_bytes(Encoding.PEM).decode("ascii"))


@contextlib.contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Lock the folder: two concurrent commands would lose what one of them issued."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _authority_certificate(
    key: ec.EllipticCurvePrivateKey, name: str, now: datetime
) -> x509.Certificate:
    # The name differs between authorities, so that errors can tell them apart.
    subject = _subject_name(f"{name} {x509.random_serial_number() >> 128:08x}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    return (
        builder.public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _subject_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(text: str) -> x509.GeneralName:
    if _is_address(text):
        return x509.IPAddress(ipaddress.ip_address(text))
    return x509.DNSName(text)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _describe_certificate(
    leaf: x509.Certificate, name: str, role: str, addresses: tuple[str, ...]
) -> IssuedCertificate:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return IssuedCertificate(
        name, role, f"{leaf.serial_number:x}", addresses, begin.isoformat(), end.isoformat()
    )


def _revocation_entry(row: IssuedCertificate) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(int(row.serial, 16))
    return builder.revocation_date(datetime.fromisoformat(row.revoked_at)).build()


def _encode_key(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _encode_certificate(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def utcnow() -> datetime:
    """Return the current time, as the functions of this module expect it."""
    return datetime.now(UTC)
