"""A model behind an OpenAI-compatible server, through its /v1/completions.

Made for vLLM (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html), whose extra
parameters it uses: token ids in and out, and log-probabilities of given tokens.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types import Completion as ServerCompletion

from rank1_integrations.engines.base import Completion, Engine, Request, TokenIds
from rank1_integrations.errors import ConfigurationError, EngineError

# vLLM's own ceiling, unless it is started with --max-logprobs.
_TOP_LOGPROBS = 20

_BYTES_PER_TOKEN_ESTIMATE = 2


class ServerEngine(Engine):
    """A model that an OpenAI-compatible server has loaded."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None,
        api_key: str | None,
        timeout: float | None,
        max_retries: int,
    ) -> None:
        """Check the address; no connection is made before `start`.

        Args:
            base_url: The server's address; "/v1" is added to a bare host.
            model: The name it is served under; None for the only one.
            api_key: Bearer token; None for a server that wants none.
            timeout: Seconds for one request; None for no limit.
            max_retries: Repeats after a dropped connection, 408, 409, 429 or 5xx, with growing
                pauses.

        Raises:
            ConfigurationError: `base_url` is no http or https address.
        """
        self._base_url = _checked_url(base_url)
        self._api_key = api_key
        self._client = openai.AsyncOpenAI(
            base_url=self._base_url,
            # The client insists on a key and would take OPENAI_API_KEY from the environment,
            # which is not ours to send to any server.
            api_key=api_key or "none",
            timeout=timeout,
            max_retries=max_retries,
        )
        self.model = model or ""
        self.context_length = None
        self._label_ids: dict[str, int | None] = {}
        self._stop_ids: dict[str, int | None] = {}
        self._has_tokenizer = True
        self._ready = False
        self._starting: asyncio.Lock | None = None

    async def start(self) -> None:
        """Find the model's name and context length, once."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if not self._ready:
                await self._find_model()
                self._ready = True

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt on the server; a cancelled call ends it there too."""
        if request.labels:
            return await self._read_labels(request)
        return await self._generate(request)

    async def count_tokens(self, text: str) -> int:
        """Tokens by the server's /tokenize; half the bytes where it has none."""
        ids = await self._tokenize(text, special=True)
        return len(text.encode()) // _BYTES_PER_TOKEN_ESTIMATE if ids is None else len(ids)

    async def first_tokens(self, text: str, count: int) -> str:
        """The beginning of `text`, cut by the server's tokenizer or by the estimate."""
        ids = await self._tokenize(text, special=False)
        if ids is None:
            return text.encode()[: count * _BYTES_PER_TOKEN_ESTIMATE].decode(errors="ignore")
        answer = await self._post_beside_v1(
            "/detokenize", {"model": self.model, "tokens": ids[:count]}
        )
        # A token can end inside a character.
        return str(answer["prompt"]).rstrip("\ufffd")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def __repr__(self) -> str:
        return f"ServerEngine({self._base_url!r}, model={self.model!r})"

    async def _generate(self, request: Request) -> Completion:
        answer = await self._create(
            request,
            stop=request.stop,
            extra_body={
                "skip_special_tokens": False,
                "spaces_between_special_tokens": False,
                "return_token_ids": True,
                # vLLM would take it from the checkpoint's generation_config.json.
                "repetition_penalty": 1.0,
            },
        )
        choice = answer.choices[0]
        stopped = _stopped(choice, request.stop)
        continuation = await self._continuation(request, choice) if stopped else choice.text
        return Completion(
            text=choice.text,
            stopped=stopped,
            continuation=continuation,
            tokens=answer.usage.completion_tokens if answer.usage else 0,
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
        )

    async def _continuation(self, request: Request, choice: Any) -> str | TokenIds:
        """Prompt, text and stop text: in the server's own tokens if they end with the stop."""
        stop = request.stop or ""
        if stop not in self._stop_ids:
            self._stop_ids[stop] = await self._single_id(stop)
        stop_id = self._stop_ids[stop]
        prompt_ids, ids = _extra(choice, "prompt_token_ids"), _extra(choice, "token_ids")
        if stop_id is not None and prompt_ids and ids and ids[-1] == stop_id:
            return (*prompt_ids, *ids)
        return f"{request.prompt}{choice.text}{stop}"

    async def _read_labels(self, request: Request) -> Completion:
        ids = {label: await self._label_id(label) for label in request.labels}
        extra: dict[str, Any] = {"skip_special_tokens": False}
        if None not in ids.values():
            # Servers that do not know logprob_token_ids ignore it and send the likeliest tokens.
            extra |= {
                "logprob_token_ids": list(ids.values()),
                "return_tokens_as_token_ids": True,
            }
        answer = await self._create(request, logprobs=_TOP_LOGPROBS, extra_body=extra)
        choice = answer.choices[0]
        top = choice.logprobs.top_logprobs if choice.logprobs else None
        if not top or not top[0]:
            raise EngineError(
                f"{self._base_url} returned no log-probabilities, which the score is made of: "
                "use a server that supports 'logprobs' on /v1/completions, such as vLLM"
            )
        found = {
            label: logprob
            for label, token in ids.items()
            if (logprob := _label_logprob(top[0], label, token)) is not None
        }
        return Completion(
            text=choice.text,
            stopped=False,
            continuation=choice.text,
            tokens=1,
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
            label_logprobs=found,
            label_bound=min(top[0].values()),
        )

    async def _create(self, request: Request, **parameters: Any) -> ServerCompletion:
        prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
        try:
            completion: ServerCompletion = await self._client.completions.create(
                model=self.model,
                prompt=prompt,
                max_tokens=request.max_tokens,
                temperature=0,
                **parameters,
            )
        except openai.OpenAIError as error:
            raise self._explain(error) from None
        return completion

    async def _find_model(self) -> None:
        try:
            served = {model.id: model async for model in self._client.models.list()}
        except openai.NotFoundError:
            if not self.model:
                raise EngineError(
                    f"{self._base_url}/models does not exist: pass model=, and check that the "
                    "address is that of an OpenAI-compatible server, with its /v1"
                ) from None
            return
        except openai.OpenAIError as error:
            raise self._explain(error) from None
        names = ", ".join(sorted(served)) or "no model"
        if not self.model:
            if len(served) != 1:
                raise EngineError(f"{self._base_url} serves {names}: choose one with model=")
            self.model = next(iter(served))
        if self.model not in served:
            raise EngineError(f"{self._base_url} does not serve {self.model!r}: it serves {names}")
        length = _extra(served[self.model], "max_model_len")
        self.context_length = length if isinstance(length, int) else None

    async def _label_id(self, label: str) -> int | None:
        if label not in self._label_ids:
            self._label_ids[label] = await self._single_id(label)
            if self._has_tokenizer and self._label_ids[label] is None:
                raise EngineError(
                    f"{label!r} is not one token of {self.model}: is this a Rank1 model?"
                )
        return self._label_ids[label]

    async def _single_id(self, text: str) -> int | None:
        ids = await self._tokenize(text, special=False)
        return ids[0] if ids is not None and len(ids) == 1 else None

    async def _tokenize(self, text: str, *, special: bool) -> list[int] | None:
        """Token ids by vLLM's /tokenize; None where the server has no such thing."""
        if not self._has_tokenizer:
            return None
        body = {"model": self.model, "prompt": text, "add_special_tokens": special}
        try:
            ids: list[int] = (await self._post_beside_v1("/tokenize", body))["tokens"]
        except (_NoSuchPathError, KeyError, TypeError):
            self._has_tokenizer = False
            return None
        return ids

    async def _post_beside_v1(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        url = re.sub(r"/v\d+$", "", self._base_url) + path
        try:
            return await self._client.post(url, body=body, cast_to=dict[str, Any])
        except (openai.NotFoundError, openai.PermissionDeniedError) as error:
            raise _NoSuchPathError(str(error)) from None
        except openai.APIStatusError as error:
            if error.status_code == 405:
                raise _NoSuchPathError(str(error)) from None
            raise self._explain(error) from None
        except openai.OpenAIError as error:
            raise self._explain(error) from None

    def _explain(self, error: openai.OpenAIError) -> EngineError:
        """The error, and what to do about it; never with headers, which hold the key."""
        match error:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                advice = "the server refused the key: pass api_key="
            case openai.APITimeoutError():
                advice = "no answer in time: raise timeout=, or lower max_concurrency="
            case openai.APIConnectionError():
                advice = "no connection: is the server running, and base_url= right?"
            case openai.NotFoundError():
                advice = f"not found: are base_url= and model={self.model!r} right?"
            case openai.RateLimitError():
                advice = "too many requests: lower max_concurrency=, or raise max_retries="
            case openai.APIStatusError():
                advice = f"the server answered {error.status_code}"
            case _:
                advice = "the answer can't be read"
        detail = (str(error).splitlines() or [type(error).__name__])[0][:300]
        if self._api_key:
            detail = detail.replace(self._api_key, "***")
        return EngineError(f"{self._base_url}: {advice} ({detail})")


class _NoSuchPathError(Exception):
    """The server does not have an address that vLLM has."""


def _checked_url(base_url: str) -> str:
    parts = urlsplit(base_url) if isinstance(base_url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(
            f"base_url must be an address such as 'http://localhost:8000/v1', not {base_url!r}"
        )
    return base_url.rstrip("/") if parts.path.strip("/") else f"{base_url.rstrip('/')}/v1"


def _stopped(choice: Any, stop: str | None) -> bool:
    """Whether the stop text ended generation, rather than the limit or an end of sequence."""
    if "stop_reason" in (choice.model_extra or {}):
        return stop is not None and choice.model_extra["stop_reason"] == stop
    # OpenAI's own parameters can't tell the stop text from an end of sequence.
    return bool(choice.finish_reason == "stop")


def _label_logprob(top: Mapping[str, float], label: str, token: int | None) -> float | None:
    """By token id where the server names tokens so, else by text."""
    by_id = None if token is None else top.get(f"token_id:{token}")
    return top.get(label) if by_id is None else by_id


def _extra(model: Any, name: str) -> Any:
    """A field that the server adds to OpenAI's; None if it does not."""
    return (model.model_extra or {}).get(name)
