"""What is answered: one immutable judgment for one passage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

Finish = Literal["concluded", "forced", "direct", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """How relevant one passage is to the query, why, and what it cost to find out.

    Attributes:
        index: The passage's place in the list that was judged, from 0.
        log_odds: Natural log of P(true)/P(false), the quantity to sort on (a probability rounds
            to 1.0 long before the order is decided); None if the passage was not judged.
        reasoning: The model's thought, without `<think>` tags; empty for a direct verdict.
            An explanation offered by the model, not a proof; escape it where you show it as HTML.
        finish: "concluded": the thought ended by itself. "forced": the thought was cut, at its
            limit, at the deadline or where the answer was plain, and the verdict asked for.
            "direct": the verdict without a thought. "skipped": not judged, because enough was
            found (`error` is None) or time ran out. "failed": the engine gave no usable answer,
            see `error`.
        reasoning_tokens: Tokens generated for the thought.
        prompt_tokens: Tokens of the prompt that held query and passage.
        cached_tokens: Those of them that the engine had read before, where it tells.
        cached: The judgment was remembered, not computed.
        sanitized: Control tokens or forged prompt lines in query or passage were made harmless.
        truncated: The passage was shortened to fit the model's context.
        bounded: The less likely label was missing from what the server returned, so `log_odds`
            is the nearest value that this allows: the true one lies further from 0.
        moved: What was added to the log-odds of a direct verdict, to compare it with verdicts
            after thoughts about other passages of the query: as much as these moved on average.
        error: What went wrong, for "failed" and "skipped".
    """

    index: int
    log_odds: float | None = None
    reasoning: str = ""
    finish: Finish
    reasoning_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cached: bool = False
    sanitized: bool = False
    truncated: bool = False
    bounded: bool = False
    moved: float = 0.0
    error: str | None = None

    @property
    def score(self) -> float | None:
        """P(true) / (P(true) + P(false)), in [0, 1]; None if the passage was not judged."""
        return None if self.log_odds is None else _sigmoid(self.log_odds)

    @property
    def relevant(self) -> bool | None:
        """Whether "true" is likelier than "false"; None if the passage was not judged."""
        return None if self.log_odds is None else self.log_odds > 0

    def to_dict(self) -> dict[str, Any]:
        """The judgment with score and verdict, in plain JSON types."""
        return {"score": self.score, "relevant": self.relevant, **asdict(self)}

    def to_metadata(self) -> dict[str, Any]:
        """What a document carries besides its score: the reasoning, and the rest in one place."""
        rest = self.to_dict()
        del rest["score"]
        return {"relevance_reasoning": rest.pop("reasoning"), "rank1": rest}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """The judgment that a kept document or node carries.

        Args:
            metadata: Of the document, with what `to_metadata` put there.

        Raises:
            KeyError: The document was not judged.
        """
        rest = {name: value for name, value in metadata["rank1"].items() if name != "relevant"}
        return cls(reasoning=metadata["relevance_reasoning"], **rest)


def rank(
    judgments: list[Judgment], *, top_n: int | None = None, score_threshold: float | None = None
) -> list[Judgment]:
    """Judgments best first: by log-odds, ties in the given order, the unjudged last.

    Args:
        judgments: In the retriever's order.
        top_n: How many to return at most; None for all.
        score_threshold: Keep judged passages with score >= threshold, before `top_n`. The
            unjudged have no score to hold against it and stay.
    """
    kept = [
        judgment
        for judgment in judgments
        if score_threshold is None or judgment.score is None or judgment.score >= score_threshold
    ]
    kept.sort(key=_sort_key, reverse=True)
    return kept[:top_n]


def _sort_key(judgment: Judgment) -> float:
    return -math.inf if judgment.log_odds is None else judgment.log_odds


def _sigmoid(x: float) -> float:
    # Both branches keep exp() from overflowing.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
