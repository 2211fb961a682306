"""A model behind an OpenAI-compatible server, such as vLLM, through its /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from openai.types import CompletionUsage

from rank1_integrations.engines.base import Completion, Engine, Request, TokenIds
from rank1_integrations.engines.server_api import ServerApi
from rank1_integrations.errors import EngineError

# Where a server can't count: cautious for English, about right for other scripts.
_BYTES_PER_TOKEN = 2

_EXACT_TEXT = {
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "return_token_ids": True,
    # vLLM would take it from the checkpoint's generation_config.json.
    "repetition_penalty": 1.0,
}
# Likewise, where the whole distribution is to be sampled from.
_EXACT_SAMPLING = {"top_k": -1, "min_p": 0.0}


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
        self._api = ServerApi(base_url, api_key=api_key, timeout=timeout, max_retries=max_retries)
        self.model = model or ""
        self.context_length = None
        self._single_ids: dict[str, int | None] = {}
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
        ids = await self._api.tokenize(self.model, text, special=True)
        return len(text.encode()) // _BYTES_PER_TOKEN if ids is None else len(ids)

    async def first_tokens(self, text: str, count: int) -> str:
        """The beginning of `text`, cut by the server's tokenizer or by the estimate."""
        ids = await self._api.tokenize(self.model, text, special=False)
        if ids is None:
            return text.encode()[: count * _BYTES_PER_TOKEN].decode(errors="ignore")
        # A token can end inside a character.
        return (await self._api.detokenize(self.model, ids[:count])).rstrip("\ufffd")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()

    def __repr__(self) -> str:
        return f"ServerEngine({self._api.base_url!r}, model={self.model!r})"

    async def _find_model(self) -> None:
        url, models = self._api.base_url, await self._api.models()
        if models is None:
            if not self.model:
                raise EngineError(
                    f"{url}/models does not exist: pass model=, and check that the address is "
                    "that of an OpenAI-compatible server, with its /v1"
                )
            return
        served = {model.id: model for model in models}
        names = ", ".join(sorted(served)) or "no model"
        if not self.model:
            if len(served) != 1:
                raise EngineError(f"{url} serves {names}: choose one with model=")
            self.model = next(iter(served))
        if self.model not in served:
            raise EngineError(f"{url} does not serve {self.model!r}: it serves {names}")
        length = _extra(served[self.model], "max_model_len")
        self.context_length = length if isinstance(length, int) else None

    async def _generate(self, request: Request) -> Completion:
        answer = await self._api.complete(
            self.model,
            request.prompt,
            max_tokens=request.max_tokens,
            stop=request.stop,
            temperature=request.temperature,
            seed=request.seed,
            extras=_EXACT_TEXT | (_EXACT_SAMPLING if request.temperature else {}),
        )
        choice = answer.choices[0]
        stopped = _stopped(choice, request.stop)
        stop = (request.stop or "") if stopped else ""
        return Completion(
            text=choice.text,
            stopped=stopped,
            unfinished=choice.finish_reason == "length",
            continuation=await self._continuation(request, choice, stop),
            tokens=answer.usage.completion_tokens if answer.usage else 0,
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
            cached_tokens=_cached_tokens(answer.usage),
        )

    async def _continuation(self, request: Request, choice: Any, stop: str) -> str | TokenIds:
        """Prompt, text and stop text: in the server's own tokens if they end with the stop."""
        prompt_ids, ids = _extra(choice, "prompt_token_ids"), _extra(choice, "token_ids")
        if prompt_ids and ids and (not stop or ids[-1] == await self._single_id(stop)):
            return (*prompt_ids, *ids)
        if isinstance(request.prompt, str):
            return f"{request.prompt}{choice.text}{stop}"
        raise EngineError(
            f"{self._api.base_url} took token ids and returned none: are there different servers "
            "behind this address?"
        )

    async def _read_labels(self, request: Request) -> Completion:
        ids = {label: await self._single_id(label) for label in request.labels}
        extras: dict[str, Any] = dict(_EXACT_TEXT)
        if None not in ids.values():
            # Servers that do not know logprob_token_ids ignore it and send the likeliest tokens.
            extras |= {
                "logprob_token_ids": list(ids.values()),
                "return_tokens_as_token_ids": True,
            }
        answer = await self._api.complete(
            self.model, request.prompt, max_tokens=request.max_tokens, logprobs=True, extras=extras
        )
        choice = answer.choices[0]
        top = choice.logprobs.top_logprobs if choice.logprobs else None
        if not top or not top[0]:
            raise EngineError(
                f"{self._api.base_url} returned no log-probabilities, which the score is made of: "
                "use a server that supports 'logprobs' on /v1/completions, such as vLLM"
            )
        return Completion(
            text=choice.text,
            stopped=False,
            continuation=choice.text,
            tokens=1,
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
            cached_tokens=_cached_tokens(answer.usage),
            label_logprobs=_label_logprobs(top[0], ids),
            label_bound=min(top[0].values()),
        )

    async def _single_id(self, text: str) -> int | None:
        """The token that `text` is; None if the server can't tell, or it is several."""
        if text not in self._single_ids:
            ids = await self._api.tokenize(self.model, text, special=False)
            self._single_ids[text] = ids[0] if ids is not None and len(ids) == 1 else None
        return self._single_ids[text]


def _stopped(choice: Any, stop: str | None) -> bool:
    """Whether the stop text ended generation, rather than the limit or an end of sequence."""
    if "stop_reason" in (choice.model_extra or {}):
        return stop is not None and choice.model_extra["stop_reason"] == stop
    # OpenAI's own parameters can't tell the stop text from an end of sequence.
    return bool(choice.finish_reason == "stop")


def _label_logprobs(top: Mapping[str, float], ids: Mapping[str, int | None]) -> dict[str, float]:
    """By token id where the server names tokens so, else by text."""
    found = {label: top.get(f"token_id:{token}", top.get(label)) for label, token in ids.items()}
    return {label: logprob for label, logprob in found.items() if logprob is not None}


def _cached_tokens(usage: CompletionUsage | None) -> int:
    """Of the prompt; vLLM tells if it was started with --enable-prompt-tokens-details."""
    details = usage.prompt_tokens_details if usage else None
    return (details.cached_tokens or 0) if details else 0


def _extra(model: Any, name: str) -> Any:
    """A field that the server adds to OpenAI's; None if it does not."""
    return (model.model_extra or {}).get(name)
