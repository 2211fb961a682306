"""Judgments are plain data that sort on log-odds and never invent a score."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import Judgment
from rank1_integrations.judgment import rank

finite = st.floats(min_value=-9999, max_value=9999)
judged = st.builds(
    lambda log_odds: Judgment(index=0, finish="concluded", log_odds=log_odds),
    st.one_of(st.none(), finite),
)


def judgment(index: int, log_odds: float | None) -> Judgment:
    return Judgment(
        index=index, log_odds=log_odds, finish="failed" if log_odds is None else "concluded"
    )


@given(true=st.floats(-50, 0), false=st.floats(-50, 0))
def test_the_score_is_the_share_of_true(true: float, false: float) -> None:
    p_true, p_false = math.exp(true), math.exp(false)
    score = judgment(0, true - false).score
    assert score == pytest.approx(p_true / (p_true + p_false), rel=1e-9)


@given(log_odds=finite)
def test_the_score_is_a_probability_for_any_log_odds(log_odds: float) -> None:
    score = judgment(0, log_odds).score
    assert score is not None
    assert 0 <= score <= 1


def test_relevant_means_that_true_is_likelier() -> None:
    assert judgment(0, 0.1).relevant is True
    assert judgment(0, -0.1).relevant is False


def test_what_was_not_judged_has_no_score_and_no_verdict() -> None:
    assert judgment(0, None).score is None
    assert judgment(0, None).relevant is None


def test_a_judgment_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        judgment(0, 1.0).log_odds = 2.0  # type: ignore[misc]


@given(judged)
def test_a_judgment_survives_json(one: Judgment) -> None:
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False)) == one.to_dict()
    assert json.loads(json.dumps(one.to_metadata(), allow_nan=False)) == one.to_metadata()


def test_ranking_sorts_on_log_odds_where_scores_have_saturated() -> None:
    better, worse = judgment(0, 60.0), judgment(1, 50.0)
    assert better.score == worse.score == 1.0
    assert rank([worse, better]) == [better, worse]


def test_ties_keep_the_retrievers_order_and_the_unjudged_come_last() -> None:
    ordered = rank([judgment(0, None), judgment(1, 1.0), judgment(2, None), judgment(3, 1.0)])
    assert [one.index for one in ordered] == [1, 3, 0, 2]


def test_the_threshold_keeps_what_reaches_it_and_comes_before_top_n() -> None:
    half = judgment(0, 0.0)
    given = [half, judgment(1, -1.0), judgment(2, 1.0)]
    assert [one.index for one in rank(given, score_threshold=0.5)] == [2, 0]
    assert [one.index for one in rank(given, score_threshold=0.5, top_n=1)] == [2]


def test_the_unjudged_have_no_score_to_hold_against_a_threshold() -> None:
    assert rank([judgment(0, None), judgment(1, -5.0)], score_threshold=0.5) == [judgment(0, None)]


@given(st.lists(judged), st.integers(1, 5), st.floats(0, 1))
def test_ranking_only_selects_and_orders(
    given: list[Judgment], top_n: int, threshold: float
) -> None:
    kept = rank(given, top_n=top_n, score_threshold=threshold)
    assert len(kept) <= top_n
    assert all(one in given for one in kept)
    scores = [one.log_odds for one in kept if one.log_odds is not None]
    assert scores == sorted(scores, reverse=True)


@given(
    st.builds(
        Judgment,
        index=st.integers(0),
        log_odds=st.none() | finite,
        reasoning=st.text(),
        finish=st.sampled_from(["concluded", "forced", "direct", "skipped", "failed"]),
        reasoning_tokens=st.integers(0),
        truncated=st.booleans(),
        error=st.none() | st.text(),
    )
)
def test_a_judgment_comes_back_from_a_documents_metadata(one: Judgment) -> None:
    metadata = json.loads(json.dumps({"source": "a", **one.to_metadata()}))
    assert Judgment.from_metadata(metadata) == one
