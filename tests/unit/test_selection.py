"""What a caller keeps: a ranking selects and orders, and changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import ConfigurationError, Judgment, RankResult, Usage
from rank1_integrations.judgment import FinishReason
from rank1_integrations.selection import Selection

log_odds = st.one_of(st.none(), st.floats(-9999, 9999))
thresholds = st.one_of(st.none(), st.floats(0, 1))


def judgment(index: int, log_odds: float | None, finish_reason: FinishReason | None = None) -> Any:
    reason = finish_reason or ("failed" if log_odds is None else "concluded")
    error = "no answer" if reason == "failed" else None
    return Judgment(index=index, log_odds=log_odds, finish_reason=reason, error=error)


def split(judgments: list[Judgment], **selection: Any) -> tuple[list[int], list[int]]:
    kept, dropped = Selection(**selection).split(judgments)
    return [one.index for one in kept], [one.index for one in dropped]


def test_order_is_by_log_odds_when_scores_have_saturated() -> None:
    better, worse = judgment(0, 60.0), judgment(1, 50.0)
    assert better.score == worse.score == 1.0
    assert split([worse, better])[0] == [0, 1]


def test_ties_keep_the_retrievers_order_and_unscored_passages_come_last() -> None:
    judgments = [judgment(0, None), judgment(1, 1.0), judgment(2, None), judgment(3, 1.0)]
    assert split(judgments) == ([1, 3, 0, 2], [])


def test_the_threshold_is_inclusive_and_comes_before_top_n() -> None:
    judgments = [judgment(0, 0.0), judgment(1, -1.0), judgment(2, 1.0)]
    assert split(judgments, score_threshold=0.5) == ([2, 0], [1])
    assert split(judgments, score_threshold=0.5, top_n=1) == ([2], [0, 1])


def test_unscored_passages_are_not_held_against_a_threshold() -> None:
    judgments = [judgment(0, None), judgment(1, -5.0)]
    assert split(judgments, score_threshold=0.5) == ([0], [1])


def test_unscored_passages_can_be_dropped() -> None:
    assert split([judgment(0, None), judgment(1, -5.0)], keep_unscored=False) == ([1], [0])


def test_passages_that_were_not_needed_are_never_kept() -> None:
    late = Judgment(index=1, finish_reason="skipped", error="the deadline passed")
    assert split([judgment(0, None, "skipped"), late]) == ([1], [0])


def test_without_a_threshold_every_score_is_admitted() -> None:
    assert Selection().admits(judgment(0, -9999.0))
    assert not Selection().admits(judgment(0, -1.0), default=0.5)
    assert not Selection(score_threshold=0.0).admits(judgment(0, None))


@given(st.lists(log_odds), st.one_of(st.none(), st.integers(1, 5)), thresholds, st.booleans())
def test_a_selection_only_selects_and_orders(
    values: list[float | None], top_n: int | None, threshold: float | None, keep_unscored: bool
) -> None:
    judgments = [judgment(index, value) for index, value in enumerate(values)]
    selection = Selection(top_n, threshold, keep_unscored)
    kept, dropped = selection.split(judgments)
    assert sorted([*kept, *dropped], key=lambda one: one.index) == judgments
    assert dropped == sorted(dropped, key=lambda one: one.index)
    assert len(kept) <= (top_n or len(judgments))
    scored = [one.log_odds for one in kept if one.log_odds is not None]
    assert scored == sorted(scored, reverse=True)
    assert [one.score for one in kept[len(scored) :]] == [None] * (len(kept) - len(scored))
    if top_n is None:
        assert all(one.score is None or not selection.admits(one) for one in dropped)


@given(st.floats(0, 1))
def test_a_threshold_in_log_odds_is_the_one_it_came_from(threshold: float) -> None:
    value = Selection(score_threshold=threshold).threshold_log_odds
    assert value is not None
    back = 1.0 if value == math.inf else math.exp(value) / (1 + math.exp(value))
    assert back == pytest.approx(threshold, abs=1e-9)


@pytest.mark.parametrize("top_n", [0, -1, 1.5, "3", math.nan])
def test_a_top_n_that_is_no_positive_integer_is_refused(top_n: Any) -> None:
    with pytest.raises(ConfigurationError, match="top_n must be at least 1"):
        Selection(top_n=top_n)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf, "0.5"])
def test_a_threshold_that_is_no_probability_is_refused(threshold: Any) -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        Selection(score_threshold=threshold)


def test_a_result_is_the_sequence_of_its_kept_judgments() -> None:
    kept, dropped = [judgment(2, 3.0), judgment(0, 1.0)], [judgment(1, -1.0)]
    result = RankResult(kept, dropped, Usage(judgments=3))
    assert [*result] == kept
    assert len(result) == 2
    assert result[0] is kept[0]
    assert result[-1:] == [kept[1]]
    assert kept[1] in result
    assert dropped[0] not in result
    assert [*reversed(result)] == kept[::-1]
    assert not RankResult([], dropped, Usage())
