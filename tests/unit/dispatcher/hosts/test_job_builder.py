"""Tests of the addresses that the hosts of one stage run get of each other."""

import pytest

from dispatcher.hosts.job_builder import peer_address
from dispatcher.model import Host


@pytest.mark.parametrize(
    ("spec", "said", "address"),
    [
        ("popen", "", "127.0.0.1"),
        ("ssh=ci@big.example.org -p 22", "", "big.example.org"),
        ("popen", "10.0.0.7", "10.0.0.7"),
        ("popen", "fe80::1%eth0", "fe80::1%eth0"),
        # The other hosts get a list of addresses that are separated by commas.
        ("popen", "10.0.0.7,10.0.0.8", "127.0.0.1"),
        ("popen", "a\0b", "127.0.0.1"),
        ("popen", "$(id)\n", "127.0.0.1"),
        ("popen", 7, "127.0.0.1"),
    ],
)
def test_what_a_host_says_of_itself_is_an_address_or_nothing(
    spec: str, said: object, address: str
) -> None:
    assert peer_address(Host("h1", spec, facts={"address": said})) == address
