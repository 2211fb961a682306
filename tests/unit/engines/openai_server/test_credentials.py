"""Keys and headers: which are taken, and that none of them is ever shown."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from rank1_integrations.engines.openai_server.credentials import Credentials, mask
from rank1_integrations.exceptions import ConfigurationError, EngineError

KEY = "sk-very/secret&key"


def credentials(key: Any = "", headers: Any = None) -> Credentials:
    return Credentials(key, headers, origin="api_key")


async def sent_header(made: Credentials) -> str | None:
    request = SimpleNamespace(headers={})
    await made.authorize(request)
    header: str | None = request.headers.get("Authorization")
    return header


@pytest.mark.parametrize(
    "key",
    [KEY, f" {KEY}\n", SecretStr(KEY), SecretStr(f"{KEY}\n"), lambda: KEY, lambda: SecretStr(KEY)],
    ids=["string", "blanks around", "secret", "secret with blanks", "function", "of a secret"],
)
async def test_a_key_is_sent_unwrapped_and_stripped(key: Any) -> None:
    assert await sent_header(credentials(key)) == f"Bearer {KEY}"


async def test_an_empty_key_sends_no_header() -> None:
    assert await sent_header(credentials("")) is None
    assert await sent_header(credentials(" \n")) is None


async def test_a_function_is_called_for_each_request() -> None:
    keys = iter(["first-key", "second-key"])
    made = credentials(lambda: next(keys))
    assert await sent_header(made) == "Bearer first-key"
    assert await sent_header(made) == "Bearer second-key"


async def async_key() -> str:
    return KEY


@pytest.mark.parametrize(
    "key",
    [b"sk-bytes-key", 5, "sk-two\nlines-key", "sk-k\u00e9y-secret", SecretStr("a\x00b"), async_key],
    ids=["bytes", "number", "line break", "letter outside ASCII", "control", "async function"],
)
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as refused:
        credentials(key)
    for part in ("bytes-key", "lines-key", "secret", "sk-"):
        assert part not in str(refused.value)


def failing() -> str:
    raise OSError(f"vault refused {KEY}")


async def test_a_function_that_fails_is_an_error_that_says_so() -> None:
    with pytest.raises(EngineError, match="api_key= function failed: OSError: vault refused"):
        await sent_header(credentials(failing))


async def test_what_a_function_returns_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="it is bytes"):
        await sent_header(credentials(lambda: b"key"))


@pytest.mark.parametrize(
    "headers",
    [["X"], {"X-A": b"1"}, {"X-A": "two\nlines"}, {"X\nA": "1"}, {"": "1"}, {5: "1"}],
)
def test_headers_that_can_not_be_sent_are_refused(headers: Any) -> None:
    with pytest.raises(ConfigurationError, match="default_headers") as refused:
        credentials("", headers)
    assert "lines" not in str(refused.value)


def test_a_key_beside_an_authorization_header_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="exclude each other"):
        credentials(KEY, {"authorization": "Basic abc"})


def test_nothing_secret_is_in_the_representation() -> None:
    made = credentials(KEY, {"X-Secret": "header-value"})
    assert KEY not in repr(made)
    assert "header-value" not in repr(made)


@pytest.mark.parametrize(
    "escape",
    [
        str,
        lambda key: json.dumps(key)[1:-1],
        lambda key: json.dumps({"inner": json.dumps(key)}),
        lambda key: key.replace("/", "\\/"),
        quote,
        lambda key: quote(key, safe=""),
        html.escape,
    ],
    ids=["plain", "json", "json in json", "escaped slash", "url", "url with slash", "html"],
)
def test_a_key_is_masked_however_it_is_escaped(escape: Callable[[str], str]) -> None:
    masked = credentials(KEY).mask(f"refused: {escape(KEY)}.")
    assert "secret" not in masked
    assert masked.startswith("refused: ")


def test_a_header_is_as_secret_as_the_key() -> None:
    assert credentials("", {"CF-Access-Client-Secret": "cf-value"}).mask("cf-value!") == "***!"


def test_a_key_that_the_server_cut_is_masked() -> None:
    assert mask("bad key sk-very/se", [KEY]) == "bad key ***"


def test_text_without_a_secret_stays() -> None:
    assert mask("model not found", [KEY, "", "a"]) == "model not found"
