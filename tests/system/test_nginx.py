"""nginx before the vLLM server, under a path prefix and with a password of its own."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rank1_integrations import EngineError, Rank1
from tests.support.vllm_server import free_port

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "A tuple can't be changed once it is made.",
    "Sockets connect to other machines.",
]
PREFIX = "/search/rank1"
AUTHORIZATION = f"Basic {base64.b64encode(b'search:password').decode()}"

_CONFIGURATION = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location = /ready {{ return 204; }}
        location {prefix}/ {{
            auth_basic "search";
            auth_basic_user_file {folder}/users;
            proxy_pass {target}/;
        }}
        location /moved/v1/models {{ return 301 http://127.0.0.1:{port}{prefix}/v1/models; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def nginx_url(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of nginx, with the prefix and without /v1."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    (folder / "users").write_text("search:{PLAIN}password\n")
    target = server_url.removesuffix("/v1")
    (folder / "nginx.conf").write_text(
        _CONFIGURATION.format(
            # Started by root, its workers would be another user, who can't read the files.
            user="user root;" if os.geteuid() == 0 else "",
            folder=folder,
            port=port,
            prefix=PREFIX,
            target=target,
        )
    )
    nginx = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-p", str(folder)])
    try:
        _wait_until_ready(nginx, f"http://127.0.0.1:{port}/ready", folder / "error.log")
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        nginx.terminate()
        nginx.wait()


def _wait_until_ready(nginx: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and nginx.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    said = log.read_text() if log.exists() else "no log"
    pytest.fail(f"nginx did not start: {said}")


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/completions"])
def test_scores_behind_a_path_prefix_are_those_of_the_server_itself(
    nginx_url: str, server_url: str, path: str
) -> None:
    with Rank1.from_server(server_url, thinking="none") as direct:
        expected = [judgment.log_odds for judgment in direct.judge(QUERY, PASSAGES)]
        label_ids = direct.server_info["label_ids"]
    headers = {"Authorization": AUTHORIZATION}
    with Rank1.from_server(
        f"{nginx_url}{path}", default_headers=headers, thinking="none"
    ) as reranker:
        judgments = reranker.judge(QUERY, PASSAGES)
        # /tokenize stands below the prefix too.
        assert reranker.server_info["label_ids"] == label_ids
    assert [judgment.log_odds for judgment in judgments] == pytest.approx(expected, abs=1e-2)


def test_without_the_password_the_error_names_the_key(nginx_url: str) -> None:
    with (
        Rank1.from_server(f"{nginx_url}/v1", max_retries=0) as reranker,
        pytest.raises(EngineError, match="the server refused the key"),
    ):
        reranker.judge(QUERY, PASSAGES)


def test_a_wrong_prefix_is_an_error_that_says_so(nginx_url: str) -> None:
    with (
        Rank1.from_server(f"{nginx_url}s/v1", max_retries=0) as reranker,
        pytest.raises(EngineError, match="check that the address"),
    ):
        reranker.judge(QUERY, PASSAGES)


def test_a_redirect_is_an_error_that_names_the_final_address(nginx_url: str) -> None:
    moved = nginx_url.replace(PREFIX, "/moved")
    with (
        Rank1.from_server(f"{moved}/v1", max_retries=0) as reranker,
        pytest.raises(EngineError, match=f"redirects to {nginx_url}/v1/models: pass the final"),
    ):
        reranker.judge(QUERY, PASSAGES)
