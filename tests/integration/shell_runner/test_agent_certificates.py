"""Tests of which certificates and revocation lists an agent and a controller accept."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from shell_runner.hosts import ca, tls
from shell_runner.remote.agent.credentials import BadCredentials, Credentials
from tests.helpers.agent_processes import AgentProcess, FleetAuthority

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
#: Extended key usages of a certificate; None: without that extension.
PURPOSES: dict[str, list[x509.ObjectIdentifier] | None] = {
    "none": None,
    "client": [CLIENT],
    "host": [SERVER],
    "both": [ExtendedKeyUsageOID.CODE_SIGNING, SERVER, CLIENT],
    "any": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
    "other": [ExtendedKeyUsageOID.CODE_SIGNING],
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> FleetAuthority:
    return FleetAuthority(tmp_path_factory.mktemp("fleet"))


def issue(authority: FleetAuthority, name: str, purposes: str) -> Path:
    """Write the bundle of a certificate with any extended key usages; return its path."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("localhost"), x509.DNSName(name)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(ca._subject_name(name))
        .issuer_name(authority.ca._certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca.utcnow() - timedelta(hours=1))
        .not_valid_after(ca.utcnow() + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(authority.ca._key_identifier(), critical=False)
    )
    usages = PURPOSES[purposes]
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    leaf = builder.sign(authority.ca._key, hashes.SHA256())
    parts = (ca._encode_key(key), leaf, authority.ca._certificate)
    text = "".join(p if isinstance(p, str) else ca._encode_certificate(p) for p in parts)
    return authority._write(f"{name}-{purposes}", text)


@pytest.mark.parametrize("purposes", PURPOSES)
def test_an_agent_admits_only_certificates_of_clients(
    authority: FleetAuthority, purposes: str
) -> None:
    client = issue(authority, "someone", purposes)
    with AgentProcess(authority.issue_host()) as agent:
        if purposes in ("client", "both"):
            with agent.connect(client) as peer:
                assert peer.evaluate("1") == "1"
            return
        with pytest.raises(tls.CannotConnect, match=r"without the extended|not for a client"):
            agent.connect(client)
        agent.expect("refused .*certificate refused: ")


@pytest.mark.parametrize("purposes", PURPOSES)
def test_an_agent_starts_only_with_the_certificate_of_a_host(
    authority: FleetAuthority, purposes: str
) -> None:
    bundle = issue(authority, "somewhere", purposes)
    if purposes in ("host", "both"):
        Credentials(str(bundle))
        return
    with pytest.raises(BadCredentials, match=r"not of a host; nosejobs ca issue HOST"):
        Credentials(str(bundle))


def test_an_agent_with_the_bundle_of_a_client_does_not_start(authority: FleetAuthority) -> None:
    command = [sys.executable, "-m", "shell_runner.remote", "agent", str(authority.issue_client())]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "laptop.pem: a certificate of a client, not of a host" in done.stderr
    assert "listening" not in done.stderr


@pytest.mark.parametrize("purposes", PURPOSES)
def test_a_controller_accepts_only_certificates_of_hosts(
    authority: FleetAuthority, purposes: str, tmp_path: Path
) -> None:
    """The server is an agent without the check of its own bundle."""
    bundle = issue(authority, "localhost", purposes)
    code = (
        "import sys; from shell_runner.remote.agent import credentials, main;"
        "credentials._check_key_purpose = lambda bundle: None; sys.exit(main.main())"
    )
    with AgentProcess(bundle, command=(sys.executable, "-c", code)) as agent:
        client = authority.issue_client()
        if purposes in ("host", "both"):
            with agent.connect(client) as peer:
                assert peer.evaluate("1") == "1"
            return
        with pytest.raises(tls.CannotConnect, match=r"certificate of localhost:\d+ is "):
            agent.connect(client)


def make_crl(authority: FleetAuthority, name: x509.Name, with_key_identifier: bool) -> str:
    """Return a revocation list with the key of an authority, and any name of the issuer."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(ca.utcnow())
        .next_update(ca.utcnow() + timedelta(days=9))
    )
    if with_key_identifier:
        builder = builder.add_extension(authority.ca._key_identifier(), critical=False)
    signed = builder.sign(authority.ca._key, hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


LISTS = pytest.mark.parametrize(
    ("kind", "accepted"),
    [
        ("ours", True), ("ours without key identifier", True), ("other", False),
        ("other with our name", False), ("both", True), ("garbage in the list", False),
        ("certificate", False), ("empty", False), ("ours and an authority", False),
        ("ours and a trusted authority", False), ("ours and our authority", False),
    ],
)  # fmt: skip


def write_list(authority: FleetAuthority, other: FleetAuthority, path: Path, kind: str) -> None:
    """Write a revocation list of a kind in ``LISTS``."""
    our_name = authority.ca._certificate.subject
    their_certificate = (other.ca.folder / "ca.pem").read_text()
    path.write_text(
        {
            "ours": authority.crl.read_text(),
            "ours without key identifier": make_crl(authority, our_name, False),
            "other": other.crl.read_text(),
            "other with our name": make_crl(other, our_name, True),
            "both": other.crl.read_text() + authority.crl.read_text(),
            "garbage in the list": "-----BEGIN X509 CRL-----\nMAAw\n-----END X509 CRL-----\n",
            "certificate": (authority.ca.folder / "ca.pem").read_text(),
            "empty": "",
            "ours and an authority": authority.crl.read_text() + their_certificate,
            "ours and a trusted authority": authority.crl.read_text()
            + their_certificate.replace("CERTIFICATE", "X509 CERTIFICATE"),
            "ours and our authority": (authority.ca.folder / "ca.pem").read_text()
            + authority.crl.read_text(),
        }[kind]
    )


@LISTS
def test_a_revocation_list_must_be_that_of_our_authority(
    authority: FleetAuthority, tmp_path: Path, kind: str, accepted: bool
) -> None:
    path = tmp_path / "list.pem"
    write_list(authority, FleetAuthority(tmp_path), path, kind)
    bundle = str(authority.issue_host())
    if accepted:
        Credentials(bundle, str(path))
        return
    with pytest.raises(BadCredentials, match=r"list\.pem: (a|not a|invalid) revocation list"):
        Credentials(bundle, str(path))


@LISTS
@pytest.mark.parametrize("place", ["crl.pem", "ca/crl.pem"])
def test_a_controller_refuses_the_list_of_another_authority(
    authority: FleetAuthority, tmp_path: Path, kind: str, accepted: bool, place: str
) -> None:
    other = FleetAuthority(tmp_path / "other")
    bundle = tmp_path / "laptop.pem"
    ca.write_private_file(bundle, authority.issue_client().read_text())
    (tmp_path / "ca").mkdir()
    write_list(authority, other, tmp_path / place, kind)
    if accepted:
        tls.make_client_context(str(bundle))
        return
    with pytest.raises(tls.CannotConnect, match=r"crl\.pem: (a|not a|invalid) revocation list"):
        tls.make_client_context(str(bundle))


def test_an_authority_of_another_fleet_beside_a_bundle_is_not_that_of_its_list(
    authority: FleetAuthority, tmp_path: Path
) -> None:
    """A user who has an authority can have the bundle of another fleet, too."""
    own = FleetAuthority(tmp_path)
    bundle = tmp_path / "elsewhere.pem"
    ca.write_private_file(bundle, authority.issue_client().read_text())
    context = tls.make_client_context(str(bundle))
    assert len(context.get_ca_certs()) == 1
    (own.ca.folder / "ca.pem").write_text("garbage")
    with pytest.raises(tls.CannotConnect, match=r"ca\.pem: contains no certificate"):
        tls.make_client_context(str(bundle))


def test_a_revoked_host_stays_revoked_beside_the_list_of_another_authority(tmp_path: Path) -> None:
    authority, other = FleetAuthority(tmp_path), FleetAuthority(tmp_path / "other")
    host, client = authority.issue_host(), authority.issue_client()
    authority.revoke("localhost")
    with AgentProcess(host) as agent:
        with pytest.raises(tls.CannotConnect, match="has been revoked"):
            agent.connect(client)
        authority.crl.write_text(other.crl.read_text())
        with pytest.raises(tls.CannotConnect, match="a revocation list of another authority"):
            agent.connect(client)


def test_a_list_of_another_authority_does_not_replace_ours(tmp_path: Path) -> None:
    authority, other = FleetAuthority(tmp_path), FleetAuthority(tmp_path / "other")
    host, client = authority.issue_host(), tmp_path / "home" / "laptop.pem"
    client.parent.mkdir()  # without the list of the agent beside it
    ca.write_private_file(client, authority.issue_client().read_text())
    authority.revoke("laptop")
    copy = tmp_path / "crl.pem"  # the one beside the bundle
    copy.write_text(authority.crl.read_text())
    with AgentProcess(host) as agent:
        with pytest.raises(tls.CannotConnect, match="has been revoked"):
            agent.connect(client)
        copy.write_text(other.crl.read_text())
        with pytest.raises(tls.CannotConnect, match="has been revoked"):
            agent.connect(client)
        agent.expect("error .*crl.pem: a revocation list of another authority")
