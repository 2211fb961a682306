"""Scores pairs on one engine: runs the steps, caches, counts usage, decides what failures mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rank1_integrations.config import Options
from rank1_integrations.engines.base import Completion, Engine, Request
from rank1_integrations.exceptions import EngineError, Rank1Error
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.cache import JudgmentCache
from rank1_integrations.scoring.deadline import Deadline, RecentDurations
from rank1_integrations.scoring.steps import Decode, Plan, ReasoningCut, Scored, scoring_steps
from rank1_integrations.scoring.truncation import FittedPrompt, fit
from rank1_integrations.scoring.usage import Usage

# Parts in which reasoning is asked for when it may be cut: a cut loses less than one.
_PART_TOKENS = 48


@dataclass(slots=True, kw_only=True)
class QueryContext:
    """What the pairs of one query share.

    Attributes:
        query: The query, with definition of relevance and instruction.
        deadline: When reasoning is cut. Giving up at its end is the caller's part.
        token_limit: Returns the most tokens that reasoning may have by now.
        is_cuttable: Whether deadline or limit may cut reasoning.
        usage: What the query costs.
        fitted: Prompts that took tokens to be counted, by the passages' indices.
    """

    query: str
    deadline: Deadline
    token_limit: Callable[[], float]
    is_cuttable: bool
    usage: Usage = field(default_factory=Usage)
    fitted: dict[int, FittedPrompt] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One passage of a query.

    Attributes:
        index: Its position in the caller's list.
        passage: The text, as the retriever returned it.
        context: What it shares with the query's other pairs.
        direct: Its direct verdict, to fall back on; None if it has none.
    """

    index: int
    passage: str
    context: QueryContext
    direct: Judgment | None = None


class PairScorer:
    """Scores pairs on one engine. Everything that asks the engine goes through here."""

    def __init__(
        self, engine: Engine, options: Options, usage: Usage, verdict_durations: RecentDurations
    ) -> None:
        """Wrap an engine.

        Args:
            engine: The engine.
            options: Of the `Rank1` object.
            usage: Counts what is done, beside the usage of each query.
            verdict_durations: Records how long verdicts take.
        """
        self._engine = engine
        self._options = options
        self._usage = usage
        self._verdict_durations = verdict_durations
        self._cache = (
            None if options.cache is None else JudgmentCache(options.cache, options.cache_namespace)
        )

    async def start(self) -> None:
        """Make the engine ready.

        Raises:
            EngineError: It can't be used.
        """
        with engine_errors(self._engine):
            await self._engine.start()

    async def score(self, pair: Pair, plan: Plan, *, prefer: Plan | None = None) -> Judgment:
        """Return the judgment of one pair.

        Args:
            pair: The pair.
            plan: How to score it.
            prefer: A plan whose judgment is returned instead if it is cached.

        Raises:
            EngineError: The engine gave no usable answer, and `on_error` is "raise".
            ConfigurationError: The query does not fit the model's context.
        """
        try:
            with engine_errors(self._engine):
                return await self._score(pair, plan, prefer)
        except EngineError as error:
            return self.fail(pair.index, error, pair.direct)

    def fail(self, index: int, error: EngineError, direct: Judgment | None = None) -> Judgment:
        """Return the judgment that says what failed, or raise the error itself.

        Raises:
            EngineError: `on_error` is "raise".
        """
        if self._options.on_error == "raise":
            raise error
        if direct is not None:
            return replace(direct, error=str(error))
        return Judgment(index=index, finish_reason="failed", error=str(error))

    def count(self, judgment: Judgment, query_usage: Usage) -> None:
        """Count the final judgment of a passage."""
        for usage in (self._usage, query_usage):
            usage.count_judgment(judgment)

    async def flush(self) -> None:
        """Wait until the judgments are in the cache."""
        if self._cache is not None:
            await self._cache.flush()

    def close(self) -> None:
        """Let the cache's thread end."""
        if self._cache is not None:
            self._cache.close()

    async def _score(self, pair: Pair, plan: Plan, prefer: Plan | None) -> Judgment:
        fitted = await self._fit(pair, plan)
        plan = _within(fitted, plan)

        async def compute() -> Scored:
            return await self._run_steps(pair, fitted, plan)

        if self._cache is None:
            return (await compute()).judgment
        model = self._engine.fingerprint
        if prefer is not None:
            key = self._cache.key(model, fitted.prompt, _within(fitted, prefer))
            cached = await self._cache.find(key, pair.index)
            if cached is not None:
                return cached
        key = self._cache.key(model, fitted.prompt, plan)
        return await self._cache.get_or_compute(key, pair.index, compute)

    async def _fit(self, pair: Pair, plan: Plan) -> FittedPrompt:
        context = pair.context
        kept = context.fitted.pop(pair.index, None)
        if kept is not None:
            return kept
        # The same for every verdict of a query, so that all of them read the same passage.
        longest = 0 if self._options.thinking == "none" else self._options.max_reasoning_tokens
        fitted = await fit(self._engine, context.query, pair.passage, max_reasoning_tokens=longest)
        if fitted.is_measured and plan.max_tokens == 0 < longest:
            # Reasoning about the same pair may follow.
            context.fitted[pair.index] = fitted
        return fitted

    async def _run_steps(self, pair: Pair, fitted: FittedPrompt, plan: Plan) -> Scored:
        """Ask the engine what the steps want to know, until they return."""
        context = pair.context
        steps = scoring_steps(
            pair.index,
            fitted.prompt,
            plan,
            part_tokens=_PART_TOKENS if context.is_cuttable else None,
            token_limit=context.token_limit,
            direct=pair.direct,
        )
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._answer(step, context)
                except ReasoningCut as cut:
                    step = steps.throw(cut)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            scored: Scored = end.value
            return scored

    async def _answer(self, step: Request | Decode, context: QueryContext) -> object:
        if isinstance(step, Decode):
            return await self._engine.decode(step.token_ids)
        if step.labels:
            with self._verdict_durations.measure():
                completion = await self._engine.complete(step)
        else:
            completion = await self._reason(step, context.deadline)
        for usage in (self._usage, context.usage):
            _count(usage, step, completion)
        return completion

    async def _reason(self, request: Request, deadline: Deadline) -> Completion:
        """Return the engine's answer, if it comes before reasoning must end.

        Raises:
            ReasoningCut: The reasoning must end now.
        """
        if deadline.is_near:
            raise ReasoningCut
        try:
            async with asyncio.timeout_at(deadline.reasoning_end) as limit:
                return await self._engine.complete(request)
        except TimeoutError:
            if limit.expired():
                raise ReasoningCut from None
            raise


@contextmanager
def engine_errors(engine: Engine) -> Iterator[None]:
    """Turn whatever an engine raises into an `EngineError`; the one place that does.

    Raises:
        EngineError: For every exception but this package's own and the cancelling of this task.
    """
    try:
        yield
    except Rank1Error:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise EngineError(f"{engine.model}: the engine gave the request up") from None
    except Exception as error:
        raise EngineError(
            f"{engine.model}: the engine failed with {type(error).__name__}: {error}"
        ) from error


def _within(fitted: FittedPrompt, plan: Plan) -> Plan:
    return replace(plan, max_tokens=min(plan.max_tokens, fitted.reasoning_tokens))


def _count(usage: Usage, request: Request, completion: Completion) -> None:
    """Add what one finished request cost."""
    usage.requests += 1
    usage.prompt_tokens += completion.prompt_tokens or 0
    usage.cached_tokens += completion.cached_tokens or 0
    ids = completion.token_ids
    tokens = completion.completion_tokens or (0 if ids is None else len(ids))
    if request.labels:
        usage.answer_tokens += tokens or 1
    else:
        usage.reasoning_tokens += tokens
