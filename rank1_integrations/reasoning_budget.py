"""Which passages of a query get reasoning, and when reasoning takes too long."""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Collection, Mapping

from rank1_integrations.config import Adaptive
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.steps import Probing, UncertaintyBand
from rank1_integrations.selection import Selection

# Weight of the first assumption, in passages, since a few say little about all: reasoning does not
# shift verdicts, and spreads them as far as they differ from each other.
_PRIOR_PASSAGES = 2

# Rounds in which the share of a query is used up.
_ROUNDS = 3

# Fewer direct verdicts do not tell how far they differ.
_MIN_VERDICTS = 4

# Two verdicts amid reasoning that differ by less, in log-odds, agree.
_AGREEMENT = 0.25

# Fewer finished ones do not tell how long reasoning about a query takes.
_MIN_FINISHED = 3


class ShiftEstimate:
    """By how much reasoning moves a query's direct verdicts, in log-odds.

    Direct verdicts are kinder or harsher than verdicts after reasoning, and more so for some
    queries than for others. The estimate is the median of what was seen, since one label at
    probability 0 moves a mean by thousands, and it is cautious as long as little was seen.
    """

    def __init__(self) -> None:
        self._moves: list[float] = []

    def record(self, direct: Judgment, reasoned: Judgment) -> None:
        """Learn from the two verdicts on one passage."""
        if direct.log_odds is not None and reasoned.log_odds is not None:
            # Sorted, so that the median of many costs little.
            bisect.insort(self._moves, reasoned.log_odds - direct.log_odds)

    @property
    def value(self) -> float:
        """The estimate; 0 if nothing was seen."""
        count = len(self._moves)
        return statistics.median(self._moves) * count / (count + _PRIOR_PASSAGES) if count else 0.0

    def spread(self, direct: Collection[float]) -> float:
        """Return the standard deviation of what reasoning changes, in log-odds.

        Args:
            direct: The query's direct verdicts, whose own variance stands for it at first.
        """
        squares = _variance(direct) * _PRIOR_PASSAGES + _variance(self._moves) * len(self._moves)
        return math.sqrt(squares / (_PRIOR_PASSAGES + len(self._moves)))


class ReasoningBudget:
    """Chooses, round by round, the passages whose verdict reasoning can change to some effect.

    A direct verdict costs one token, reasoning hundreds. What reasoning changed so far is added
    to the other direct verdicts before the next choice.
    """

    def __init__(
        self,
        settings: Adaptive,
        selection: Selection,
        shift: ShiftEstimate,
        direct: Mapping[int, Judgment],
    ) -> None:
        """Prepare for a query.

        Args:
            settings: Of adaptive reasoning.
            selection: What the caller keeps.
            shift: What reasoning changes on the query; the caller records it.
            direct: The direct verdicts by index; the caller adds to them. One without a score
                can't be chosen.
        """
        self._settings, self._selection, self._shift = settings, selection, shift
        self._direct = direct
        self._reasoned: dict[int, float] = {}
        self._chosen: set[int] = set()

    def add_reasoned(self, judgment: Judgment) -> None:
        """Replace a passage's direct verdict by the one after reasoning."""
        if judgment.log_odds is not None:
            self._reasoned[judgment.index] = judgment.log_odds

    def next_round(self) -> tuple[list[int], Probing]:
        """Choose the passages to reason about next, and their early exit.

        Returns:
            Indices, none if the outcome is clear or the share is used up; and when to stop.
        """
        log_odds = {
            index: judgment.log_odds
            for index, judgment in self._direct.items()
            if judgment.log_odds is not None
        }
        margin = self._margin(log_odds.values())
        shift = self._shift.value
        for index in log_odds:
            log_odds[index] += shift
        log_odds.update(self._reasoned)
        values = list(log_odds.values())
        band = uncertainty_band(values, self._selection, margin)
        # 0.3 of 20 are 6, whatever the last bit of the product says.
        allowed = max(1, math.floor(self._settings.max_share * len(log_odds) + 1e-9))
        size = min(math.ceil(allowed / _ROUNDS), allowed - len(self._chosen))
        chosen = rank_for_reasoning(log_odds, band, exclude=self._chosen)[: max(0, size)]
        self._chosen.update(chosen)
        early_exit = uncertainty_band(values, self._selection, self._settings.margin)
        probing = Probing(every=self._settings.probe_every, band=early_exit, agreement=_AGREEMENT)
        return chosen, probing

    def _margin(self, direct: Collection[float]) -> float:
        """Return how far from what decides a verdict without reasoning is clear, in log-odds.

        If only a threshold decides, the query's own spread tells: with a fixed margin, a model of
        small log-odds would reason about everything.
        """
        spread = self._shift.spread(direct)
        is_threshold_alone = self._selection.top_n is None and (
            self._selection.score_threshold is not None
        )
        if is_threshold_alone and len(direct) >= _MIN_VERDICTS and spread > 0:
            return statistics.NormalDist().inv_cdf(self._settings.confidence) * spread
        return self._settings.margin


def uncertainty_band(log_odds: list[float], selection: Selection, margin: float) -> UncertaintyBand:
    """Return the log-odds between which reasoning can change what the caller gets.

    The order of the kept passages is part of what the caller gets: whatever may be kept is
    uncertain, down to what is surely below the threshold, or below the middle between the last
    passage kept and the first one lost. If only a threshold decides, verdicts near it are
    uncertain; for a single passage without one, those near even odds, which decide `relevant`.

    Args:
        log_odds: Of the query's passages.
        selection: What the caller keeps.
        margin: How far from what decides a verdict is clear, in log-odds.
    """
    threshold = selection.threshold_log_odds
    if selection.top_n is None and (threshold is not None or len(log_odds) == 1):
        center = threshold or 0.0
        return UncertaintyBand(low=center - margin, high=center + margin)
    lowest = -math.inf if threshold is None else threshold
    best_first = sorted(log_odds, reverse=True)
    if selection.top_n is not None and selection.top_n < len(best_first):
        last, first_lost = best_first[selection.top_n - 1 : selection.top_n + 1]
        lowest = max(lowest, (last + first_lost) / 2)
    return UncertaintyBand(low=lowest - margin, high=math.inf)


def rank_for_reasoning(
    log_odds: Mapping[int, float], band: UncertaintyBand, *, exclude: set[int]
) -> list[int]:
    """Return the indices of uncertain passages, those first that matter most.

    For an ordered list these are the best by retriever and verdict together, by the sum of the
    reciprocal ranks that they give (as in Cormack, Clarke and Buettcher, "Reciprocal Rank
    Fusion", SIGIR 2009, without its constant): each knows of good passages that the other
    misjudges. For a threshold alone they are those nearest to it.

    Args:
        log_odds: Of the query's passages, by index.
        band: Where verdicts are uncertain.
        exclude: Passages that had their reasoning.
    """
    uncertain = [index for index in sorted(log_odds) if log_odds[index] in band]
    if math.isfinite(band.low) and math.isfinite(band.high):
        center = (band.low + band.high) / 2
        order = sorted(uncertain, key=lambda index: abs(log_odds[index] - center))
    else:
        # By position in a list: a dict of 100,000 weights takes five megabytes more.
        by_verdict = sorted(
            range(len(uncertain)), key=lambda position: log_odds[uncertain[position]], reverse=True
        )
        weights = [1 / rank for rank in range(1, len(uncertain) + 1)]
        for rank, position in enumerate(by_verdict, 1):
            weights[position] += 1 / rank
        # Of equals, the better verdict first.
        order = [uncertain[p] for p in sorted(by_verdict, key=weights.__getitem__, reverse=True)]
    return [index for index in order if index not in exclude]


class StragglerLimit:
    """The most tokens that reasoning about one passage of a query may have.

    A few runaways double the mean time of a query, and passages can be written to prolong
    reasoning (arXiv 2601.13112). The limit holds once a quarter of the query's reasonings are
    finished. These are its shortest ones, which does no harm: when another one reaches a multiple
    of their median, those of a length between have finished too, and have raised it.
    """

    def __init__(self, factor: float | None) -> None:
        """Set the limit.

        Args:
            factor: Times the median of the finished ones; None for no limit.
        """
        self._factor = factor
        self._begun = 0
        self._finished: list[int] = []

    def begin(self) -> None:
        """Count one that begins."""
        self._begun += 1

    def finish(self, judgment: Judgment) -> None:
        """Learn from one that this limit did not end."""
        if judgment.cached:
            self._begun -= 1
        elif 0 < judgment.reasoning_tokens < self():
            bisect.insort(self._finished, judgment.reasoning_tokens)

    def __call__(self) -> float:
        """Return the limit in tokens by now; infinity if there is none yet."""
        count = len(self._finished)
        if self._factor is None or count < max(_MIN_FINISHED, self._begun / 4):
            return math.inf
        return self._factor * self._finished[count // 2]


def _variance(values: Collection[float]) -> float:
    if not values:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)
