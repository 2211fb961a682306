"""One real vLLM server and one vLLM engine for the whole run, on the demonstration model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rank1_integrations import Rank1
from rank1_integrations.demo import DEMO_MODEL
from tests.integration.tampering_proxy import TamperingProxy

SERVED_NAME = "rank1-demo"
STARTUP_SECONDS = 300

# One set of arguments for all tests, so that they share one copy of the model.
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "enforce_eager": True,
    "use_tqdm_on_load": False,
}
VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a vLLM server that has the demonstration model loaded, in float32.

    While tests are written, RANK1_TEST_SERVER may name one that runs already.
    """
    if running := os.environ.get("RANK1_TEST_SERVER"):
        yield running
        return
    pytest.importorskip("vllm", reason="vLLM is not installed: `make test` installs it")
    with vllm_server(tmp_path_factory.mktemp("vllm") / "server.log") as url:
        yield url


@contextmanager
def vllm_server(log: Path) -> Iterator[str]:
    """A vLLM server's address; it runs until the block ends and writes what it does to `log`."""
    port = free_port()
    arguments = {
        "--model": str(DEMO_MODEL),
        "--served-model-name": SERVED_NAME,
        "--dtype": "float32",
        "--max-model-len": "2048",
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"),
                *(part for pair in arguments.items() for part in pair),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **VLLM_ENVIRONMENT},
            start_new_session=True,
        )
    try:
        wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # vLLM has child processes of its own: the whole group ends.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-4000:]}")
