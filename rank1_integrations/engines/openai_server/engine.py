"""A model behind an OpenAI-compatible server, such as vLLM, through its /v1/completions."""

from __future__ import annotations

import asyncio
import string
from typing import Any

from openai.types import CompletionUsage

from rank1_integrations.engines.base import Completion, Engine, Request, TokenIds
from rank1_integrations.engines.openai_server.client import RefusedError, ServerApi
from rank1_integrations.engines.openai_server.logprobs import (
    echoed_logprob,
    extra,
    label_logprobs,
    thought,
)
from rank1_integrations.exceptions import EngineError

# Where a server can't count, a token is taken to be two letters or spaces, and one byte of anything
# else: English has about four, digits and rare signs may have no more than one.
_LETTERS = f" {string.ascii_letters}".encode()

_EXACT_TEXT = {
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "return_token_ids": True,
    # vLLM would take it from the checkpoint's generation_config.json.
    "repetition_penalty": 1.0,
}
# Likewise, where the whole distribution is to be sampled from.
_EXACT_SAMPLING = {"top_k": -1, "min_p": 0.0}
_TOP_LOGPROBS = 20


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
        self._echoes = True
        self._asking = asyncio.Lock()

    async def start(self) -> None:
        """Find the model's name, its context length and what the server understands, once."""
        async with self._asking:
            if not self._ready:
                await self._find_model()
                await self._api.learn(self.model, extras=_label_extras([0]) | _EXACT_SAMPLING)
                self._ready = True

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt on the server; a cancelled call ends it there too."""
        if request.labels:
            return await self._read_labels(request)
        return await self._generate(request)

    async def count_tokens(self, text: str) -> int:
        """Tokens by the server's /tokenize; a cautious estimate where it has none."""
        ids = await self._api.tokenize(self.model, text, special=True)
        return _estimated_tokens(text) if ids is None else len(ids)

    async def first_tokens(self, text: str, count: int) -> str:
        """The beginning of `text`, cut by the server's tokenizer or by the estimate."""
        ids = await self._api.tokenize(self.model, text, special=False)
        if ids is None:
            return await self._longest_beginning(text, count)
        decoded = await self._api.detokenize(self.model, ids[:count])
        if text.startswith(decoded):
            return decoded
        kept = decoded.rstrip("\ufffd")
        if text.startswith(kept) and kept != decoded:
            # The last token ends inside a character, which is kept whole.
            return text[: len(kept) + 1]
        # The tokenizer changes letters or spaces: look for the place in the text itself.
        return await self._longest_beginning(text, count)

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
        length = extra(served[self.model], "max_model_len")
        self.context_length = length if isinstance(length, int) else None

    async def _longest_beginning(self, text: str, count: int) -> str:
        """The longest beginning of at most `count` tokens, found by halving."""
        shortest, longest = 0, len(text)
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if await self.count_tokens(text[:middle]) <= count:
                shortest = middle
            else:
                longest = middle - 1
        return text[:shortest]

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
        text, stopped = thought(choice, request.stop)
        stop = (request.stop or "") if stopped else ""
        return Completion(
            text=text,
            stopped=stopped,
            unfinished=choice.finish_reason == "length" and not stopped,
            continuation=await self._continuation(request, choice, text, stop),
            tokens=answer.usage.completion_tokens if answer.usage else 0,
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
            cached_tokens=_cached_tokens(answer.usage),
        )

    async def _continuation(
        self, request: Request, choice: Any, text: str, stop: str
    ) -> str | TokenIds:
        """Prompt, text and stop text: in the server's own tokens if they end with the stop."""
        prompt_ids, ids = extra(choice, "prompt_token_ids"), extra(choice, "token_ids")
        if prompt_ids and ids and (not stop or ids[-1] == await self._single_id(stop)):
            return (*prompt_ids, *ids)
        if isinstance(request.prompt, str):
            return f"{request.prompt}{text}{stop}"
        raise EngineError(
            f"{self._api.base_url} took token ids and returned none: are there different servers "
            "behind this address?"
        )

    async def _read_labels(self, request: Request) -> Completion:
        ids = {label: await self._single_id(label) for label in request.labels}
        answer = await self._api.complete(
            self.model,
            request.prompt,
            max_tokens=request.max_tokens,
            logprobs=_TOP_LOGPROBS,
            # Servers that do not know logprob_token_ids send the likeliest tokens.
            extras=_EXACT_TEXT if None in ids.values() else _label_extras([*ids.values()]),
        )
        choice, likeliest = answer.choices[0], self._api.likeliest(answer)
        found = label_logprobs(choice, likeliest, ids)
        for label in ids.keys() - found.keys():
            logprob = await self._echoed(request.prompt, label, ids[label])
            if logprob is not None:
                found[label] = logprob
        return Completion(
            text=choice.text,
            stopped=False,
            continuation=choice.text,
            tokens=1,
            prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
            cached_tokens=_cached_tokens(answer.usage),
            label_logprobs=found,
            label_bound=min(likeliest.values()),
        )

    async def _echoed(self, prompt: str | TokenIds, label: str, token: int | None) -> float | None:
        """The label's log-probability, read where it stands behind the prompt; None if refused.

        Servers that can echo a prompt with log-probabilities need no `logprob_token_ids`.
        """
        if not self._echoes or (token is None and not isinstance(prompt, str)):
            return None
        asked = f"{prompt}{label}" if isinstance(prompt, str) else (*prompt, token or 0)
        try:
            answer = await self._api.complete(
                self.model, asked, max_tokens=1, logprobs=1, echo=True, extras=_EXACT_TEXT
            )
        except RefusedError:
            self._echoes = False
            return None
        return echoed_logprob(answer, label, token)

    async def _single_id(self, text: str) -> int | None:
        """The token that `text` is; None if the server can't tell, or it is several."""
        async with self._asking:
            if text not in self._single_ids:
                ids = await self._api.tokenize(self.model, text, special=False)
                self._single_ids[text] = ids[0] if ids is not None and len(ids) == 1 else None
        return self._single_ids[text]


def _label_extras(ids: list[int | None]) -> dict[str, Any]:
    return {**_EXACT_TEXT, "logprob_token_ids": ids, "return_tokens_as_token_ids": True}


def _cached_tokens(usage: CompletionUsage | None) -> int:
    """Of the prompt; vLLM tells if it was started with --enable-prompt-tokens-details."""
    details = usage.prompt_tokens_details if usage else None
    return (details.cached_tokens or 0) if details else 0


def _estimated_tokens(text: str) -> int:
    encoded = text.encode()
    others = len(encoded.translate(None, _LETTERS))
    return others + (len(encoded) - others + 1) // 2
