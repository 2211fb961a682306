"""What a caller keeps of a query's judgments, and what a query returns."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment
from rank1_integrations.scoring.usage import Usage


@dataclass(frozen=True, slots=True)
class Selection:
    """Which passages of a query are kept.

    Attributes:
        top_n: The most passages to keep; None for all.
        score_threshold: Keep passages with score >= threshold, before `top_n`; None for all.
        keep_unscored: Keep passages without a score, behind the others. They have no score to
            hold against the threshold.

    Raises:
        ConfigurationError: `top_n` is no integer above 0, or `score_threshold` is outside [0, 1].
    """

    top_n: int | None = None
    score_threshold: float | None = None
    keep_unscored: bool = True

    def __post_init__(self) -> None:
        if self.top_n is not None and not _is_positive_integer(self.top_n):
            raise ConfigurationError(
                f"top_n must be at least 1, or None to keep all; it is {self.top_n!r}"
            )
        if self.score_threshold is not None and not _is_probability(self.score_threshold):
            raise ConfigurationError(
                f"score_threshold must be between 0 and 1, or None; it is {self.score_threshold!r}"
            )

    @property
    def threshold_log_odds(self) -> float | None:
        """`score_threshold` in log-odds; None if there is none."""
        if self.score_threshold is None:
            return None
        if self.score_threshold in (0, 1):
            return math.copysign(math.inf, self.score_threshold - 0.5)
        return math.log(self.score_threshold / (1 - self.score_threshold))

    def admits(self, judgment: Judgment, *, default: float = 0.0) -> bool:
        """Return whether a judgment reaches the threshold, or `default` if there is none."""
        threshold = default if self.score_threshold is None else self.score_threshold
        return judgment.score is not None and judgment.score >= threshold

    def split(self, judgments: Iterable[Judgment]) -> tuple[list[Judgment], list[Judgment]]:
        """Return the kept judgments and the dropped ones.

        Args:
            judgments: Of a query, in the first-stage order.

        Returns:
            The kept ones, best first: by log-odds, ties in the given order, unscored ones last.
            The dropped ones, in the given order.
        """
        judgments = list(judgments)
        kept = [judgment for judgment in judgments if self._may_keep(judgment)]
        kept.sort(key=_sort_key, reverse=True)
        kept = kept[: self.top_n]
        kept_indices = {judgment.index for judgment in kept}
        return kept, [one for one in judgments if one.index not in kept_indices]

    def _may_keep(self, judgment: Judgment) -> bool:
        if judgment.score is None:
            return self.keep_unscored and not judgment.is_unneeded
        return self.admits(judgment)


@dataclass(frozen=True, slots=True)
class RankResult(Sequence[Judgment]):
    """What a query returns. As a sequence it is `kept`.

    Attributes:
        kept: The kept judgments, best first.
        dropped: The others, in the first-stage order.
        usage: What the query cost.
    """

    kept: list[Judgment]
    dropped: list[Judgment]
    usage: Usage

    def __iter__(self) -> Iterator[Judgment]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Judgment: ...

    @overload
    def __getitem__(self, index: slice) -> list[Judgment]: ...

    def __getitem__(self, index: int | slice) -> Judgment | list[Judgment]:
        return self.kept[index]


def _is_positive_integer(value: object) -> bool:
    try:
        return operator.index(value) >= 1  # type: ignore[arg-type]
    except TypeError:
        return False


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _sort_key(judgment: Judgment) -> float:
    return -math.inf if judgment.log_odds is None else judgment.log_odds
