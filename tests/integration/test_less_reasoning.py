"""Less reasoning, and results in time, on the real engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from examples.bm25 import Bm25Index
from examples.standard_library import passages
from rank1_integrations import Adaptive, Judgment, Rank1, _event_loop
from rank1_integrations.engines.base import Engine
from rank1_integrations.scoring.prompt import build_prompt
from rank1_integrations.scoring.steps import Decode, Plan, scoring_steps
from tests.integration.test_server import metric

QUERY = "How do I sort a list in place?"
RELEVANT = "Call list.sort() to sort a list in place: it sorts the list in place."
OTHER = "A socket connects two processes over a network."

Make = Callable[..., Rank1]


@pytest.fixture(params=["server", "transformers"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a reranker with some options on one of the engines."""
    if request.param == "transformers":
        return Rank1.demo
    url = request.getfixturevalue("server_url")
    return lambda **options: Rank1.from_server(url, **{"max_reasoning_tokens": 256, **options})


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [passage.text for passage, _ in Bm25Index(passages()).search(QUERY, 15)]


def judge(make: Make, texts: list[str], **options: Any) -> list[Judgment]:
    with make(**options) as rank1:
        return rank1.judge(QUERY, texts)


def tokens(judgments: list[Judgment]) -> int:
    return sum(one.reasoning_tokens for one in judgments)


async def score(engine: Engine, passage: str, part_tokens: int | None) -> Judgment:
    """Run the steps of one pair on an engine, without a scorer."""
    await engine.start()
    plan = Plan(max_tokens=256)
    steps = scoring_steps(0, build_prompt(QUERY, passage), plan, part_tokens=part_tokens)
    step = next(steps)
    try:
        while True:
            if isinstance(step, Decode):
                step = steps.send(await engine.decode(step.token_ids))
            else:
                step = steps.send(await engine.complete(step))
    except StopIteration as end:
        judgment: Judgment = end.value.judgment
        return judgment


def test_reasoning_in_parts_is_the_same_reasoning(make: Make, texts: list[str]) -> None:
    with make() as rank1:
        engine = rank1._runtime.latest.engine
        for text in texts[:4]:
            whole = _event_loop.run(score(engine, text, None))
            in_parts = _event_loop.run(score(engine, text, 5))
            assert in_parts.reasoning == whole.reasoning
            assert in_parts.log_odds == pytest.approx(whole.log_odds, abs=1e-2)
            assert in_parts.reasoning_tokens == whole.reasoning_tokens > 5


def test_adaptive_reasons_about_a_third_of_the_passages_at_most(
    make: Make, texts: list[str]
) -> None:
    judgments = judge(make, texts, thinking="adaptive")
    finishes = [one.finish_reason for one in judgments]
    assert finishes.count("direct") >= len(texts) * 2 / 3
    assert all(one.score is not None for one in judgments)
    assert tokens(judgments) <= tokens(judge(make, texts)) / 2


def test_a_probe_is_the_verdict_forced_at_the_same_place(make: Make, texts: list[str]) -> None:
    adaptive = Adaptive(max_share=1, confidence=0.999999, probe_every=8)
    for judgment in judge(make, texts[:4], thinking=adaptive):
        if judgment.finish_reason == "forced":
            limit = judgment.reasoning_tokens
            again = judge(make, texts, max_reasoning_tokens=limit)[judgment.index]
            assert judgment.log_odds == pytest.approx(again.log_odds, abs=1e-2)
            assert judgment.reasoning == again.reasoning


def test_at_a_deadline_every_passage_has_what_there_was_time_for(
    make: Make, texts: list[str]
) -> None:
    # Too short for all reasoning on any machine; long enough for some verdicts.
    many = [f"{text} ({copy})" for copy in range(8) for text in texts]
    judgments = judge(make, many, deadline=1.5)
    finishes = {one.finish_reason for one in judgments}
    assert finishes <= {"direct", "forced", "concluded", "skipped"}
    assert finishes & {"direct", "forced", "skipped"}
    assert all((one.score is None) == (one.finish_reason == "skipped") for one in judgments)


def test_enough_leaves_the_rest_unread(make: Make) -> None:
    judgments = judge(make, [f"{RELEVANT} {number}" for number in range(30)], enough=3)
    assert sum(one.score is not None and one.score >= 0.5 for one in judgments) == 3
    assert sum(one.finish_reason == "skipped" for one in judgments) >= 20


def test_enough_costs_half_the_tokens_if_a_fifth_is_relevant(make: Make) -> None:
    found = [f"{OTHER if number % 5 else RELEVANT} {number}" for number in range(50)]
    options = {"max_reasoning_tokens": 64}
    with make(enough=5, **options) as hurried, make(**options) as patient:
        judgments, all_judgments = hurried.judge(QUERY, found), patient.judge(QUERY, found)
        spent, all_spent = hurried.usage, patient.usage
    assert sum(one.score is not None and one.score >= 0.5 for one in all_judgments) >= 10
    assert sum(one.score is not None and one.score >= 0.5 for one in judgments) == 5
    assert (
        spent.reasoning_tokens + spent.answer_tokens
        <= (all_spent.reasoning_tokens + all_spent.answer_tokens) / 2
    )


def test_a_cached_judgment_costs_nothing(make: Make) -> None:
    cache: dict[str, str] = {}
    judge(make, [RELEVANT, OTHER], cache=cache)
    with make(cache=cache) as rank1:
        assert all(one.cached for one in rank1.judge(QUERY, [RELEVANT, OTHER]))
        assert rank1.usage.requests == 0


def test_usage_is_what_the_server_counted(server_url: str) -> None:
    with Rank1.from_server(server_url, max_reasoning_tokens=256) as rank1:
        # The first call also probes the server, which is no judgment's cost.
        rank1.judge(QUERY, [OTHER])
        before, generated = rank1.usage, metric(server_url, "vllm:generation_tokens_total")
        prompted = metric(server_url, "vllm:prompt_tokens_total")
        rank1.judge(QUERY, [RELEVANT, OTHER])
        usage = rank1.usage
    assert metric(server_url, "vllm:generation_tokens_total") - generated == (
        usage.reasoning_tokens
        + usage.answer_tokens
        - before.reasoning_tokens
        - before.answer_tokens
    )
    assert metric(server_url, "vllm:prompt_tokens_total") - prompted == (
        usage.prompt_tokens - before.prompt_tokens
    )


async def test_leaving_a_stream_ends_its_requests_on_the_server(server_url: str) -> None:
    async with Rank1.from_server(server_url, max_reasoning_tokens=256) as rank1:
        stream = rank1.astream(
            QUERY, [f"{text} {number}" for number in range(30) for text in (RELEVANT, OTHER)]
        )
        async for judgment in stream:
            assert judgment.score is not None
            break
        await stream.aclose()
    while metric(server_url, "vllm:num_requests_running"):
        await asyncio.sleep(0.1)
