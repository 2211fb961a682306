"""Where a thought can change the outcome: near the threshold, or near the last place kept."""

from __future__ import annotations

import math

from rank1_integrations.judgment import Judgment


def log_odds_of(score: float) -> float:
    """The log-odds that a score in [0, 1] stands for."""
    if score <= 0 or score >= 1:
        return math.copysign(math.inf, score - 0.5)
    return math.log(score / (1 - score))


def boundaries(
    judgments: list[Judgment], *, top_n: int | None, score_threshold: float | None
) -> list[float]:
    """The log-odds at which it is decided whether a passage is kept.

    Args:
        judgments: The direct verdicts of the query's passages.
        top_n: How many are kept at most; None for all.
        score_threshold: What is kept has at least this score; None for all.

    Returns:
        The threshold, and the middle between the last place kept and the first one lost, if
        the threshold leaves so many. Without either the even odds, which decide `relevant`.
    """
    threshold = -math.inf if score_threshold is None else log_odds_of(score_threshold)
    found = [] if score_threshold is None else [threshold]
    odds = sorted((one.log_odds for one in judgments if one.log_odds is not None), reverse=True)
    if top_n is not None and top_n < len(odds):
        middle = (odds[top_n - 1] + odds[top_n]) / 2
        if middle > threshold:
            found.append(middle)
    return found or [0.0]


def worth_a_thought(
    judgments: list[Judgment], boundaries: list[float], *, share: float, sure: float
) -> dict[int, float]:
    """The passages whose thoughts can change the outcome, nearest to it first.

    Args:
        judgments: The direct verdicts of the query's passages.
        boundaries: The log-odds at which it is decided whether a passage is kept.
        share: At most this share of the passages, rounded up.
        sure: Passages further than this from every boundary, in log-odds, are left out.

    Returns:
        From a passage's index to the boundary that decides about it.
    """
    nearest: dict[int, float] = {}
    distances: dict[int, float] = {}
    for one in judgments:
        if one.log_odds is not None:
            away = {abs(boundary - one.log_odds): boundary for boundary in boundaries}
            distances[one.index] = min(away)
            nearest[one.index] = away[min(away)]
    unsure = sorted((i for i in nearest if distances[i] < sure), key=distances.__getitem__)
    return {place: nearest[place] for place in unsure[: math.ceil(share * len(judgments))]}
