"""Where a thought can change the outcome, and how verdicts with and without one go together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rank1_integrations.judgment import Judgment

# As if so many thoughts had confirmed their direct verdicts: a few say little about all.
_CONFIRMED = 2


def log_odds_of(score: float) -> float:
    """The log-odds that a score in [0, 1] stands for."""
    if score <= 0 or score >= 1:
        return math.copysign(math.inf, score - 0.5)
    return math.log(score / (1 - score))


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The log-odds at which the outcome is open: outside, a passage's fate is plain."""

    low: float
    high: float

    def __contains__(self, log_odds: float) -> bool:
        return self.low < log_odds < self.high


def where_open(
    direct: list[Judgment], *, top_n: int | None, score_threshold: float | None, sure: float
) -> Region:
    """Between which log-odds a thought can still change what the caller gets.

    A list is in order: whatever may be in it is open, down to what lies surely below the
    threshold, or below the middle between the last place kept and the first one lost. Where
    there is only a threshold to be on one side of, it is open near the threshold; for a single
    passage without one, near the even odds that decide `relevant`.

    Args:
        direct: The direct verdicts of the query's passages.
        top_n: How many are kept at most; None for all.
        score_threshold: What is kept has at least this score; None for all.
        sure: How far from what decides a passage is plain, in log-odds.
    """
    threshold = None if score_threshold is None else log_odds_of(score_threshold)
    if top_n is None and (threshold is not None or len(direct) == 1):
        boundary = threshold or 0.0
        return Region(low=boundary - sure, high=boundary + sure)
    lowest = -math.inf if threshold is None else threshold
    odds = sorted((one.log_odds for one in direct if one.log_odds is not None), reverse=True)
    if top_n is not None and top_n < len(odds):
        lowest = max(lowest, (odds[top_n - 1] + odds[top_n]) / 2)
    return Region(low=lowest - sure, high=math.inf)


def worth_a_thought(direct: list[Judgment], region: Region, *, share: float) -> list[int]:
    """The passages to think about: the first of a list in order, else those nearest to open.

    Which are the first, retriever and direct verdict decide together, by the sum of the reciprocal
    ranks that they give (as in Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion", SIGIR
    2009, without its constant): each knows of good passages that the other takes for worse.

    Args:
        direct: The direct verdicts of the query's passages.
        region: Where the outcome is open.
        share: At most this share of the passages, rounded down, but one at least.

    Returns:
        Their indices, those first that matter most.
    """
    odds = {one.index: one.log_odds for one in direct if one.log_odds is not None}
    unsure = sorted(index for index in odds if odds[index] in region)
    if region.high == math.inf:
        by_verdict = sorted(unsure, key=odds.__getitem__, reverse=True)
        weights = dict.fromkeys(unsure, 0.0)
        for order in (unsure, by_verdict):
            for rank, index in enumerate(order, 1):
                weights[index] += 1 / rank
        # Of equals, the better verdict first.
        unsure = sorted(by_verdict, key=weights.__getitem__, reverse=True)
    else:
        middle = (region.low + region.high) / 2
        unsure.sort(key=lambda index: abs(odds[index] - middle))
    # 0.3 of 20 are 6, whatever the last bit of the product says.
    return unsure[: max(1, math.floor(share * len(direct) + 1e-9))]


def typical_move(moves: list[float]) -> float:
    """By how much a thought moves a query's direct verdicts, in log-odds.

    Direct verdicts are kinder or harsher than thoughts, and more so for some queries than others:
    beside passages that were thought about, those that were not would stand too high or too low.

    Args:
        moves: Log-odds after a thought less those before, for each passage with a thought.
    """
    return math.fsum(moves) / (len(moves) + _CONFIRMED) if moves else 0.0
