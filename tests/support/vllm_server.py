"""A real vLLM server in a process of its own."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import server_process

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
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--enforce-eager"),
        *arguments,
    ]
    with server_process(
        "vLLM",
        command,
        health_url=f"http://127.0.0.1:{port}/health",
        log=log,
        startup_seconds=STARTUP_SECONDS,
        environment={**VLLM_ENVIRONMENT, **(environment or {})},
    ):
        yield f"http://127.0.0.1:{port}/v1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
