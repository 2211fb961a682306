"""What every engine does, in the engine's own terms: prompts, tokens, labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion.

    Attributes:
        prompt: Text, or token ids that are used as they are.
        max_tokens: How many tokens to generate at most.
        stop: Generation ends behind this text.
        labels: Texts of one token each; their log-probabilities at the first generated position
            are wanted.
        temperature: 0 for the likeliest token at every place, above 0 to sample.
        seed: Of the sampling, where the engine can take one.
    """

    prompt: str | TokenIds
    max_tokens: int
    stop: str | None = None
    labels: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What came of a request.

    Attributes:
        text: What was generated, without the stop text.
        stopped: The stop text was generated; False if the token limit or an end-of-sequence
            token came first.
        unfinished: The token limit came first, so that `continuation` can go on from there.
        continuation: The prompt that goes on exactly where this completion ended, stop text
            included; token ids where the engine has them, so that nothing is tokenized twice.
        tokens: Tokens generated.
        prompt_tokens: Tokens of the prompt.
        cached_tokens: Those of them that the engine did not have to read again, where it tells.
        label_logprobs: Natural log-probability for each label asked for that the engine could
            give, before any temperature or mask.
        label_bound: No label absent from `label_logprobs` has a higher log-probability.
    """

    text: str
    stopped: bool
    continuation: str | TokenIds
    tokens: int
    prompt_tokens: int
    unfinished: bool = False
    cached_tokens: int = 0
    label_logprobs: Mapping[str, float] = field(default_factory=dict)
    label_bound: float | None = None


class Engine(ABC):
    """A language model that completes prompts. All methods run on the background loop."""

    model: str
    """The model's name, for people."""

    context_length: int | None
    """Tokens that prompt and completion may have together; None if not known."""

    @abstractmethod
    async def start(self) -> None:
        """Make ready and check what can be checked. Does nothing when called again.

        Raises:
            EngineError: The model or server can't be used, with what to do about it.
        """

    @abstractmethod
    async def complete(self, request: Request) -> Completion:
        """Complete one prompt; engines batch what is asked for at the same time.

        Raises:
            EngineError: No usable answer came.
        """

    @abstractmethod
    async def count_tokens(self, text: str) -> int:
        """Tokens of `text` as a prompt, with a BOS where the tokenizer has one.

        An engine without a tokenizer gives a cautious estimate.
        """

    @abstractmethod
    async def first_tokens(self, text: str, count: int) -> str:
        """The beginning of `text` that its first `count` tokens make up."""

    @abstractmethod
    async def aclose(self) -> None:
        """Free what the engine holds. Does nothing when called again."""
