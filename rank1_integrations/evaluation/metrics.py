"""Quality and cost of a policy in numbers, and the uncertainty of a difference between two."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Literal

from rank1_integrations.evaluation.collection import Query
from rank1_integrations.evaluation.runner import JudgedQuery
from rank1_integrations.exceptions import MissingExtraError
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.usage import Usage

try:
    import ir_measures
    import scipy.stats
except ImportError as error:
    raise MissingExtraError(error.name or "ir_measures", "evaluation") from None

Gains = Literal["linear", "exponential"]
BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricConfig:
    """How metrics are computed; the same for all policies.

    Attributes:
        top_n: The cutoff n of nDCG@n.
        score_threshold: Passages with score >= threshold are kept.
        min_relevance: Passages with relevance label >= min_relevance are relevant. Passages
            without a label have label 0.
        gains: Gain of a passage in nDCG: "linear" for its label (as trec_eval, and most published
            numbers), "exponential" for 2^label - 1.
    """

    top_n: int
    score_threshold: float
    min_relevance: int = 1
    gains: Gains = "linear"


@dataclass(frozen=True, slots=True)
class Bin:
    """Passages with about the same score.

    Attributes:
        passages: Number of passages.
        score: Their mean score.
        relevant: Share of them that is relevant.
    """

    passages: int
    score: float
    relevant: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics of one policy over all queries.

    Attributes:
        query_ndcg: Query id to nDCG@n. The ideal ranking is that of all labelled passages.
        ndcg: Its mean.
        mrr: Mean of 1 / (rank of the first relevant passage), 0 if there is none.
        precision: Share of the kept passages that is relevant, over all queries; None if none is
            kept.
        recall: Share of the relevant candidates that is kept, over all queries.
        bins: The scored passages in bins of equal width by score, without the empty bins.
        calibration_error: Expected calibration error: the mean distance between a bin's score
            and its share of relevant passages, weighted by passages; None without a scored one.
        passages: Number of candidates.
        finish_reasons: Number of judgments by `finish_reason`.
        failures: Passages without a judgment or without the reasoning that was to come.
        tokens: Tokens generated for reasoning, verdicts and probes. Tokens of a request that was
            cut (at a deadline, or because there was `enough`) are unknown and not included.
        usage: The usage over all queries, prompt tokens included.
        seconds: Wall clock of all queries, one after another.
        median_seconds: Median wall clock of a query.
        slowest_seconds: Longest wall clock of a query.
    """

    query_ndcg: dict[str, float] = field(repr=False)
    ndcg: float
    mrr: float
    precision: float | None
    recall: float
    bins: list[Bin] = field(repr=False)
    calibration_error: float | None
    passages: int
    finish_reasons: dict[str, int]
    failures: int
    tokens: int
    usage: Usage
    seconds: float
    median_seconds: float
    slowest_seconds: float

    @property
    def reasoned(self) -> int:
        """Number of passages with reasoning."""
        return self.finish_reasons.get("concluded", 0) + self.finish_reasons.get("forced", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A policy compared with the baseline, query by query.

    Attributes:
        difference: Mean difference in nDCG.
        low: Lower end of its 95% confidence interval (Student's t over queries); None for fewer
            than two queries.
        high: Upper end.
        p_value: Of the paired t-test, two-sided; None if all queries are equal or there are fewer
            than two.
        tokens_share: Generated tokens, as a share of the baseline's; None if it has none.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    tokens_share: float | None


def compute_metrics(
    queries: Sequence[Query], results: Sequence[JudgedQuery], config: MetricConfig
) -> Metrics:
    """Return the metrics of one policy.

    Args:
        queries: The queries.
        results: Their results, in the same order.
        config: How to compute.
    """
    judgments = [judgment for result in results for judgment in result.judgments]
    scored = [
        (judgment.score, query.qrels.get(passage, 0) >= config.min_relevance)
        for query, result in zip(queries, results, strict=True)
        for passage, judgment in zip(query.passages, result.judgments, strict=True)
    ]
    kept = [
        is_relevant
        for score, is_relevant in scored
        if score is not None and score >= config.score_threshold
    ]
    bins = calibration_bins((score, relevant) for score, relevant in scored if score is not None)
    seconds = [result.seconds for result in results]
    usage = _sum(result.usage for result in results)
    query_ndcg = _query_ndcg(queries, results, config)
    return Metrics(
        query_ndcg=query_ndcg,
        ndcg=fmean(query_ndcg.values()),
        mrr=_mean_reciprocal_rank(queries, results, config),
        precision=fmean(kept) if kept else None,
        recall=sum(kept) / sum(is_relevant for _, is_relevant in scored),
        bins=bins,
        calibration_error=calibration_error(bins),
        passages=len(judgments),
        finish_reasons=dict(Counter(judgment.finish_reason for judgment in judgments)),
        failures=sum(result.failures for result in results),
        tokens=usage.reasoning_tokens + usage.answer_tokens,
        usage=usage,
        seconds=sum(seconds),
        median_seconds=median(seconds),
        slowest_seconds=max(seconds),
    )


def first_stage_results(queries: Sequence[Query]) -> list[JudgedQuery]:
    """Return the first-stage order as the result of a policy that judges nothing."""
    results = []
    for query in queries:
        unscored = [
            Judgment(index=index, finish_reason="skipped") for index in range(len(query.passages))
        ]
        results.append(JudgedQuery(query.id, unscored, unscored, Usage(), 0.0))
    return results


def compare(policy: Metrics, baseline: Metrics) -> Comparison:
    """Return how a policy differs from the baseline on the same queries."""
    pairs = [(policy.query_ndcg[query], ndcg) for query, ndcg in baseline.query_ndcg.items()]
    difference = fmean(ndcg - other for ndcg, other in pairs)
    low = high = p_value = None
    if all(ndcg == other for ndcg, other in pairs):
        # The t-test divides by the spread, which is 0 here.
        low = high = 0.0
    elif len(pairs) > 1:
        test = scipy.stats.ttest_rel(*zip(*pairs, strict=True))
        interval = test.confidence_interval(0.95)
        low, high, p_value = float(interval.low), float(interval.high), float(test.pvalue)
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        tokens_share=policy.tokens / baseline.tokens if baseline.tokens else None,
    )


def calibration_bins(scored: Iterable[tuple[float, bool]]) -> list[Bin]:
    """Return scores in [0, 1], each with its relevance, in bins of equal width."""
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    for score, is_relevant in scored:
        by_bin.setdefault(min(int(score * BINS), BINS - 1), []).append((score, is_relevant))
    return [
        Bin(len(of), fmean(score for score, _ in of), fmean(relevant for _, relevant in of))
        for _, of in sorted(by_bin.items())
    ]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Return the expected calibration error of binned scores; None without a bin.

    Source: https://ojs.aaai.org/index.php/AAAI/article/view/9602 (Naeini et al., 2015).
    """
    passages = sum(scores.passages for scores in bins)
    if not passages:
        return None
    distances = (scores.passages * abs(scores.score - scores.relevant) for scores in bins)
    return math.fsum(distances) / passages


def _sum(usages: Iterable[Usage]) -> Usage:
    total: Counter[str] = Counter()
    for usage in usages:
        total.update(asdict(usage))
    return Usage(**total)


def _query_ndcg(
    queries: Sequence[Query], results: Sequence[JudgedQuery], config: MetricConfig
) -> dict[str, float]:
    gains = {
        query.id: {passage: _gain(label, config) for passage, label in query.qrels.items()}
        for query in queries
    }
    ndcg = ir_measures.nDCG(cutoff=config.top_n)
    computed = ir_measures.iter_calc([ndcg], gains, _run(queries, results))
    # Queries without a ranked passage are missing from the result.
    return {query.id: 0.0 for query in queries} | {of.query_id: of.value for of in computed}


def _gain(label: int, config: MetricConfig) -> int:
    if label <= 0:
        return 0
    return label if config.gains == "linear" else 2**label - 1


def _mean_reciprocal_rank(
    queries: Sequence[Query], results: Sequence[JudgedQuery], config: MetricConfig
) -> float:
    measure = ir_measures.RR(rel=config.min_relevance)
    qrels = {query.id: query.qrels for query in queries}
    computed = ir_measures.calc_aggregate([measure], qrels, _run(queries, results))
    return float(computed[measure])


def _run(queries: Sequence[Query], results: Sequence[JudgedQuery]) -> dict[str, dict[str, float]]:
    """Return query id to passage id to score.

    The scores are negated ranks: trec_eval breaks ties by passage id, not by first-stage order.
    """
    run = {}
    for query, result in zip(queries, results, strict=True):
        ids = list(query.passages)
        run[query.id] = {ids[it.index]: float(-rank) for rank, it in enumerate(result.ranking)}
    return run
