"""A fuzzer of the reader of certificates and revocation lists."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

from shell_runner.hosts import ca
from shell_runner.remote.agent import x509_fields
from tests.helpers.fuzzing import iterate_seeds, mutate

READERS = (
    x509_fields.read_not_after, x509_fields.read_key_purposes, x509_fields.read_subject,
    x509_fields.read_crl_issuer,
)  # fmt: skip


def _make_samples(folder: Path) -> list[bytes]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    bundle = ca.CertificateAuthority.create(folder / "ca", now).issue_client("laptop", now)
    certificates = x509_fields.decode_pem(bundle, x509_fields.CERTIFICATE_LABEL)
    return certificates + x509_fields.decode_pem(bundle, x509_fields.CRL_LABEL)


def test_a_changed_certificate_or_list_is_read_or_refused(tmp_path: Path) -> None:
    samples = _make_samples(tmp_path)
    assert x509_fields.read_key_purposes(samples[0]) == [x509_fields.CLIENT_AUTH]
    assert x509_fields.read_key_purposes(samples[1]) == []
    assert x509_fields.read_crl_issuer(samples[2]) == x509_fields.read_subject(samples[1])
    for rng in iterate_seeds():
        _check(rng, rng.choice(samples))


def _check(rng: random.Random, sample: bytes) -> None:
    data = sample[: rng.randrange(len(sample))] if rng.random() < 0.2 else mutate(rng, sample)
    for read in READERS:
        try:
            read(data)
        except ValueError:
            continue
