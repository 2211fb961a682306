"""How deeply passages are judged, and when judging stops: adaptive thoughts, deadline, enough.

The engine is scripted, to force exact scores, and counts what it is asked.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rank1_integrations import ConfigurationError, EngineError, Judgment, Rank1, Rank1Error
from rank1_integrations.testing import Script, ScriptedEngine, length_script

PASSAGES = ["a long passage, with many words", "short", "of middling length"]


def odds_script(passage: str) -> float:
    """The passage is its own log-odds."""
    return float(passage.split()[-1])


def rank1(script: Script = length_script, **options: Any) -> tuple[Rank1, ScriptedEngine]:
    engine = ScriptedEngine(script, direct=options.pop("direct", None))
    return Rank1(engine, **options), engine


def thoughts(engine: ScriptedEngine) -> int:
    return sum(not request.labels for request in engine.requests)


# Streaming


async def stream(reranker: Rank1, texts: list[str], **cut: Any) -> list[Judgment]:
    return [judgment async for judgment in reranker.astream("q", texts, **cut)]


async def test_a_stream_brings_every_judgment_once() -> None:
    reranker, _ = rank1()
    streamed = await stream(reranker, PASSAGES)
    assert sorted(streamed, key=lambda one: one.index) == reranker.judge("q", PASSAGES)


async def test_a_judgment_comes_as_soon_as_it_is_made() -> None:
    engine = ScriptedEngine(length_script)
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def held_back(request: Any) -> Any:
        if "short" not in str(request.prompt):
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(gate.wait(), loop))
        return await ScriptedEngine.complete(engine, request)

    engine.complete = held_back  # type: ignore[method-assign]
    places = []
    async for judgment in Rank1(engine).astream("q", PASSAGES):
        places.append(judgment.index)
        gate.set()
    assert places[0] == 1
    assert sorted(places) == [0, 1, 2]


async def test_leaving_a_stream_cancels_what_still_runs() -> None:
    engine = ScriptedEngine(length_script)

    async def slow_but_for_one(request: Any) -> Any:
        engine.seconds = 0 if "short" in str(request.prompt) else 30
        return await ScriptedEngine.complete(engine, request)

    engine.complete = slow_but_for_one  # type: ignore[method-assign]
    stream = Rank1(engine).astream("q", PASSAGES)
    async for _ in stream:
        break
    await stream.aclose()
    while engine.running:
        await asyncio.sleep(0.01)
    assert engine.cancelled == 2


async def test_an_error_ends_a_stream() -> None:
    reranker, _ = rank1()
    with pytest.raises(EngineError, match="the script says so"):
        await stream(reranker, ["fail"])
    with pytest.raises(ConfigurationError, match="the query is empty"):
        async for _ in reranker.astream(" ", PASSAGES):
            pass
    await reranker.aclose()
    with pytest.raises(Rank1Error, match="closed"):
        await stream(reranker, PASSAGES)


async def test_on_judgments_is_told_at_the_end_of_a_stream() -> None:
    told: list[Any] = []
    reranker, _ = rank1(on_judgments=lambda *all_of_it: told.append(all_of_it))
    await stream(reranker, PASSAGES)
    ((_, passages, judgments),) = told
    assert passages == PASSAGES
    assert [one.index for one in judgments] == [0, 1, 2]


# Adaptive thinking


def finishes(judgments: list[Judgment]) -> list[str]:
    return [judgment.finish for judgment in judgments]


def test_adaptive_thinks_about_the_best_by_direct_verdict_and_retriever() -> None:
    reranker, engine = rank1(odds_script, thinking="adaptive")
    judgments = reranker.judge("q", [f"{n}" for n in (3, 9, 1, 8, 2, 7, 5, 4, 6, 0)])
    assert [one.index for one in judgments if one.finish == "concluded"] == [0, 1, 3]
    assert thoughts(engine) == 3


def test_adaptive_thinks_around_the_threshold() -> None:
    reranker, _ = rank1(odds_script, thinking="adaptive", adaptive_share=1)
    judgments = reranker.judge("q", ["8", "6", "-1"], score_threshold=0.99)
    assert finishes(judgments) == ["direct", "concluded", "direct"]


def test_adaptive_does_not_think_about_what_can_not_reach_the_last_place_kept() -> None:
    reranker, _ = rank1(odds_script, thinking="adaptive", adaptive_share=1)
    judgments = reranker.judge("q", ["20", "8.5", "8", "-20"], top_n=2)
    assert finishes(judgments) == ["concluded", "concluded", "concluded", "direct"]


def test_adaptive_thinks_about_a_single_passage_only_if_its_verdict_is_open() -> None:
    reranker, _ = rank1(odds_script, thinking="adaptive")
    assert finishes(reranker.judge("q", ["8"])) == ["direct"]
    assert finishes(reranker.judge("q", ["-0.3"])) == ["concluded"]


def test_direct_verdicts_move_with_those_that_were_thought_about() -> None:
    reranker, _ = rank1(lambda _: 1.0, direct=odds_script, thinking="adaptive", adaptive_share=0.5)
    judgments = reranker.judge("q", ["5", "4", "3", "2"])
    # Thoughts moved two verdicts by -4 and -3; two more are taken to have stayed.
    assert [one.log_odds for one in judgments] == [1.0, 1.0, 3 - 7 / 4, 2 - 7 / 4]
    assert [one.moved for one in judgments] == [0, 0, -7 / 4, -7 / 4]


def test_a_thought_may_change_the_verdict() -> None:
    reranker, _ = rank1(lambda _: 5.0, direct=lambda _: -0.5, thinking="adaptive", step_tokens=3)
    (judgment,) = reranker.judge("q", ["p"])
    # Sure at the first look into the thought.
    assert (judgment.log_odds, judgment.finish, judgment.reasoning_tokens) == (5.0, "forced", 3)


def test_when_a_thought_fails_the_direct_verdict_is_kept_with_the_error() -> None:
    def fail(_: str) -> float:
        raise EngineError("the server is gone")

    reranker, _ = rank1(fail, direct=lambda _: 0.5, thinking="adaptive", on_error="keep")
    (judgment,) = reranker.judge("q", ["p"])
    assert (judgment.log_odds, judgment.finish) == (0.5, "direct")
    assert judgment.error == "the server is gone"


# Enough


def test_judging_stops_when_enough_has_reached_the_threshold() -> None:
    reranker, engine = rank1(odds_script, enough=2)
    judgments = reranker.judge("q", ["5"] * 50, score_threshold=0.9)
    finishes = [one.finish for one in judgments]
    assert finishes.count("concluded") == 2
    assert finishes.count("skipped") == 48
    assert thoughts(engine) <= 4


def test_passages_are_judged_in_the_retrievers_order() -> None:
    reranker, _ = rank1(odds_script, enough=1)
    judgments = reranker.judge("q", ["-5", "-5", "5", "-5", "-5", "-5", "-5", "-5", "-5"])
    assert [one.finish for one in judgments][-3:] == ["skipped"] * 3
    assert [one.finish for one in judgments][:3] == ["concluded"] * 3


def test_all_are_judged_when_there_is_never_enough() -> None:
    reranker, _ = rank1(odds_script, enough=3)
    judgments = reranker.judge("q", ["-5"] * 20 + ["5"] * 2)
    assert all(one.finish == "concluded" for one in judgments)


@pytest.mark.parametrize("on_error", ["raise", "keep", "drop"])
def test_what_was_not_needed_is_no_failure_and_not_returned(on_error: str) -> None:
    reranker, _ = rank1(odds_script, enough=1, on_error=on_error)
    ranked = reranker.rank("q", ["5"] * 20)
    assert all(one.finish == "concluded" for one in ranked)
    assert len(ranked) < 20


def test_enough_ends_what_still_runs() -> None:
    engine = ScriptedEngine(odds_script)

    async def slow_but_for_one(request: Any) -> Any:
        engine.seconds = 0 if "quick" in str(request.prompt) else 30
        return await ScriptedEngine.complete(engine, request)

    engine.complete = slow_but_for_one  # type: ignore[method-assign]
    judgments = Rank1(engine, enough=1).judge("q", ["slow 5", "quick 5"])
    assert [one.finish for one in judgments] == ["skipped", "concluded"]
    assert engine.cancelled == 1


# Deadline


class SlowThoughts(ScriptedEngine):
    """Thoughts take for ever, verdicts as long as is said."""

    verdict_seconds = 0.0

    async def complete(self, request: Any) -> Any:
        self.seconds = self.verdict_seconds if request.labels else 30.0
        return await super().complete(request)


def test_at_the_deadline_thoughts_are_cut_and_their_verdicts_asked_for() -> None:
    engine = SlowThoughts(length_script)
    judgments = Rank1(engine, deadline=0.4).judge("q", PASSAGES)
    assert [one.finish for one in judgments] == ["direct"] * 3
    assert all(one.score is not None for one in judgments)
    assert engine.cancelled == 3


def test_passages_never_begun_have_their_direct_verdict() -> None:
    engine = SlowThoughts(length_script)
    judgments = Rank1(engine, deadline=0.4, max_concurrency=1).judge("q", PASSAGES)
    assert [one.finish for one in judgments] == ["direct"] * 3
    # Asked for once, before the thought that took all the time.
    assert [bool(request.labels) for request in engine.requests] == [True] * 3 + [False]


async def test_direct_verdicts_do_not_wait_for_the_thoughts_of_others() -> None:
    engine = SlowThoughts(length_script)
    reranker = Rank1(engine, deadline=0.6, max_concurrency=1, on_error="keep")
    first = asyncio.create_task(reranker.ajudge("q", PASSAGES))
    while not any(not request.labels for request in engine.requests):
        await asyncio.sleep(0.01)
    second = await reranker.ajudge("another q", PASSAGES)
    assert [one.finish for one in (*await first, *second)] == ["direct"] * 6


def test_a_verdict_that_comes_too_late_is_skipped() -> None:
    engine = SlowThoughts(length_script)
    engine.verdict_seconds = 30.0
    reranker = Rank1(engine, deadline=0.2, on_error="keep")
    judgments = reranker.judge("q", PASSAGES)
    assert [one.finish for one in judgments] == ["skipped"] * 3
    assert judgments[0].error == "the deadline of 0.2 s passed before its verdict"
    assert [one.index for one in reranker.rank("q", PASSAGES)] == [0, 1, 2]


def test_a_missed_deadline_that_raises_says_what_to_do() -> None:
    engine = SlowThoughts(length_script)
    engine.verdict_seconds = 30.0
    with pytest.raises(EngineError, match="raise deadline=, judge fewer passages, or set on_error"):
        Rank1(engine, deadline=0.2).judge("q", PASSAGES)


def test_an_engine_that_does_not_start_in_time_loses_nothing() -> None:
    engine = ScriptedEngine(length_script)

    async def hang() -> None:
        await asyncio.sleep(30)

    engine.start = hang  # type: ignore[method-assign]
    judgments = Rank1(engine, deadline=0.2, on_error="keep").judge("q", PASSAGES)
    assert [one.finish for one in judgments] == ["skipped"] * 3


def test_a_thought_cut_in_its_second_part_keeps_the_first() -> None:
    engine = ScriptedEngine(length_script)

    async def slow_second_part(request: Any) -> Any:
        engine.seconds = 30.0 if str(request.prompt).endswith("I have read:") else 0.0
        return await ScriptedEngine.complete(engine, request)

    engine.complete = slow_second_part  # type: ignore[method-assign]
    (judgment,) = Rank1(engine, deadline=0.4, step_tokens=3).judge("q", ["p"])
    assert (judgment.finish, judgment.reasoning) == ("forced", "I have read:")


def test_with_time_left_the_deadline_changes_nothing() -> None:
    in_time, _ = rank1(deadline=60, step_tokens=2)
    for hurried, calm in zip(
        in_time.judge("q", PASSAGES), rank1()[0].judge("q", PASSAGES), strict=True
    ):
        assert (hurried.log_odds, hurried.reasoning) == (calm.log_odds, calm.reasoning)
        assert hurried.finish == "concluded"


# Samples


def test_samples_are_averaged_and_paid_for() -> None:
    reranker, engine = rank1(samples=3)
    (judgment,) = reranker.judge("q", ["p" * 12])
    assert judgment.log_odds == pytest.approx(2.0)
    assert judgment.reasoning_tokens == 3 * len("I have read: pppp.".split())
    assert len({request.seed for request in engine.requests if not request.labels}) == 3


def test_a_failing_sample_fails_the_passage() -> None:
    reranker, _ = rank1(samples=3, on_error="keep")
    assert reranker.judge("q", ["fail"])[0].finish == "failed"


# Usage


def test_usage_sums_what_was_asked() -> None:
    reranker, engine = rank1(on_error="keep", cache={})
    reranker.judge("q", [*PASSAGES, "fail"])
    reranker.judge("q", PASSAGES)
    usage = reranker.usage
    assert (usage.judgments, usage.remembered) == (6, 3)
    assert (usage.requests, usage.answer_tokens) == (6, 3)
    assert usage.reasoning_tokens == sum(len(f"I have read: {p}.".split()) for p in PASSAGES)
    done = [str(request.prompt) for request in engine.requests if "fail" not in str(request.prompt)]
    assert usage.prompt_tokens == sum(len(prompt.split()) for prompt in done)


def test_usage_is_a_copy() -> None:
    reranker, _ = rank1()
    before = reranker.usage
    reranker.judge("q", PASSAGES)
    assert before.judgments == 0
