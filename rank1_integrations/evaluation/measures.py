"""What a policy brought and cost, in figures, and how sure a difference between two is."""

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
class Scale:
    """How figures are reckoned; the same for all policies.

    Attributes:
        top_n: The n of nDCG@n.
        score_threshold: Passages with a score from here on are kept.
        min_grade: Passages with a grade from here on are relevant; unjudged by people is 0.
        gains: A passage's worth for nDCG: its grade (trec_eval's choice, and that of most
            published figures), or 2^grade - 1.
    """

    top_n: int
    score_threshold: float
    min_grade: int = 1
    gains: Gains = "linear"


@dataclass(frozen=True, slots=True)
class Bin:
    """Passages with about the same score: how many, their mean score, the share relevant."""

    passages: int
    score: float
    relevant: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One policy's figures over all queries.

    Attributes:
        ndcg_of: Query id to nDCG@n. The ideal order is that of everything people judged.
        ndcg: Its mean.
        mrr: Mean of 1 / (rank of the first relevant passage), 0 where there is none.
        precision: Of the passages with score >= threshold, over all queries, the share that is
            relevant; None if there is no such passage.
        recall: Of the relevant candidates, over all queries, the share with score >= threshold.
        bins: The judged passages by score, ten bins of equal width, the empty ones left out.
        calibration_error: Expected calibration error: the mean distance between a bin's score
            and its share of relevant passages, weighted by passages; None if none was judged.
        passages: How many there were to judge.
        finishes: How many judgments ended in each way.
        failures: How many lack a judgment, or the thought that was to make it a better one.
        tokens: Generated: for thoughts, verdicts and looks at where the answer stands. What a
            request had generated when it was cut off at a deadline, or because enough was found,
            is not known and not in it.
        usage: What the tokens were spent on, those read among them.
        seconds: Wall clock, queries one after another.
        median_seconds: Of one query.
        slowest_seconds: The longest query's.
    """

    ndcg_of: dict[str, float] = field(repr=False)
    ndcg: float
    mrr: float
    precision: float | None
    recall: float
    bins: list[Bin] = field(repr=False)
    calibration_error: float | None
    passages: int
    finishes: dict[str, int]
    failures: int
    tokens: int
    usage: Usage
    seconds: float
    median_seconds: float
    slowest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A policy against another, query by query.

    Attributes:
        difference: Mean difference in nDCG.
        low: Lower end of its 95% confidence interval (Student's t over queries); None for fewer
            than two queries.
        high: Upper end.
        p_value: Of the paired t-test, two-sided; None where all queries are equal, or fewer than
            two.
        tokens_share: Tokens generated, as a share of the other's; None if the other has none.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    tokens_share: float | None


def measure(queries: Sequence[Query], judged: Sequence[JudgedQuery], scale: Scale) -> Figures:
    """One policy's figures.

    Args:
        queries: What was asked.
        judged: What came back, in the same order.
        scale: How to reckon.
    """
    judgments = [judgment for one in judged for judgment in one.judgments]
    scored = [
        (judgment.score, query.grades.get(passage, 0) >= scale.min_grade)
        for query, one in zip(queries, judged, strict=True)
        for passage, judgment in zip(query.passages, one.judgments, strict=True)
    ]
    kept = [relevant for score, relevant in scored if score is not None and _keeps(scale, score)]
    bins = calibration_bins((score, relevant) for score, relevant in scored if score is not None)
    seconds = [one.seconds for one in judged]
    usage = _sum(one.usage for one in judged)
    ndcg_of = _ndcg_of(queries, judged, scale)
    return Figures(
        ndcg_of=ndcg_of,
        ndcg=fmean(ndcg_of.values()),
        mrr=_mean_reciprocal_rank(queries, judged, scale),
        precision=fmean(kept) if kept else None,
        recall=sum(kept) / sum(relevant for _, relevant in scored),
        bins=bins,
        calibration_error=calibration_error(bins),
        passages=len(judgments),
        finishes=dict(Counter(judgment.finish for judgment in judgments)),
        failures=sum(one.failures for one in judged),
        tokens=usage.reasoning_tokens + usage.answer_tokens,
        usage=usage,
        seconds=sum(seconds),
        median_seconds=median(seconds),
        slowest_seconds=max(seconds),
    )


def unranked(queries: Sequence[Query]) -> list[JudgedQuery]:
    """The retriever's order as it stands, to measure it like a policy that judges nothing."""
    judged = []
    for query in queries:
        order = [Judgment(index=index, finish="skipped") for index in range(len(query.passages))]
        judged.append(JudgedQuery(query.id, order, order, Usage(), 0.0))
    return judged


def compare(policy: Figures, baseline: Figures) -> Comparison:
    """A policy against the baseline, on the same queries."""
    pairs = [(policy.ndcg_of[query], ndcg) for query, ndcg in baseline.ndcg_of.items()]
    difference = fmean(one - other for one, other in pairs)
    low = high = p_value = None
    if all(one == other for one, other in pairs):
        # There is nothing to test, and no spread to estimate an interval from.
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
    """Scores in [0, 1] with whether the passage is relevant, in bins of equal width."""
    filled: dict[int, list[tuple[float, bool]]] = {}
    for score, relevant in scored:
        filled.setdefault(min(int(score * BINS), BINS - 1), []).append((score, relevant))
    return [
        Bin(len(of), fmean(score for score, _ in of), fmean(relevant for _, relevant in of))
        for _, of in sorted(filled.items())
    ]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Expected calibration error of binned scores; None without any.

    Source: https://ojs.aaai.org/index.php/AAAI/article/view/9602 (Naeini et al., 2015).
    """
    passages = sum(one.passages for one in bins)
    if not passages:
        return None
    return math.fsum(one.passages * abs(one.score - one.relevant) for one in bins) / passages


def _sum(usages: Iterable[Usage]) -> Usage:
    total: Counter[str] = Counter()
    for usage in usages:
        total.update(asdict(usage))
    return Usage(**total)


def _keeps(scale: Scale, score: float) -> bool:
    return score >= scale.score_threshold


def _ndcg_of(
    queries: Sequence[Query], judged: Sequence[JudgedQuery], scale: Scale
) -> dict[str, float]:
    """Each query's nDCG, with the gains in place of the grades."""
    gains = {
        query.id: {passage: _gain(grade, scale) for passage, grade in query.grades.items()}
        for query in queries
    }
    ndcg = ir_measures.nDCG(cutoff=scale.top_n)
    found = ir_measures.iter_calc([ndcg], gains, _ranking(queries, judged))
    return {query.id: 0.0 for query in queries} | {one.query_id: one.value for one in found}


def _gain(grade: int, scale: Scale) -> int:
    if grade <= 0:
        return 0
    return grade if scale.gains == "linear" else 2**grade - 1


def _mean_reciprocal_rank(
    queries: Sequence[Query], judged: Sequence[JudgedQuery], scale: Scale
) -> float:
    measure = ir_measures.RR(rel=scale.min_grade)
    qrels = {query.id: query.grades for query in queries}
    found = ir_measures.calc_aggregate([measure], qrels, _ranking(queries, judged))
    return float(found[measure])


def _ranking(
    queries: Sequence[Query], judged: Sequence[JudgedQuery]
) -> dict[str, dict[str, float]]:
    """Query id to passage ids, numbered so that trec_eval, which breaks ties by id, finds none."""
    ranking = {}
    for query, one in zip(queries, judged, strict=True):
        ids = list(query.passages)
        ranking[query.id] = {ids[it.index]: float(-place) for place, it in enumerate(one.ranking)}
    return ranking
