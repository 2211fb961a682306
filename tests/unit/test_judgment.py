"""Judgments are plain data, and their scores are never invented."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import Judgment
from rank1_integrations.judgment import FinishReason

finite = st.floats(min_value=-9999, max_value=9999)
judgments = st.builds(
    Judgment,
    index=st.integers(0),
    log_odds=st.none() | finite,
    reasoning=st.text(),
    finish_reason=st.sampled_from(get_args(FinishReason)),
    reasoning_tokens=st.integers(0),
    prompt_tokens=st.integers(0),
    cached_tokens=st.integers(0),
    cached=st.booleans(),
    sanitized=st.booleans(),
    truncated=st.booleans(),
    log_odds_is_bound=st.booleans(),
    log_odds_shift=finite,
    decided_by_shift=st.booleans(),
    error=st.none() | st.text(),
)


def judgment(log_odds: float | None) -> Judgment:
    return Judgment(index=0, log_odds=log_odds, finish_reason="concluded")


@given(true=st.floats(-50, 0), false=st.floats(-50, 0))
def test_the_score_is_the_share_of_true(true: float, false: float) -> None:
    p_true, p_false = math.exp(true), math.exp(false)
    assert judgment(true - false).score == pytest.approx(p_true / (p_true + p_false), rel=1e-9)


@given(log_odds=finite)
def test_the_score_is_a_probability_for_any_log_odds(log_odds: float) -> None:
    score = judgment(log_odds).score
    assert score is not None
    assert 0 <= score <= 1


def test_relevant_means_that_true_is_likelier() -> None:
    assert judgment(0.1).relevant is True
    assert judgment(-0.1).relevant is False


def test_an_unscored_passage_has_no_score_and_no_verdict() -> None:
    assert judgment(None).score is None
    assert judgment(None).relevant is None


def test_only_a_passage_skipped_without_error_is_unneeded() -> None:
    assert Judgment(index=0, finish_reason="skipped").is_unneeded
    assert not Judgment(index=0, finish_reason="skipped", error="the deadline passed").is_unneeded
    assert not Judgment(index=0, finish_reason="failed", error="no server").is_unneeded


def test_a_judgment_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        judgment(1.0).log_odds = 2.0  # type: ignore[misc]


@given(judgments)
def test_a_judgment_survives_json(one: Judgment) -> None:
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False)) == one.to_dict()


@given(judgments)
def test_a_judgment_comes_back_from_a_documents_metadata(one: Judgment) -> None:
    metadata = json.loads(json.dumps({"source": "a", **one.to_metadata()}, allow_nan=False))
    assert Judgment.from_metadata(metadata) == one


def test_a_document_without_a_judgment_is_refused() -> None:
    with pytest.raises(KeyError):
        Judgment.from_metadata({"source": "a"})
