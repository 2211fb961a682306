"""How much of a deadline is kept for verdicts and for delivery."""

from __future__ import annotations

import asyncio

import pytest

from rank1_integrations.scoring.deadline import Deadline, RecentDurations


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def ends(
    seconds: float, *, verdict: float | None = None, delivery: float | None = None
) -> tuple[float, float]:
    """Return when reasoning and the query end, in seconds from their start."""
    clock = Clock()
    deadline = Deadline(seconds, verdict_seconds=verdict, delivery_seconds=delivery, clock=clock)
    assert deadline.end is not None
    assert deadline.reasoning_end is not None
    return deadline.reasoning_end - clock.seconds, deadline.end - clock.seconds


def test_without_a_limit_it_never_comes() -> None:
    deadline = Deadline(None, verdict_seconds=10, delivery_seconds=10)
    assert (deadline.end, deadline.reasoning_end) == (None, None)
    assert not deadline.is_near
    assert not deadline.is_over


def test_reasoning_ends_before_the_query_and_the_query_before_its_deadline() -> None:
    assert ends(10) == pytest.approx((7.5, 9.5))


@pytest.mark.parametrize(
    ("verdict", "kept"), [(None, 2.0), (0.0, 1.0), (0.001, 1.0), (2.0, 2.0), (60.0, 2.5)]
)
def test_a_verdicts_time_is_kept_between_a_tenth_and_a_quarter(
    verdict: float | None, kept: float
) -> None:
    reasoning_end, end = ends(10, verdict=verdict)
    assert end - reasoning_end == pytest.approx(kept)


@pytest.mark.parametrize(("delivery", "kept"), [(None, 0.5), (0.0, 0.0), (0.7, 0.7), (60.0, 2.5)])
def test_the_time_of_delivery_is_kept_up_to_a_quarter(delivery: float | None, kept: float) -> None:
    assert ends(10, delivery=delivery)[1] == pytest.approx(10 - kept)


def test_it_is_near_and_over_by_its_clock() -> None:
    clock = Clock()
    deadline = Deadline(10, clock=clock)
    states = []
    for _ in range(3):
        states.append((deadline.is_near, deadline.is_over))
        clock.seconds += 7.6 if not deadline.is_near else 2.0
    assert states == [(False, False), (True, False), (True, True)]


def test_a_duration_is_recorded_of_a_block_that_ends_and_of_one_that_is_cancelled() -> None:
    clock = Clock()
    durations = RecentDurations(clock)
    assert durations.longest is None
    with durations.measure():
        clock.seconds += 2
    assert durations.longest == 2
    with pytest.raises(asyncio.CancelledError), durations.measure():
        clock.seconds += 3
        raise asyncio.CancelledError
    assert durations.longest == 3


def test_only_a_moment_that_has_come_is_recorded() -> None:
    clock = Clock()
    durations = RecentDurations(clock)
    durations.record_since(None)
    durations.record_since(clock.seconds + 60)
    assert durations.longest is None
    durations.record_since(clock.seconds - 1)
    assert durations.longest == 1


def test_long_past_durations_are_forgotten() -> None:
    clock = Clock()
    durations = RecentDurations(clock)
    durations.record_since(clock.seconds - 60)
    for _ in range(200):
        durations.record_since(clock.seconds - 1)
    assert durations.longest == 1
