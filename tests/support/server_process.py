"""A real server in a process group of its own, from its first answer to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def server_process(
    name: str,
    command: Sequence[str],
    *,
    health_url: str,
    log: Path,
    startup_seconds: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a server until the block ends, with all processes that it starts.

    Args:
        name: For people.
        command: That starts it.
        health_url: Answered as soon as the server is ready.
        log: File for what it prints.
        startup_seconds: The most time until it is ready.
        cwd: Folder that it runs in; None for the tests' own.
        environment: Variables beside those of this process.
    """
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        if not _becomes_healthy(server, health_url, startup_seconds):
            pytest.fail(f"{name} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _becomes_healthy(server: subprocess.Popen[bytes], url: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
