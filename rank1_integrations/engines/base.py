"""The interface of every engine: tokens in; tokens and label log-probabilities out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rank1_integrations.exceptions import EngineError

TokenIds = tuple[int, ...]

Ending = Literal["stop", "length", "eos"]
"""How a completion ended: with the stop text, at the token limit, or with an end-of-sequence
token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One greedy completion.

    Attributes:
        prompt: Text, or token ids that are used as they are.
        max_tokens: The most tokens to generate.
        stop: Generation ends behind this text; None for no stop text.
        labels: Texts of one token each, whose log-probabilities at the first generated position
            are wanted.
    """

    prompt: str | TokenIds
    max_tokens: int
    stop: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine knows about one finished request. What it does not know is None.

    Attributes:
        text: The generated text, without the stop text.
        ended: How generation ended.
        prompt_ids: Token ids of the prompt.
        token_ids: Token ids that were generated, those of the stop text included. None also if
            they do not end exactly where the stop text ends.
        prompt_tokens: Number of tokens of the prompt.
        completion_tokens: Number of tokens that were generated.
        cached_tokens: How many of the prompt's tokens came from the engine's prefix cache.
        label_logprobs: Natural log-probability of each label that the engine could give, before
            any temperature or mask.
        label_bound: No label absent from `label_logprobs` has a higher log-probability.
    """

    text: str
    ended: Ending
    prompt_ids: TokenIds | None = None
    token_ids: TokenIds | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    label_logprobs: Mapping[str, float] = field(default_factory=dict)
    label_bound: float | None = None


class Engine(ABC):
    """A language model that completes prompts.

    All methods but `after_fork` run on one event loop. What they raise besides `EngineError` and
    `ConfigurationError` becomes an `EngineError` at the caller's boundary, so an engine needs no
    handler of last resort.
    """

    model: str
    """The model's name, for people."""

    context_length: int | None
    """The most tokens of prompt and completion together; None if not known."""

    @property
    def fingerprint(self) -> str:
        """Tells this model from others with the same name; part of every cache key."""
        return self.model

    @property
    def info(self) -> dict[str, Any]:
        """What was found out about a server, as plain data."""
        return {}

    @abstractmethod
    async def start(self) -> None:
        """Make the engine ready. Return at once if it is.

        Raises:
            EngineError: The model or server can't be used, with what to do about it.
        """

    @abstractmethod
    async def complete(self, request: Request) -> Completion:
        """Complete one prompt. Engines batch the requests of the same time.

        Raises:
            EngineError: No usable answer came.
        """

    @abstractmethod
    async def count_tokens(self, text: str) -> int:
        """Count the tokens of `text` as a prompt, with a BOS token if the tokenizer adds one.

        An engine without a tokenizer returns a cautious estimate.
        """

    @abstractmethod
    async def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text` that its first `count` tokens make up."""

    async def decode(self, token_ids: TokenIds) -> str | None:
        """Return the text of token ids, control tokens included; None without a tokenizer."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Free what the engine holds, at once. Requests that run fail. Idempotent."""

    def after_fork(self) -> Self:
        """Return an engine for a forked child process, without anything bound to the parent's.

        Raises:
            EngineError: The model lives in the parent's memory.
        """
        raise EngineError(
            f"{self.model} was loaded before this process was forked: make a new Rank1 object "
            "in the child process, or use a server"
        )
