"""HTTP to one server: requests go out, JSON comes in, and every failure is explained."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import openai

from rank1_integrations.engines.openai_server.address import checked_address, server_root
from rank1_integrations.engines.openai_server.answer import (
    ServerAnswer,
    UnusableAnswerError,
    read_answer,
)
from rank1_integrations.engines.openai_server.credentials import Credentials, mask
from rank1_integrations.engines.openai_server.errors import (
    CERTIFICATE_VARIABLES,
    PROXY_VARIABLES,
    StatusError,
    error_in,
    explained,
    quoted,
    set_variables,
)
from rank1_integrations.exceptions import ConfigurationError, EngineError, Rank1Error

# A machine that is there accepts a connection at once; generating an answer takes longer.
_CONNECT_SECONDS = 10.0

# Seconds before an answer that is none is asked for again; doubled each time.
_FIRST_PAUSE = 0.25

# What the client sends of its own accord; the values of all other headers are secrets.
_PLAIN_HEADERS = frozenset({"accept", "content-type", "user-agent"})


T = TypeVar("T")


class ServerClient:
    """One server's address, as a client sees it. Used from one event loop only.

    Attributes:
        base_url: The address that "/completions" is appended to.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        timeout: float | None,
        max_retries: int,
        client: openai.AsyncOpenAI | None = None,
    ) -> None:
        """Check everything; no connection is made.

        Args:
            base_url: The server's address.
            credentials: What is sent with each request. Unused with `client`.
            timeout: Seconds for one request; None for no limit. Unused with `client`.
            max_retries: Of a request. Unused with `client`.
            client: The user's own client, which is never closed here.

        Raises:
            ConfigurationError: The address, or the environment's proxy or certificate variables,
                can't work.
        """
        self.base_url = checked_address(base_url)
        self._credentials = credentials
        self._is_owner = client is None
        self._is_closed = False
        # A redirect to another host would take the headers there.
        self._options: dict[str, Any] = {"follow_redirects": False}
        if client is None:
            client = _new_client(self.base_url, credentials, timeout, max_retries)
            if not credentials.sends_authorization_header:
                # The connection adds the key: see `_new_client`.
                self._options["headers"] = {"Authorization": openai.Omit()}
        elif str(client.base_url).rstrip("/") != self.base_url:
            client = client.with_options(base_url=self.base_url)
        self._client = client

    async def complete(
        self, body: Mapping[str, Any], *, max_retries: int | None = None
    ) -> ServerAnswer:
        """Return the answer of /v1/completions.

        Args:
            body: The request.
            max_retries: Repeats after a failure by status or connection; None for the client's
                own number. An answer that is none is always asked for again as often as that.

        Raises:
            StatusError: The server refused the request or failed.
            UnreachableError: No answer came.
            EngineError: The answer can't be used.
        """
        return await self._request("/completions", body, read_answer, max_retries)

    async def models(self) -> Any:
        """Return the JSON of /v1/models. Raises as `complete`."""
        return await self._request("/models", None, _as_it_is)

    async def post_root(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON of an endpoint beside /v1. Raises as `complete`."""
        return await self._request(f"{server_root(self.base_url)}{path}", body, _as_it_is)

    async def aclose(self) -> None:
        """Close the connections, if they are this package's own."""
        self._is_closed = True
        if self._is_owner:
            await self._client.close()

    def __repr__(self) -> str:
        return f"ServerClient({self.base_url!r})"

    async def _request(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[Any], T],
        max_retries: int | None = None,
    ) -> T:
        """Return what `read` makes of an answer's JSON; ask again for an answer that is none."""
        url = path if path.startswith("http") else f"{self.base_url}{path}"
        attempt = 0
        while True:
            content = await self._send(path, url, body, max_retries)
            try:
                return read(self._checked(_parse(content), content, url))
            except UnusableAnswerError as error:
                if attempt == self._client.max_retries:
                    said = quoted(content, self._mask)
                    raise EngineError(f"{url}: the answer can't be used: {error}{said}") from None
            except StatusError as error:
                if attempt == self._client.max_retries or error.status < 500:
                    raise
            # A gateway's page or half an answer can be over at once. The openai client repeats only
            # what failed by its status.
            await asyncio.sleep(_FIRST_PAUSE * 2**attempt)
            attempt += 1

    def _checked(self, body: Any, content: bytes, url: str) -> Any:
        """Return the JSON of an answer if it is no error that was sent with status 200."""
        if (error := error_in(body)) is None:
            return body
        message, status = error
        said = quoted(message.encode() or content, self._mask)
        raise StatusError(f"{url}: the server answered with an error{said}", status)

    async def _send(
        self, path: str, url: str, body: Mapping[str, Any] | None, max_retries: int | None
    ) -> bytes:
        if self._is_closed:
            raise EngineError("the Rank1 object is closed: make a new one")
        options = cast(Any, self._options)
        if max_retries is not None:
            options = {**options, "max_retries": max_retries}
        try:
            # The client's own methods look at every token id of a prompt twice, which took a third
            # of the time spent in this process, and fail in many ways on answers of other shapes.
            if body is None:
                return await self._client.get(path, cast_to=bytes, options=options)
            return await self._client.post(path, body=body, cast_to=bytes, options=options)
        except openai.OpenAIError as error:
            # The key's function may have failed, and some versions of the client hide why.
            if isinstance(cause := error.__cause__, Rank1Error):
                raise cause from None
            raise explained(error, url, self._mask) from None
        except RuntimeError:
            # What a closed client raises.
            if self._is_closed:
                raise EngineError("the Rank1 object was closed during the request") from None
            raise

    def _mask(self, text: str) -> str:
        if self._is_owner:
            return self._credentials.mask(text)
        secrets = [
            value
            for name, value in self._client.default_headers.items()
            if isinstance(value, str)
            and name.lower() not in _PLAIN_HEADERS
            and not name.lower().startswith("x-stainless")
        ]
        return mask(text, [self._client.api_key, *secrets])


def _as_it_is(body: Any) -> Any:
    return body


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        what = "HTML, not JSON" if content.lstrip()[:1] == b"<" else "no JSON, or half of it"
        raise UnusableAnswerError(
            f"{what}; is base_url= the address of an OpenAI-compatible server, with its /v1, and "
            "nothing in between?"
        ) from None


class _HttpClient(openai.DefaultAsyncHttpxClient):
    """Limits whole requests: httpx limits each read, so an answer in drops could last for ever."""

    def __init__(self, seconds: float | None, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds

    async def send(self, request: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(self._seconds) as limit:
                return await super().send(request, **options)
        except TimeoutError:
            if not limit.expired():
                raise
            raise openai.APITimeoutError(request) from None


def _new_client(
    base_url: str, credentials: Credentials, timeout: float | None, max_retries: int
) -> openai.AsyncOpenAI:
    connect = _CONNECT_SECONDS if timeout is None else min(timeout, _CONNECT_SECONDS)
    # More requests than the pool has connections wait for as long as they must.
    limits = openai.Timeout(timeout, connect=connect, pool=None)
    try:
        return openai.AsyncOpenAI(
            base_url=base_url,
            # Required, and not sent. The real key is added to the request itself, where no variable
            # of the environment can replace it and no log of the client's shows it.
            api_key="none",
            default_headers=_headers(credentials),
            timeout=limits,
            max_retries=max_retries,
            http_client=_HttpClient(
                timeout, timeout=limits, event_hooks={"request": [credentials.authorize]}
            ),
        )
    # httpx has no common base for what it raises about proxies and certificates: ImportError,
    # OSError, ValueError, its own InvalidURL.
    except Exception as error:
        is_file = isinstance(error, OSError)
        names = set_variables(CERTIFICATE_VARIABLES if is_file else PROXY_VARIABLES)
        if not names:
            raise
        raise ConfigurationError(
            f"the environment's {', '.join(names)} can't be used ({type(error).__name__}): unset "
            "or correct it"
            + ("" if is_file else "; a SOCKS proxy needs `pip install 'httpx[socks]'`")
        ) from None


def _headers(credentials: Credentials) -> Mapping[str, str]:
    """Return the user's headers, and nothing of what the client reads from the environment."""
    named = _openai_environment_headers()
    given = {name.lower() for name in credentials.headers}
    omitted: dict[str, Any] = {
        name: openai.Omit()
        for name in ("OpenAI-Organization", "OpenAI-Project", *named)
        if name.lower() not in given
    }
    return {**omitted, **credentials.headers}


def _openai_environment_headers() -> list[str]:
    """Return the names of the headers in OPENAI_CUSTOM_HEADERS."""
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    return [line.partition(":")[0].strip() for line in lines if ":" in line]
