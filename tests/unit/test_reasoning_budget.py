"""Which passages get reasoning, and when reasoning takes too long."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import Adaptive, Judgment
from rank1_integrations.reasoning_budget import (
    ReasoningBudget,
    ShiftEstimate,
    StragglerLimit,
    rank_for_reasoning,
    uncertainty_band,
)
from rank1_integrations.scoring.steps import UncertaintyBand
from rank1_integrations.selection import Selection

finite = st.floats(-50, 50)
EVERYTHING = UncertaintyBand(low=-math.inf, high=math.inf)


def direct(index: int, log_odds: float | None) -> Judgment:
    reason: Any = "failed" if log_odds is None else "direct"
    return Judgment(index=index, log_odds=log_odds, finish_reason=reason)


def reasoned(index: int, log_odds: float | None, tokens: int = 10, **flags: Any) -> Judgment:
    return Judgment(
        index=index,
        log_odds=log_odds,
        finish_reason="concluded",
        reasoning_tokens=tokens,
        **flags,
    )


# The uncertainty band


def band(log_odds: list[float], **selection: Any) -> tuple[float, float]:
    found = uncertainty_band(log_odds, Selection(**selection), margin=3.0)
    return found.low, found.high


def test_the_whole_order_of_a_list_is_uncertain() -> None:
    assert band([1.0, -1.0]) == (-math.inf, math.inf)


def test_the_verdict_on_a_single_passage_is_uncertain_near_even_odds() -> None:
    assert band([1.0]) == (-3.0, 3.0)


def test_a_threshold_alone_leaves_verdicts_near_it_uncertain() -> None:
    middle = math.log(9)
    assert band([1.0, 2.0], score_threshold=0.9) == pytest.approx((middle - 3, middle + 3))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_that_keeps_all_or_none_leaves_nothing_uncertain(threshold: float) -> None:
    low, high = band([1.0, 2.0], score_threshold=threshold)
    assert not low < high


def test_a_list_is_uncertain_down_to_what_can_not_reach_the_last_place_kept() -> None:
    assert band([-1.0, 5.0, 3.0, 0.0], top_n=2) == (1.5 - 3, math.inf)


def test_all_places_of_a_list_that_keeps_everything_are_uncertain() -> None:
    assert band([5.0, 3.0], top_n=2) == (-math.inf, math.inf)


def test_of_threshold_and_last_place_the_higher_one_decides() -> None:
    log_odds = [5.0, -3.0, -4.0]
    assert band(log_odds, top_n=2, score_threshold=0.5) == (0.0 - 3, math.inf)
    assert band(log_odds, top_n=1, score_threshold=0.5) == (1.0 - 3, math.inf)


# The order of reasoning


def ranking(*log_odds: float, within: UncertaintyBand = EVERYTHING) -> list[int]:
    return rank_for_reasoning(dict(enumerate(log_odds)), within, exclude=set())


def test_the_best_by_verdict_and_retriever_together_come_first() -> None:
    # Sums of reciprocal ranks: 1 + 1/2, 1/2 + 1/4, 1/3 + 1/3, 1/4 + 1.
    assert ranking(0.9, -0.1, 0.5, 8.0) == [0, 3, 1, 2]


def test_clear_passages_have_no_rank() -> None:
    assert ranking(-5.0, 0.2, 0.1, within=UncertaintyBand(low=-3, high=math.inf)) == [1, 2]


def test_of_two_that_rank_alike_the_better_verdict_comes_first() -> None:
    assert ranking(0.1, 0.2) == [1, 0]


def test_near_a_threshold_the_nearest_come_first() -> None:
    assert ranking(0.9, -0.1, 0.5, 8.0, within=UncertaintyBand(low=-3, high=3)) == [1, 2, 0]


def test_passages_that_had_their_reasoning_are_left_out() -> None:
    assert rank_for_reasoning({0: 1.0, 1: 2.0}, EVERYTHING, exclude={1}) == [0]


# The shift


def shift_of(*moves: float) -> float:
    shift = ShiftEstimate()
    for index, move in enumerate(moves):
        shift.record(direct(index, 0.0), reasoned(index, move))
    return shift.value


def test_without_reasoning_nothing_is_shifted() -> None:
    assert shift_of() == 0


def test_the_shift_is_the_median_and_cautious_after_few_passages() -> None:
    assert shift_of(-3.0, -1.0) == pytest.approx(-2.0 * 2 / 4)
    assert shift_of(*[-2.0] * 98) == pytest.approx(-1.96)


@pytest.mark.parametrize("outlier", [9998.0, -9998.0])
def test_one_label_of_probability_zero_does_not_carry_the_shift_away(outlier: float) -> None:
    assert abs(shift_of(1.0, 1.2, 0.8, outlier)) < 1.5


def test_unscored_passages_tell_nothing_about_the_shift() -> None:
    shift = ShiftEstimate()
    shift.record(direct(0, None), reasoned(0, 1.0))
    shift.record(direct(1, 1.0), reasoned(1, None))
    assert shift.value == 0


# The budget


class Query:
    """A query's budget, whose passages' reasoning adds to their direct verdicts."""

    def __init__(
        self, *log_odds: float | None, added: float = 0.0, max_share: float = 0.3, **selection: Any
    ) -> None:
        self.direct, self.added = log_odds, added
        self.shift = ShiftEstimate()
        settings = Adaptive(max_share=max_share, probe_every=7)
        verdicts = {index: direct(index, value) for index, value in enumerate(log_odds)}
        self.budget = ReasoningBudget(settings, Selection(**selection), self.shift, verdicts)

    def rounds(self) -> list[list[int]]:
        """Reason about every passage chosen, round by round."""
        rounds = []
        while chosen := self.budget.next_round()[0]:
            rounds.append(chosen)
            for index in chosen:
                value = self.direct[index]
                assert value is not None
                judgment = reasoned(index, value + self.added)
                self.shift.record(direct(index, value), judgment)
                self.budget.add_reasoned(judgment)
        return rounds


@pytest.mark.parametrize(("size", "count"), [(1, 1), (3, 1), (10, 3), (20, 6), (29, 8)])
def test_the_share_is_rounded_down_but_to_one_at_least(size: int, count: int) -> None:
    assert sum(map(len, Query(*[0.1] * size).rounds())) == count


@pytest.mark.parametrize(("size", "rounds"), [(20, [2, 2, 2]), (29, [3, 3, 2]), (100, [10] * 3)])
def test_the_share_is_spent_in_three_rounds(size: int, rounds: list[int]) -> None:
    assert [len(chosen) for chosen in Query(*[0.1] * size).rounds()] == rounds


def test_at_a_threshold_the_querys_own_spread_says_what_is_clear() -> None:
    """Verdicts that differ by little are clear nearer to the threshold."""
    close = Query(0.1, 0.9, 1.1, 1.3, max_share=1, score_threshold=0.5)
    far = Query(0.1, 0.9, 8.0, -8.0, max_share=1, score_threshold=0.5)
    assert {index for chosen in close.rounds() for index in chosen} == {0}
    assert {index for chosen in far.rounds() for index in chosen} >= {0, 1}


def test_a_few_or_equal_verdicts_have_the_margin_of_the_settings() -> None:
    assert Query(0.1, 0.9, 1.1, max_share=1, score_threshold=0.5).rounds()
    assert Query(*[1.0] * 8, max_share=1, score_threshold=0.5).rounds()


def test_the_spread_is_learned_from_what_reasoning_changed() -> None:
    shift = ShiftEstimate()
    assert shift.spread([-1.0, 1.0]) == pytest.approx(1.0)
    for index in range(98):
        shift.record(direct(index, 0.0), reasoned(index, 3.0 if index % 2 else -3.0))
    assert shift.spread([-1.0, 1.0]) == pytest.approx(3.0, abs=0.1)


def test_unscored_passages_are_not_chosen() -> None:
    assert Query(None, 0.1, None, 0.2, max_share=1).rounds() == [[3], [1]]


def test_a_later_round_chooses_by_the_shifted_verdicts() -> None:
    """Reasoning adds 5: passages that were far below the threshold are now the uncertain ones."""
    query = Query(*[-1.0] * 6, *[-3.5] * 14, added=5.0, score_threshold=0.5)
    first, *later = query.rounds()
    assert {*first} <= {*range(6)}
    assert {index for chosen in later for index in chosen} <= {*range(6, 20)}


def test_the_band_of_a_later_round_is_that_of_the_shifted_verdicts() -> None:
    query = Query(*[0.0] * 4, *[-2.0] * 16, added=4.0, top_n=4)
    before = query.budget.next_round()[1].band
    query.shift.record(direct(0, 0.0), reasoned(0, 4.0))
    after = query.budget.next_round()[1].band
    assert after.low == pytest.approx(before.low + query.shift.value)


def test_probes_come_as_often_as_the_settings_say() -> None:
    assert Query(0.1).budget.next_round()[1].every == 7


@given(
    st.lists(st.one_of(st.none(), finite), max_size=30),
    st.one_of(st.none(), st.integers(1, 10)),
    st.one_of(st.none(), st.floats(0, 1)),
    st.floats(0.01, 1),
    finite,
)
def test_no_passage_is_chosen_twice_and_never_more_than_the_share(
    log_odds: list[float | None],
    top_n: int | None,
    threshold: float | None,
    share: float,
    added: float,
) -> None:
    query = Query(*log_odds, added=added, max_share=share, top_n=top_n, score_threshold=threshold)
    chosen = [index for each in query.rounds() for index in each]
    assert len(chosen) == len({*chosen}) <= max(1, share * len(log_odds) + 1e-6)
    assert all(log_odds[index] is not None for index in chosen)


# Stragglers


def limit_after(*tokens: int, factor: float | None = 4.0, begun: int | None = None) -> float:
    limit = StragglerLimit(factor)
    for _ in range(len(tokens) if begun is None else begun):
        limit.begin()
    for index, count in enumerate(tokens):
        limit.finish(reasoned(index, 1.0, count))
    return limit()


def test_reasoning_may_last_a_few_times_the_median() -> None:
    assert limit_after(10, 20, 30) == 80


def test_without_a_factor_there_is_no_limit() -> None:
    assert limit_after(10, 20, 30, factor=None) == math.inf


def test_two_finished_passages_tell_nothing_yet() -> None:
    assert limit_after(10, 20) == math.inf


def test_the_limit_waits_for_a_quarter_of_those_that_began() -> None:
    assert limit_after(10, 20, 30, begun=13) == math.inf
    assert limit_after(10, 20, 30, begun=12) == 80


def test_the_limit_holds_if_most_passages_are_stragglers() -> None:
    assert limit_after(*[10] * 5, *[40] * 15) == 40


def test_cached_judgments_and_those_without_tokens_tell_nothing() -> None:
    limit = StragglerLimit(4.0)
    for index in range(10):
        limit.begin()
        limit.finish(reasoned(index, 1.0, 0))
    assert limit() == math.inf


def test_cached_judgments_do_not_hold_the_limit_off() -> None:
    limit = StragglerLimit(4.0)
    for index in range(23):
        limit.begin()
        limit.finish(reasoned(index, 1.0, 10, cached=index < 20))
    assert limit() == 40


def test_stragglers_do_not_raise_the_limit_that_ended_them() -> None:
    assert limit_after(*[10] * 6, *[40] * 5) == 40
