"""What judging costs."""

from __future__ import annotations

from dataclasses import dataclass

from rank1_integrations.judgment import Judgment


@dataclass(slots=True)
class Usage:
    """Sums over a query, or over everything that a `Rank1` object has done.

    Counts that an engine does not tell are left out.

    Attributes:
        judgments: Passages that got a score.
        cache_hits: Those of them that were reused, from the cache or of an identical passage.
        requests: Completions that the engine finished: reasoning, parts of it, verdicts, probes.
        prompt_tokens: Tokens of these requests' prompts. The prompt of a verdict or a probe
            includes the reasoning.
        cached_tokens: Those of them that came from the engine's prefix cache.
        reasoning_tokens: Tokens generated as reasoning; none for a request that was cut.
        answer_tokens: Tokens generated for verdicts and probes, one each.
    """

    judgments: int = 0
    cache_hits: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    answer_tokens: int = 0

    def count_judgment(self, judgment: Judgment) -> None:
        """Add the judgment of one passage."""
        self.judgments += judgment.score is not None
        self.cache_hits += judgment.cached
