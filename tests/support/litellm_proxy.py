"""LiteLLM's own proxy in a process of its own, before another server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.server_process import server_process
from tests.support.vllm_server import free_port

STARTUP_SECONDS = 120
NAME = "rank1"
MASTER_KEY = "sk-master-key"
VIRTUAL_KEY = "sk-virtual-key"

# LiteLLM keeps virtual keys in PostgreSQL, unless a function of the operator's knows them.
_AUTHENTICATION = f"""
from fastapi import HTTPException, Request
from litellm.proxy._types import UserAPIKeyAuth


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    is_model_call = request.url.path.startswith("/v1/")
    if api_key == {MASTER_KEY!r} or (api_key == {VIRTUAL_KEY!r} and is_model_call):
        return UserAPIKeyAuth(api_key=api_key)
    raise HTTPException(401, f"Authentication Error: {{api_key}} may not call {{request.url.path}}")
"""


@contextmanager
def litellm_proxy(server_url: str, served_name: str, folder: Path) -> Iterator[str]:
    """Serve a vLLM server's model as `NAME`; /tokenize is open to the master key only.

    LiteLLM asks for versions of shared libraries that do not fit vLLM's, so it is not installed
    beside this package. `RANK1_TEST_LITELLM` names its program in another virtual environment.

    Args:
        server_url: Of the vLLM server, with /v1.
        served_name: Of the model there.
        folder: For configuration and log.

    Yields:
        The proxy's address, with /v1.
    """
    program = os.environ.get("RANK1_TEST_LITELLM") or shutil.which("litellm")
    if program is None:
        pytest.skip(
            "LiteLLM needs a virtual environment of its own: pip install 'litellm[proxy]' there, "
            "and set RANK1_TEST_LITELLM to its program"
        )
    (folder / "gate.py").write_text(_AUTHENTICATION)
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(_configuration(server_url, served_name)))
    port, log = free_port(), folder / "proxy.log"
    with server_process(
        "LiteLLM's proxy",
        [program, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
        health_url=f"http://127.0.0.1:{port}/health/liveliness",
        log=log,
        startup_seconds=STARTUP_SECONDS,
        cwd=folder,
        environment={"LITELLM_TELEMETRY": "False"},
    ):
        yield f"http://127.0.0.1:{port}/v1"


def _configuration(server_url: str, served_name: str) -> dict[str, object]:
    parameters = {
        "model": f"hosted_vllm/{served_name}",
        "api_base": server_url,
        "api_key": "none",
    }
    tokenizer = {
        "path": "/tokenize",
        "target": f"{server_url.removesuffix('/v1')}/tokenize",
        "auth": True,
    }
    return {
        "model_list": [
            {
                "model_name": NAME,
                "litellm_params": parameters,
                "model_info": {"max_input_tokens": 2048},
            }
        ],
        "general_settings": {
            "master_key": MASTER_KEY,
            "custom_auth": "gate.authenticate",
            "pass_through_endpoints": [tokenizer],
        },
    }
