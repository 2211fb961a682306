"""The judgment of one passage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

FinishReason = Literal["concluded", "forced", "direct", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """How relevant one passage is to the query, why, and what finding out cost.

    Attributes:
        index: Position of the passage in the list that was judged, from 0.
        log_odds: Natural log of P(true)/P(false), the quantity to sort on: a probability rounds
            to 1.0 long before the order is decided. None if the passage was not judged.
        reasoning: The text between `<think>` and `</think>`, sanitized; empty for a direct
            verdict. It is an explanation that the model offers, not a proof. Escape it in HTML.
        finish_reason: "concluded": the reasoning ended by itself. "forced": the reasoning was cut
            (at its limit, at the deadline, by early exit) and the verdict forced. "direct": the
            verdict was asked for without reasoning. "skipped": not judged, because there was
            `enough` (then `error` is None) or the deadline passed. "failed": the engine gave no
            usable answer.
        reasoning_tokens: Tokens generated as reasoning.
        prompt_tokens: Tokens of the prompt with query and passage.
        cached_tokens: Those of them that came from the engine's prefix cache, if it tells.
        cached: The judgment was reused (from the cache, or of an identical passage), not computed.
        sanitized: Control tokens or forged prompt lines in query or passage were neutralized.
        truncated: The passage was shortened to fit the model's context.
        log_odds_is_bound: The engine did not return the less likely label, so `log_odds` is the
            value nearest to 0 that this allows.
        log_odds_shift: Correction that is part of a direct verdict's `log_odds` and makes it
            comparable with the verdicts after reasoning on the same query.
        decided_by_shift: Only `log_odds_shift` puts the score at or above the threshold: look at
            such a passage with more care.
        error: What went wrong; set for "failed", for "skipped" at the deadline, and for a direct
            verdict whose reasoning failed.
    """

    index: int
    log_odds: float | None = None
    reasoning: str = ""
    finish_reason: FinishReason
    reasoning_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cached: bool = False
    sanitized: bool = False
    truncated: bool = False
    log_odds_is_bound: bool = False
    log_odds_shift: float = 0.0
    decided_by_shift: bool = False
    error: str | None = None

    @property
    def score(self) -> float | None:
        """P(true) / (P(true) + P(false)), in [0, 1]; None if the passage was not judged."""
        return None if self.log_odds is None else _sigmoid(self.log_odds)

    @property
    def relevant(self) -> bool | None:
        """Whether "true" is likelier than "false"; None if the passage was not judged."""
        return None if self.log_odds is None else self.log_odds > 0

    @property
    def is_unneeded(self) -> bool:
        """Whether the passage was skipped because `enough` others were found."""
        return self.finish_reason == "skipped" and self.error is None

    def to_dict(self) -> dict[str, Any]:
        """Return the judgment with score and verdict, in plain JSON types."""
        return {"score": self.score, "relevant": self.relevant, **asdict(self)}

    def to_metadata(self) -> dict[str, Any]:
        """Return what a document carries besides its score: reasoning, and the rest as one dict."""
        rest = self.to_dict()
        del rest["score"]
        return {"relevance_reasoning": rest.pop("reasoning"), "rank1": rest}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Return the judgment that a kept document or node carries.

        Args:
            metadata: Of the document, with what `to_metadata` put there.

        Raises:
            KeyError: The document was not judged.
        """
        rest = {name: value for name, value in metadata["rank1"].items() if name != "relevant"}
        return cls(reasoning=metadata["relevance_reasoning"], **rest)


def _sigmoid(x: float) -> float:
    # Both branches keep exp() from overflowing.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
