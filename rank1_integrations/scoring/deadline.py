"""When a query must be answered, and when its reasoning must end for that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rank1_integrations import _event_loop

# The share of the time that is kept for verdicts: smallest, largest, and before any was measured.
_MIN_VERDICT_SHARE, _MAX_VERDICT_SHARE, _FIRST_VERDICT_SHARE = 0.1, 0.25, 0.2
# The same for delivering the result to the caller.
_MAX_DELIVERY_SHARE, _FIRST_DELIVERY_SHARE = 0.25, 0.05
_KEPT_DURATIONS = 128


class Deadline:
    """Two moments of the background loop's clock; None for no limit.

    Attributes:
        reasoning_end: When reasoning is cut, so that there is time for its verdicts.
        end: When the query is answered with what there is.
    """

    def __init__(
        self,
        seconds: float | None,
        *,
        verdict_seconds: float | None = None,
        delivery_seconds: float | None = None,
        clock: Callable[[], float] = _event_loop.now,
    ) -> None:
        """Start the time.

        Args:
            seconds: From now; None for no limit.
            verdict_seconds: How long a verdict will take at the end; None if not known.
            delivery_seconds: How long the result will take to the caller; None if not known.
            clock: Returns the time in seconds.
        """
        self._clock = clock
        self.reasoning_end: float | None = None
        self.end: float | None = None
        if seconds is not None:
            share = _FIRST_VERDICT_SHARE if verdict_seconds is None else verdict_seconds / seconds
            share = min(max(share, _MIN_VERDICT_SHARE), _MAX_VERDICT_SHARE)
            delivery = (
                _FIRST_DELIVERY_SHARE * seconds if delivery_seconds is None else delivery_seconds
            )
            self.end = clock() + seconds - min(delivery, _MAX_DELIVERY_SHARE * seconds)
            self.reasoning_end = self.end - share * seconds

    @property
    def is_near(self) -> bool:
        """Whether no reasoning may begin or continue any more."""
        return self.reasoning_end is not None and self._clock() >= self.reasoning_end

    @property
    def is_over(self) -> bool:
        """Whether the query is to be answered now."""
        return self.end is not None and self._clock() >= self.end


class RecentDurations:
    """How long something took lately, to know how much time a deadline must keep for it."""

    def __init__(self, clock: Callable[[], float] = _event_loop.now) -> None:
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=_KEPT_DURATIONS)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Record how long the block takes, also if it is cancelled."""
        begun = self._clock()
        try:
            yield
        finally:
            self._seconds.append(self._clock() - begun)

    def record_since(self, moment: float | None) -> None:
        """Record how long ago a moment was, if it has come."""
        seconds = None if moment is None else self._clock() - moment
        if seconds is not None and seconds >= 0:
            self._seconds.append(seconds)

    @property
    def longest(self) -> float | None:
        """The longest of the last durations in seconds; None if there is none."""
        # A copy: other threads append meanwhile.
        return max(self._seconds.copy(), default=None)
