"""Which addresses are public. Fetching itself is tested through the guard, in test_guard.py."""

import asyncio

import pytest

from tempo_ray.serve.fetch import Refusal, is_public, resolve_public


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "224.0.0.1",
        "255.255.255.255",
        "198.18.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fe80::1",
        "::",
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


def test_one_private_address_of_a_host_is_enough_to_refuse_it(monkeypatch):
    async def both(self, host, port, **_):
        return [(2, 1, 6, "", ("8.8.8.8", port)), (2, 1, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", both)
    with pytest.raises(Refusal, match="not a public address"):
        asyncio.run(resolve_public("example.org", 80))
