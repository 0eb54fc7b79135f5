"""Tests of the checks of values in the model."""

from typing import Any

import pytest

from shell_runner.remote.files import manifest
from shell_runner.remote.protocol import fields, model


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        ("0" * 64, True), ("0123456789abcdef" * 4, True), ("0" * 63, False), ("0" * 65, False),
        ("A" * 64, False), ("g" * 64, False), ("\u0661" * 64, False), ("é" * 64, False),
        ("0" * 63 + "\n", False), ("0" * 32 + "/" + "0" * 31, False), ("", False), (None, False),
        (0, False), ([], False), (b"0" * 64, False), ("a" * 31 + ".." + "a" * 31, False),
    ],
)  # fmt: skip
def test_a_digest_is_64_lowercase_hexadecimal_digits(value: Any, is_valid: bool) -> None:
    assert model.is_digest(value) == is_valid


def test_the_rule_of_digests_is_one() -> None:
    assert manifest.is_digest is model.is_digest
    assert fields.Fields({"a": "0" * 64}).digest("a") == "0" * 64
