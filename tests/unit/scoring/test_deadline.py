"""How much of a deadline is kept for verdicts."""

from __future__ import annotations

import time

import pytest

from rank1_integrations.scoring.deadline import Deadline, RecentTimes


def reserve(seconds: float, needed: float | None) -> float:
    deadline = Deadline(seconds, reserve=needed)
    assert deadline.end is not None
    assert deadline.thoughts_end is not None
    return deadline.end - deadline.thoughts_end


def test_without_a_limit_it_is_never_near() -> None:
    deadline = Deadline(None, reserve=10)
    assert (deadline.end, deadline.thoughts_end) == (None, None)
    assert not deadline.is_near
    assert not deadline.is_over


@pytest.mark.parametrize(("needed", "kept"), [(None, 2.0), (0.001, 1.0), (2.0, 2.0), (60.0, 2.5)])
def test_what_is_needed_is_kept_between_a_tenth_and_a_quarter(
    needed: float | None, kept: float
) -> None:
    assert reserve(10, needed) == pytest.approx(kept)


def test_the_answer_is_given_as_much_earlier_as_its_way_takes_but_a_quarter_at_most() -> None:
    at_once, delayed, late = (Deadline(10, delay=delay).end for delay in (0.0, 1.0, 60.0))
    assert at_once is not None
    assert delayed == pytest.approx(at_once - 1, abs=0.1)
    assert late == pytest.approx(at_once - 2.5, abs=0.1)


def test_only_a_moment_that_has_come_is_remembered() -> None:
    times = RecentTimes()
    times.since(None)
    times.since(time.monotonic() + 60)
    assert times.longest is None
    times.since(time.monotonic() - 1)
    assert times.longest == pytest.approx(1, abs=0.1)


def test_the_slowest_of_the_last_verdicts_tells_what_is_needed() -> None:
    times = RecentTimes()
    assert times.longest is None
    with times.timed():
        time.sleep(0.02)
    with times.timed():
        pass
    assert times.longest is not None
    assert times.longest >= 0.02


def test_a_verdict_that_was_given_up_counts_too() -> None:
    times = RecentTimes()
    with pytest.raises(KeyboardInterrupt), times.timed():
        raise KeyboardInterrupt
    assert times.longest is not None


def test_a_time_that_has_passed_is_over() -> None:
    deadline = Deadline(1e-9)
    assert deadline.is_near
    assert deadline.is_over
