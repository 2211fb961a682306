"""What a server must know and nobody else may see: the key and the headers."""

from __future__ import annotations

import asyncio
import html
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import quote, quote_plus

from rank1_integrations.exceptions import ConfigurationError, EngineError

# Shorter values than this are no secrets, and masking them would make errors unreadable.
_SHORTEST_SECRET = 4
_MASK = "***"


class Secret(Protocol):
    """A wrapped string, such as pydantic's `SecretStr`."""

    def get_secret_value(self) -> str:
        """Return the string."""


ApiKey = str | Secret | Callable[[], str | Secret]


class Credentials:
    """The key and the headers of one server.

    Attributes:
        headers: Sent with each request besides the key.
        sends_authorization_header: Whether one of them is the Authorization header.
    """

    def __init__(
        self, api_key: ApiKey, default_headers: Mapping[str, str | Secret] | None, *, origin: str
    ) -> None:
        """Check both.

        Args:
            api_key: A key, or a function without arguments that returns one and is called on a
                worker thread for each request; "" for none.
            default_headers: Names and values.
            origin: Where the key comes from, for errors.

        Raises:
            ConfigurationError: One of them can't be sent. The message does not contain it.
        """
        self.headers = _checked_headers(default_headers)
        self._get_key: Callable[[], Any] | None = None
        self._origin = origin
        self._key = ""
        if callable(api_key):
            if inspect.iscoroutinefunction(api_key):
                raise ConfigurationError(
                    "api_key must not be an async function: pass one that returns the key"
                )
            self._get_key = api_key
        else:
            self._key = _checked_key(api_key, origin)
        names = {name.lower() for name in self.headers}
        self.sends_authorization_header = "authorization" in names
        if self.sends_authorization_header and (self._key or self._get_key):
            raise ConfigurationError(
                f"{origin} and the Authorization header of default_headers exclude each other: "
                "pass one of them"
            )

    async def authorize(self, request: Any) -> None:
        """Add the key to a request of httpx.

        Raises:
            EngineError: The function failed.
            ConfigurationError: The function returned what can't be sent.
        """
        if self._get_key is not None:
            try:
                # It may ask a vault over the network.
                key = await asyncio.to_thread(self._get_key)
            except Exception as error:
                raise EngineError(
                    self.mask(f"the api_key= function failed: {type(error).__name__}: {error}")
                ) from None
            self._key = _checked_key(key, f"what the {self._origin} function returns")
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"

    def mask(self, text: str) -> str:
        """Return `text` without the key and the headers' values, however they are escaped."""
        return mask(text, [self._key, *self.headers.values()])

    def __repr__(self) -> str:
        return "Credentials(***)"


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every secret replaced, and a secret's beginning at the text's end."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        if len(secret) < _SHORTEST_SECRET:
            continue
        escaped = (
            secret,
            json.dumps(secret)[1:-1],
            json.dumps(json.dumps(secret)[1:-1])[1:-1],
            json.dumps(secret)[1:-1].replace("/", "\\/"),
            repr(secret)[1:-1],
            quote(secret),
            quote(secret, safe=""),
            quote_plus(secret),
            html.escape(secret),
        )
        for form in sorted(set(escaped), key=len, reverse=True):
            text = text.replace(form, _MASK)
        # A server cuts its own errors too.
        for length in range(len(secret) - 1, _SHORTEST_SECRET - 1, -1):
            if text.endswith(secret[:length]):
                text = text[:-length] + _MASK
                break
    return text


def _checked_key(value: object, origin: str) -> str:
    if isinstance(value, str):
        key = value
    elif hasattr(value, "get_secret_value"):
        key = value.get_secret_value()
    else:
        key = None
    if not isinstance(key, str):
        raise ConfigurationError(
            f"{origin} must be a string, a SecretStr, or a function that returns one; "
            f"it is {type(value).__name__}"
        )
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"{origin} holds a character that no HTTP header can carry, such as a line break or "
            "a letter outside ASCII: copy the key again"
        )
    return key


def _checked_headers(headers: Mapping[str, str | Secret] | None) -> dict[str, str]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigurationError(
            f"default_headers must be a mapping of names to values; it is {type(headers).__name__}"
        )
    checked = {}
    for name, value in headers.items():
        if not (isinstance(name, str) and name.isascii() and name.isprintable() and name.strip()):
            raise ConfigurationError("default_headers has a name that no HTTP header can have")
        checked[name] = _checked_key(value, f"default_headers[{name!r}]")
    return checked
