"""Less thought, and an answer in time, on the real engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from examples.bm25 import Bm25Index
from examples.standard_library import passages
from rank1_integrations import Judgment, Rank1
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


def test_a_thought_asked_for_in_parts_is_the_same_thought(make: Make, texts: list[str]) -> None:
    whole = judge(make, texts[:6])
    in_parts = judge(make, texts[:6], deadline=600, step_tokens=5)
    assert [one.reasoning for one in in_parts] == [one.reasoning for one in whole]
    assert [one.log_odds for one in in_parts] == pytest.approx(
        [one.log_odds for one in whole], abs=1e-2
    )
    assert tokens(in_parts) == tokens(whole)


def test_adaptive_thinks_about_a_third_of_the_passages_at_most(
    make: Make, texts: list[str]
) -> None:
    judgments = judge(make, texts, thinking="adaptive")
    finishes = [one.finish for one in judgments]
    assert finishes.count("direct") >= len(texts) * 2 / 3
    assert all(one.score is not None for one in judgments)
    assert tokens(judgments) <= tokens(judge(make, texts)) / 2


def test_a_probe_is_the_verdict_forced_at_the_same_place(make: Make, texts: list[str]) -> None:
    options = {"step_tokens": 8, "adaptive_share": 1, "adaptive_sure": 0.999999}
    for judgment in judge(make, texts[:4], thinking="adaptive", **options):
        if judgment.finish == "forced":
            limit = judgment.reasoning_tokens
            again = judge(make, texts, max_reasoning_tokens=limit)[judgment.index]
            assert judgment.log_odds == pytest.approx(again.log_odds, abs=1e-2)
            assert judgment.reasoning == again.reasoning


def test_a_deadline_answers_for_all_with_what_there_is(make: Make, texts: list[str]) -> None:
    # So short a time that no machine finishes all thoughts; long enough for some verdicts.
    judgments = judge(make, texts * 8, deadline=1.5, on_error="keep", step_tokens=4)
    finishes = {one.finish for one in judgments}
    assert finishes <= {"direct", "forced", "concluded", "skipped"}
    assert finishes & {"direct", "forced", "skipped"}
    assert all((one.score is None) == (one.finish == "skipped") for one in judgments)


def test_enough_leaves_the_rest_unread(make: Make) -> None:
    judgments = judge(make, [RELEVANT] * 30, enough=3)
    assert sum(one.score is not None and one.score >= 0.5 for one in judgments) == 3
    assert sum(one.finish == "skipped" for one in judgments) >= 20


def test_enough_costs_half_the_tokens_where_a_fifth_is_relevant(make: Make) -> None:
    found = [RELEVANT if place % 5 == 0 else f"{OTHER} {place}" for place in range(50)]
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


def test_samples_are_drawn_and_averaged(make: Make) -> None:
    first, again = (judge(make, [RELEVANT, OTHER], samples=3) for _ in range(2))
    assert [one.reasoning_tokens > 3 * 5 for one in first] == [True, True]
    assert all(one.score is not None for one in [*first, *again])


def test_a_remembered_judgment_costs_nothing(make: Make) -> None:
    cache: dict[str, str] = {}
    judge(make, [RELEVANT, OTHER], cache=cache)
    with make(cache=cache) as rank1:
        assert all(one.cached for one in rank1.judge(QUERY, [RELEVANT, OTHER]))
        assert rank1.usage.requests == 0


def test_usage_is_what_the_server_counted(server_url: str) -> None:
    with Rank1.from_server(server_url, max_reasoning_tokens=256) as rank1:
        # The first call also tries out what the server knows, which is no judgment's cost.
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


async def test_what_a_stream_leaves_behind_ends_on_the_server(server_url: str) -> None:
    async with Rank1.from_server(server_url, max_reasoning_tokens=256) as rank1:
        stream = rank1.astream(QUERY, [RELEVANT, OTHER] * 30)
        async for judgment in stream:
            assert judgment.score is not None
            break
        await stream.aclose()
    while metric(server_url, "vllm:num_requests_running"):
        await asyncio.sleep(0.1)
