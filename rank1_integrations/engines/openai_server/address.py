"""The address of a server, checked when it is given."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from rank1_integrations.exceptions import ConfigurationError

# Addresses are often pasted from an example that calls one of these.
_ENDPOINT = re.compile(r"/(chat/completions|completions|models|tokenize|detokenize)$")
_VERSION = re.compile(r"/v\d+$")
_EXAMPLE = "'http://localhost:8000/v1'"


def checked_address(base_url: str) -> str:
    """Return the address that "/completions" is appended to.

    Args:
        base_url: As the user wrote it. A bare host gets "/v1"; a path prefix is kept; the path of
            an endpoint is cut off.

    Raises:
        ConfigurationError: It is no http or https address, or holds a password or a query.
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(
            f"base_url must be an address such as {_EXAMPLE}, not {type(base_url).__name__}"
        )
    base_url = base_url.strip()
    parts, port_error = urlsplit(""), None
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError as error:
        port_error = error
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("base_url must not hold a password: pass it as api_key=")
    if parts.query or parts.fragment:
        raise ConfigurationError(
            "base_url must not hold a query (what stands behind '?' or '#'): pass "
            "client=openai.AsyncOpenAI(..., default_query={...}) to send one"
        )
    # A password can be hidden in an address that can't be split, so only what was checked is shown.
    if port_error is not None:
        raise ConfigurationError(
            f"base_url must be an address such as {_EXAMPLE}: its host or port can't be read"
        )
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        shown = "" if "@" in base_url else f", not {base_url!r}"
        raise ConfigurationError(f"base_url must be an address such as {_EXAMPLE}{shown}")
    # urlsplit drops line breaks and tabs without a word.
    if re.search(r"[\s\x00-\x1f\x7f]", base_url) or not _is_host(parts.hostname):
        raise ConfigurationError(
            f"base_url must be an address such as {_EXAMPLE}: {base_url!r} holds a space, a line "
            "break, or a host name that can't be"
        )
    path = _ENDPOINT.sub("", parts.path.rstrip("/")).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def server_root(address: str) -> str:
    """Return the address that vLLM's own endpoints stand below: without "/v1"."""
    return _VERSION.sub("", address)


def _is_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True
