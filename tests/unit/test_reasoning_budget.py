"""Which passages are worth a thought."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import Judgment
from rank1_integrations.reasoning_budget import (
    Region,
    log_odds_of,
    typical_move,
    where_open,
    worth_a_thought,
)

finite = st.floats(-50, 50)


def direct(*log_odds: float | None) -> list[Judgment]:
    return [
        Judgment(index=place, log_odds=one, finish="failed" if one is None else "direct")
        for place, one in enumerate(log_odds)
    ]


def region(judgments: list[Judgment], **cut: float | None) -> tuple[float, float]:
    found = where_open(judgments, **{"top_n": None, "score_threshold": None, **cut}, sure=3.0)  # type: ignore[arg-type]
    return found.low, found.high


def test_a_whole_list_in_order_is_open() -> None:
    assert region(direct(1.0, -1.0)) == (-math.inf, math.inf)


def test_the_verdict_on_a_single_passage_is_open_near_even_odds() -> None:
    assert region(direct(1.0)) == (-3.0, 3.0)


def test_a_threshold_alone_leaves_open_what_is_near_it() -> None:
    middle = math.log(9)
    assert region(direct(1.0, 2.0), score_threshold=0.9) == pytest.approx((middle - 3, middle + 3))


@pytest.mark.parametrize("all_or_none", [0.0, 1.0])
def test_a_threshold_that_keeps_all_or_none_leaves_nothing_open(all_or_none: float) -> None:
    low, high = region(direct(1.0, 2.0), score_threshold=all_or_none)
    assert not low < high


def test_the_best_are_open_down_to_what_can_not_reach_the_last_place_kept() -> None:
    assert region(direct(-1.0, 5.0, 3.0, None, 0.0), top_n=2) == (1.5 - 3, math.inf)


def test_all_places_of_a_list_that_keeps_everything_are_open() -> None:
    assert region(direct(5.0, 3.0), top_n=2) == (-math.inf, math.inf)


def test_of_threshold_and_last_place_the_higher_one_closes_the_list() -> None:
    judgments = direct(5.0, -3.0, -4.0)
    assert region(judgments, top_n=2, score_threshold=0.5) == (0.0 - 3, math.inf)
    assert region(judgments, top_n=1, score_threshold=0.5) == (1.0 - 3, math.inf)


EVERYTHING = Region(low=-math.inf, high=math.inf)


def test_the_first_of_a_list_are_thought_about_by_verdict_and_retriever_together() -> None:
    judgments = direct(0.9, -0.1, 0.5, 8.0)
    # Sums of reciprocal ranks: 1 + 1/2, 1/2 + 1/4, 1/3 + 1/3, 1/4 + 1.
    assert worth_a_thought(judgments, EVERYTHING, share=1) == [0, 3, 1, 2]


def test_what_is_not_open_has_no_rank() -> None:
    judgments = direct(-5.0, None, 0.2, 0.1)
    assert worth_a_thought(judgments, Region(low=-3, high=math.inf), share=1) == [2, 3]


def test_of_two_that_rank_alike_the_better_verdict_comes_first() -> None:
    assert worth_a_thought(direct(0.1, 0.2), EVERYTHING, share=0.5) == [1]


def test_where_a_threshold_decides_the_nearest_are_thought_about() -> None:
    judgments = direct(0.9, -0.1, 0.5, 8.0)
    assert worth_a_thought(judgments, Region(low=-3, high=3), share=0.5) == [1, 2]
    assert worth_a_thought(judgments, Region(low=-3, high=3), share=1) == [1, 2, 0]


@pytest.mark.parametrize(("size", "thoughts"), [(1, 1), (3, 1), (10, 3), (20, 6), (29, 8)])
def test_a_share_is_rounded_down_but_to_one_at_least(size: int, thoughts: int) -> None:
    assert len(worth_a_thought(direct(*range(size)), EVERYTHING, share=0.3)) == thoughts


def test_what_was_not_judged_is_not_thought_about() -> None:
    assert worth_a_thought(direct(None, 0.1), Region(low=-3, high=3), share=1) == [1]


@given(
    st.lists(finite | st.none(), max_size=30),
    st.one_of(st.none(), st.integers(1, 10)),
    st.one_of(st.none(), st.floats(0, 1)),
    st.floats(0.01, 1),
    st.floats(0.1, 10),
)
def test_what_is_thought_about_is_open_and_no_more_than_the_share(
    odds: list[float | None], top_n: int | None, threshold: float | None, share: float, sure: float
) -> None:
    judgments = direct(*odds)
    found = where_open(judgments, top_n=top_n, score_threshold=threshold, sure=sure)
    chosen = worth_a_thought(judgments, found, share=share)
    assert len(chosen) == len(set(chosen)) <= max(1, share * len(odds) + 1e-6)
    for place in chosen:
        place_odds = odds[place]
        assert place_odds is not None
        assert place_odds in found


def test_verdicts_without_a_thought_move_as_far_as_thoughts_moved_others() -> None:
    assert typical_move([]) == 0
    assert typical_move([-3.0, -1.0]) == pytest.approx(-4 / 4)
    assert typical_move([-2.0] * 98) == pytest.approx(-1.96)


@given(st.floats(0, 1))
def test_log_odds_of_a_score_are_those_it_came_from(score: float) -> None:
    odds = log_odds_of(score)
    back = 1.0 if odds == math.inf else math.exp(odds) / (1 + math.exp(odds))
    assert back == pytest.approx(score, abs=1e-9)
