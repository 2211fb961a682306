"""What a server takes on /v1/completions, found out with requests for one token.

Parameters beyond OpenAI's are tried by group, so that one that is refused costs no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rank1_integrations.engines.openai_server.answer import ServerAnswer
from rank1_integrations.engines.openai_server.client import ServerClient
from rank1_integrations.engines.openai_server.errors import StatusError, UnreachableError
from rank1_integrations.engines.openai_server.logprobs import first_candidates
from rank1_integrations.exceptions import EngineError

PROBE_TEXT = "?"

Fields = Mapping[str, Any]

EXACT_TEXT: Fields = {
    # `</think>` is a control token, and the stop text.
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    # vLLM would take it from the checkpoint's generation_config.json.
    "repetition_penalty": 1.0,
}
TOKEN_IDS: Fields = {"return_token_ids": True}
LLAMA_CPP: Fields = {
    # Control tokens are hidden but for these.
    "preserved_tokens": ["</think>"],
    # llama-cpp-python's server would take 1.1.
    "repeat_penalty": 1.0,
}

# How many of the most likely tokens are asked for: vLLM's ceiling is 20 unless it is started with
# --max-logprobs, OpenAI's own is 5, mlx_lm's is 11 and its `logprobs` a bool.
_LOGPROBS: tuple[Fields, ...] = (
    {"logprobs": 20},
    {"logprobs": 5},
    {"logprobs": True, "top_logprobs": 20},
    {"logprobs": True, "top_logprobs": 10},
)

_REFUSALS = frozenset({400, 422})
# What some servers answer to a parameter that they do not know, and others if they fail.
_REFUSALS_OR_FAILURES = frozenset({500, 501})

# By the "owned_by" of /v1/models.
_WITHOUT_LOGPROBS = {
    "library": "Ollama accepts logprobs on /v1/completions and never returns them: serve the model "
    "with vLLM or llama.cpp's server",
    "organization_owner": "LM Studio returns no log-probabilities on /v1/completions: serve the "
    "model with vLLM or llama.cpp's server",
    "lmdeploy": "LMDeploy returns no log-probabilities on /v1/completions: serve the model with "
    "vLLM or SGLang",
}


def label_fields(label_ids: list[int]) -> Fields:
    """Return the parameters that ask for the log-probabilities of these tokens."""
    return {"return_tokens_as_token_ids": True, "logprob_token_ids": label_ids}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCapabilities:
    """What a server takes, and what it tells.

    Attributes:
        fields: Names of the parameters beyond OpenAI's that it takes.
        logprobs: The parameters that ask for log-probabilities.
        takes_token_ids: A prompt may be token ids.
        tells_stop: An answer says which text ended it.
        server: Name and version, if the server gives them.
    """

    fields: frozenset[str] = frozenset()
    logprobs: Fields = field(default_factory=dict)
    takes_token_ids: bool = False
    tells_stop: bool = False
    server: str | None = None

    @property
    def one_logprob(self) -> Fields:
        """The parameters that list each generated token and no alternatives."""
        if "top_logprobs" in self.logprobs:
            return {"logprobs": True, "top_logprobs": 1}
        return {"logprobs": 1}

    def accepted(self, fields: Fields) -> dict[str, Any]:
        """Return those parameters that the server takes."""
        return {name: value for name, value in fields.items() if name in self.fields}


async def probe(
    client: ServerClient, model: str, *, label_ids: list[int] | None, owner: str | None
) -> ServerCapabilities:
    """Find out what a server takes. One request is enough for a server that takes everything.

    Args:
        client: Of the server.
        model: The name it is served under.
        label_ids: Token ids of the labels; None if the server has no tokenizer.
        owner: The "owned_by" of /v1/models.

    Raises:
        EngineError: The server can't be reached, refuses everything, or gives no
            log-probabilities.
    """
    return await _Probe(client, model, label_ids, owner).run()


class _Probe:
    def __init__(
        self, client: ServerClient, model: str, label_ids: list[int] | None, owner: str | None
    ) -> None:
        self._client = client
        self._model = model
        self._owner = owner
        self._label_ids = label_ids
        self._groups = [EXACT_TEXT, TOKEN_IDS]
        if label_ids:
            self._groups.append(label_fields(label_ids))

    async def run(self) -> ServerCapabilities:
        everything = {name: value for group in self._groups for name, value in group.items()}
        answer = await self._try(_LOGPROBS[0], everything, prompt=self._label_ids)
        if answer is not None and first_candidates(answer.logprobs):
            return await self._capabilities(answer, _LOGPROBS[0], everything, self._label_ids)
        answer, logprobs = await self._find_logprobs()
        fields: dict[str, Any] = {}
        for group in self._groups:
            fields |= await self._accepted(logprobs, fields, group)
        richest = await self._try(logprobs, fields)
        ids = self._label_ids
        if ids and await self._try(logprobs, fields, prompt=ids) is None:
            ids = None
        return await self._capabilities(richest or answer, logprobs, fields, ids)

    async def _capabilities(
        self,
        answer: ServerAnswer,
        logprobs: Fields,
        fields: dict[str, Any],
        prompt_ids: list[int] | None,
    ) -> ServerCapabilities:
        if not answer.tells_stop:
            fields = {**fields, **await self._accepted(logprobs, fields, LLAMA_CPP)}
        return ServerCapabilities(
            fields=frozenset(fields),
            logprobs=logprobs,
            takes_token_ids=prompt_ids is not None,
            tells_stop=answer.tells_stop,
            server=answer.fingerprint,
        )

    async def _find_logprobs(self) -> tuple[ServerAnswer, Fields]:
        """Return the first way of asking that gives log-probabilities, without other parameters."""
        for logprobs in _LOGPROBS:
            answer = await self._try(logprobs, {})
            if answer is not None and first_candidates(answer.logprobs):
                return answer, logprobs
        # If this is refused too, the server's own words say why.
        await self._ask({}, {})
        hint = _WITHOUT_LOGPROBS.get(
            self._owner or "",
            "use a server that supports 'logprobs' on /v1/completions, such as vLLM",
        )
        raise EngineError(
            f"{self._client.base_url} gives no log-probabilities, which the score is made of: "
            f"{hint}"
        )

    async def _accepted(self, logprobs: Fields, fields: Fields, group: Fields) -> Fields:
        """Return those of a group's parameters that the server takes beside `fields`."""
        if await self._try(logprobs, {**fields, **group}) is not None:
            return group
        accepted: dict[str, Any] = {}
        if len(group) > 1:
            for name, value in group.items():
                if await self._try(logprobs, {**fields, **accepted, name: value}) is not None:
                    accepted[name] = value
        return accepted

    async def _try(
        self, logprobs: Fields, fields: Fields, *, prompt: list[int] | None = None
    ) -> ServerAnswer | None:
        """Return the answer; None if the server refuses."""
        try:
            return await self._ask(logprobs, fields, prompt, max_retries=0)
        except StatusError as error:
            if error.status in _REFUSALS:
                return None
            # A server that answers 500 to an unknown parameter does so at once, and each time.
            retries = 0 if error.status in _REFUSALS_OR_FAILURES else None
        except UnreachableError:
            retries = None
        try:
            return await self._ask(logprobs, fields, prompt, max_retries=retries)
        except StatusError as error:
            if error.status in _REFUSALS | _REFUSALS_OR_FAILURES:
                return None
            raise

    async def _ask(
        self,
        logprobs: Fields,
        fields: Fields,
        prompt: list[int] | None = None,
        *,
        max_retries: int | None = None,
    ) -> ServerAnswer:
        return await self._client.complete(
            {
                "model": self._model,
                "prompt": prompt or PROBE_TEXT,
                "max_tokens": 1,
                "temperature": 0.0,
                **logprobs,
                **fields,
            },
            max_retries=max_retries,
        )
