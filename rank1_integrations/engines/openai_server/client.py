"""The calls that a server understands: OpenAI's, vLLM's beside them, and their errors explained.

vLLM's API: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types import Completion as ServerCompletion
from openai.types import Model as ServedModel

from rank1_integrations.engines.base import TokenIds
from rank1_integrations.exceptions import ConfigurationError, EngineError

# Parameters beyond OpenAI's, by the time since when vLLM knows them.
_ALWAYS = frozenset(
    {
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "repetition_penalty",
        "top_k",
        "min_p",
    }
)
_NEWER = frozenset({"return_token_ids", "return_tokens_as_token_ids", "logprob_token_ids"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server takes on /v1/completions: parameters beyond OpenAI's, and how many logprobs."""

    extras: frozenset[str]
    top_logprobs: int


# From the richest to the poorest: vLLM's ceiling is 20 unless it is started with --max-logprobs,
# OpenAI's own is 5. The last one only tells a server without log-probabilities from one that
# refuses everything.
_DIALECTS = (
    Dialect(_ALWAYS | _NEWER, 20),
    Dialect(_ALWAYS | _NEWER, 5),
    Dialect(_ALWAYS, 20),
    Dialect(_ALWAYS, 5),
    Dialect(frozenset(), 20),
    Dialect(frozenset(), 5),
    Dialect(frozenset(), 0),
)


class RefusedError(EngineError):
    """The server understood the request and will not do it: a parameter, or the prompt itself."""


class ServerApi:
    """One server's address, as a client sees it. Used from one event loop only."""

    def __init__(
        self, base_url: str, *, api_key: str | None, timeout: float | None, max_retries: int
    ) -> None:
        """Check the address; no connection is made.

        Raises:
            ConfigurationError: `base_url` is no http or https address.
        """
        self.base_url = _checked_url(base_url)
        self._api_key = api_key
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            # The client insists on a key and would take OPENAI_API_KEY from the environment,
            # where the caller has decided already.
            api_key=api_key or "none",
            timeout=timeout,
            max_retries=max_retries,
        )
        self._building = asyncio.Lock()
        self._dialect = _DIALECTS[0]
        self._tells_ends = True
        self._tokenizes = True

    async def models(self) -> list[ServedModel] | None:
        """What the server says it serves; None if it does not say.

        Raises:
            EngineError: No answer came, or a refusal.
        """
        try:
            return [model async for model in self._client.models.list()]
        except openai.NotFoundError:
            return None
        except openai.OpenAIError as error:
            raise self._explained(error) from None

    async def learn(self, model: str, *, extras: dict[str, Any]) -> None:
        """Find out what the server understands, by asking for one token in ever plainer ways.

        Args:
            model: The name it is served under.
            extras: All parameters beyond OpenAI's that will ever be sent, with values that work.

        Raises:
            EngineError: No answer came, or a refusal; or it gives no log-probabilities.
        """
        try:
            await self.tokenize(model, "?", special=False)
        except RefusedError:
            self._tokenizes = False
        refusals = []
        for dialect in _DIALECTS:
            self._dialect = dialect
            try:
                answer = await self.complete(model, "?", max_tokens=1, logprobs=20, extras=extras)
            except RefusedError as refusal:
                refusals.append(refusal)
            else:
                self.likeliest(answer)
                self._tells_ends = "stop_reason" in (answer.choices[0].model_extra or {})
                return
        raise refusals[0]

    async def complete(
        self,
        model: str,
        prompt: str | TokenIds,
        *,
        max_tokens: int,
        stop: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        logprobs: int = 0,
        echo: bool = False,
        extras: dict[str, Any],
    ) -> ServerCompletion:
        """One completion.

        Args:
            model: The name it is served under.
            prompt: Text, or token ids.
            max_tokens: The longest completion.
            stop: Generation ends before this text.
            temperature: 0 for the likeliest token at every place.
            seed: Of the sampling; None for none.
            logprobs: How many of the likeliest tokens are wanted, with their log-probabilities;
                as many of them as the server gives are asked for.
            echo: Whether the prompt's tokens are wanted before those of the completion.
            extras: Parameters beyond OpenAI's; those that the server does not know are left out.

        Raises:
            RefusedError: The server refused a parameter or the prompt.
            EngineError: No answer came.
        """
        known = {name: value for name, value in extras.items() if name in self._dialect.extras}
        # Without vLLM's stop_reason, only the tokens that are listed with log-probabilities show
        # how a text ended.
        wanted = logprobs if self._tells_ends else max(logprobs, 1)
        listed = min(wanted, self._dialect.top_logprobs)
        chosen = {
            "top_p": 1 if temperature else None,
            "seed": seed,
            "stop": stop,
            "logprobs": listed or None,
            "echo": echo or None,
        }
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": temperature,
            **{name: value for name, value in chosen.items() if value is not None},
            **known,
        }
        async with self._building:
            # A request takes milliseconds to build. Many at once would hold up the loop, and with
            # it everybody's deadlines: so one in each turn of the loop.
            await asyncio.sleep(0)
        try:
            # The client's completions.create would look at every token id of the prompt twice,
            # which took a third of all time spent in this process.
            answer: ServerCompletion = await self._client.post(
                "/completions", body=body, cast_to=ServerCompletion
            )
        except openai.OpenAIError as error:
            raise self._explained(error) from None
        return answer

    def likeliest(self, answer: ServerCompletion) -> dict[str, float]:
        """The likeliest first tokens of an answer, by name, with their log-probabilities.

        Raises:
            EngineError: There are none.
        """
        found = answer.choices[0].logprobs if answer.choices else None
        if found is None or not found.top_logprobs or not found.top_logprobs[0]:
            raise self._without_logprobs()
        return found.top_logprobs[0]

    async def tokenize(self, model: str, text: str, *, special: bool) -> list[int] | None:
        """Token ids by vLLM's /tokenize; None where the server has no such thing.

        Raises:
            EngineError: No answer came, or a refusal.
        """
        if not self._tokenizes:
            return None
        body = {"model": model, "prompt": text, "add_special_tokens": special}
        ids = (await self._post_beside_v1("/tokenize", body)).get("tokens")
        self._tokenizes = ids is not None
        return ids

    async def detokenize(self, model: str, ids: list[int]) -> str:
        """Text by vLLM's /detokenize, which every server with /tokenize has.

        Raises:
            EngineError: No answer came, or a refusal.
        """
        answer = await self._post_beside_v1("/detokenize", {"model": model, "tokens": ids})
        return str(answer.get("prompt", ""))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post_beside_v1(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer, or an empty one where there is no such path."""
        url = re.sub(r"/v\d+$", "", self.base_url) + path
        try:
            answer = await self._client.post(url, body=body, cast_to=dict[str, Any])
        except openai.APIStatusError as error:
            if error.status_code in (403, 404, 405, 501):
                return {}
            raise self._explained(error) from None
        except openai.OpenAIError as error:
            raise self._explained(error) from None
        return answer if isinstance(answer, dict) else {}

    def _without_logprobs(self) -> EngineError:
        return EngineError(
            f"{self.base_url} gives no log-probabilities, which the score is made of: use a server "
            "that supports 'logprobs' on /v1/completions, such as vLLM"
        )

    def _explained(self, error: openai.OpenAIError) -> EngineError:
        """The error with what to do about it, and without the key."""
        match error:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                advice = "the server refused the key: pass api_key="
            case openai.APITimeoutError():
                advice = "no answer in time: raise timeout=, or lower max_concurrency="
            case openai.APIConnectionError():
                advice = "no connection: is the server running, and base_url= right?"
            case openai.NotFoundError():
                advice = "not found: are base_url= and model= right?"
            case openai.RateLimitError():
                advice = "too many requests: lower max_concurrency=, or raise max_retries="
            case openai.APIStatusError():
                advice = f"the server answered {error.status_code}"
            case _:
                advice = "the answer can't be read"
        detail = (str(error).splitlines() or [type(error).__name__])[0][:300]
        if self._api_key:
            detail = detail.replace(self._api_key, "***")
        refused = isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)
        kind = RefusedError if refused else EngineError
        return kind(f"{self.base_url}: {advice} ({detail})")


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url) if isinstance(base_url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"base_url must be an address such as 'http://localhost:8000/v1', not {base_url!r}"
        )
    if parts.username or parts.password:
        raise ConfigurationError("base_url must not hold a password: pass it as api_key=")
    return base_url.rstrip("/") if parts.path.strip("/") else f"{base_url.rstrip('/')}/v1"
