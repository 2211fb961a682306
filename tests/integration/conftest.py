"""Rank1 on one real vLLM server and on one vLLM engine, for the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from rank1_integrations import Rank1
from rank1_integrations.demo_model import DEMO_MODEL
from tests.support.tampering_proxy import TamperingProxy
from tests.support.vllm_server import VLLM_ENVIRONMENT, vllm_server

SERVED_NAME = "rank1-demo"

# One set of arguments for all tests, so that they share one copy of the model.
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "enforce_eager": True,
    "use_tqdm_on_load": False,
}


def demo_server(log: Path, **options: Any) -> AbstractContextManager[str]:
    """A vLLM server on the demonstration model; it runs until the block ends."""
    options = {"dtype": "float32", "max_model_len": 2048, **options}
    return vllm_server(DEMO_MODEL, log, name=SERVED_NAME, **options)


@pytest.fixture(scope="session")
def server(server_url: str) -> Iterator[Rank1]:
    """Rank1 on the vLLM server."""
    with Rank1.from_server(server_url, max_reasoning_tokens=256) as rank1:
        yield rank1


@pytest.fixture(scope="session")
def in_process() -> Iterator[Rank1]:
    """Rank1 on the vLLM engine, which this process has started."""
    pytest.importorskip("vllm", reason="vLLM is not installed: `make test` installs it")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VLLM_ENVIRONMENT.items():
            patch.setenv(name, value)
        with Rank1.from_vllm(
            str(DEMO_MODEL), engine_args=ENGINE_ARGS, max_reasoning_tokens=256
        ) as rank1:
            yield rank1


@pytest.fixture(scope="session")
def local() -> Iterator[Rank1]:
    """Rank1 on the transformers engine, in this process."""
    with Rank1.demo() as rank1:
        yield rank1


@pytest.fixture
def proxy(server_url: str) -> Iterator[TamperingProxy]:
    """A proxy before the vLLM server that forces the faults a test asks for."""
    with TamperingProxy(server_url.removesuffix("/v1")) as proxy:
        yield proxy
