"""Every step of the procedure, without an engine: what is asked, and what is made of answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import EngineError, Judgment
from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.procedure import FINISHED_THOUGHT, Thinking, judge
from rank1_integrations.prompt import FALSE, TRUE, build_prompt

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


def follow(*answers: Completion, thinking: Thinking = "full") -> tuple[list[Request], Judgment]:
    """Send the answers one by one; return what was asked and the judgment."""
    steps = judge(3, PROMPT, thinking=thinking, max_tokens=100)
    requests = [next(steps), *(steps.send(answer) for answer in answers[:-1])]
    with pytest.raises(StopIteration) as end:
        steps.send(answers[-1])
    return requests, end.value.value


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
    (only,), judgment = follow(verdict(true=-1.0, false=-2.0), thinking="none")
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


@given(true=st.floats(max_value=0), false=st.floats(max_value=0))
def test_log_odds_are_finite_for_any_logprobs(true: float, false: float) -> None:
    _, judgment = follow(CONCLUDED, verdict(true=true, false=false))
    assert judgment.log_odds is not None
    assert math.isfinite(judgment.log_odds)
