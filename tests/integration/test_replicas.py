"""Replicas behind one address that differ, or die amid reasoning.

The server is a fake whose answers follow from each passage, so that a mix-up shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from rank1_integrations import Rank1
from tests.support.raw_server import (
    FAULTS,
    Call,
    Fault,
    RawServer,
    as_text,
    log_odds_of,
    passage_in,
    reasoning_about,
)

# Numbers of so many digits that the reasoning takes two parts.
PASSAGES = [f"Passage {number} of a long list." for number in range(1_000_000_000, 1_000_000_012)]


def is_about_a_passage(call: Call) -> bool:
    return call.path == "/v1/completions" and bool(passage_in(as_text(call.body["prompt"])))


def judge_all(server: RawServer) -> None:
    """Judge in parts, and check that every judgment belongs to its passage."""
    with Rank1.from_server(server.base_url, deadline=60, max_concurrency=4) as rank1:
        judgments = rank1.judge("Which number?", PASSAGES)
    for judgment, passage in zip(judgments, PASSAGES, strict=True):
        assert judgment.finish_reason == "concluded"
        assert judgment.reasoning == reasoning_about(passage)
        assert judgment.log_odds == pytest.approx(log_odds_of(passage))


@pytest.fixture
def turns() -> Iterator[int]:
    return itertools.count()


def test_replicas_with_and_without_token_ids_never_mix_up_reasoning(turns: Iterator[int]) -> None:
    def every_other(call: Call) -> Fault | None:
        return FAULTS["no ids"] if is_about_a_passage(call) and next(turns) % 2 else None

    with RawServer(every_other) as server:
        judge_all(server)
        assert server.faults > len(PASSAGES)


@pytest.mark.parametrize("fault", ["reset amid the answer", "reset before the answer", "cut body"])
def test_a_replica_that_dies_amid_reasoning_costs_a_retry_and_not_the_passage(
    fault: str, turns: Iterator[int]
) -> None:
    def every_fifth(call: Call) -> Fault | None:
        return FAULTS[fault] if is_about_a_passage(call) and next(turns) % 5 == 4 else None

    with RawServer(every_fifth) as server:
        judge_all(server)
        assert server.faults > 1
