"""When the judgments of one query must be there, and when its thoughts must end for that."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# The share of the time that is kept for verdicts: at least, at most, and before any was seen.
_LEAST_RESERVE, _LARGEST_RESERVE, _FIRST_RESERVE = 0.1, 0.25, 0.2
# The same for the answer's way to the caller.
_LARGEST_DELAY, _FIRST_DELAY = 0.25, 0.05
_REMEMBERED = 128


class Deadline:
    """Two moments of the event loop's clock, which is `time.monotonic()`; None for no limit.

    Attributes:
        thoughts_end: When thoughts are cut, so that there is time for their verdicts.
        end: When the query is answered with what there is.
    """

    def __init__(
        self, seconds: float | None, *, reserve: float | None = None, delay: float | None = None
    ) -> None:
        """Start the clock.

        Args:
            seconds: From now; None for no limit.
            reserve: Seconds that a verdict will need at the end; None if not known.
            delay: Seconds that the answer will need to reach the caller; None if not known.
        """
        self.thoughts_end: float | None = None
        self.end: float | None = None
        if seconds is not None:
            share = _FIRST_RESERVE if reserve is None else reserve / seconds
            share = min(max(share, _LEAST_RESERVE), _LARGEST_RESERVE)
            due = time.monotonic() + seconds
            first = _FIRST_DELAY * seconds if delay is None else delay
            self.end = due - min(first, _LARGEST_DELAY * seconds)
            self.thoughts_end = self.end - share * seconds

    @property
    def is_near(self) -> bool:
        """Whether no thought may be begun or continued any more."""
        return self.thoughts_end is not None and time.monotonic() >= self.thoughts_end

    @property
    def is_over(self) -> bool:
        """Whether the query is to be answered now."""
        return self.end is not None and time.monotonic() >= self.end


class RecentTimes:
    """How long something took lately, to know how much time a deadline must keep for it."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Remember how long the block takes, at least, if it is given up."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds.append(time.monotonic() - begun)

    def since(self, moment: float | None) -> None:
        """Remember how long ago a moment was, if it has come."""
        now = time.monotonic()
        if moment is not None and now >= moment:
            self._seconds.append(now - moment)

    @property
    def longest(self) -> float | None:
        """Seconds that the slowest took; None if there was none."""
        return max(self._seconds, default=None)
