"""Why a request failed, in words that lead to the remedy."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import openai

from rank1_integrations.exceptions import EngineError

_LONGEST_QUOTE = 300

PROXY_VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")

# Of httpx and httpx2, which the openai client does not name.
_BROKEN = frozenset({"ReadError", "WriteError", "CloseError", "RemoteProtocolError"})

Mask = Callable[[str], str]


class StatusError(EngineError):
    """The server answered, and its answer is an error."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(EngineError):
    """No answer came."""


def explained(error: openai.OpenAIError, url: str, mask: Mask) -> EngineError:
    """Return the error of a request with its cause and what to do.

    Args:
        error: Of the openai client.
        url: The address that was asked.
        mask: Removes secrets from what others wrote.
    """
    if isinstance(error, openai.APIStatusError):
        status = error.response.status_code
        said = quoted(error.response.content, mask)
        return StatusError(f"{url}: {_status_advice(error, mask)}{said}", status)
    if isinstance(error, openai.APITimeoutError):
        return UnreachableError(f"{url}: {_timeout_advice(error)}{_proxy_hint(url)}")
    if isinstance(error, openai.APIConnectionError):
        return UnreachableError(f"{url}: {_connection_advice(error, mask)}{_proxy_hint(url)}")
    said = mask(str(error))[:_LONGEST_QUOTE]
    return EngineError(f"{url}: the request failed ({type(error).__name__}: {said})")


def quoted(content: bytes, mask: Mask) -> str:
    """Return the beginning of what a server said, in parentheses; nothing for an empty answer."""
    text = server_message(content)
    # Masked as a whole: a cut key is still a key.
    text = " ".join(mask(text).split())
    return f" ({text[:_LONGEST_QUOTE]})" if text else ""


def server_message(content: bytes) -> str:
    """Return the sentence in a server's error, or all of the answer if there is none."""
    text = content.decode(errors="replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _message(body) or text


def error_in(body: object) -> tuple[str, int] | None:
    """Return message and status of an error that a server sent with status 200."""
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if not error and body.get("object") != "error":
        return None
    source = error if isinstance(error, dict) else body
    code = source.get("code", body.get("code"))
    return _message(body) or "", code if isinstance(code, int) else 0


def context_limit(message: str) -> int | None:
    """Return the context length that a refusal names, in tokens."""
    found = re.search(r"(?:context (?:length|size|window)|max_model_len)\D{0,24}(\d{2,})", message)
    return int(found[1]) if found else None


def set_variables(names: tuple[str, ...]) -> list[str]:
    """Return those of the environment variables that are set, as they are written there."""
    return [one for name in names for one in (name, name.lower()) if os.environ.get(one)]


def _message(body: object) -> str | None:
    match body:
        case str():
            return body
        case {"error": dict() | str() as inner} if inner:
            return _message(inner)
        case {"message": str() as text} | {"detail": str() as text} if text:
            return text
    return None


def _status_advice(error: openai.APIStatusError, mask: Mask) -> str:
    status = error.response.status_code
    match status:
        case 401 | 403:
            return "the server refused the key: pass api_key="
        case 404:
            return "not found: are base_url= and model= right?"
        case 407:
            return f"the proxy wants a password{_proxy_hint(str(error.request.url))}"
        case 429:
            return "too many requests: lower max_concurrency=, or raise max_retries="
        case _ if 300 <= status < 400:
            location = urljoin(str(error.request.url), error.response.headers.get("location", ""))
            # Without a query, which may hold a token.
            shown = mask(urlsplit(location)._replace(query="", fragment="").geturl())
            return f"the server redirects to {shown}: pass the final address as base_url="
        case _:
            return f"the server answered {status}"


def _timeout_advice(error: openai.APITimeoutError) -> str:
    if any(type(cause).__name__ == "ConnectTimeout" for cause in _causes(error)):
        return "no connection in time: is the server running, and can this machine reach it?"
    return "no answer in time: raise timeout=, or lower max_concurrency="


def _connection_advice(error: openai.APIConnectionError, mask: Mask) -> str:
    causes = list(_causes(error))
    for cause in causes:
        match cause:
            case ssl.SSLCertVerificationError():
                return (
                    f"the server's certificate is not trusted ({cause.verify_message}): set "
                    f"SSL_CERT_FILE to the file of its authority's certificate{_certificate_hint()}"
                )
            case ssl.SSLError():
                return f"no TLS connection ({cause.reason}): is it https:// rather than http://?"
            case socket.gaierror():
                return f"unknown host ({cause.strerror}): is base_url= right?"
            case ConnectionRefusedError():
                return (
                    "no connection: nothing listens at this port: is the server running, and "
                    "base_url= right?"
                )
    if any(type(cause).__name__ in _BROKEN for cause in causes):
        return "the connection broke before the answer was complete: see the server's log"
    last = causes[-1] if causes else error
    detail = mask(f"{type(last).__name__}: {last}")[:_LONGEST_QUOTE]
    return f"no connection: is the server running, and base_url= right? ({detail})"


def _causes(error: BaseException) -> Iterator[Any]:
    """Yield what an error was raised from, nearest first, with the members of groups."""
    waiting, seen = [error.__cause__ or error.__context__], {id(error)}
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        # `__context__` too: "All connection attempts failed" has the reason there.
        waiting += [cause.__cause__, cause.__context__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions


def _certificate_hint() -> str:
    names = set_variables(CERTIFICATE_VARIABLES)
    return f" (now: {', '.join(names)} of the environment)" if names else ""


def _proxy_hint(url: str) -> str:
    """Return which variable of the environment sends requests through a proxy."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass_environment(parts.hostname or ""):  # type: ignore[attr-defined]
        return ""
    names = set_variables((f"{parts.scheme.upper()}_PROXY", "ALL_PROXY"))
    return (
        f"; {names[0]} of the environment sends it through a proxy: unset it, or add the host to "
        "NO_PROXY"
        if names
        else ""
    )
