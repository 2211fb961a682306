"""A real vLLM server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

STARTUP_SECONDS = 600
VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


@contextmanager
def vllm_server(
    model: Path,
    log: Path,
    *,
    name: str,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[str]:
    """Serve a checkpoint, and end the server with all its children.

    Args:
        model: The checkpoint's folder.
        log: File for what the server writes.
        name: The name it is served under.
        environment: Variables to set beside those of this process.
        **options: Of vLLM's command line, with underscores; True for one without a value.

    Yields:
        Its address, with /v1.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed: `make test` installs it")
    port = free_port()
    options = {"model": model, "served_model_name": name, "port": port, **options}
    arguments = [
        part
        for key, value in options.items()
        for part in (f"--{key.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
                *("--host", "127.0.0.1", "--enforce-eager"),
                *arguments,
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **VLLM_ENVIRONMENT, **(environment or {})},
            start_new_session=True,
        )
    try:
        _wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # vLLM has child processes of its own: the whole group ends.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
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
