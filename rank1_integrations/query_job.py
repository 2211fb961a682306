"""One query: the order of work, who gets reasoning, and when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from rank1_integrations._event_loop import Emit, SharedTask, WorkerPool
from rank1_integrations.config import Options
from rank1_integrations.exceptions import EngineError
from rank1_integrations.judgment import Judgment
from rank1_integrations.reasoning_budget import ReasoningBudget, ShiftEstimate, StragglerLimit
from rank1_integrations.scoring.deadline import Deadline
from rank1_integrations.scoring.scorer import Pair, PairScorer, QueryContext
from rank1_integrations.scoring.steps import Plan, Probing
from rank1_integrations.scoring.usage import Usage
from rank1_integrations.selection import Selection

_DIRECT = Plan(max_tokens=0)

# What counts as relevant if the caller gives no threshold.
_EVEN_ODDS = 0.5

# Judgments emitted in a row before the event loop gets a turn.
_BURST = 256


class QueryJob:
    """The passages of one query on their way to judgments. Identical passages are judged once."""

    def __init__(
        self,
        query: str,
        passages: list[str],
        selection: Selection,
        options: Options,
        deadline: Deadline,
    ) -> None:
        """Prepare the query; nothing runs yet.

        Args:
            query: The query, with definition of relevance and instruction.
            passages: Texts, as the retriever returned them.
            selection: What the caller keeps.
            options: Of the `Rank1` object.
            deadline: When the caller wants the judgments.
        """
        self._passages, self._selection, self._options = passages, selection, options
        self._deadline = deadline
        self._straggler_limit = StragglerLimit(options.straggler_factor)
        self._context = QueryContext(
            query=query,
            deadline=deadline,
            token_limit=self._straggler_limit,
            is_cuttable=deadline.end is not None or options.straggler_factor is not None,
        )
        self._shift = ShiftEstimate()
        self._direct: dict[int, Judgment] = {}
        self._budget = (
            ReasoningBudget(options.adaptive, selection, self._shift, self._direct)
            if options.adaptive
            else None
        )
        self._is_direct_first = self._budget is not None or (
            options.thinking == "full" and deadline.end is not None
        )
        self._copies = _copies(passages)
        copies = {index for indices in self._copies.values() for index in indices}
        # Passages without an emitted judgment, in the retriever's order.
        self._open = dict.fromkeys(i for i in range(len(passages)) if i not in copies)
        self._distinct = len(self._open)
        self._upcoming = iter([*self._open])
        self._found = 0

    @property
    def usage(self) -> Usage:
        """What the query costs so far."""
        return self._context.usage

    async def run(
        self, scorer: PairScorer, start: SharedTask, workers: WorkerPool, emit: Emit[Judgment]
    ) -> None:
        """Judge every passage.

        Args:
            scorer: Scores the pairs.
            start: Makes the engine ready.
            workers: Run the scoring.
            emit: Called once for each passage, as soon as its judgment is final.

        Raises:
            EngineError: As `PairScorer.score`.
            ConfigurationError: As `PairScorer.score`.
            Rank1Error: The object was closed.
        """
        self._scorer, self._workers, self._emit_to = scorer, workers, emit
        if not self._open:
            return
        try:
            async with asyncio.timeout_at(self._deadline.end) as limit:
                await start.wait()
        except TimeoutError:
            if not limit.expired():
                raise
        except EngineError as error:
            await self._emit_all(scorer.fail(index, error) for index in [*self._open])
            return
        while not self._is_done() and (wave := self._next_wave()):
            await self._judge(wave)
        await self._emit_all(self._remaining())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline.end):
                await scorer.flush()

    async def _judge(self, wave: list[int]) -> None:
        """Judge some passages. What has no final judgment at the end stays open."""
        if self._options.thinking == "none":
            await self._score(wave, _DIRECT)
        elif not self._is_direct_first:
            await self._score(wave, self._full_plan())
        else:
            # With a verdict for each passage first, nothing is lost when time is over.
            prefer = None if self._budget else self._full_plan()
            await self._score(wave, _DIRECT, prefer=prefer)
            await self._reason(wave)

    async def _reason(self, wave: list[int]) -> None:
        if self._budget is None:
            await self._score([i for i in wave if i in self._open], self._full_plan())
            return
        while self._lacks and not self._deadline.is_near:
            # Off the loop: a choice among 100,000 passages takes a while.
            chosen, probing = await asyncio.to_thread(self._budget.next_round)
            if not chosen:
                return
            await self._score(chosen, self._full_plan(probing))

    async def _score(self, indices: list[int], plan: Plan, *, prefer: Plan | None = None) -> None:
        await self._workers.run(
            (partial(self._score_one, index, plan, prefer) for index in indices),
            self._accept,
            until=self._deadline.end,
            urgent=plan is _DIRECT and self._is_direct_first,
        )

    async def _score_one(self, index: int, plan: Plan, prefer: Plan | None) -> Judgment:
        if plan.max_tokens:
            self._straggler_limit.begin()
        direct = self._direct.get(index)
        pair = Pair(
            index=index,
            passage=self._passages[index],
            context=self._context,
            direct=direct if direct and direct.score is not None else None,
        )
        return await self._scorer.score(pair, plan, prefer=prefer)

    def _accept(self, judgment: Judgment) -> bool:
        """Take a judgment; return whether there is enough."""
        if judgment.finish_reason in ("concluded", "forced"):
            self._straggler_limit.finish(judgment)
            # The budget counts the direct verdicts; without one, they are not needed any more.
            take = self._direct.get if self._budget else self._direct.pop
            if (direct := take(judgment.index, None)) is not None:
                self._shift.record(direct, judgment)
            if self._budget:
                self._budget.add_reasoned(judgment)
        elif self._is_direct_first:
            self._direct[judgment.index] = judgment
            return False
        self._emit(judgment)
        return self._lacks == 0

    def _full_plan(self, probing: Probing | None = None) -> Plan:
        return Plan(max_tokens=self._options.max_reasoning_tokens, probing=probing)

    # Enough

    @property
    def _lacks(self) -> float:
        """How many more passages must reach the threshold; infinity if all are judged."""
        enough = self._options.enough
        return math.inf if enough is None else max(0, enough - self._found)

    def _reaches(self, judgment: Judgment) -> bool:
        return self._selection.admits(judgment, default=_EVEN_ODDS)

    def _reaching(self) -> int:
        """Return how many passages reach the threshold, as far as is known."""
        shift = self._shift.value
        provisional = (self._direct[index] for index in self._direct.keys() & self._open.keys())
        return self._found + sum(self._reaches(self._shifted(one, shift)) for one in provisional)

    def _is_done(self) -> bool:
        enough = self._options.enough
        return self._deadline.is_over or (enough is not None and self._reaching() >= enough)

    def _next_wave(self) -> list[int]:
        """Return as many passages as will hold what is missing, going by those judged so far."""
        if self._options.enough is None:
            return [*self._upcoming]
        judged = self._distinct - len(self._open.keys() - self._direct.keys())
        reaching = self._reaching()
        # Laplace's rule of succession: before anything is known, one half.
        share = (reaching + 1) / (judged + 2)
        return [*islice(self._upcoming, math.ceil((self._options.enough - reaching) / share))]

    # Emitting

    def _remaining(self) -> Iterator[Judgment]:
        """Yield the judgments of the passages that are still open."""
        # Once: the median of 50,000 passages takes a millisecond.
        shift = self._shift.value
        for index in [*self._open]:
            if self._lacks == 0:
                yield Judgment(index=index, finish_reason="skipped")
            elif index in self._direct:
                yield self._shifted(self._direct.pop(index), shift)
            else:
                error = f"the deadline of {self._options.deadline} s passed before its verdict"
                yield Judgment(index=index, finish_reason="skipped", error=error)

    def _shifted(self, judgment: Judgment, shift: float) -> Judgment:
        """Return a direct verdict, corrected to be comparable with those after reasoning."""
        if judgment.log_odds is None or shift == 0.0:
            return judgment
        shifted = replace(judgment, log_odds=judgment.log_odds + shift, log_odds_shift=shift)
        decided = self._reaches(shifted) and not self._reaches(judgment)
        return replace(shifted, decided_by_shift=decided)

    async def _emit_all(self, judgments: Iterable[Judgment]) -> None:
        for count, judgment in enumerate(judgments):
            self._emit(judgment)
            if count % _BURST == 0:
                await asyncio.sleep(0)

    def _emit(self, judgment: Judgment) -> None:
        """Emit the final judgment of a passage, and of those identical to it."""
        del self._open[judgment.index]
        self._emit_one(judgment)
        is_reused = judgment.score is not None
        for index in self._copies.get(judgment.index, ()):
            if self._lacks == 0:
                self._emit_one(Judgment(index=index, finish_reason="skipped"))
            else:
                self._emit_one(replace(judgment, index=index, cached=is_reused))

    def _emit_one(self, judgment: Judgment) -> None:
        self._found += self._reaches(judgment)
        self._scorer.count(judgment, self.usage)
        self._emit_to(judgment)


def _copies(passages: list[str]) -> dict[int, list[int]]:
    """Return, by the index of a passage, those of the later ones that are identical to it."""
    first: dict[str, int] = {}
    copies: dict[int, list[int]] = {}
    for index, passage in enumerate(passages):
        original = first.setdefault(passage, index)
        if original != index:
            copies.setdefault(original, []).append(index)
    return copies
