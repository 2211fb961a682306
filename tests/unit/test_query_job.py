"""One query: who gets reasoning, and when judging stops."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank1_integrations import (
    Adaptive,
    ConfigurationError,
    EngineError,
    Judgment,
    Rank1,
    Rank1Error,
    _event_loop,
)
from rank1_integrations.testing import Hold, Script, ScriptedEngine
from tests.support.scripts import length_script
from tests.unit.gates import Gate, is_reasoning, mentions

PASSAGES = ["a long passage, with many words", "short", "of middling length"]
NEVER = Gate()


def number_script(passage: str) -> float:
    """The passage's last word is its log-odds."""
    return float(passage.split()[-1])


def make(script: Script = length_script, **options: Any) -> tuple[Rank1, ScriptedEngine]:
    """Return a reranker on a scripted engine; some options are the engine's."""
    names = ("direct", "reasoning", "hold", "seconds", "tells_usage", "tells_ids")
    settings = {name: options.pop(name) for name in names if name in options}
    engine = ScriptedEngine(script, **settings)
    return Rank1(engine, **options), engine


def numbers(*log_odds: float) -> list[str]:
    """Return passages that differ, and whose last word is their log-odds."""
    return [f"passage {index}: {value}" for index, value in enumerate(log_odds)]


def reasons(judgments: list[Judgment]) -> list[str]:
    return [judgment.finish_reason for judgment in judgments]


def reached(judgments: list[Judgment], threshold: float) -> int:
    return sum(one.score is not None and one.score >= threshold for one in judgments)


def reasoning_requests(engine: ScriptedEngine) -> int:
    return sum(map(is_reasoning, engine.requests))


# Streaming


async def stream(rank1: Rank1, passages: list[str], **selection: Any) -> list[Judgment]:
    return [judgment async for judgment in rank1.astream("q", passages, **selection)]


async def test_a_stream_yields_every_judgment_once() -> None:
    rank1, _ = make()
    streamed = await stream(rank1, PASSAGES)
    assert sorted(streamed, key=lambda one: one.index) == rank1.judge("q", PASSAGES)


async def test_a_judgment_is_streamed_as_soon_as_it_is_made() -> None:
    gate = Gate()
    held = gate.hold(lambda request: is_reasoning(request) and "short" not in str(request.prompt))
    rank1, _ = make(hold=held)
    indices = []
    async for judgment in rank1.astream("q", PASSAGES):
        indices.append(judgment.index)
        gate.open()
    assert indices[0] == 1
    assert sorted(indices) == [0, 1, 2]


async def test_leaving_a_stream_cancels_what_still_runs() -> None:
    held = NEVER.hold(lambda request: is_reasoning(request) and "short" not in str(request.prompt))
    rank1, engine = make(hold=held)
    stream = rank1.astream("q", PASSAGES)
    async for _ in stream:
        break
    await stream.aclose()
    while engine.running:
        await asyncio.sleep(0.001)
    assert engine.cancelled == 2


async def test_an_error_ends_a_stream() -> None:
    rank1, _ = make()
    with pytest.raises(EngineError, match="the script says so"):
        await stream(rank1, ["fail"])
    with pytest.raises(ConfigurationError, match="the query is empty"):
        async for _ in rank1.astream(" ", PASSAGES):
            pass
    await rank1.aclose()
    with pytest.raises(Rank1Error, match="closed"):
        await stream(rank1, PASSAGES)


async def test_on_judgments_is_called_at_the_end_of_a_stream() -> None:
    calls: list[Any] = []
    rank1, _ = make(on_judgments=lambda *arguments: calls.append(arguments))
    await stream(rank1, PASSAGES)
    ((_, passages, judgments),) = calls
    assert passages == PASSAGES
    assert [one.index for one in judgments] == [0, 1, 2]


async def test_a_stream_of_duplicates_yields_each() -> None:
    rank1, _ = make()
    assert sorted(one.index for one in await stream(rank1, ["p"] * 5)) == [*range(5)]


# Identical passages


@pytest.mark.parametrize("thinking", ["full", "none", "adaptive"])
@pytest.mark.parametrize("cache", [None, dict])
def test_identical_passages_are_judged_once_and_all_returned(thinking: str, cache: Any) -> None:
    alone, many = make(thinking=thinking), make(thinking=thinking, cache=cache and cache())
    (judgment,) = alone[0].judge("q", ["the same passage"])
    judgments = many[0].judge("q", ["the same passage"] * 10)
    assert len(many[1].requests) == len(alone[1].requests)
    assert [one.index for one in judgments] == [*range(10)]
    assert {one.log_odds for one in judgments} == {judgment.log_odds}
    assert [one.cached for one in judgments] == [False] + [True] * 9


def test_a_failed_passage_fails_its_copies_too() -> None:
    rank1, engine = make(on_error="keep")
    judgments = rank1.judge("q", ["fail", "fine", "fail"])
    assert reasons(judgments) == ["failed", "concluded", "failed"]
    assert judgments[2].error == "the script says so"
    assert not judgments[2].cached
    assert len(engine.requests) == 3


# Adaptive reasoning


def test_adaptive_reasons_about_the_best_by_direct_verdict_and_retriever() -> None:
    rank1, engine = make(number_script, thinking="adaptive")
    judgments = rank1.judge("q", numbers(3, 9, 1, 8, 2, 7, 5, 4, 6, 0))
    assert [one.index for one in judgments if one.finish_reason == "concluded"] == [0, 1, 3]
    assert reasoning_requests(engine) == 3


def test_adaptive_reasons_near_the_threshold() -> None:
    rank1, _ = make(number_script, thinking=Adaptive(max_share=1))
    judgments = rank1.judge("q", numbers(8, 6, -1), score_threshold=0.99)
    assert reasons(judgments) == ["direct", "concluded", "direct"]


def test_adaptive_does_not_reason_about_what_can_not_reach_the_last_place_kept() -> None:
    rank1, _ = make(number_script, thinking=Adaptive(max_share=1))
    judgments = rank1.judge("q", numbers(20, 8.5, 8, -20), top_n=2)
    assert reasons(judgments) == ["concluded", "concluded", "concluded", "direct"]


def test_adaptive_reasons_about_a_single_passage_only_if_its_verdict_is_uncertain() -> None:
    rank1, _ = make(number_script, thinking="adaptive")
    assert reasons(rank1.judge("q", ["8"])) == ["direct"]
    assert reasons(rank1.judge("q", ["-0.3"])) == ["concluded"]


def test_adaptive_stops_reasoning_when_a_probe_is_clear() -> None:
    thinking = Adaptive(probe_every=3)
    rank1, _ = make(
        lambda _: 5.0, direct=lambda _: -0.5, thinking=thinking, reasoning=" Yes. It is. Or not."
    )
    (judgment,) = rank1.judge("q", ["p"])
    assert (judgment.log_odds, judgment.finish_reason) == (5.0, "forced")
    assert (judgment.reasoning, judgment.reasoning_tokens) == ("Yes. It is.", 3)


def test_direct_verdicts_are_shifted_as_reasoning_changed_others() -> None:
    rank1, _ = make(lambda _: 1.0, direct=number_script, thinking=Adaptive(max_share=0.5))
    judgments = rank1.judge("q", numbers(5, 4, 3, 2))
    # Reasoning changed two verdicts by -4 and -3; two more are taken to be unchanged.
    assert [one.log_odds for one in judgments] == [1.0, 1.0, 3 - 7 / 4, 2 - 7 / 4]
    assert [one.log_odds_shift for one in judgments] == [0, 0, -7 / 4, -7 / 4]


def test_a_passage_that_only_the_shift_carries_over_the_threshold_is_marked() -> None:
    rank1, _ = make(
        lambda passage: number_script(passage) + 5, direct=number_script, thinking="adaptive"
    )
    judgments = rank1.judge("q", numbers(*[-1.0] * 6, *[-3.5] * 14), score_threshold=0.5)
    carried = [one for one in judgments if one.finish_reason == "direct" and one.relevant]
    assert carried
    assert all(one.decided_by_shift for one in carried)
    assert not any(one.decided_by_shift for one in judgments if one not in carried)
    # Shifted, the far ones are the uncertain ones, so that some of them get reasoning.
    assert any(one.finish_reason == "concluded" for one in judgments[6:])


def test_without_a_threshold_no_passage_is_decided_by_the_shift_but_at_even_odds() -> None:
    rank1, _ = make(
        lambda passage: number_script(passage) + 5,
        direct=number_script,
        thinking=Adaptive(max_share=0.5),
    )
    judgments = rank1.judge("q", numbers(3, 2, 1, 0.5))
    assert [one.decided_by_shift for one in judgments] == [False] * 4


def test_one_label_of_probability_zero_does_not_spoil_the_other_scores() -> None:
    """Engines give -inf or -9999 for a label of probability zero."""

    def script(passage: str) -> float:
        return -9998.0 if "passage 0" in passage else number_script(passage) + 1

    rank1, _ = make(script, direct=number_script, thinking=Adaptive(max_share=0.5))
    judgments = rank1.judge("q", numbers(*[2.0] * 10))
    direct = [one for one in judgments if one.finish_reason == "direct"]
    assert len(direct) == 5
    assert all(one.score and one.score > 0.8 for one in direct)


def test_when_reasoning_fails_the_direct_verdict_is_kept_with_the_error() -> None:
    def fail(_: str) -> float:
        raise EngineError("the server is gone")

    rank1, _ = make(fail, direct=lambda _: 0.5, thinking="adaptive", on_error="keep")
    (judgment,) = rank1.judge("q", ["p"])
    assert (judgment.log_odds, judgment.finish_reason) == (0.5, "direct")
    assert judgment.error == "the server is gone"


# Enough

MODES: list[dict[str, Any]] = [
    {"thinking": "full"},
    {"thinking": "none"},
    {"thinking": "adaptive"},
    {"thinking": Adaptive(max_share=1)},
    {"thinking": "full", "deadline": 60},
    {"thinking": "none", "deadline": 60},
    {"thinking": "adaptive", "deadline": 60},
]
modes = pytest.mark.parametrize("mode", MODES, ids=str)


@modes
@given(
    log_odds=st.lists(st.sampled_from([-6, -2, -0.5, 0.5, 2, 6]), max_size=25),
    added=st.sampled_from([-4, -1, 0, 1, 4]),
    enough=st.integers(1, 5),
    threshold=st.sampled_from([None, 0.2, 0.5, 0.9]),
    are_copies=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_enough_means_the_same_in_every_mode(
    mode: dict[str, Any],
    log_odds: list[float],
    added: float,
    enough: int,
    threshold: float | None,
    are_copies: bool,
) -> None:
    rank1, _ = make(
        lambda passage: number_script(passage) + added, direct=number_script, enough=enough, **mode
    )
    passages = [str(value) for value in log_odds] if are_copies else numbers(*log_odds)
    result = rank1.rank("q", passages, score_threshold=threshold)
    judgments = [*result.kept, *result.dropped]
    assert sorted(one.index for one in judgments) == [*range(len(passages))]
    assert reached(judgments, threshold or 0.5) <= enough
    if reached(judgments, threshold or 0.5) < enough:
        assert not any(one.is_unneeded for one in judgments)
    assert not any(one.is_unneeded for one in result.kept)
    shifts = {one.log_odds_shift for one in judgments if one.finish_reason == "direct"}
    assert len(shifts) <= 1


@modes
def test_judging_stops_when_enough_passages_have_reached_the_threshold(
    mode: dict[str, Any],
) -> None:
    rank1, engine = make(number_script, enough=2, **mode)
    judgments = rank1.judge("q", numbers(*[5] * 50), score_threshold=0.9)
    assert reached(judgments, 0.9) == 2
    assert sum(one.is_unneeded for one in judgments) == 48
    assert len(engine.requests) <= 12


@modes
def test_all_are_judged_when_there_is_never_enough(mode: dict[str, Any]) -> None:
    rank1, _ = make(number_script, enough=3, **mode)
    judgments = rank1.judge("q", numbers(*[-5] * 20, *[5] * 2))
    assert all(one.score is not None for one in judgments)


def test_passages_are_judged_in_the_retrievers_order_until_there_is_enough() -> None:
    rank1, _ = make(number_script, enough=1)
    judgments = rank1.judge("q", numbers(-5, -5, 5, *[-5] * 6))
    assert reasons(judgments)[:3] == ["concluded"] * 3
    assert reasons(judgments)[-3:] == ["skipped"] * 3


@pytest.mark.parametrize("on_error", ["raise", "keep", "drop"])
def test_passages_that_were_not_needed_are_no_failure_and_not_kept(on_error: str) -> None:
    rank1, _ = make(number_script, enough=1, on_error=on_error)
    result = rank1.rank("q", numbers(*[5] * 20))
    assert reasons(result.kept) == ["concluded"]
    assert all(one.is_unneeded for one in result.dropped)


def test_enough_ends_what_still_runs() -> None:
    rank1, engine = make(number_script, enough=1, hold=NEVER.hold(mentions("slow")))
    judgments = rank1.judge("q", ["slow 5", "quick 5"])
    assert reasons(judgments) == ["skipped", "concluded"]
    assert engine.cancelled == 1


def test_copies_of_a_passage_do_not_enlarge_the_first_wave() -> None:
    rank1, engine = make(number_script, enough=1, thinking="none")
    rank1.judge("q", [*numbers(*[5] * 50), *["-5"] * 500])
    assert len(engine.requests) <= 2


# Deadline

BRIEF = 0.4
"""Seconds: long enough for scripted verdicts on a busy machine."""


def test_at_the_deadline_reasoning_is_cut_and_the_direct_verdicts_stand() -> None:
    rank1, engine = make(deadline=BRIEF, hold=NEVER.hold(is_reasoning))
    judgments = rank1.judge("q", PASSAGES)
    assert reasons(judgments) == ["direct"] * 3
    assert all(one.score is not None for one in judgments)
    assert engine.cancelled == 3


def test_passages_never_begun_have_their_direct_verdict() -> None:
    hold = NEVER.hold(is_reasoning)
    rank1, engine = make(deadline=BRIEF, max_concurrency=1, hold=hold)
    assert reasons(rank1.judge("q", PASSAGES)) == ["direct"] * 3
    # Each was asked for once, before the reasoning that took all the time.
    assert [is_reasoning(request) for request in engine.requests] == [False] * 3 + [True]


def test_a_cut_in_the_second_part_keeps_the_first() -> None:
    rank1, _ = make(
        deadline=BRIEF,
        reasoning=" So. " + "word " * 100,
        hold=NEVER.hold(lambda request: is_reasoning(request) and type(request.prompt) is tuple),
    )
    (judgment,) = rank1.judge("q", ["p"])
    assert judgment.finish_reason == "forced"
    assert judgment.reasoning.startswith("So. word")
    assert 40 <= judgment.reasoning_tokens <= 48


@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_passages_without_a_verdict_in_time_are_skipped_and_kept_behind(on_error: str) -> None:
    rank1, _ = make(deadline=BRIEF, on_error=on_error, hold=NEVER.hold(mentions("short")))
    result = rank1.rank("q", ["short", "a passage that is longer"], score_threshold=0.5)
    assert [(one.index, one.finish_reason) for one in result] == [(1, "direct"), (0, "skipped")]
    assert result[1].error == f"the deadline of {BRIEF} s passed before its verdict"
    assert result[1].score is None
    assert not result.dropped


def test_passages_without_a_verdict_in_time_are_dropped_with_drop() -> None:
    rank1, _ = make(deadline=BRIEF, on_error="drop", hold=NEVER.hold())
    result = rank1.rank("q", PASSAGES)
    assert [*result] == []
    assert reasons(result.dropped) == ["skipped"] * 3


def test_a_server_that_fails_raises_under_a_deadline_too() -> None:
    rank1, _ = make(deadline=60)
    with pytest.raises(EngineError, match="the script says so"):
        rank1.judge("q", ["fine", "fail"])


def test_with_time_left_the_deadline_changes_no_judgment() -> None:
    reasoning = " A sentence about it. " * 60
    hurried, _ = make(deadline=60, reasoning=reasoning)
    calm, _ = make(reasoning=reasoning)
    for one, other in zip(hurried.judge("q", PASSAGES), calm.judge("q", PASSAGES), strict=True):
        assert (one.log_odds, one.reasoning) == (other.log_odds, other.reasoning)
        assert one.finish_reason == other.finish_reason == "concluded"


def test_direct_verdicts_of_one_call_do_not_wait_for_the_reasoning_of_another() -> None:
    gate = Gate()
    hold = gate.hold(lambda request: is_reasoning(request) and "batch" in str(request.prompt))
    rank1, engine = make(deadline=20, max_concurrency=16, hold=hold)
    batch = threading.Thread(
        target=rank1.judge, args=("batch", [f"passage {n}" for n in range(100)])
    )
    batch.start()
    gate.await_arrivals(15)
    (judgment,) = rank1.judge("q", ["p"])
    assert judgment.finish_reason == "concluded"
    assert sum("batch" in str(request.prompt) for request in engine.requests) <= 100 + 16
    gate.open()
    batch.join(20)


# The start


class SlowStart(ScriptedEngine):
    """Needs longer to start than a deadline allows."""

    def __init__(self, gate: Gate, error: Exception | None = None) -> None:
        super().__init__(length_script)
        self.gate, self.error, self.starts, self.is_ready = gate, error, 0, False

    async def start(self) -> None:
        if self.is_ready:
            return
        self.starts += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.is_ready = True


def test_a_start_that_is_slower_than_the_deadline_goes_on_and_is_kept() -> None:
    gate = Gate()
    engine = SlowStart(gate)
    rank1 = Rank1(engine, deadline=0.1)
    for _ in range(3):
        assert reasons(rank1.judge("q", PASSAGES)) == ["skipped"] * 3
    gate.open()
    while not engine.is_ready:
        _event_loop.run(asyncio.sleep(0))
    assert reasons(Rank1(engine, deadline=20).judge("q", PASSAGES)) == ["concluded"] * 3
    assert engine.starts == 1


async def test_twenty_callers_share_one_failing_start() -> None:
    gate = Gate()
    engine = SlowStart(gate, EngineError("no server"))
    rank1 = Rank1(engine)
    calls = [asyncio.create_task(rank1.ajudge("q", PASSAGES)) for _ in range(20)]
    await asyncio.to_thread(gate.await_arrivals)
    # Work that comes later than the 20 calls: when it has run, all of them wait.
    await _event_loop.arun(asyncio.sleep(0))
    gate.open()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert Counter(map(str, results)) == {"no server": 20}
    assert engine.starts == 1


def test_a_failed_start_is_tried_again_by_the_next_call() -> None:
    gate = Gate()
    gate.open()
    engine = SlowStart(gate, EngineError("no server"))
    rank1 = Rank1(engine)
    with pytest.raises(EngineError, match="no server"):
        rank1.judge("q", PASSAGES)
    engine.error = None
    assert reasons(rank1.judge("q", PASSAGES)) == ["concluded"] * 3


@pytest.mark.parametrize("error", [EngineError("no server"), KeyError("no server")])
def test_when_the_engine_can_not_start_every_passage_is_kept_with_the_error(
    error: Exception,
) -> None:
    gate = Gate()
    gate.open()
    result = Rank1(SlowStart(gate, error), on_error="keep").rank("q", PASSAGES)
    assert [one.index for one in result] == [0, 1, 2]
    assert all("no server" in str(one.error) for one in result)
    with pytest.raises(EngineError, match="no server"):
        Rank1(SlowStart(gate, error)).rank("q", PASSAGES)


# Stragglers


def endless(passage: str) -> str:
    """Return the reasoning about a passage: thousands of words about a straggler."""
    return " word" * (4000 if "straggler" in passage else 10)


def tokens_of_a_straggler(**options: Any) -> Judgment:
    """Judge a straggler among ten others; probes of it never agree."""
    swaying = itertools.cycle([0.0, 0.0, 0.0, 1.0])
    rank1, _ = make(
        lambda passage: next(swaying) if "straggler" in passage else 0.0,
        direct=lambda _: 0.0,
        reasoning=endless,
        **options,
    )
    judgments = rank1.judge("q", [*(f"passage {n}" for n in range(10)), "straggler"])
    assert reasons(judgments[:-1]) == ["concluded"] * 10
    return judgments[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"thinking": Adaptive(max_share=1)},
        {"deadline": 60},
        {"straggler": 3},
        {"thinking": Adaptive(max_share=1), "straggler": 20},
    ],
    ids=str,
)
def test_endless_reasoning_is_forced_at_a_few_times_the_median(options: dict[str, Any]) -> None:
    judgment = tokens_of_a_straggler(**options)
    assert judgment.finish_reason == "forced"
    assert judgment.reasoning_tokens <= 11 * 20 + 48


@pytest.mark.parametrize(
    "options",
    [{}, {"deadline": 60, "straggler": None}],
    ids=str,
)
def test_without_a_straggler_limit_reasoning_goes_on_to_its_end(options: dict[str, Any]) -> None:
    judgment = tokens_of_a_straggler(**options)
    assert judgment.finish_reason == "concluded"
    assert judgment.reasoning_tokens == 4001


# Usage that engines do not tell


@pytest.mark.parametrize("tells_ids", [True, False])
@pytest.mark.parametrize("tells_usage", [True, False])
@pytest.mark.parametrize("options", [{}, {"deadline": 60}])
def test_judgments_do_not_depend_on_what_an_engine_tells(
    options: dict[str, Any], tells_usage: bool, tells_ids: bool
) -> None:
    reasoning = " Es geht um 版本 2.7。" * 30 + " Ja 😀!"
    rank1, _ = make(reasoning=reasoning, tells_usage=tells_usage, tells_ids=tells_ids, **options)
    reference, _ = make(reasoning=reasoning, **options)
    for one, expected in zip(
        rank1.judge("q", PASSAGES), reference.judge("q", PASSAGES), strict=True
    ):
        assert (one.log_odds, one.reasoning) == (expected.log_odds, expected.reasoning)
        assert one.finish_reason == expected.finish_reason == "concluded"


@pytest.mark.parametrize("tells_ids", [True, False])
@pytest.mark.parametrize("options", [{"deadline": 60}, {"thinking": Adaptive(probe_every=5)}])
def test_no_verdict_reads_half_a_character(options: dict[str, Any], tells_ids: bool) -> None:
    rank1, engine = make(
        lambda _: 1.0, reasoning=" 😀" * 40, tells_ids=tells_ids, max_reasoning_tokens=70, **options
    )
    (judgment,) = rank1.judge("q", ["p"])
    assert {*judgment.reasoning} == {"😀", " "}
    assert "\ufffd" not in "".join(
        request.prompt for request in engine.requests if isinstance(request.prompt, str)
    )


def test_no_more_than_max_reasoning_tokens_are_asked_for_without_usage() -> None:
    rank1, engine = make(
        reasoning=" word" * 4000,
        tells_usage=False,
        tells_ids=False,
        deadline=60,
        max_reasoning_tokens=300,
    )
    (judgment,) = rank1.judge("q", ["p"])
    assert judgment.finish_reason == "forced"
    assert judgment.reasoning == "word " * 299 + "word"
    assert sum(one.max_tokens for one in engine.requests if is_reasoning(one)) == 300


# Usage


def test_usage_sums_what_was_asked() -> None:
    rank1, engine = make(on_error="keep", cache={})
    rank1.judge("q", [*PASSAGES, "fail"])
    rank1.judge("q", PASSAGES)
    usage = rank1.usage
    assert (usage.judgments, usage.cache_hits) == (6, 3)
    assert (usage.requests, usage.answer_tokens) == (6, 3)
    written = [f" I have read: {passage}.</think>" for passage in PASSAGES]
    assert usage.reasoning_tokens == sum(len(engine.encode(text)) for text in written)
    done = [one.prompt for one in engine.requests if "fail" not in str(one.prompt)]
    sizes = [len(engine.encode(one) if isinstance(one, str) else one) for one in done]
    assert usage.prompt_tokens == sum(sizes)


def test_each_query_has_its_own_usage_and_the_object_their_sum() -> None:
    rank1, _ = make()
    first, second = rank1.rank("q", PASSAGES).usage, rank1.rank("other", ["one"]).usage
    assert (first.judgments, first.requests) == (3, 6)
    assert (second.judgments, second.requests) == (1, 2)
    total = rank1.usage
    assert total.judgments == 4
    assert total.requests == 8
    assert total.prompt_tokens == first.prompt_tokens + second.prompt_tokens


def test_usage_is_a_copy() -> None:
    rank1, _ = make()
    before = rank1.usage
    rank1.judge("q", PASSAGES)
    assert before.judgments == 0


# Every passage, once


class Faulty(ScriptedEngine):
    """Fails on requests by a list of draws, in every way that a foreign engine can."""

    def __init__(self, draws: list[str], hold: Hold | None = None) -> None:
        super().__init__(lambda passage: len(passage) - 5.0, hold=hold)
        self.draws = itertools.cycle(draws or ["fine"])

    async def complete(self, request: Any) -> Any:
        completion = await super().complete(request)
        match next(self.draws):
            case "value":
                raise ValueError("a foreign error")
            case "engine":
                raise EngineError("a known error")
            case "none":
                return None
            case "cancel":
                raise asyncio.CancelledError
            case "timeout":
                raise TimeoutError
        return completion


@modes
@given(
    passages=st.lists(st.text(max_size=8), max_size=8),
    draws=st.lists(
        st.sampled_from(["fine", "fine", "value", "engine", "none", "cancel", "timeout"]),
        max_size=7,
    ),
    on_error=st.sampled_from(["keep", "drop"]),
    enough=st.one_of(st.none(), st.integers(1, 3)),
    top_n=st.one_of(st.none(), st.integers(1, 3)),
)
@settings(max_examples=20, deadline=None)
def test_every_passage_gets_exactly_one_judgment_whatever_fails(
    mode: dict[str, Any],
    passages: list[str],
    draws: list[str],
    on_error: Any,
    enough: int | None,
    top_n: int | None,
) -> None:
    rank1 = Rank1(Faulty(draws), on_error=on_error, enough=enough, **mode)
    result = rank1.rank("q", passages, top_n=top_n)
    judgments = sorted([*result.kept, *result.dropped], key=lambda one: one.index)
    assert [one.index for one in judgments] == [*range(len(passages))]
    for judgment in judgments:
        assert (judgment.score is None) == (judgment.finish_reason in ("failed", "skipped"))
        assert judgment.finish_reason != "failed" or judgment.error
