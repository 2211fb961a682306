"""The boundary to engines: whatever one does wrong is that passage's failure."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from rank1_integrations import ConfigurationError, EngineError, Judgment, Rank1Error, Usage
from rank1_integrations.config import Options, RankOptions
from rank1_integrations.engines.base import Completion, Engine, Request
from rank1_integrations.scoring.deadline import Deadline, RecentDurations
from rank1_integrations.scoring.prompt import FALSE, TRUE
from rank1_integrations.scoring.scorer import Pair, PairScorer, QueryContext
from rank1_integrations.scoring.steps import Plan
from rank1_integrations.testing import ScriptedEngine
from tests.unit.gates import Gate

FULL, DIRECT = Plan(max_tokens=100), Plan(max_tokens=0)
DIRECT_VERDICT = Judgment(index=0, log_odds=0.5, finish_reason="direct")


def context(seconds: float | None = None) -> QueryContext:
    return QueryContext(
        query="q",
        deadline=Deadline(seconds),
        token_limit=lambda: math.inf,
        is_cuttable=seconds is not None,
    )


class Scoring:
    """A scorer on an engine, and what its verdicts took and cost."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        typed: RankOptions = options  # type: ignore[assignment]
        self.usage, self.durations = Usage(), RecentDurations()
        self.scorer = PairScorer(engine, Options.check(typed), self.usage, self.durations)

    async def score(
        self, passage: str = "p", plan: Plan = FULL, seconds: float | None = None, **pair: Any
    ) -> Judgment:
        pair = {"index": 0, "context": context(seconds), **pair}
        return await self.scorer.score(Pair(passage=passage, **pair), plan)


class Faulty(ScriptedEngine):
    """Raises an exception, or answers with something that is no usable completion."""

    def __init__(self, fault: Any) -> None:
        super().__init__(lambda passage: 1.0)
        self.fault = fault

    async def start(self) -> None:
        if isinstance(self.fault, BaseException):
            raise self.fault

    async def complete(self, request: Request) -> Completion:
        if isinstance(self.fault, BaseException):
            raise self.fault
        answer: Completion = self.fault
        return answer


FOREIGN = [
    ValueError("a foreign error"),
    KeyError("a foreign error"),
    AttributeError("a foreign error"),
    OSError("a foreign error"),
    TimeoutError("a foreign error"),
    RuntimeError("a foreign error"),
]


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
async def test_a_foreign_exception_becomes_an_engine_error_with_its_cause(
    error: Exception,
) -> None:
    with pytest.raises(EngineError, match="scripted: the engine failed with") as raised:
        await Scoring(Faulty(error)).score()
    assert "a foreign error" in str(raised.value)
    assert type(error).__name__ in str(raised.value)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("on_error", ["keep", "drop"])
async def test_a_foreign_exception_is_the_passages_failure(error: Exception, on_error: str) -> None:
    judgment = await Scoring(Faulty(error), on_error=on_error).score()
    assert (judgment.finish_reason, judgment.score) == ("failed", None)
    assert "a foreign error" in str(judgment.error)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        {"text": "a"},
        Completion(text=None, ended="stop"),  # type: ignore[arg-type]
        Completion(text="", ended="length", label_logprobs=None),  # type: ignore[arg-type]
        Completion(text="", ended="length", label_logprobs={TRUE: None, FALSE: -1.0}),  # type: ignore[dict-item]
        Completion(text="", ended="length", label_logprobs={"true": -1.0, "false": -2.0}),
        Completion(text="", ended="length", label_logprobs={TRUE: math.nan, FALSE: -1.0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("plan", [FULL, DIRECT])
async def test_an_answer_of_the_wrong_shape_is_the_passages_failure(
    answer: Any, plan: Plan
) -> None:
    with pytest.raises(EngineError):
        await Scoring(Faulty(answer)).score(plan=plan)
    judgment = await Scoring(Faulty(answer), on_error="keep").score(plan=plan)
    assert (judgment.finish_reason, judgment.score) == ("failed", None)
    assert judgment.error


async def test_an_engine_that_cancels_its_own_request_has_failed() -> None:
    """As a client does whose event loop or task group went away."""
    with pytest.raises(EngineError, match="gave the request up"):
        await Scoring(Faulty(asyncio.CancelledError())).score()


async def test_a_cancelled_caller_is_no_failure_of_the_engine() -> None:
    engine = ScriptedEngine(lambda passage: 1.0, hold=Gate().hold())
    task = asyncio.create_task(Scoring(engine, on_error="keep").score())
    while not engine.running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "error", [ConfigurationError("your mistake"), Rank1Error("this object is closed")]
)
async def test_the_callers_mistakes_and_closing_are_raised_whatever_on_error_says(
    error: Rank1Error,
) -> None:
    with pytest.raises(type(error)) as raised:
        await Scoring(Faulty(error), on_error="keep").score()
    assert raised.value is error


async def test_a_start_that_fails_strangely_becomes_an_engine_error() -> None:
    with pytest.raises(EngineError, match="OSError: no such file") as raised:
        await Scoring(Faulty(OSError("no such file"))).scorer.start()
    assert isinstance(raised.value.__cause__, OSError)


async def test_when_reasoning_fails_the_direct_verdict_stands_with_the_error() -> None:
    scoring = Scoring(Faulty(ValueError("gone")), on_error="keep")
    judgment = await scoring.score(direct=DIRECT_VERDICT)
    assert (judgment.log_odds, judgment.finish_reason) == (0.5, "direct")
    assert "gone" in str(judgment.error)


async def test_requests_of_the_query_and_of_the_object_are_counted() -> None:
    engine = ScriptedEngine(lambda passage: 1.0, reasoning=" one two three.")
    scoring, query = Scoring(engine), context()
    await scoring.score(context=query)
    assert query.usage == scoring.usage
    assert (query.usage.requests, query.usage.answer_tokens) == (2, 1)
    assert query.usage.reasoning_tokens == 4
    assert query.usage.judgments == 0


@pytest.mark.parametrize("counts", [{}, {"completion_tokens": 0}, {"prompt_tokens": None}])
async def test_counts_that_an_engine_does_not_tell_are_left_out(counts: dict[str, Any]) -> None:
    answer = Completion(text="", ended="length", label_logprobs={TRUE: -1, FALSE: -2}, **counts)
    scoring = Scoring(Faulty(answer))
    await scoring.score(plan=DIRECT)
    assert scoring.usage == Usage(requests=1, answer_tokens=1)


async def test_the_duration_of_verdicts_is_recorded() -> None:
    scoring = Scoring(ScriptedEngine(lambda passage: 1.0))
    assert scoring.durations.longest is None
    await scoring.score(plan=DIRECT)
    assert scoring.durations.longest is not None


async def test_no_reasoning_begins_after_its_end() -> None:
    engine = ScriptedEngine(lambda passage: 1.0)
    judgment = await Scoring(engine).score(seconds=1e-9, direct=DIRECT_VERDICT)
    assert judgment == DIRECT_VERDICT
    assert engine.requests == []


async def test_a_long_passage_is_measured_once_for_both_of_its_verdicts() -> None:
    class Counting(ScriptedEngine):
        counted = 0

        async def count_tokens(self, text: str) -> int:
            self.counted += 1
            return await super().count_tokens(text)

    engine = Counting(lambda passage: 1.0, context_length=8300)
    scoring, query = Scoring(engine), context()
    await scoring.score("a longer passage " * 50, DIRECT, context=query)
    counted = engine.counted
    assert counted >= 1
    await scoring.score("a longer passage " * 50, FULL, context=query)
    assert engine.counted == counted
    assert query.fitted == {}
