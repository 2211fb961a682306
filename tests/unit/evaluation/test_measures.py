"""Figures agree with what is reckoned by hand, and with the libraries that others use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations.evaluation.collection import Query
from rank1_integrations.evaluation.measures import (
    Bin,
    Figures,
    Gains,
    Scale,
    calibration_bins,
    calibration_error,
    compare,
    measure,
    unranked,
)
from rank1_integrations.evaluation.runner import JudgedQuery
from rank1_integrations.judgment import Judgment, rank
from rank1_integrations.scoring.usage import Usage
from tests.unit.evaluation.collections import query

SCALE = Scale(top_n=10, score_threshold=0.5)


def judged(of: Query, log_odds: Sequence[float | None], *, tokens: int = 10) -> JudgedQuery:
    judgments = [
        Judgment(
            index=index,
            log_odds=value,
            finish="failed" if value is None else "concluded",
            error="the server is gone" if value is None else None,
        )
        for index, value in enumerate(log_odds)
    ]
    usage = Usage(reasoning_tokens=tokens * len(judgments), answer_tokens=len(judgments))
    return JudgedQuery(of.id, judgments, rank(judgments), usage, 2.0)


def figures(of: Query, log_odds: Sequence[float | None], scale: Scale = SCALE) -> Figures:
    return measure([of], [judged(of, log_odds)], scale)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ("linear", (2 / math.log2(3) + 1 / math.log2(5)) / (2 + 1 / math.log2(3))),
        ("exponential", (3 / math.log2(3) + 1 / math.log2(5)) / (3 + 1 / math.log2(3))),
    ],
)
def test_ndcg_is_what_is_reckoned_by_hand(gains: Gains, expected: float) -> None:
    graded = query({"a": 0, "b": 2, "c": -2, "d": 1})
    found = figures(graded, [4.0, 3.0, 2.0, 1.0], Scale(top_n=10, score_threshold=0.5, gains=gains))
    assert found.ndcg == pytest.approx(expected)


def test_ndcg_ends_at_top_n_and_its_ideal_knows_all_that_people_judged() -> None:
    found = Query("q", "What?", {"a": "A.", "b": "B."}, {"b": 1, "a": 0, "never-found": 1})
    cut = Scale(top_n=2, score_threshold=0.5)
    assert figures(found, [2.0, 1.0], cut).ndcg == pytest.approx(
        (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    )
    assert figures(found, [2.0, 1.0], Scale(top_n=1, score_threshold=0.5)).ndcg == 0


def test_equal_scores_stay_in_the_retrievers_order() -> None:
    # trec_eval itself would put the higher id first.
    assert figures(query({"a": 1, "z": 0}), [5.0, 5.0]).ndcg == 1
    assert figures(query({"z": 0, "a": 1}), [5.0, 5.0]).mrr == 0.5


def test_scores_that_round_to_one_still_rank() -> None:
    assert figures(query({"a": 0, "b": 1}), [60.0, 61.0]).ndcg == 1


def test_what_was_not_judged_ranks_last_and_is_counted() -> None:
    found = figures(query({"a": 1, "b": 0}), [None, -3.0])
    assert found.mrr == 0.5
    assert found.finishes == {"failed": 1, "concluded": 1}
    assert found.failures == 1
    assert found.recall == 0
    assert found.passages == 2


def test_what_was_not_needed_is_no_failure_and_not_in_the_ranking() -> None:
    graded = query({"a": 0, "b": 1})
    enough = [Judgment(index=0, log_odds=1.0, finish="direct"), Judgment(index=1, finish="skipped")]
    found = measure([graded], [JudgedQuery("q", enough, enough[:1], Usage(), 1.0)], SCALE)
    assert (found.mrr, found.ndcg, found.recall, found.failures) == (0, 0, 0, 0)


def test_passages_that_nobody_judged_are_not_relevant() -> None:
    found = Query("q", "What?", {"a": "A.", "b": "B."}, {"b": 1})
    assert figures(found, [3.0, 2.0]).mrr == 0.5
    assert figures(found, [3.0, 2.0]).precision == 0.5


def test_precision_and_recall_are_those_of_the_passages_kept() -> None:
    of_one, of_two = query({"a": 1, "b": 0, "c": 2}, "q1"), query({"a": 1, "b": 0}, "q2")
    answers = [judged(of_one, [0.0, 3.0, -1.0]), judged(of_two, [1.0, -1.0])]
    found = measure([of_one, of_two], answers, SCALE)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    strict = measure([of_one, of_two], answers, Scale(top_n=10, score_threshold=0.99))
    assert (strict.precision, strict.recall) == (None, 0)


def test_the_lowest_relevant_grade_can_be_raised() -> None:
    graded = query({"a": 1, "b": 0, "c": 2})
    found = figures(graded, [3.0, 2.0, 1.0], Scale(top_n=10, score_threshold=0.5, min_grade=2))
    assert [found.mrr, found.precision] == pytest.approx([1 / 3, 1 / 3])


def test_costs_are_sums_over_all_queries() -> None:
    of_one, of_two = query({"a": 1, "b": 0}, "q1"), query({"a": 1}, "q2")
    answers = [judged(of_one, [1.0, 0.0]), judged(of_two, [1.0], tokens=5)]
    found = measure([of_one, of_two], answers, SCALE)
    assert (found.tokens, found.passages) == (28, 3)
    assert (found.usage.reasoning_tokens, found.usage.answer_tokens) == (25, 3)
    assert (found.seconds, found.median_seconds, found.slowest_seconds) == (4.0, 2.0, 2.0)


def test_the_retrievers_order_is_measured_like_a_policy() -> None:
    graded = query({"a": 0, "b": 1})
    found = measure([graded], unranked([graded]), SCALE)
    assert (found.mrr, found.precision, found.calibration_error) == (0.5, None, None)


relevance = st.lists(st.integers(0, 3), min_size=1, max_size=15).filter(any)


@given(st.lists(relevance, min_size=1, max_size=4), st.data())
def test_rank_measures_agree_with_ir_measures_on_distinct_scores(
    grades: list[list[int]], data: st.DataObject
) -> None:
    queries = [
        query({f"p{place}": grade for place, grade in enumerate(of)}, f"q{number}")
        for number, of in enumerate(grades)
    ]
    scores = [data.draw(st.permutations(range(len(one.passages)))) for one in queries]
    answers = [
        judged(one, [float(score) for score in of]) for one, of in zip(queries, scores, strict=True)
    ]
    found = measure(queries, answers, SCALE)
    run = {
        one.id: {p: float(s) for p, s in zip(one.passages, of, strict=True)}
        for one, of in zip(queries, scores, strict=True)
    }
    qrels = {one.id: one.grades for one in queries}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.RR], qrels, run)
    assert found.ndcg == pytest.approx(expected[ir_measures.nDCG @ 10])
    assert found.mrr == pytest.approx(expected[ir_measures.RR])


def test_calibration_error_is_what_is_reckoned_by_hand() -> None:
    bins = calibration_bins([(0.95, True), (0.91, False), (1.0, True), (0.2, False), (0.0, False)])
    assert bins[:2] == [Bin(1, 0.0, 0.0), Bin(1, 0.2, 0.0)]
    assert bins[2].passages == 3
    assert [bins[2].score, bins[2].relevant] == pytest.approx([2.86 / 3, 2 / 3])
    assert calibration_error(bins) == pytest.approx((0.2 + 3 * (2.86 / 3 - 2 / 3)) / 5)


def test_perfect_scores_have_no_calibration_error() -> None:
    assert calibration_error(calibration_bins([(1.0, True), (0.0, False)])) == 0
    assert calibration_error(calibration_bins([])) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_calibration_error_is_a_share_and_no_passage_is_lost(
    scored: list[tuple[float, bool]],
) -> None:
    bins = calibration_bins(scored)
    assert sum(one.passages for one in bins) == len(scored)
    error = calibration_error(bins)
    assert error is not None
    assert 0 <= error <= 1


def over_queries(ndcg: Sequence[float], tokens: int = 100) -> Figures:
    """Figures of which only nDCG and tokens matter: two candidates, the better one first or not."""
    queries = [query({"a": 1, "b": 0}, f"q{number}") for number in range(len(ndcg))]
    answers = [
        judged(one, [1.0, 0.0] if value == 1 else [0.0, 1.0], tokens=tokens)
        for one, value in zip(queries, ndcg, strict=True)
    ]
    return measure(queries, answers, SCALE)


def test_a_difference_has_an_interval_and_a_p_value_of_the_paired_t_test() -> None:
    second = 1 / math.log2(3)  # nDCG where the relevant passage comes second
    better, worse = over_queries([1, 1, 1, 1], tokens=9), over_queries([1, 1, 1, second], tokens=99)
    found = compare(worse, better)
    # Differences 0, 0, 0, -d: mean -d/4, standard error d/4, t = -1 with 3 degrees of freedom,
    # whose two-sided p is 0.391 and whose 97.5% quantile is 3.182.
    step = (1 - second) / 4
    assert found.difference == pytest.approx(-step)
    assert [found.low, found.high] == pytest.approx([-step * 4.182, step * 2.182], rel=1e-3)
    assert found.p_value == pytest.approx(0.391, abs=1e-3)
    assert found.tokens_share == 10


def test_the_same_in_every_query_leaves_nothing_to_test() -> None:
    found = compare(over_queries([1, 0]), over_queries([1, 0]))
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, None)


def test_one_query_gives_no_interval() -> None:
    found = compare(over_queries([0]), over_queries([1]))
    assert found.difference < 0
    assert (found.low, found.high, found.p_value) == (None, None, None)


def test_no_tokens_have_no_share() -> None:
    nothing = measure([query({"a": 1, "b": 0})], unranked([query({"a": 1, "b": 0})]), SCALE)
    assert compare(nothing, nothing).tokens_share is None
