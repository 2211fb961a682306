"""A model behind an OpenAI-compatible server, such as vLLM, through its /v1/completions."""

from __future__ import annotations

import asyncio
import math
import os
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import openai

from rank1_integrations.engines.base import Completion, Ending, Engine, Request, TokenIds
from rank1_integrations.engines.openai_server.answer import ServerAnswer, ends_with, read_end
from rank1_integrations.engines.openai_server.capabilities import (
    EXACT_TEXT,
    LLAMA_CPP,
    TOKEN_IDS,
    ServerCapabilities,
    label_fields,
    probe,
)
from rank1_integrations.engines.openai_server.client import ServerClient
from rank1_integrations.engines.openai_server.credentials import ApiKey, Credentials, Secret
from rank1_integrations.engines.openai_server.errors import (
    StatusError,
    UnreachableError,
    context_limit,
)
from rank1_integrations.engines.openai_server.local_tokenizer import SAMPLE, LocalTokenizer
from rank1_integrations.engines.openai_server.logprobs import (
    LabelLogprobs,
    echoed_logprob,
    first_candidates,
    read_labels,
)
from rank1_integrations.engines.openai_server.served_model import ServedModel, read_models
from rank1_integrations.engines.openai_server.tokenizer import ServerTokenizer
from rank1_integrations.exceptions import ConfigurationError, EngineError

_KEY_VARIABLE = "RANK1_API_KEY"

# Without a tokenizer, a token is taken to be two letters or spaces, and one byte of anything else:
# English has about four, digits and rare signs may have no more than one.
_LETTERS = f" {string.ascii_letters}".encode()

# The labels and the end mark of Rank1. Their ids tell vocabularies apart.
_LABELS = (" true", " false")
_END_OF_REASONING = "</think>"

# After a refusal with one of these, another model or server may be behind the address.
_REFUSALS = frozenset({400, 404, 422})

# What servers answer to a parameter that they do not know.
_NO_ECHO = _REFUSALS | {500, 501}

# A server that has answered this long ago, in seconds, may have been restarted since.
_FRESH_SECONDS = 2.0


@dataclass(slots=True)
class _Server:
    """What was found out about the server behind the address. Replaced as a whole.

    Attributes:
        model: The name to ask for.
        tokenizer: The local one if there is one, or else the server's own.
        served: What /v1/models says about the model.
        capabilities: What /v1/completions takes.
        ids: Token ids by text; None if the server does not tell.
        echoes: Whether a prompt can be echoed with log-probabilities, as far as it was tried.
    """

    model: str
    tokenizer: ServerTokenizer | LocalTokenizer
    served: ServedModel | None = None
    capabilities: ServerCapabilities = field(default_factory=ServerCapabilities)
    ids: dict[str, TokenIds | None] = field(default_factory=dict)
    echoes: bool = True

    async def ids_of(self, text: str) -> TokenIds | None:
        """Return the token ids of a text; None if the server does not tell."""
        if text not in self.ids:
            ids = await self.tokenizer.encode(text, special=False)
            self.ids[text] = None if ids is None else tuple(ids)
        return self.ids[text]

    def single_id(self, text: str) -> int | None:
        """Return the token that a known text is; None if it is several, or not known."""
        ids = self.ids.get(text)
        return ids[0] if ids is not None and len(ids) == 1 else None

    def single_ids(self, texts: Iterable[str]) -> list[int] | None:
        """Return the token that each text is; None if one of them is several, or not known."""
        ids = [self.single_id(text) for text in texts]
        known = [one for one in ids if one is not None]
        return known if len(known) == len(ids) else None


class OpenAIServerEngine(Engine):
    """A model that an OpenAI-compatible server has loaded."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: ApiKey | None = None,
        default_headers: Mapping[str, str | Secret] | None = None,
        client: openai.AsyncOpenAI | None = None,
        context_length: int | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        timeout: float | None = 600.0,
        max_retries: int = 2,
    ) -> None:
        """Check the arguments; no connection is made before `start`.

        Args:
            base_url: The server's address; "/v1" is added to a bare host.
            model: The name it is served under; None for the only one.
            api_key: Bearer token; a function without arguments that returns it, called for each
                request on a worker thread; "" for none; None for RANK1_API_KEY of the environment.
                OPENAI_API_KEY is never sent.
            default_headers: Further headers, as secret as the key.
            client: The caller's own client, with its key, headers, timeout and retries, for what
                this package has no argument for. It is never closed here, and must not be used
                elsewhere: it belongs to one event loop.
            context_length: The most tokens of prompt and completion together; None to ask the
                server.
            tokenizer: The model's name on the hub, a folder that holds its tokenizer.json, or the
                path of that file; used instead of the server's /tokenize. None for /tokenize.
            timeout: Seconds for one request; None for no limit. A connection must stand within 10
                of them.
            max_retries: Repeats after a dropped connection, 408, 409, 429, 5xx or an answer that
                is no completion, with growing pauses.

        Raises:
            ConfigurationError: An argument, or a variable of the environment, can't work.
            MissingExtraError: tokenizers is not installed, and `tokenizer` is given.
        """
        _check_numbers(context_length, timeout, max_retries)
        if client is not None:
            _check_client(client, api_key, default_headers, timeout, max_retries)
            api_key = ""
        key, origin = api_key, "api_key"
        if key is None and not _has_authorization(default_headers):
            key, origin = os.environ.get(_KEY_VARIABLE), _KEY_VARIABLE
        key = "" if key is None else key
        self._configuration: dict[str, Any] = {
            "base_url": base_url,
            "model": model,
            "api_key": key,
            "default_headers": default_headers,
            "context_length": context_length,
            "tokenizer": tokenizer,
            "timeout": timeout,
            "max_retries": max_retries,
        }
        self._has_users_client = client is not None
        self._client = ServerClient(
            base_url,
            Credentials(key, default_headers, origin=origin),
            timeout=timeout,
            max_retries=max_retries,
            client=client,
        )
        self._local_tokenizer = None if tokenizer is None else LocalTokenizer(tokenizer)
        if self._local_tokenizer is not None:
            self._local_tokenizer.check_labels(_LABELS)
        self.model = model or ""
        self.context_length = context_length
        self._server = _Server(self.model, self._tokenizer_for(self.model))
        self._is_known = False
        self._last_answer = -math.inf

    @property
    def fingerprint(self) -> str:
        """Name, origin, context length and label ids, as far as the server tells them."""
        served = self._server.served
        parts = {
            "root": served and served.root,
            "parent": served and served.parent,
            "context": served and served.context_length,
            "ids": [self._server.ids.get(text) for text in (*_LABELS, _END_OF_REASONING)],
        }
        return f"{self.model} {parts}"

    @property
    def info(self) -> dict[str, Any]:
        """What was found out about the server, as plain data."""
        server, served, known = self._server, self._server.served, self._server.capabilities
        return {
            "base_url": self._client.base_url,
            "server": known.server or (served.owner if served else None),
            "model": self.model,
            "root": served.root if served else None,
            "parent": served.parent if served else None,
            "context_length": self.context_length,
            "tokenizer": server.tokenizer.is_usable,
            "local_tokenizer": self._local_tokenizer is not None,
            "detokenizer": server.tokenizer.detokenizes,
            "token_id_prompts": known.takes_token_ids,
            "tells_stop": known.tells_stop,
            "logprobs": dict(known.logprobs),
            "fields": sorted(known.fields),
            "label_ids": {label: server.single_id(label) for label in _LABELS},
        }

    async def start(self) -> None:
        """Find out the model's name, its context length and the server's capabilities.

        Once, and again if the server may be another one: after a refused request, a lost
        connection, or a pause in which it was restarted with another model.
        """
        if self._is_known and not await self._has_changed():
            return
        self._is_known = False
        server = await self._find_out()
        # Requests of earlier queries run meanwhile, so what they use is replaced at once.
        self._server, self.model = server, server.model
        self.context_length = (
            self._configuration["context_length"]
            or (server.served and server.served.context_length)
            or server.tokenizer.context_length
            or self.context_length
        )
        self._is_known = True
        self._note_answer()

    async def complete(self, request: Request) -> Completion:
        """Complete one prompt on the server. Cancelling the call ends it there too."""
        if request.labels:
            return await self._read_labels(request)
        return await self._generate(request)

    async def count_tokens(self, text: str) -> int:
        """Count tokens by the local tokenizer or the server's /tokenize, or estimate."""
        ids = await self._server.tokenizer.encode(text, special=True)
        return _estimated_tokens(text) if ids is None else len(ids)

    async def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text`, cut by a tokenizer or by the estimate."""
        if count <= 0:
            return ""
        beginning = await self._server.tokenizer.first_tokens(text, count)
        return await self._longest_beginning(text, count) if beginning is None else beginning

    async def decode(self, token_ids: TokenIds) -> str | None:
        """Return the text of token ids by the local tokenizer or the server's /detokenize."""
        return await self._server.tokenizer.decode(list(token_ids))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def after_fork(self) -> Self:
        """Return an engine with the same arguments and no connection."""
        if self._has_users_client:
            raise EngineError(
                "the client= of this Rank1 object belongs to the process that made it: make a new "
                "Rank1 object in the child process, or pass base_url=, api_key= and "
                "default_headers= instead of client="
            )
        return type(self)(**self._configuration)

    def __repr__(self) -> str:
        return f"OpenAIServerEngine({self._client.base_url!r}, model={self.model!r})"

    def _tokenizer_for(self, model: str) -> ServerTokenizer | LocalTokenizer:
        return self._local_tokenizer or ServerTokenizer(self._client, model)

    async def _find_out(self) -> _Server:
        name, served = await self._find_model()
        await self._check_local_tokenizer(name)
        server = _Server(name, self._tokenizer_for(name), served)
        # One text alone at first: there may be no tokenizer.
        first, *others = (*_LABELS, _END_OF_REASONING)
        await server.ids_of(first)
        await asyncio.gather(*(server.ids_of(text) for text in others))
        server.capabilities = await probe(
            self._client,
            name,
            label_ids=server.single_ids(_LABELS),
            owner=served.owner if served else None,
        )
        return server

    async def _check_local_tokenizer(self, model: str) -> None:
        """Refuse a tokenizer that is not the served model's: its label ids would be others."""
        if self._local_tokenizer is None:
            return
        body = {"model": model, "prompt": SAMPLE, "max_tokens": 1, "temperature": 0.0}
        try:
            answer = await self._client.complete({**body, **TOKEN_IDS}, max_retries=0)
        except StatusError:
            answer = await self._client.complete(body)
        await self._local_tokenizer.check_answer(answer)

    def _note_answer(self) -> None:
        self._last_answer = asyncio.get_running_loop().time()

    async def _has_changed(self) -> bool:
        """Return whether /v1/models describes the model in another way than before."""
        pause = asyncio.get_running_loop().time() - self._last_answer
        before = self._server.served
        if pause < _FRESH_SECONDS or before is None:
            return False
        served = await self._list_models()
        self._note_answer()
        return served is None or served.get(self.model) != before

    async def _list_models(self) -> dict[str, ServedModel] | None:
        """Return the served models by name; None if the server does not list them."""
        try:
            return read_models(await self._client.models()) or None
        except UnreachableError:
            raise
        except EngineError:
            if self._configuration["model"] is None:
                raise
            # The name is given. Whether it is right, the first completion shows.
            return None

    async def _find_model(self) -> tuple[str, ServedModel | None]:
        """Return the model's name, chosen if none was given, and what the server says about it."""
        url, wanted = self._client.base_url, self._configuration["model"]
        try:
            served = await self._list_models()
        except StatusError as error:
            if error.status != 404:
                raise
            raise EngineError(
                f"{url}/models does not exist: pass model=, and check that the address is "
                "that of an OpenAI-compatible server, with its /v1"
            ) from None
        if wanted is not None:
            return wanted, (served or {}).get(wanted)
        if served is None:
            raise EngineError(f"{url}/models names no model: pass model=")
        # vLLM can serve one model under several names.
        roots = {model.root or name for name, model in served.items()}
        if len(roots) != 1:
            raise EngineError(f"{url} serves {', '.join(sorted(served))}: choose one with model=")
        return next(iter(served.items()))

    async def _generate(self, request: Request) -> Completion:
        known = self._server.capabilities
        # Without a field for it, only the listed tokens show how a text ended.
        logprobs = {} if known.tells_stop else known.one_logprob
        answer = await self._ask(request, logprobs)
        stop_ids = None if request.stop is None else await self._server.ids_of(request.stop)
        end = read_end(answer, request.stop, stop_ids)
        ended = end.ended or await self._next_ending(request, end.text, answer)
        return self._completion(request, answer, end.text, ended, stop_ids=stop_ids)

    async def _next_ending(self, request: Request, text: str, answer: ServerAnswer) -> Ending:
        """Return how a text ended if the answer does not tell: by the token that follows it.

        Decoding is greedy, so the token that ended generation comes again.
        """
        assert request.stop is not None
        if answer.finish_reason is None and answer.completion_tokens == request.max_tokens:
            return "length"
        prompt = request.prompt
        if not isinstance(prompt, str):
            raise EngineError(f"{self._client.base_url} {_NOT_TOLD}")
        follow_up = Request(prompt=f"{prompt}{text}", max_tokens=1)
        stop_ids = await self._server.ids_of(request.stop)
        answer = await self._ask(follow_up, self._server.capabilities.logprobs)
        if read_end(answer, request.stop, stop_ids).ended == "stop":
            return "stop"
        listed = first_candidates(answer.logprobs)
        # A control token that is hidden in every way can be the stop text, or not.
        if not listed or (not listed[-1].text and listed[-1].id is None):
            raise EngineError(f"{self._client.base_url} {_NOT_TOLD}")
        return "eos"

    async def _read_labels(self, request: Request) -> Completion:
        server = self._server
        for label in request.labels:
            await server.ids_of(label)
        by_label = {label: server.single_id(label) for label in request.labels}
        label_ids = server.single_ids(request.labels)
        fields = server.capabilities.accepted(label_fields(label_ids) if label_ids else {})
        answer = await self._ask(request, {**server.capabilities.logprobs, **fields})
        end = read_end(answer, request.stop, None)
        if not first_candidates(answer.logprobs):
            raise EngineError(f"{self._client.base_url} sent a verdict without log-probabilities")
        labels = read_labels(answer.logprobs, by_label, asked_by_id="logprob_token_ids" in fields)
        missing = [label for label in by_label if label not in labels.found]
        for label in missing:
            logprob = await self._echoed(request.prompt, label, by_label[label])
            if logprob is not None:
                labels.found[label] = logprob
        return self._completion(request, answer, end.text, end.ended or "length", labels=labels)

    def _completion(
        self,
        request: Request,
        answer: ServerAnswer,
        text: str,
        ended: Ending,
        *,
        stop_ids: TokenIds | None = None,
        labels: LabelLogprobs | None = None,
    ) -> Completion:
        token_ids = answer.token_ids
        # Generation can be continued on ids only if they end exactly where the stop text does.
        if ended == "stop" and not ends_with(token_ids, stop_ids):
            token_ids = None
        if not self._server.capabilities.takes_token_ids:
            token_ids = None
        return Completion(
            text=text,
            ended=ended,
            prompt_ids=answer.prompt_ids,
            token_ids=token_ids,
            prompt_tokens=answer.prompt_tokens or None,
            completion_tokens=_at_most(request.max_tokens, answer.completion_tokens),
            cached_tokens=_at_most(answer.prompt_tokens or 0, answer.cached_tokens),
            label_logprobs=labels.found if labels else {},
            label_bound=labels.bound if labels else None,
        )

    async def _echoed(self, prompt: str | TokenIds, label: str, token: int | None) -> float | None:
        """Return the label's log-probability, read behind the echoed prompt; None if refused.

        Servers that can echo a prompt with log-probabilities need no `logprob_token_ids`.
        """
        if not self._server.echoes or (token is None and not isinstance(prompt, str)):
            return None
        extended = f"{prompt}{label}" if isinstance(prompt, str) else (*prompt, token or 0)
        request = Request(prompt=extended, max_tokens=1)
        try:
            answer = await self._ask(
                request, {**self._server.capabilities.one_logprob, "echo": True}, is_trial=True
            )
        except StatusError as error:
            # Other failures pass.
            self._server.echoes = error.status not in _NO_ECHO
            return None
        return echoed_logprob(answer.logprobs, label, token, prompt_tokens=answer.prompt_tokens)

    async def _ask(
        self, request: Request, fields: Mapping[str, Any], *, is_trial: bool = False
    ) -> ServerAnswer:
        """Return the server's answer.

        Args:
            request: To complete.
            fields: Parameters that only this request has.
            is_trial: A refusal is no sign that the server has changed.
        """
        known = self._server.capabilities
        body = {
            "model": self._server.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": 0.0,
            **({} if request.stop is None else {"stop": request.stop}),
            **known.accepted({**EXACT_TEXT, **TOKEN_IDS, **LLAMA_CPP}),
            **fields,
        }
        try:
            answer = await self._client.complete(body)
        except UnreachableError:
            self._is_known = False
            raise
        except StatusError as error:
            if error.status not in _REFUSALS or is_trial:
                raise
            self._is_known = False
            room = await self._room_after_refusal(request, str(error))
            if room is None:
                raise
            answer = await self._client.complete({**body, "max_tokens": room})
        self._note_answer()
        return answer

    async def _room_after_refusal(self, request: Request, message: str) -> int | None:
        """Return how many tokens fit behind the prompt, if the refusal told the context length."""
        length = context_limit(message)
        if length is None or self.context_length is not None:
            return None
        self.context_length = length
        prompt = request.prompt
        used = await self.count_tokens(prompt) if isinstance(prompt, str) else len(prompt)
        return length - used if 0 < length - used < request.max_tokens else None

    async def _longest_beginning(self, text: str, count: int) -> str:
        """Return the longest beginning of at most `count` tokens, found by halving."""
        shortest, longest = 0, len(text)
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if await self.count_tokens(text[:middle]) <= count:
                shortest = middle
            else:
                longest = middle - 1
        return text[:shortest]


_NOT_TOLD = (
    "does not tell whether '</think>' or the end of the sequence ended the reasoning, because it "
    "hides control tokens: use a server that shows them (vLLM, SGLang, llama.cpp's server), or "
    "thinking='none'"
)


def _has_authorization(headers: object) -> bool:
    return isinstance(headers, Mapping) and "authorization" in {str(one).lower() for one in headers}


def _check_numbers(context_length: object, timeout: object, max_retries: object) -> None:
    if context_length is not None and not (type(context_length) is int and context_length > 0):
        raise ConfigurationError(
            f"context_length must be a number of tokens above 0, or None; it is {context_length!r}"
        )
    if timeout is not None and not (
        isinstance(timeout, int | float)
        and not isinstance(timeout, bool)
        and 0 < timeout < math.inf
    ):
        raise ConfigurationError(
            f"timeout must be seconds above 0, or None for no limit; it is {timeout!r}"
        )
    if not (type(max_retries) is int and max_retries >= 0):
        raise ConfigurationError(f"max_retries must be 0 or more; it is {max_retries!r}")


def _check_client(
    client: object,
    api_key: object,
    default_headers: object,
    timeout: float | None,
    max_retries: int,
) -> None:
    if not isinstance(client, openai.AsyncOpenAI):
        raise ConfigurationError(
            f"client must be an openai.AsyncOpenAI; it is {type(client).__name__}"
        )
    others = {
        "api_key": api_key is not None,
        "default_headers": default_headers is not None,
        "timeout": timeout != 600.0,
        "max_retries": max_retries != 2,
    }
    if unused := [name for name, is_given in others.items() if is_given]:
        raise ConfigurationError(
            f"{', '.join(unused)} would have no effect beside client=: set it on the client"
        )


def _at_most(limit: int, count: int | None) -> int | None:
    """Return a count that a server told; None if it can't be."""
    return count if count is not None and count <= limit else None


def _estimated_tokens(text: str) -> int:
    encoded = text.encode()
    others = len(encoded.translate(None, _LETTERS))
    return others + (len(encoded) - others + 1) // 2
