"""Addresses of servers: what works as pasted, and what is refused when the object is made."""

from __future__ import annotations

from typing import Any

import pytest

from rank1_integrations.engines.openai_server.address import checked_address, server_root
from rank1_integrations.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("pasted", "address"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        (" http://host:8000/v1/\n", "http://host:8000/v1"),
        ("https://gateway/team/rank1/v1", "https://gateway/team/rank1/v1"),
        ("https://gateway/team/rank1", "https://gateway/team/rank1"),
        ("http://host/v1/completions", "http://host/v1"),
        ("http://host/v1/chat/completions/", "http://host/v1"),
        ("http://host/prefix/v1/models", "http://host/prefix/v1"),
        ("http://host/tokenize", "http://host/v1"),
        ("HTTP://host/v1", "http://host/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("http://bücher.example/v1", "http://bücher.example/v1"),
    ],
)
def test_an_address_works_as_it_was_pasted(pasted: str, address: str) -> None:
    assert checked_address(pasted) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:8000",
        "ftp://localhost/v1",
        "http://",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://host\n.example/v1",
        "http://host name/v1",
        "http://host/v1/a b",
        "http://a..b/v1",
        "http://[::1/v1",
        None,
        8000,
        b"http://host/v1",
    ],
)
def test_an_address_that_can_not_work_is_refused(address: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url must be an address such as"):
        checked_address(address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://me:secret@host/v1", "pass it as api_key="),
        ("http://secret@host/v1", "pass it as api_key="),
        ("http://me:secret@host:port/v1", "pass it as api_key="),
        ("http://host/v1?code=secret", "must not hold a query"),
        ("http://host/v1#secret", "must not hold a query"),
        ("me:secret@host/v1", "must be an address"),
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(address: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        checked_address(address)
    assert "secret" not in str(refused.value)


def test_vllms_own_endpoints_stand_beside_v1() -> None:
    assert server_root("http://host/prefix/v1") == "http://host/prefix"
    assert server_root("http://host/prefix") == "http://host/prefix"
