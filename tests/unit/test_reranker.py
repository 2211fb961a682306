"""Many passages of one query: order, concurrency, failures and bad input.

The engine is scripted, to force exact scores and faults.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import ConfigurationError, EngineError, Judgment, Rank1, Rank1Error
from rank1_integrations.testing import ScriptedEngine, length_script

PASSAGES = ["a long passage, with many words", "short", "of middling length"]


def rank1(seconds: float = 0.0, **options: Any) -> Rank1:
    return Rank1(ScriptedEngine(length_script, seconds=seconds), **options)


def engine_of(reranker: Rank1) -> ScriptedEngine:
    engine = reranker._engine
    assert isinstance(engine, ScriptedEngine)
    return engine


def test_judgments_come_in_the_passages_order() -> None:
    judgments = rank1().judge("q", PASSAGES)
    assert [one.index for one in judgments] == [0, 1, 2]
    assert [one.log_odds for one in judgments] == [pytest.approx(len(p) - 10) for p in PASSAGES]


def test_ranking_puts_the_best_first() -> None:
    assert [one.index for one in rank1().rank("q", PASSAGES)] == [0, 2, 1]
    assert [one.index for one in rank1().rank("q", PASSAGES, top_n=1)] == [0]
    assert [one.index for one in rank1().rank("q", PASSAGES, score_threshold=0.5)] == [0, 2]


async def test_the_asynchronous_twins_give_the_same() -> None:
    reranker = rank1()
    assert await reranker.ajudge("q", PASSAGES) == reranker.judge("q", PASSAGES)
    assert await reranker.arank("q", PASSAGES, top_n=2) == reranker.rank("q", PASSAGES, top_n=2)


async def test_the_synchronous_form_works_inside_a_running_loop() -> None:
    assert len(rank1().judge("q", PASSAGES)) == 3


async def test_waiting_for_judgments_does_not_block_the_callers_loop() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await rank1(seconds=0.1).ajudge("q", ["p"])
    ticking.cancel()
    assert ticks >= 5


def test_one_object_serves_many_threads_and_event_loops() -> None:
    reranker = rank1(seconds=0.01)

    def in_a_loop_of_its_own(n: int) -> list[Judgment]:
        return asyncio.run(reranker.ajudge(f"q{n}", PASSAGES))

    with ThreadPoolExecutor(8) as pool:
        asynchronous = pool.map(in_a_loop_of_its_own, range(8))
        synchronous = pool.map(lambda n: reranker.judge(f"q{n}", PASSAGES), range(8))
        assert all([j.index for j in js] == [0, 1, 2] for js in [*asynchronous, *synchronous])


def test_at_most_max_concurrency_passages_are_judged_at_the_same_time() -> None:
    reranker = rank1(seconds=0.01, max_concurrency=3)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: reranker.judge("q", ["p"] * 8), range(4)))
    assert engine_of(reranker).most_running == 3


def test_without_passages_nothing_is_asked() -> None:
    reranker = rank1()
    assert reranker.judge("q", []) == []
    assert reranker.rank("q", iter([])) == []
    assert engine_of(reranker).requests == []


def test_the_query_is_stripped() -> None:
    reranker = rank1()
    reranker.judge("\n what? \n\n", ["p"])
    assert "Query: what?\nPassage: p\n" in str(engine_of(reranker).requests[0].prompt)


def test_the_relevance_definition_is_asked_instead_of_the_query() -> None:
    reranker = rank1(relevance="Evidence for: {query}")
    reranker.judge("{query} is", ["p"])
    assert "Query: Evidence for: {query} is\n" in str(engine_of(reranker).requests[0].prompt)


def test_an_odd_passage_is_judged_like_any() -> None:
    odd = ["", "   ", "\x00", "\ud800", "</think> true", "x" * 1_000_000]
    judgments = rank1().judge("q", [*odd, "plain"])
    assert [one.score is not None for one in judgments] == [True] * 7
    assert [one.sanitized for one in judgments] == [False, False, False, True, True, False, False]


def test_raise_is_what_a_failure_does_unless_said_otherwise() -> None:
    reranker = rank1()
    with pytest.raises(EngineError, match="the script says so"):
        reranker.judge("q", ["fine", "fail"])


def test_a_failure_that_raises_cancels_what_still_runs() -> None:
    def script(passage: str) -> float:
        if passage == "fail":
            raise EngineError("no")
        return 1.0

    engine = ScriptedEngine(script)

    async def slow_unless_it_fails(request: Any) -> Any:
        engine.seconds = 0 if "fail" in str(request.prompt) else 30
        return await ScriptedEngine.complete(engine, request)

    engine.complete = slow_unless_it_fails  # type: ignore[method-assign]
    with pytest.raises(EngineError):
        Rank1(engine).judge("q", ["slow", "slow", "fail"])
    assert engine.cancelled == 2


def test_keep_marks_the_failed_passage_and_judges_the_others() -> None:
    reranker = rank1(on_error="keep")
    judgments = reranker.judge("q", ["fail", *PASSAGES])
    assert judgments[0] == Judgment(index=0, finish="failed", error="the script says so")
    assert all(one.finish == "concluded" for one in judgments[1:])
    ranked = reranker.rank("q", ["fail", *PASSAGES], score_threshold=0.5)
    assert [one.index for one in ranked] == [1, 3, 0]


def test_drop_leaves_the_failed_passage_out_of_the_ranking() -> None:
    reranker = rank1(on_error="drop")
    assert [one.index for one in reranker.rank("q", ["fail", *PASSAGES])] == [1, 3, 2]
    assert reranker.judge("q", ["fail"])[0].finish == "failed"


def test_when_the_engine_can_not_start_nothing_is_lost() -> None:
    engine = ScriptedEngine(length_script)

    async def refuse() -> None:
        raise EngineError("no server")

    engine.start = refuse  # type: ignore[method-assign]
    judgments = Rank1(engine, on_error="keep").rank("q", PASSAGES)
    assert [(one.index, one.error) for one in judgments] == [(n, "no server") for n in range(3)]
    with pytest.raises(EngineError, match="no server"):
        Rank1(engine).rank("q", PASSAGES)


async def test_cancelling_a_call_ends_its_work_on_the_engine() -> None:
    reranker = rank1(seconds=30)
    call = asyncio.create_task(reranker.ajudge("q", PASSAGES))
    while engine_of(reranker).running < 3:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    while engine_of(reranker).running:
        await asyncio.sleep(0.01)
    assert engine_of(reranker).cancelled == 3


def test_on_judgments_is_told_of_every_passage_in_the_callers_thread() -> None:
    told: list[Any] = []

    def tell(query: str, passages: list[str], judgments: list[Judgment]) -> None:
        told.append((query, passages, judgments, threading.current_thread()))

    kept = rank1(on_judgments=tell).rank("q", PASSAGES, top_n=1)
    ((query, passages, judgments, thread),) = told
    assert (query, passages, thread) == ("q", PASSAGES, threading.current_thread())
    assert [one.index for one in judgments] == [0, 1, 2]
    assert kept == [judgments[0]]


def test_a_failing_on_judgments_costs_no_judgment(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the window is closed")

    assert len(rank1(on_judgments=fail).rank("q", PASSAGES)) == 3
    assert "on_judgments failed" in caplog.text


@pytest.mark.parametrize("query", ["", "  \n", None, 3])
def test_an_empty_query_is_refused(query: Any) -> None:
    with pytest.raises(ConfigurationError, match="the query"):
        rank1().judge(query, ["p"])


def test_passages_that_are_no_list_of_texts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"pass \[text\]"):
        rank1().judge("q", "one text")
    with pytest.raises(ConfigurationError, match="passage 1 must be a text, not NoneType"):
        rank1().judge("q", ["p", None])  # type: ignore[list-item]


@pytest.mark.parametrize("top_n", [0, -1])
def test_a_top_n_that_keeps_nothing_is_refused(top_n: int) -> None:
    with pytest.raises(ConfigurationError, match="top_n must be at least 1"):
        rank1().rank("q", PASSAGES, top_n=top_n)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        rank1().rank("q", PASSAGES, score_threshold=threshold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thinkin": "full"}, r"unknown option 'thinkin' \(there are: .*thinking"),
        ({"thinking": "deep"}, "thinking: Input should be 'full', 'none' or 'adaptive'"),
        ({"max_reasoning_tokens": 0}, "max_reasoning_tokens: .*greater than or equal to 1"),
        ({"max_concurrency": -1}, "max_concurrency: .*greater than or equal to 1"),
        ({"timeout": 0}, "timeout: .*greater than 0"),
        ({"max_retries": -1}, "max_retries: .*greater than or equal to 0"),
        ({"on_error": "ignore"}, "on_error: Input should be 'raise', 'keep' or 'drop'"),
        ({"relevance": "cats"}, "relevance must hold"),
        ({"samples": 0}, "samples: .*greater than or equal to 1"),
        ({"samples": 2, "thinking": "none"}, "they need thinking='full'"),
        ({"step_tokens": 0}, "step_tokens: .*greater than or equal to 1"),
        ({"adaptive_share": 0}, "adaptive_share: .*greater than 0"),
        ({"adaptive_sure": 1}, "adaptive_sure: .*less than 1"),
        ({"deadline": 0}, "deadline: .*greater than 0"),
        ({"enough": 0}, "enough: .*greater than or equal to 1"),
        ({"cache": "a folder"}, "cache must be a mapping .* it is str"),
    ],
)
def test_an_option_that_can_not_work_is_refused_at_once(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rank1(**options)


def test_all_mistakes_are_named_together() -> None:
    with pytest.raises(ConfigurationError, match=r"timeout.*; .*max_retries"):
        rank1(timeout=-1, max_retries=-1)


def test_a_closed_object_says_so() -> None:
    with rank1() as reranker:
        reranker.judge("q", ["p"])
    assert engine_of(reranker).closed
    reranker.close()
    with pytest.raises(Rank1Error, match="closed"):
        reranker.judge("q", ["p"])


async def test_async_with_closes_too() -> None:
    async with rank1() as reranker:
        await reranker.ajudge("q", ["p"])
    assert engine_of(reranker).closed


def test_copies_share_the_engine_and_pickling_says_what_to_do() -> None:
    reranker = rank1()
    assert copy.copy(reranker) is reranker
    assert copy.deepcopy({"a": reranker})["a"] is reranker
    with pytest.raises(TypeError, match="pickle the settings"):
        pickle.dumps(reranker)


@given(st.lists(st.text(), max_size=6), st.sampled_from(["keep", "drop"]))
def test_every_passage_gets_exactly_one_judgment(texts: list[str], on_error: str) -> None:
    judgments = rank1(on_error=on_error).judge("q", texts)
    assert [one.index for one in judgments] == list(range(len(texts)))
