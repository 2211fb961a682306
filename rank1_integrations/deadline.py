"""When the judgments of one query must be there, and when its thoughts must end for that."""

from __future__ import annotations

import math
import time
from collections import deque

# The share of the time that is kept for verdicts, at least and at most.
_LEAST_RESERVE, _LARGEST_RESERVE = 0.1, 0.5
_REMEMBERED_VERDICTS = 128


class Deadline:
    """Two moments of the event loop's clock, which is `time.monotonic()`; None for no limit.

    Attributes:
        thoughts_end: When thoughts are cut, so that there is time for their verdicts.
        end: When the query is answered with what there is.
    """

    def __init__(self, seconds: float | None, *, reserve: float = 0.0) -> None:
        """Start the clock.

        Args:
            seconds: From now; None for no limit.
            reserve: Seconds that the verdicts will need at the end.
        """
        self.thoughts_end: float | None = None
        self.end: float | None = None
        if seconds is not None:
            reserve = min(max(reserve, _LEAST_RESERVE * seconds), _LARGEST_RESERVE * seconds)
            self.end = time.monotonic() + seconds
            self.thoughts_end = self.end - reserve

    @property
    def is_near(self) -> bool:
        """Whether no thought may be begun or continued any more."""
        return self.thoughts_end is not None and time.monotonic() >= self.thoughts_end


class VerdictTimes:
    """How long verdicts took lately, to know how much time a deadline must keep for them."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED_VERDICTS)

    def add(self, seconds: float) -> None:
        """Remember one."""
        self._seconds.append(seconds)

    def needed(self, passages: int, at_once: int) -> float:
        """Seconds for the verdicts on so many passages, so many at a time; 0 if none is known."""
        return max(self._seconds, default=0.0) * math.ceil(passages / at_once)
