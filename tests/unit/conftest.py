"""Unit tests reach no network: every socket but the event loop's own is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_socket import disable_socket, enable_socket

from rank1_integrations import Rank1


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()


@pytest.fixture(scope="session")
def demo() -> Iterator[Rank1]:
    """The demonstration model, on the transformers engine."""
    with Rank1.demo() as rank1:
        yield rank1
