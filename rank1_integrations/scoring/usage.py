"""What judging has cost so far."""

from __future__ import annotations

from dataclasses import dataclass

from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.judgment import Judgment


@dataclass(slots=True)
class Usage:
    """Sums over everything that a `Rank1` object has done.

    Attributes:
        judgments: Passages that were given a score.
        remembered: Those of them whose judgment came from the cache, at no cost.
        requests: Completions that the engine finished: thoughts, their parts, verdicts, probes.
        prompt_tokens: Tokens of these requests' prompts. A verdict's prompt holds the thought.
        cached_tokens: Those of them that the engine had read before, where it tells.
        reasoning_tokens: Tokens generated for thoughts; of a request that was cut, none.
        answer_tokens: Tokens generated for verdicts and probes, one each.
    """

    judgments: int = 0
    remembered: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    answer_tokens: int = 0

    def count_completion(self, request: Request, completion: Completion) -> None:
        """Add what one finished request has cost."""
        self.requests += 1
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += completion.cached_tokens
        if request.labels:
            self.answer_tokens += completion.tokens
        else:
            self.reasoning_tokens += completion.tokens

    def count_judgment(self, judgment: Judgment) -> None:
        """Add one passage's judgment."""
        self.judgments += judgment.score is not None
        self.remembered += judgment.cached
