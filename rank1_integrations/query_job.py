"""The passages of one query: in which order they are judged, how deeply, and when to stop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from rank1_integrations import _event_loop
from rank1_integrations.config import Options
from rank1_integrations.exceptions import EngineError
from rank1_integrations.judgment import Judgment
from rank1_integrations.reasoning_budget import (
    log_odds_of,
    typical_move,
    where_open,
    worth_a_thought,
)
from rank1_integrations.scoring.deadline import Deadline
from rank1_integrations.scoring.scorer import Case, PassageJudge
from rank1_integrations.scoring.steps import Plan, Probing

_DIRECTLY = Plan(max_tokens=0)

# Two verdicts with and without another step of thought that differ by less, in log-odds, agree.
_SETTLED = 0.25


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
        self._direct: dict[int, Judgment] = {}
        self._moves: list[float] = []

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
            pass  # for which all that is pending is skipped
        except EngineError as error:
            for place in self._pending:
                yield self._judge.fail(place, error)
            return
        async with aclosing(self._in_waves()) as judged:
            async for judgment in judged:
                yield judgment
        for place in self._pending:
            yield self._unfinished(place)

    def _unfinished(self, place: int) -> Judgment:
        """What is known of a passage that was not judged to the end."""
        if place in self._direct:
            return self._moved(self._direct[place])
        if self._is_enough():
            return Judgment(index=place, finish="skipped")
        return self._judge.skip(place)

    async def _in_waves(self) -> AsyncGenerator[Judgment, None]:
        """Judgments until enough is found or time is over; what is left is pending."""
        while self._pending and not self._is_enough() and not self._deadline.is_over:
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
        if self._options.thinking == "none":
            wave = self._all(places, _DIRECTLY)
        elif self._options.thinking == "full" and self._deadline.end is None:
            wave = self._all(places, self._plan())
        else:
            wave = self._directly_first(places)
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
        return self._as_made(self._judge_one(place, plan) for place in places)

    def _as_made(
        self, judging: Iterable[Coroutine[Any, Any, Judgment]]
    ) -> AsyncGenerator[Judgment, None]:
        return _event_loop.as_completed(judging, until=self._deadline.end)

    async def _directly_first(self, places: list[int]) -> AsyncGenerator[Judgment, None]:
        """Direct verdicts for all, so that each has one when time is over; then the thoughts."""
        rather = self._plan() if self._options.thinking == "full" else None
        first = self._as_made(self._judge_one(place, _DIRECTLY, rather=rather) for place in places)
        async with aclosing(first) as judged:
            direct = {judgment.index: judgment async for judgment in judged}
        self._direct |= direct
        plans = self._plans([direct[place] for place in places if place in direct])
        left = [direct[place] for place in places if place in direct and place not in plans]
        thoughts = self._as_made(
            self._judge_one(place, plan, known=direct[place]) for place, plan in plans.items()
        )
        async with aclosing(thoughts) as judged:
            async for judgment in judged:
                if judgment.finish in ("concluded", "forced"):
                    self._remember_move(judgment)
                    yield judgment
                else:
                    left.append(judgment)
        for judgment in left:
            yield self._moved(judgment)

    def _plans(self, direct: list[Judgment]) -> dict[int, Plan]:
        """How passages are thought about; "adaptive" leaves out those that need no thought."""
        if self._options.thinking == "full":
            unthought = (one for one in direct if one.finish in ("direct", "failed"))
            return {judgment.index: self._plan() for judgment in unthought}
        region = where_open(
            direct,
            top_n=self._top_n,
            score_threshold=self._score_threshold,
            sure=log_odds_of(self._options.adaptive_sure),
        )
        probing = Probing(step_tokens=self._options.step_tokens, region=region, settled=_SETTLED)
        unsure = worth_a_thought(direct, region, share=self._options.adaptive_share)
        return {place: self._plan(probing) for place in unsure}

    def _remember_move(self, thought: Judgment) -> None:
        before = self._direct[thought.index].log_odds
        if thought.log_odds is not None and before is not None:
            self._moves.append(thought.log_odds - before)

    def _moved(self, judgment: Judgment) -> Judgment:
        """A direct verdict, brought to where it can be compared with those after thoughts."""
        if judgment.log_odds is None or judgment.finish != "direct":
            return judgment
        move = typical_move(self._moves)
        return replace(judgment, log_odds=judgment.log_odds + move, moved=move)

    async def _judge_one(
        self,
        place: int,
        plan: Plan,
        *,
        known: Judgment | None = None,
        rather: Plan | None = None,
    ) -> Judgment:
        return await self._judge.judge(
            Case(
                index=place,
                query=self._query,
                passage=self._texts[place],
                plan=plan,
                deadline=self._deadline,
                known=known if known and known.score is not None else None,
                rather=rather,
            )
        )
