"""One real vLLM server for the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a vLLM server that has the demonstration model loaded, in float32.

    While tests are written, RANK1_TEST_SERVER may name one that runs already.
    """
    from tests.integration.conftest import demo_server

    if running := os.environ.get("RANK1_TEST_SERVER"):
        yield running
        return
    with demo_server(tmp_path_factory.mktemp("vllm") / "server.log") as address:
        yield address
