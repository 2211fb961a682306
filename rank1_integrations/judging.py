"""The passages of one query: in which order they are judged, how deeply, and when to stop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from rank1_integrations import background
from rank1_integrations.adaptive import boundaries, log_odds_of, worth_a_thought
from rank1_integrations.deadline import Deadline
from rank1_integrations.errors import EngineError
from rank1_integrations.judgment import Judgment
from rank1_integrations.options import Options
from rank1_integrations.passage_judge import PassageJudge
from rank1_integrations.procedure import Plan, Probing

_DIRECTLY = Plan(max_tokens=0)

# Two verdicts with and without another step of thought that differ by less, in log-odds, agree.
_SETTLED = 0.5


class Judging:
    """One query's passages on their way to judgments.

    Args:
        judge: Judges one passage.
        options: Of the `Rank1` object.
        query: What is asked, with the relevance definition around it.
        texts: The passages.
        deadline: When the caller wants the judgments.
        top_n: How many the caller will keep at most; None for all.
        score_threshold: What the caller will keep has at least this score; None for all.
    """

    def __init__(
        self,
        judge: PassageJudge,
        options: Options,
        query: str,
        texts: list[str],
        deadline: Deadline,
        *,
        top_n: int | None,
        score_threshold: float | None,
    ) -> None:
        self._judge, self._options = judge, options
        self._query, self._texts, self._deadline = query, texts, deadline
        self._top_n, self._score_threshold = top_n, score_threshold
        self._found = 0
        self._pending = list(range(len(texts)))

    async def judgments(self) -> AsyncGenerator[Judgment, None]:
        """Every passage's judgment, as it is made; those that were not needed come last.

        Raises:
            EngineError: As `PassageJudge.judge`.
            ConfigurationError: As `PassageJudge.judge`.
        """
        async with aclosing(self._made()) as made:
            async for judgment in made:
                self._judge.usage.count_judgment(judgment)
                yield judgment

    async def _made(self) -> AsyncGenerator[Judgment, None]:
        if not self._pending:
            return
        try:
            async with asyncio.timeout_at(self._deadline.end):
                await self._judge.start()
        except TimeoutError:
            unjudged = [self._judge.skip(place) for place in self._pending]
        except EngineError as error:
            unjudged = [self._judge.fail(place, error) for place in self._pending]
        else:
            async with aclosing(self._in_waves()) as judged:
                async for judgment in judged:
                    yield judgment
            unjudged = [Judgment(index=place, finish="skipped") for place in self._pending]
        for judgment in unjudged:
            yield judgment

    async def _in_waves(self) -> AsyncGenerator[Judgment, None]:
        """Judgments until enough is found; what is left is pending."""
        while self._pending and not self._is_enough():
            wave = self._pending[: self._wave_size()]
            async with aclosing(self._wave(wave)) as judged:
                async for judgment in judged:
                    self._pending.remove(judgment.index)
                    yield judgment
                    self._found += self._counts(judgment)
                    if self._is_enough():
                        break

    def _is_enough(self) -> bool:
        return self._options.enough is not None and self._found >= self._options.enough

    def _counts(self, judgment: Judgment) -> bool:
        threshold = 0.5 if self._score_threshold is None else self._score_threshold
        return judgment.score is not None and judgment.score >= threshold

    def _wave_size(self) -> int:
        """As many passages as will hold what is missing, going by those judged so far."""
        if self._options.enough is None:
            return len(self._pending)
        judged = len(self._texts) - len(self._pending)
        # Laplace's rule of succession: before anything is known, one half.
        share = (self._found + 1) / (judged + 2)
        return math.ceil((self._options.enough - self._found) / share)

    async def _wave(self, places: list[int]) -> AsyncGenerator[Judgment, None]:
        """The judgments of some passages, as they are made."""
        match self._options.thinking:
            case "adaptive":
                wave = self._adaptively(places)
            case "none":
                wave = self._all(places, _DIRECTLY)
            case "full":
                wave = self._all(places, self._plan())
        async with aclosing(wave) as judged:
            async for judgment in judged:
                yield judgment

    def _plan(self, probing: Probing | None = None) -> Plan:
        return Plan(
            max_tokens=self._options.max_reasoning_tokens,
            samples=self._options.samples,
            probing=probing,
        )

    def _all(self, places: Iterable[int], plan: Plan) -> AsyncGenerator[Judgment, None]:
        return background.as_completed(self._judge_one(place, plan) for place in places)

    async def _adaptively(self, places: list[int]) -> AsyncGenerator[Judgment, None]:
        """Direct verdicts for all, then thoughts where these leave the outcome open."""
        direct = await background.gather(self._judge_one(place, _DIRECTLY) for place in places)
        decided_at = boundaries(direct, top_n=self._top_n, score_threshold=self._score_threshold)
        unsure = worth_a_thought(
            direct,
            decided_at,
            share=self._options.adaptive_share,
            sure=log_odds_of(self._options.adaptive_sure),
        )
        known = {judgment.index: judgment for judgment in direct}
        for judgment in direct:
            if judgment.index not in unsure:
                yield judgment
        thoughts = background.as_completed(
            self._judge_one(place, self._plan(self._probing(known[place], boundary)), known[place])
            for place, boundary in unsure.items()
        )
        async with aclosing(thoughts) as judged:
            async for judgment in judged:
                yield judgment

    def _probing(self, direct: Judgment, boundary: float) -> Probing:
        assert direct.log_odds is not None
        return Probing(
            step_tokens=self._options.step_tokens,
            boundary=boundary,
            sure=log_odds_of(self._options.adaptive_sure),
            settled=_SETTLED,
            first=direct.log_odds,
        )

    async def _judge_one(self, place: int, plan: Plan, known: Judgment | None = None) -> Judgment:
        return await self._judge.judge(
            place, self._query, self._texts[place], plan, self._deadline, known
        )
