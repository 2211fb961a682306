"""Which passages are worth a thought."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import Judgment
from rank1_integrations.adaptive import boundaries, log_odds_of, worth_a_thought

finite = st.floats(-50, 50)


def direct(*log_odds: float | None) -> list[Judgment]:
    return [
        Judgment(index=place, log_odds=one, finish="failed" if one is None else "direct")
        for place, one in enumerate(log_odds)
    ]


def test_without_a_cut_even_odds_decide() -> None:
    assert boundaries(direct(1.0, -1.0), top_n=None, score_threshold=None) == [0.0]


def test_the_threshold_decides_in_log_odds() -> None:
    (boundary,) = boundaries(direct(1.0), top_n=None, score_threshold=0.9)
    assert boundary == pytest.approx(math.log(9))


def test_the_last_place_kept_decides() -> None:
    judgments = direct(-1.0, 5.0, 3.0, None, 0.0)
    assert boundaries(judgments, top_n=2, score_threshold=None) == [1.5]


def test_top_n_decides_nothing_when_all_are_kept() -> None:
    assert boundaries(direct(5.0, 3.0), top_n=2, score_threshold=None) == [0.0]


def test_top_n_decides_nothing_where_the_threshold_keeps_fewer() -> None:
    judgments = direct(5.0, -3.0, -4.0)
    assert boundaries(judgments, top_n=2, score_threshold=0.5) == [0.0]
    assert boundaries(judgments, top_n=1, score_threshold=0.5) == [0.0, 1.0]


def test_the_nearest_come_first_and_no_more_than_the_share() -> None:
    judgments = direct(0.9, -0.1, 0.5, 8.0)
    assert list(worth_a_thought(judgments, [0.0], share=0.5, sure=3.0)) == [1, 2]
    assert list(worth_a_thought(judgments, [0.0], share=1, sure=3.0)) == [1, 2, 0]


def test_each_has_the_boundary_that_decides_about_it() -> None:
    chosen = worth_a_thought(direct(0.5, 4.0), [0.0, 5.0], share=1, sure=3.0)
    assert chosen == {0: 0.0, 1: 5.0}


def test_what_was_not_judged_is_not_thought_about() -> None:
    assert worth_a_thought(direct(None, 0.1), [0.0], share=1, sure=3.0) == {1: 0.0}


@given(
    st.lists(finite | st.none(), max_size=30),
    st.lists(finite, min_size=1, max_size=2),
    st.floats(0.01, 1),
    st.floats(0.1, 10),
)
def test_what_is_chosen_is_nearer_than_what_is_not(
    odds: list[float | None], at: list[float], share: float, sure: float
) -> None:
    judgments = direct(*odds)
    chosen = worth_a_thought(judgments, at, share=share, sure=sure)
    distances = {
        one.index: min(abs(boundary - one.log_odds) for boundary in at)
        for one in judgments
        if one.log_odds is not None
    }
    assert len(chosen) <= math.ceil(share * len(odds))
    assert all(distances[place] < sure for place in chosen)
    others = [away for place, away in distances.items() if place not in chosen and away < sure]
    assert not chosen or all(max(distances[p] for p in chosen) <= away for away in others)


@given(st.floats(0, 1))
def test_log_odds_of_a_score_are_those_it_came_from(score: float) -> None:
    odds = log_odds_of(score)
    back = 1.0 if odds == math.inf else math.exp(odds) / (1 + math.exp(odds))
    assert back == pytest.approx(score, abs=1e-9)
