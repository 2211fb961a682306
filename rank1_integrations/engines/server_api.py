"""The calls that a server understands: OpenAI's, vLLM's beside them, and their errors explained.

vLLM's API: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types import Completion as ServerCompletion
from openai.types import Model as ServedModel

from rank1_integrations.engines.base import TokenIds
from rank1_integrations.errors import ConfigurationError, EngineError


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server takes on /v1/completions: parameters beyond OpenAI's, and how many logprobs."""

    extras: bool
    top_logprobs: int


# From the richest to the poorest: vLLM's ceiling is 20 unless it is started with --max-logprobs,
# OpenAI's own is 5.
_DIALECTS = (Dialect(True, 20), Dialect(True, 5), Dialect(False, 20), Dialect(False, 5))


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
        self._dialects: tuple[Dialect, ...] = _DIALECTS
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

    async def complete(
        self,
        model: str,
        prompt: str | TokenIds,
        *,
        max_tokens: int,
        stop: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        logprobs: bool = False,
        extras: dict[str, Any],
    ) -> ServerCompletion:
        """One completion, in the richest dialect that the server takes.

        A refusal of the parameters is found out once: what a server answered to is used from then
        on. A prompt that it refuses in every dialect is refused for itself.

        Args:
            model: The name it is served under.
            prompt: Text, or token ids.
            max_tokens: The longest completion.
            stop: Generation ends before this text.
            temperature: 0 for the likeliest token at every place.
            seed: Of the sampling; None for none.
            logprobs: Whether to ask for the likeliest tokens' log-probabilities.
            extras: Parameters beyond OpenAI's, for servers that know them.

        Raises:
            EngineError: No answer came, or a refusal.
        """
        refusal: openai.OpenAIError | None = None
        for dialect in self._dialects:
            try:
                answer: ServerCompletion = await self._client.completions.create(
                    model=model,
                    prompt=prompt if isinstance(prompt, str) else list(prompt),
                    max_tokens=max_tokens,
                    temperature=temperature,
                    top_p=1 if temperature else openai.omit,
                    seed=openai.omit if seed is None else seed,
                    stop=openai.omit if stop is None else stop,
                    logprobs=dialect.top_logprobs if logprobs else openai.omit,
                    extra_body=extras if dialect.extras else None,
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refusal = refusal or error
            except openai.OpenAIError as error:
                raise self._explained(error) from None
            else:
                self._learn(dialect, logprobs=logprobs)
                return answer
        assert refusal is not None
        raise self._explained(refusal) from None

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

    def _learn(self, dialect: Dialect, *, logprobs: bool) -> None:
        """Forget the dialects that were refused; of logprobs only a request with them can tell."""
        known = self._dialects[0]
        if dialect.extras != known.extras or (logprobs and dialect != known):
            self._dialects = self._dialects[self._dialects.index(dialect) :]

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
        return EngineError(f"{self.base_url}: {advice} ({detail})")


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url) if isinstance(base_url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"base_url must be an address such as 'http://localhost:8000/v1', not {base_url!r}"
        )
    if parts.username or parts.password:
        raise ConfigurationError("base_url must not hold a password: pass it as api_key=")
    return base_url.rstrip("/") if parts.path.strip("/") else f"{base_url.rstrip('/')}/v1"
