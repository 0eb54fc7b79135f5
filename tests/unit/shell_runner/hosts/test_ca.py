"""Tests of the certificate authority: what it issues and refuses, and how it stores its files."""

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from shell_runner.hosts.ca import AuthorityError, CertificateAuthority, write_private_file
from shell_runner.remote.agent.credentials import BadCredentials, describe_expiry, read_expiry

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", NOW)


def leaf(bundle: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(bundle.encode())[0]


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def revoked(text: str) -> set[str]:
    return {f"{row.serial_number:x}" for row in x509.load_pem_x509_crl(text.encode())}


def test_a_bundle_holds_key_certificate_authority_and_list(authority: CertificateAuthority) -> None:
    bundle = authority.issue_host("web1", ["10.0.0.1", "web1.example.org"], NOW)
    certificate, issuer = x509.load_pem_x509_certificates(bundle.encode())
    key = load_pem_private_key(bundle.encode(), None)
    assert key.public_key() == certificate.public_key()
    certificate.verify_directly_issued_by(issuer)
    x509.load_pem_x509_crl(bundle[bundle.index("-----BEGIN X509 CRL") :].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["web1", "10.0.0.1", "web1.example.org"]


def test_the_roles_are_apart(authority: CertificateAuthority) -> None:
    host = leaf(authority.issue_host("web1", [], NOW))
    client = leaf(authority.issue_client("me@laptop", NOW))
    assert usages(host) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert usages(client) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(AuthorityError, match="'web1' is already the name of a host"):
        authority.issue_client("web1", NOW)


def test_an_authority_is_never_overwritten(authority: CertificateAuthority) -> None:
    before = (authority.folder / "ca.key").read_bytes()
    with pytest.raises(AuthorityError, match="already"):
        CertificateAuthority.create(authority.folder, NOW)
    assert (authority.folder / "ca.key").read_bytes() == before


def test_files_are_private_and_nothing_temporary_stays(authority: CertificateAuthority) -> None:
    authority.issue_host("web1", [], NOW)
    authority.revoke("web1", NOW)
    files = sorted(path.name for path in authority.folder.iterdir())
    assert files == ["ca.key", "ca.pem", "crl.pem", "issued.json"]
    for path in authority.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_a_private_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    write_private_file(path, "one", force=False)
    with pytest.raises(AuthorityError, match="--force"):
        write_private_file(path, "two", force=False)
    assert path.read_text() == "one"
    write_private_file(path, "two")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("two", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "é", "x\n", "*.example.org"])
def test_odd_names_are_refused(authority: CertificateAuthority, name: str) -> None:
    with pytest.raises(AuthorityError):
        authority.issue_host(name, [], NOW)
    with pytest.raises(AuthorityError):
        authority.issue_client(name, NOW)
    with pytest.raises(AuthorityError):
        authority.issue_host("web1", [name], NOW)
    assert authority.list_issued() == ()


def test_a_name_that_no_certificate_can_hold_is_refused(authority: CertificateAuthority) -> None:
    authority.issue_host("a" * 64, [], NOW)
    with pytest.raises(AuthorityError, match="too long"):
        authority.issue_host("a" * 65, [], NOW)


def test_renewal_keeps_role_and_addresses_and_makes_a_new_key(
    authority: CertificateAuthority,
) -> None:
    old = authority.issue_host("web1", ["10.0.0.1"], NOW)
    later = NOW + timedelta(days=300)
    new = authority.renew("web1", later)
    assert leaf(new).public_key() != leaf(old).public_key()
    assert authority.find_newest("web1").addresses == ("10.0.0.1",)
    assert leaf(new).not_valid_after_utc == later + timedelta(days=365)
    assert revoked(authority.update_crl(later)) == set()


def test_revocation_is_by_name_and_takes_all_of_it(authority: CertificateAuthority) -> None:
    for name in ("web1", "web1", "web2"):
        authority.issue_host(name, [], NOW)
    assert authority.revoke("web1", NOW) == 2
    assert authority.revoke("web1", NOW) == 0
    wanted = {row.serial for row in authority.list_issued() if row.name == "web1"}
    assert revoked((authority.folder / "crl.pem").read_text()) == wanted
    # A certificate that is issued later is valid, and its bundle lists the revoked ones.
    again = authority.issue_host("web1", [], NOW)
    assert revoked(again[again.index("-----BEGIN X509 CRL") :]) == wanted
    assert not authority.find_newest("web1").revoked_at


def test_a_name_that_nobody_has_is_suggested(authority: CertificateAuthority) -> None:
    authority.issue_host("web1", [], NOW)
    with pytest.raises(AuthorityError, match="did you mean 'web1'"):
        authority.revoke("wbe1", NOW)


def test_each_list_is_later_than_the_one_before(authority: CertificateAuthority) -> None:
    lists = [x509.load_pem_x509_crl(authority.update_crl(NOW).encode()) for _ in range(3)]
    dates = [each.last_update_utc for each in lists]
    assert dates == sorted(set(dates))
    assert dates[-1] < NOW
    assert all(
        each.next_update_utc is not None and each.next_update_utc > NOW + timedelta(3000)
        for each in lists
    )


def test_without_an_authority_init_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="nosejobs ca init"):
        CertificateAuthority(tmp_path)


def test_no_leaf_outlives_its_authority(authority: CertificateAuthority) -> None:
    bundle = leaf(authority.issue_client("laptop", NOW + timedelta(days=3640)))
    assert bundle.not_valid_after_utc == NOW + timedelta(days=3650)


def test_openssl_accepts_what_is_issued(authority: CertificateAuthority, tmp_path: Path) -> None:
    write_private_file(tmp_path / "web1.pem", authority.issue_host("web1", [], NOW))
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-crl_check",
        "-attime",
        str(int(NOW.timestamp())),
        "-CAfile",
        str(authority.folder / "ca.pem"),
        "-CRLfile",
        str(authority.folder / "crl.pem"),
        str(tmp_path / "web1.pem"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stderr


# -- when it ends -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (31, ""),
        (29.5, "web1.pem expires on 2026-12-23, in 29 days: renew it"),
        (0.1, "in 0 days"),
        (-1, "web1.pem expired on 2026-11-22: renew it"),
    ],
)
def test_the_end_of_a_certificate_is_warned_of(
    authority: CertificateAuthority, tmp_path: Path, days: float, words: str
) -> None:
    path = tmp_path / "web1.pem"
    write_private_file(path, authority.issue_host("web1", [], NOW, 100))
    end = (NOW + timedelta(days=100)).timestamp()
    assert read_expiry(str(path)) == end
    write_private_file(path, authority.issue_host("web1", [], NOW + timedelta(days - 100), 100))
    warning = describe_expiry(str(path), NOW.timestamp())
    assert bool(warning) is bool(words)
    assert words in warning


def test_a_certificate_after_2050_is_read(authority: CertificateAuthority, tmp_path: Path) -> None:
    # Certificates write dates from 2050 on in another format (RFC 5280).
    late = datetime(2060, 1, 1, tzinfo=UTC)
    made = CertificateAuthority.create(tmp_path / "late", late)
    assert read_expiry(str(made.folder / "ca.pem")) == (late + timedelta(3650)).timestamp()


@pytest.mark.parametrize(
    "text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_no_warning(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.pem"
    path.write_text(text)
    assert describe_expiry(str(path)) == ""
    with pytest.raises(BadCredentials, match=r"x\.pem"):
        read_expiry(str(path))
