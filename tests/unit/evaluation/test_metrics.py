"""Metrics agree with values computed by hand and with ir_measures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ir_measures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank1_integrations.evaluation.collection import Query
from rank1_integrations.evaluation.metrics import (
    Bin,
    Gains,
    MetricConfig,
    Metrics,
    calibration_bins,
    calibration_error,
    compare,
    compute_metrics,
    first_stage_results,
)
from rank1_integrations.evaluation.runner import JudgedQuery
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.usage import Usage
from rank1_integrations.selection import Selection
from tests.unit.evaluation.collections import query

CONFIG = MetricConfig(top_n=10, score_threshold=0.5)


def judged(of: Query, log_odds: Sequence[float | None], *, tokens: int = 10) -> JudgedQuery:
    judgments = [
        Judgment(
            index=index,
            log_odds=value,
            finish_reason="failed" if value is None else "concluded",
            error="the server is gone" if value is None else None,
        )
        for index, value in enumerate(log_odds)
    ]
    usage = Usage(reasoning_tokens=tokens * len(judgments), answer_tokens=len(judgments))
    return JudgedQuery(of.id, judgments, Selection().split(judgments)[0], usage, 2.0)


def metrics(of: Query, log_odds: Sequence[float | None], config: MetricConfig = CONFIG) -> Metrics:
    return compute_metrics([of], [judged(of, log_odds)], config)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ("linear", (2 / math.log2(3) + 1 / math.log2(5)) / (2 + 1 / math.log2(3))),
        ("exponential", (3 / math.log2(3) + 1 / math.log2(5)) / (3 + 1 / math.log2(3))),
    ],
)
def test_ndcg_equals_the_value_computed_by_hand(gains: Gains, expected: float) -> None:
    labelled = query({"a": 0, "b": 2, "c": -2, "d": 1})
    computed = metrics(
        labelled, [4.0, 3.0, 2.0, 1.0], MetricConfig(top_n=10, score_threshold=0.5, gains=gains)
    )
    assert computed.ndcg == pytest.approx(expected)


def test_ndcg_is_cut_at_top_n_and_its_ideal_ranks_all_labelled_passages() -> None:
    partly_labelled = Query(
        "q", "What?", {"a": "A.", "b": "B."}, {"b": 1, "a": 0, "never-computed": 1}
    )
    cut = MetricConfig(top_n=2, score_threshold=0.5)
    assert metrics(partly_labelled, [2.0, 1.0], cut).ndcg == pytest.approx(
        (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    )
    assert (
        metrics(partly_labelled, [2.0, 1.0], MetricConfig(top_n=1, score_threshold=0.5)).ndcg == 0
    )


def test_equal_scores_keep_the_first_stage_order() -> None:
    # trec_eval itself breaks ties by id, the higher one first.
    assert metrics(query({"a": 1, "z": 0}), [5.0, 5.0]).ndcg == 1
    assert metrics(query({"z": 0, "a": 1}), [5.0, 5.0]).mrr == 0.5


def test_scores_that_round_to_one_are_ranked_by_log_odds() -> None:
    assert metrics(query({"a": 0, "b": 1}), [60.0, 61.0]).ndcg == 1


def test_failed_passages_rank_last_and_are_counted() -> None:
    computed = metrics(query({"a": 1, "b": 0}), [None, -3.0])
    assert computed.mrr == 0.5
    assert computed.finish_reasons == {"failed": 1, "concluded": 1}
    assert computed.failures == 1
    assert computed.recall == 0
    assert computed.passages == 2


def test_unneeded_passages_are_no_failures_and_not_ranked() -> None:
    labelled = query({"a": 0, "b": 1})
    enough = [
        Judgment(index=0, log_odds=1.0, finish_reason="direct"),
        Judgment(index=1, finish_reason="skipped"),
    ]
    computed = compute_metrics(
        [labelled], [JudgedQuery("q", enough, enough[:1], Usage(), 1.0)], CONFIG
    )
    assert (computed.mrr, computed.ndcg, computed.recall, computed.failures) == (0, 0, 0, 0)


def test_passages_without_a_label_are_not_relevant() -> None:
    partly_labelled = Query("q", "What?", {"a": "A.", "b": "B."}, {"b": 1})
    assert metrics(partly_labelled, [3.0, 2.0]).mrr == 0.5
    assert metrics(partly_labelled, [3.0, 2.0]).precision == 0.5


def test_precision_and_recall_are_those_of_the_kept_passages() -> None:
    first, second = query({"a": 1, "b": 0, "c": 2}, "q1"), query({"a": 1, "b": 0}, "q2")
    answers = [judged(first, [0.0, 3.0, -1.0]), judged(second, [1.0, -1.0])]
    computed = compute_metrics([first, second], answers, CONFIG)
    assert computed.precision == pytest.approx(2 / 3)
    assert computed.recall == pytest.approx(2 / 3)
    strict = compute_metrics([first, second], answers, MetricConfig(top_n=10, score_threshold=0.99))
    assert (strict.precision, strict.recall) == (None, 0)


def test_the_lowest_relevant_label_can_be_raised() -> None:
    labelled = query({"a": 1, "b": 0, "c": 2})
    computed = metrics(
        labelled, [3.0, 2.0, 1.0], MetricConfig(top_n=10, score_threshold=0.5, min_relevance=2)
    )
    assert [computed.mrr, computed.precision] == pytest.approx([1 / 3, 1 / 3])


def test_costs_are_sums_over_all_queries() -> None:
    first, second = query({"a": 1, "b": 0}, "q1"), query({"a": 1}, "q2")
    answers = [judged(first, [1.0, 0.0]), judged(second, [1.0], tokens=5)]
    computed = compute_metrics([first, second], answers, CONFIG)
    assert (computed.tokens, computed.passages) == (28, 3)
    assert (computed.usage.reasoning_tokens, computed.usage.answer_tokens) == (25, 3)
    assert (computed.seconds, computed.median_seconds, computed.slowest_seconds) == (4.0, 2.0, 2.0)


def test_the_first_stage_order_has_metrics_like_a_policy() -> None:
    labelled = query({"a": 0, "b": 1})
    computed = compute_metrics([labelled], first_stage_results([labelled]), CONFIG)
    assert (computed.mrr, computed.precision, computed.calibration_error) == (0.5, None, None)


relevance = st.lists(st.integers(0, 3), min_size=1, max_size=15).filter(any)


@settings(deadline=None)
@given(st.lists(relevance, min_size=1, max_size=4), st.data())
def test_ndcg_and_mrr_agree_with_ir_measures_on_distinct_scores(
    labels: list[list[int]], data: st.DataObject
) -> None:
    queries = [
        query({f"p{index}": label for index, label in enumerate(of)}, f"q{number}")
        for number, of in enumerate(labels)
    ]
    scores = [data.draw(st.permutations(range(len(one.passages)))) for one in queries]
    answers = [
        judged(one, [float(score) for score in of]) for one, of in zip(queries, scores, strict=True)
    ]
    computed = compute_metrics(queries, answers, CONFIG)
    run = {
        one.id: {p: float(s) for p, s in zip(one.passages, of, strict=True)}
        for one, of in zip(queries, scores, strict=True)
    }
    qrels = {one.id: one.qrels for one in queries}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.RR], qrels, run)
    assert computed.ndcg == pytest.approx(expected[ir_measures.nDCG @ 10])
    assert computed.mrr == pytest.approx(expected[ir_measures.RR])


def test_calibration_error_equals_the_value_computed_by_hand() -> None:
    bins = calibration_bins([(0.95, True), (0.91, False), (1.0, True), (0.2, False), (0.0, False)])
    assert bins[:2] == [Bin(1, 0.0, 0.0), Bin(1, 0.2, 0.0)]
    assert bins[2].passages == 3
    assert [bins[2].score, bins[2].relevant] == pytest.approx([2.86 / 3, 2 / 3])
    assert calibration_error(bins) == pytest.approx((0.2 + 3 * (2.86 / 3 - 2 / 3)) / 5)


def test_perfect_scores_have_no_calibration_error() -> None:
    assert calibration_error(calibration_bins([(1.0, True), (0.0, False)])) == 0
    assert calibration_error(calibration_bins([])) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_calibration_error_is_in_0_to_1_and_every_passage_is_in_a_bin(
    scored: list[tuple[float, bool]],
) -> None:
    bins = calibration_bins(scored)
    assert sum(one.passages for one in bins) == len(scored)
    error = calibration_error(bins)
    assert error is not None
    assert 0 <= error <= 1


def over_queries(ndcg: Sequence[float], tokens: int = 100) -> Metrics:
    """Return metrics with a given nDCG (1 or less) for each of several queries."""
    queries = [query({"a": 1, "b": 0}, f"q{number}") for number in range(len(ndcg))]
    answers = [
        judged(one, [1.0, 0.0] if value == 1 else [0.0, 1.0], tokens=tokens)
        for one, value in zip(queries, ndcg, strict=True)
    ]
    return compute_metrics(queries, answers, CONFIG)


def test_a_difference_has_an_interval_and_a_p_value_of_the_paired_t_test() -> None:
    second = 1 / math.log2(3)  # nDCG where the relevant passage comes second
    better, worse = over_queries([1, 1, 1, 1], tokens=9), over_queries([1, 1, 1, second], tokens=99)
    comparison = compare(worse, better)
    # Differences 0, 0, 0, -d: mean -d/4, standard error d/4, t = -1 with 3 degrees of freedom,
    # whose two-sided p is 0.391 and whose 97.5% quantile is 3.182.
    step = (1 - second) / 4
    assert comparison.difference == pytest.approx(-step)
    assert [comparison.low, comparison.high] == pytest.approx(
        [-step * 4.182, step * 2.182], rel=1e-3
    )
    assert comparison.p_value == pytest.approx(0.391, abs=1e-3)
    assert comparison.tokens_share == 10


def test_equal_results_have_no_p_value() -> None:
    comparison = compare(over_queries([1, 0]), over_queries([1, 0]))
    assert (comparison.difference, comparison.low, comparison.high, comparison.p_value) == (
        0,
        0,
        0,
        None,
    )


def test_one_query_gives_no_interval() -> None:
    comparison = compare(over_queries([0]), over_queries([1]))
    assert comparison.difference < 0
    assert (comparison.low, comparison.high, comparison.p_value) == (None, None, None)


def test_a_baseline_without_tokens_has_no_share() -> None:
    nothing = compute_metrics(
        [query({"a": 1, "b": 0})], first_stage_results([query({"a": 1, "b": 0})]), CONFIG
    )
    assert compare(nothing, nothing).tokens_share is None
