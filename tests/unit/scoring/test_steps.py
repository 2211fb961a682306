"""Every step of the procedure, without an engine: what is asked, and what is made of answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import EngineError, Judgment
from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.reasoning_budget import Region
from rank1_integrations.scoring.prompt import FALSE, TRUE, build_prompt
from rank1_integrations.scoring.steps import (
    FINISHED_THOUGHT,
    OutOfTime,
    Plan,
    Probing,
    judge,
    mean,
)

WHOLE, DIRECT = Plan(max_tokens=100), Plan(max_tokens=0)
PROMPT = build_prompt("a query", "a passage")


def completion(**parts: Any) -> Completion:
    defaults: dict[str, Any] = {
        "text": "",
        "stopped": False,
        "continuation": "",
        "tokens": 1,
        "prompt_tokens": 40,
    }
    return Completion(**{**defaults, **parts})


def verdict(**logprobs: float) -> Completion:
    names = {"true": TRUE, "false": FALSE}
    return completion(label_logprobs={names[name]: value for name, value in logprobs.items()})


def follow(
    *answers: Completion | OutOfTime, plan: Plan = WHOLE, step_tokens: int | None = None
) -> tuple[list[Request], Judgment]:
    """Send or throw the answers one by one; return what was asked and the judgment."""
    steps = judge(3, PROMPT, plan, step_tokens=step_tokens)
    requests = [next(steps)]
    try:
        for answer in answers:
            if isinstance(answer, OutOfTime):
                requests.append(steps.throw(answer))
            else:
                requests.append(steps.send(answer))
    except StopIteration as end:
        assert answer is answers[-1], "the procedure ended before all answers were given"
        return requests, end.value
    raise AssertionError(f"the procedure wants more: {requests[-1]}")


CONCLUDED = completion(
    text="\nIt fits. ", stopped=True, continuation=(1, 2, 3), tokens=17, prompt_tokens=40
)
CUT_OFF = completion(text="\nIt fits. But on the oth", tokens=100)


def test_first_the_model_thinks_up_to_the_end_of_thought() -> None:
    (first, _), _ = follow(CONCLUDED, verdict(true=-0.1, false=-2.5))
    assert first == Request(prompt=PROMPT.text, max_tokens=100, stop="</think>")


def test_a_concluded_thought_is_continued_by_its_exact_tokens_for_one_token() -> None:
    (_, second), judgment = follow(CONCLUDED, verdict(true=-0.1, false=-2.5))
    assert second == Request(prompt=(1, 2, 3), max_tokens=1, labels=(TRUE, FALSE))
    assert judgment == Judgment(
        index=3,
        log_odds=-0.1 + 2.5,
        reasoning="It fits.",
        finish="concluded",
        reasoning_tokens=17,
        prompt_tokens=40,
    )


def test_an_unfinished_thought_is_cut_to_whole_sentences_and_the_verdict_forced() -> None:
    (_, second), judgment = follow(CUT_OFF, verdict(true=-3.0, false=-1.0))
    assert second.prompt == f"{PROMPT.text}\nIt fits.\n</think>"
    assert judgment.finish == "forced"
    assert judgment.log_odds == -2.0


def test_a_forced_verdict_keeps_the_whole_thought_and_its_token_count() -> None:
    _, judgment = follow(CUT_OFF, verdict(true=-3.0, false=-1.0))
    assert judgment.reasoning == "It fits. But on the oth"
    assert judgment.reasoning_tokens == 100


def test_a_thought_without_a_sentence_end_is_kept_as_it_is() -> None:
    (_, second), _ = follow(completion(text=" no end"), verdict(true=-1.0, false=-1.0))
    assert second.prompt == f"{PROMPT.text}\nno end\n</think>"


def test_labels_seen_in_a_thought_do_not_make_it_concluded() -> None:
    thought = completion(text="so </think", label_logprobs={TRUE: -0.1, FALSE: -3.0})
    _, judgment = follow(thought, verdict(true=-3.0, false=-0.1))
    assert judgment.finish == "forced"
    assert judgment.relevant is False


def test_without_thinking_the_verdict_is_asked_for_at_once() -> None:
    (only,), judgment = follow(verdict(true=-1.0, false=-2.0), plan=DIRECT)
    assert only.prompt == f"{PROMPT.text}\n{FINISHED_THOUGHT}\n</think>"
    assert only.max_tokens == 1
    assert (judgment.finish, judgment.reasoning, judgment.reasoning_tokens) == ("direct", "", 0)


def test_a_missing_label_gets_the_bound_and_says_so() -> None:
    answer = completion(label_logprobs={TRUE: -0.01}, label_bound=-12.0)
    _, judgment = follow(CONCLUDED, answer)
    assert judgment.log_odds == pytest.approx(11.99)
    assert judgment.bounded


def test_no_label_at_all_is_an_error_and_never_one_half() -> None:
    with pytest.raises(EngineError, match="is this a Rank1 model"):
        follow(CONCLUDED, completion(label_bound=-9.0))


def test_nan_is_an_error() -> None:
    with pytest.raises(EngineError, match="NaN"):
        follow(CONCLUDED, verdict(true=math.nan, false=-1.0))


def part(text: str, tokens: int = 10, *ahead: int) -> Completion:
    """A piece of a thought that the token limit ended."""
    return completion(text=text, tokens=tokens, unfinished=True, continuation=ahead)


def test_a_thought_in_parts_goes_on_by_its_exact_tokens() -> None:
    end = completion(text=" fits.", stopped=True, continuation=(1, 2, 3), tokens=3)
    (first, second, third), judgment = follow(
        part("\nIt", 10, 1, 2), end, verdict(true=-0.1, false=-2.5), step_tokens=10
    )
    assert (first.prompt, first.max_tokens) == (PROMPT.text, 10)
    assert (second.prompt, second.max_tokens) == ((1, 2), 10)
    assert third.prompt == (1, 2, 3)
    assert (judgment.reasoning, judgment.finish) == ("It fits.", "concluded")
    assert judgment.reasoning_tokens == 13


def test_parts_never_exceed_the_longest_thought_together() -> None:
    requests, judgment = follow(
        *(part(f" {n}.", 40, n) for n in range(2)),
        part(" 3.", 20, 3),
        verdict(true=-1.0, false=-2.0),
        step_tokens=40,
    )
    assert [request.max_tokens for request in requests] == [40, 40, 20, 1]
    assert (judgment.finish, judgment.reasoning_tokens) == ("forced", 100)


def test_an_end_of_sequence_within_the_limit_ends_the_thought() -> None:
    (_, second), judgment = follow(
        completion(text=" Done.", tokens=3), verdict(true=-1.0, false=-2.0), step_tokens=10
    )
    assert second.labels == (TRUE, FALSE)
    assert judgment.finish == "forced"


def test_a_character_broken_between_two_parts_leaves_no_trace() -> None:
    end = completion(text="\ufffd fits.", stopped=True, continuation=(1,), tokens=3)
    _, judgment = follow(
        part(" It\ufffd", 2, 1), end, verdict(true=-1.0, false=-2.0), step_tokens=2
    )
    assert judgment.reasoning == "It fits."


def test_an_end_mark_of_several_tokens_is_seen_across_two_parts() -> None:
    requests, judgment = follow(
        part(" It fits.</th", 10, 1),
        part("ink> true", 10, 2),
        verdict(true=-1.0, false=-2.0),
        step_tokens=10,
    )
    assert requests[-1].prompt == f"{PROMPT.text} It fits.</think>"
    assert (judgment.reasoning, judgment.finish) == ("It fits.", "concluded")


def test_out_of_time_in_a_thought_forces_the_verdict_from_what_there_is() -> None:
    requests, judgment = follow(
        part(" It fits. But", 10, 1), OutOfTime(), verdict(true=-1.0, false=-3.0), step_tokens=10
    )
    assert requests[-1].prompt == f"{PROMPT.text}\nIt fits.\n</think>"
    assert (judgment.finish, judgment.reasoning_tokens, judgment.log_odds) == ("forced", 10, 2.0)


def test_out_of_time_before_any_thought_gives_a_direct_verdict() -> None:
    requests, judgment = follow(OutOfTime(), verdict(true=-1.0, false=-3.0))
    assert requests[-1].prompt == f"{PROMPT.text}\n{FINISHED_THOUGHT}\n</think>"
    assert (judgment.finish, judgment.reasoning, judgment.log_odds) == ("direct", "", 2.0)


def test_out_of_time_before_any_thought_keeps_the_direct_verdict_that_is_known() -> None:
    known = Judgment(index=0, log_odds=1.5, finish="direct")
    steps = judge(0, PROMPT, Plan(max_tokens=100), known=known)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.throw(OutOfTime())
    assert end.value.value is known


PROBED = Plan(
    max_tokens=100,
    probing=Probing(step_tokens=10, region=Region(low=-3.0, high=3.0), settled=0.5),
)


def test_a_probe_that_is_sure_ends_the_thought_with_its_own_verdict() -> None:
    (_, probe), judgment = follow(
        part(" It fits. And", 10, 1), verdict(true=-0.5, false=-4.5), plan=PROBED
    )
    assert probe.prompt == f"{PROMPT.text}\nIt fits.\n</think>"
    assert (judgment.finish, judgment.log_odds) == ("forced", 4.0)
    assert (judgment.reasoning, judgment.reasoning_tokens) == ("It fits. And", 10)


def test_probes_that_agree_end_the_thought() -> None:
    requests, judgment = follow(
        part(" It fits.", 10, 1),
        verdict(true=-1.0, false=-2.9),
        part(" Or not.", 10, 2),
        verdict(true=-1.0, false=-2.3),
        part(" Yes.", 10, 3),
        verdict(true=-1.0, false=-2.5),  # as before: settled
        plan=PROBED,
    )
    assert [bool(request.labels) for request in requests] == [False, True] * 3
    assert (judgment.finish, judgment.reasoning_tokens) == ("forced", 30)
    assert judgment.log_odds == pytest.approx(1.5)


def test_outside_what_is_open_a_verdict_is_sure() -> None:
    probing = Probing(step_tokens=10, region=Region(low=2.0, high=8.0), settled=0.5)
    assert not probing.is_plain(before=None, now=4.0)
    assert probing.is_plain(before=None, now=1.9)
    assert probing.is_plain(before=None, now=8.0)


def test_the_last_probe_is_not_asked_twice() -> None:
    requests, judgment = follow(
        part(" It fits.", 10, 1), verdict(true=-1.0, false=-2.9), OutOfTime(), plan=PROBED
    )
    assert len(requests) == 3
    assert judgment.log_odds == pytest.approx(1.9)


def test_the_mean_of_samples_keeps_the_reasoning_nearest_to_it() -> None:
    samples = [
        Judgment(
            index=1, log_odds=odds, reasoning=f"{odds}", finish="concluded", reasoning_tokens=5
        )
        for odds in (-3.0, 1.0, 5.0)
    ]
    middle = mean(samples)
    assert (middle.log_odds, middle.reasoning, middle.reasoning_tokens) == (1.0, "1.0", 15)


def test_samples_are_drawn_with_seeds_of_their_own() -> None:
    plan = Plan(max_tokens=100, samples=3)
    first = [next(judge(0, PROMPT, plan, sample=sample)) for sample in range(3)]
    assert len({request.seed for request in first}) == 3
    assert {request.temperature for request in first} == {0.6}
    assert next(judge(0, PROMPT, WHOLE)).seed is None


@given(true=st.floats(max_value=0), false=st.floats(max_value=0))
def test_log_odds_are_finite_for_any_logprobs(true: float, false: float) -> None:
    _, judgment = follow(CONCLUDED, verdict(true=true, false=false))
    assert judgment.log_odds is not None
    assert math.isfinite(judgment.log_odds)
