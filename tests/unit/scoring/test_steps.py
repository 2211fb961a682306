# ruff: noqa: RUF001 (text of many scripts)
"""The steps that score a pair, without an engine: which requests they yield for which answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_integrations import EngineError, Judgment
from rank1_integrations.engines.base import Completion, Ending, Request, TokenIds
from rank1_integrations.scoring.prompt import FALSE, TRUE, build_prompt
from rank1_integrations.scoring.steps import (
    FINISHED_REASONING,
    Decode,
    Plan,
    Probing,
    ReasoningCut,
    Scored,
    Steps,
    UncertaintyBand,
    scoring_steps,
    whole_sentences,
)

FULL, DIRECT = Plan(max_tokens=100), Plan(max_tokens=0)
PROMPT = build_prompt("a query", "a passage")
CONCLUDED = Completion(
    text="\nIt fits. ",
    ended="stop",
    prompt_ids=(1, 2),
    token_ids=(3, 4, 5),
    prompt_tokens=40,
    completion_tokens=3,
)
LONG_PART = Completion(text="\nIt fits. But on the oth", ended="length", completion_tokens=100)


def part(text: str, *token_ids: int, ended: Ending = "length") -> Completion:
    """Reasoning of an engine that tells token ids; the prompt's are (1, 2)."""
    return Completion(text=text, ended=ended, prompt_ids=(1, 2), token_ids=token_ids)


def text_part(text: str, *, ended: Ending = "length", **usage: Any) -> Completion:
    """Reasoning of an engine that tells text only."""
    return Completion(text=text, ended=ended, **usage)


def verdict(*, true: float, false: float) -> Completion:
    return Completion(text="", ended="length", label_logprobs={TRUE: true, FALSE: false})


YES = verdict(true=-1.0, false=-3.0)


class Conversation:
    """Sends prepared answers to the steps and keeps what they yielded."""

    def __init__(self, *answers: object, plan: Plan = FULL, **settings: Any) -> None:
        steps = scoring_steps(3, PROMPT, plan, **settings)
        self.steps: list[Request | Decode] = [next(steps)]
        self.scored = self._follow(steps, answers)
        self.judgment = self.scored.judgment

    def _follow(self, steps: Steps, answers: tuple[object, ...]) -> Scored:
        for position, answer in enumerate(answers, 1):
            try:
                if isinstance(answer, ReasoningCut):
                    self.steps.append(steps.throw(answer))
                else:
                    self.steps.append(steps.send(answer))
            except StopIteration as end:
                assert position == len(answers), "the steps ended before all answers were sent"
                scored: Scored = end.value
                return scored
        raise AssertionError(f"the steps want more: {self.steps[-1]}")

    @property
    def requests(self) -> list[Request]:
        return [step for step in self.steps if isinstance(step, Request)]

    @property
    def prompts(self) -> list[str | TokenIds]:
        return [request.prompt for request in self.requests]


def drive(
    answer: Callable[[Request], Completion], plan: Plan, **settings: Any
) -> tuple[list[Request], Scored]:
    """Answer every request by a function."""
    steps, requests = scoring_steps(0, PROMPT, plan, **settings), []
    step = next(steps)
    try:
        while True:
            if isinstance(step, Decode):
                step = steps.send(None)
            else:
                requests.append(step)
                step = steps.send(YES if step.labels else answer(step))
    except StopIteration as end:
        return requests, end.value


# Concluded, forced, direct


def test_reasoning_is_asked_for_up_to_its_end() -> None:
    conversation = Conversation(CONCLUDED, YES)
    assert conversation.requests[0] == Request(prompt=PROMPT.text, max_tokens=100, stop="</think>")


def test_concluded_reasoning_is_continued_by_its_exact_tokens_for_one_token() -> None:
    conversation = Conversation(CONCLUDED, verdict(true=-0.1, false=-2.5))
    assert conversation.requests[1] == Request(
        prompt=(1, 2, 3, 4, 5), max_tokens=1, labels=(TRUE, FALSE)
    )
    assert conversation.judgment == Judgment(
        index=3,
        log_odds=-0.1 + 2.5,
        reasoning="It fits.",
        finish_reason="concluded",
        reasoning_tokens=3,
        prompt_tokens=40,
    )
    assert conversation.scored.is_final


def test_without_token_ids_concluded_reasoning_is_continued_by_its_text() -> None:
    conversation = Conversation(text_part("\nIt fits.", ended="stop"), YES)
    assert conversation.prompts[1] == f"{PROMPT.text}\nIt fits.</think>"


def test_reasoning_at_its_limit_is_cut_to_whole_sentences_and_the_verdict_forced() -> None:
    conversation = Conversation(LONG_PART, verdict(true=-3.0, false=-1.0))
    assert conversation.prompts[1] == f"{PROMPT.text}\nIt fits.\n</think>"
    assert conversation.judgment.finish_reason == "forced"
    assert conversation.judgment.log_odds == -2.0
    assert conversation.scored.is_final


def test_a_forced_verdict_keeps_the_whole_reasoning_and_its_token_count() -> None:
    judgment = Conversation(LONG_PART, YES).judgment
    assert judgment.reasoning == "It fits. But on the oth"
    assert judgment.reasoning_tokens == 100


def test_labels_listed_beside_reasoning_do_not_make_it_concluded() -> None:
    completion = Completion(
        text="so </think", ended="length", label_logprobs={TRUE: -0.1, FALSE: -3.0}
    )
    judgment = Conversation(completion, verdict(true=-3.0, false=-0.1)).judgment
    assert judgment.finish_reason == "forced"
    assert judgment.relevant is False


def test_an_end_of_sequence_without_an_end_of_reasoning_forces_the_verdict() -> None:
    conversation = Conversation(part(" Done.", 3, ended="eos"), YES, part_tokens=10)
    assert conversation.requests[1].labels == (TRUE, FALSE)
    assert conversation.judgment.finish_reason == "forced"


def test_a_direct_verdict_takes_one_request() -> None:
    conversation = Conversation(YES, plan=DIRECT)
    assert conversation.requests == [
        Request(
            prompt=f"{PROMPT.text}\n{FINISHED_REASONING}\n</think>",
            max_tokens=1,
            labels=(TRUE, FALSE),
        )
    ]
    judgment = conversation.judgment
    assert (judgment.finish_reason, judgment.reasoning) == ("direct", "")
    assert judgment.reasoning_tokens == 0


def test_reasoning_leaves_the_steps_without_control_tokens() -> None:
    """It is shown to people and put into other models' chat prompts."""
    judgment = Conversation(part(" <|im_start|>system", 3, ended="stop"), YES).judgment
    assert judgment.reasoning == "< |im_start|>system"


# Labels


def test_a_missing_label_gets_the_bound_and_is_marked() -> None:
    answer = Completion(text="", ended="length", label_logprobs={TRUE: -0.01}, label_bound=-12.0)
    judgment = Conversation(CONCLUDED, answer).judgment
    assert judgment.log_odds == pytest.approx(11.99)
    assert judgment.log_odds_is_bound


def test_the_likelier_label_may_be_false() -> None:
    answer = Completion(text="", ended="length", label_logprobs={FALSE: -0.01}, label_bound=-12.0)
    assert Conversation(CONCLUDED, answer).judgment.log_odds == pytest.approx(-11.99)


@pytest.mark.parametrize("bound", [-3.0, None])
def test_one_label_below_the_bound_is_refused(bound: float | None) -> None:
    """The other label may be the likelier one: the sign is not known."""
    answer = Completion(text="", ended="length", label_logprobs={TRUE: -9.0}, label_bound=bound)
    with pytest.raises(EngineError, match="does not tell which is the likelier"):
        Conversation(CONCLUDED, answer)


def test_no_label_at_all_is_an_error_and_never_one_half() -> None:
    with pytest.raises(EngineError, match="is this a Rank1 model"):
        Conversation(CONCLUDED, Completion(text="", ended="length", label_bound=-9.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_log_probability_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(EngineError, match="NaN or infinity"):
        Conversation(CONCLUDED, verdict(true=value, false=-1.0))


@pytest.mark.parametrize("zero", [-math.inf, -9999.0])
def test_one_label_of_probability_zero_gives_finite_log_odds(zero: float) -> None:
    assert Conversation(CONCLUDED, verdict(true=-0.5, false=zero)).judgment.log_odds == 9998.5
    assert Conversation(CONCLUDED, verdict(true=zero, false=-0.5)).judgment.log_odds == -9998.5


@pytest.mark.parametrize("zero", [-math.inf, -9999.0])
def test_two_labels_of_probability_zero_are_an_error(zero: float) -> None:
    with pytest.raises(EngineError, match="zero for both labels"):
        Conversation(CONCLUDED, verdict(true=zero, false=zero))


@given(true=st.floats(-1e308, 0), false=st.floats(-9998, 0))
def test_log_odds_are_finite_for_all_log_probabilities(true: float, false: float) -> None:
    log_odds = Conversation(CONCLUDED, verdict(true=true, false=false)).judgment.log_odds
    assert log_odds is not None
    assert math.isfinite(log_odds)


# Parts


def test_reasoning_in_parts_continues_by_its_exact_tokens() -> None:
    conversation = Conversation(
        part("\nIt", 10), part(" fits.", 11, 12, ended="stop"), YES, "\nIt fits.", part_tokens=10
    )
    first, second, third = conversation.requests
    assert (first.prompt, first.max_tokens) == (PROMPT.text, 10)
    assert (second.prompt, second.max_tokens) == ((1, 2, 10), 10)
    assert third.prompt == (1, 2, 10, 11, 12)
    assert conversation.judgment.reasoning == "It fits."
    assert conversation.judgment.finish_reason == "concluded"


def test_reasoning_in_parts_continues_by_its_text_without_token_ids() -> None:
    conversation = Conversation(
        text_part("\nIt"), text_part(" fits.", ended="stop"), YES, part_tokens=10
    )
    assert conversation.prompts == [
        PROMPT.text,
        f"{PROMPT.text}\nIt",
        f"{PROMPT.text}\nIt fits.</think>",
    ]


def test_token_ids_that_one_part_lacks_are_not_guessed() -> None:
    conversation = Conversation(
        part("\nIt", 10), text_part(" fits"), text_part(".", ended="stop"), YES, part_tokens=10
    )
    assert conversation.prompts[2] == f"{PROMPT.text}\nIt fits"


def test_parts_together_never_ask_for_more_than_the_longest_reasoning() -> None:
    ids = range(100)
    conversation = Conversation(
        part(" 1.", *ids[:40]), part(" 2.", *ids[40:80]), part(" 3.", *ids[80:]), " 1. 2. 3.", YES,
        part_tokens=40,
    )  # fmt: skip
    assert [request.max_tokens for request in conversation.requests] == [40, 40, 20, 1]
    assert conversation.judgment.finish_reason == "forced"
    assert conversation.judgment.reasoning_tokens == 100
    assert conversation.scored.is_final


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"completion_tokens": 0},
        {"completion_tokens": -5},
        {"completion_tokens": 10**9},
        {"token_ids": ()},
        {"token_ids": tuple(range(500))},
    ],
)
@pytest.mark.parametrize("text", [" and so on.", ""])
def test_usage_that_is_missing_or_wrong_never_prolongs_reasoning(
    usage: dict[str, Any], text: str
) -> None:
    def answer(request: Request) -> Completion:
        return Completion(**{"text": text, "ended": "length", **usage})

    requests, scored = drive(answer, Plan(max_tokens=1000), part_tokens=48)
    asked = [request.max_tokens for request in requests if not request.labels]
    assert sum(asked) == 1000
    assert len(asked) == math.ceil(1000 / 48)
    assert scored.judgment.finish_reason == "forced"
    assert scored.judgment.reasoning_tokens == 1000
    assert scored.judgment.reasoning == (text * len(asked)).strip()


@given(
    max_tokens=st.integers(1, 300),
    part_tokens=st.one_of(st.none(), st.integers(1, 100)),
    counts=st.lists(st.one_of(st.none(), st.integers(-3, 200)), min_size=1),
    every=st.one_of(st.none(), st.integers(1, 100)),
)
def test_no_usage_makes_the_steps_ask_for_more_than_the_plan(
    max_tokens: int, part_tokens: int | None, counts: list[int | None], every: int | None
) -> None:
    pending = iter(counts)

    def answer(request: Request) -> Completion:
        return text_part(" A sentence.", completion_tokens=next(pending, None))

    probing = (
        None
        if every is None
        else Probing(every=every, band=UncertaintyBand(low=-9, high=9), agreement=0.0)
    )
    requests, _ = drive(
        answer, Plan(max_tokens=max_tokens, probing=probing), part_tokens=part_tokens
    )
    assert sum(request.max_tokens for request in requests if not request.labels) <= max_tokens


def test_without_usage_the_tokens_of_finished_reasoning_are_estimated_from_its_text() -> None:
    judgment = Conversation(text_part(" It fits the query.", ended="stop"), YES).judgment
    assert 1 <= judgment.reasoning_tokens <= 100


def test_reasoning_without_usage_is_kept_and_gives_no_direct_verdict() -> None:
    conversation = Conversation(text_part(" Hmm. Well", completion_tokens=0), YES)
    assert conversation.prompts[1] == f"{PROMPT.text}\nHmm.\n</think>"
    assert conversation.judgment.finish_reason == "forced"


def test_an_end_of_reasoning_split_over_two_parts_is_recognized() -> None:
    conversation = Conversation(
        part(" It fits.</th", 10), part("ink> true", 11), YES, part_tokens=10
    )
    assert conversation.prompts[-1] == f"{PROMPT.text} It fits.</think>"
    assert conversation.judgment.reasoning == "It fits."
    assert conversation.judgment.finish_reason == "concluded"


# Characters that are split over two parts


def test_a_split_character_is_decoded_whole_from_token_ids() -> None:
    conversation = Conversation(
        part(" It \ufffd", 10),
        part("\ufffd fits.", 11, ended="stop"),
        YES,
        " It 😀 fits.",
        part_tokens=2,
    )
    assert conversation.prompts[2] == (1, 2, 10, 11)
    assert conversation.steps[-1] == Decode((10, 11))
    assert conversation.judgment.reasoning == "It 😀 fits."


def test_a_forced_verdict_reads_the_whole_character() -> None:
    conversation = Conversation(
        part(" It \ufffd", 10), part("\ufffd fits. Bu", 11), " It 😀 fits. Bu", YES,
        plan=Plan(max_tokens=4), part_tokens=2,
    )  # fmt: skip
    assert conversation.prompts[-1] == f"{PROMPT.text}\nIt 😀 fits.\n</think>"


def test_a_cut_inside_a_second_character_does_not_lose_the_first() -> None:
    conversation = Conversation(
        part(" It \ufffd", 10), part("\ufffd and \ufffd", 11), " It 😀 and \ufffd", YES,
        plan=Plan(max_tokens=4), part_tokens=2,
    )  # fmt: skip
    assert conversation.judgment.reasoning == "It 😀 and"


def test_a_character_of_three_parts_is_decoded_whole() -> None:
    conversation = Conversation(
        part(" It \ufffd", 10),
        part("\ufffd", 11),
        part("\ufffd fits.", 12, ended="stop"),
        YES,
        " It 😀 fits.",
        part_tokens=1,
    )
    assert conversation.judgment.reasoning == "It 😀 fits."


@pytest.mark.parametrize("decoded", [None, "", "It fits.", "something else"])
def test_a_decoder_that_changes_more_than_the_seam_is_not_believed(decoded: str | None) -> None:
    conversation = Conversation(
        part(" It \ufffd", 10), part("\ufffd fits.", 11, ended="stop"), YES, decoded, part_tokens=2
    )
    assert conversation.judgment.reasoning == "It  fits."


def test_without_token_ids_the_model_writes_a_split_character_again() -> None:
    conversation = Conversation(
        text_part(" It \ufffd"), text_part("😀 fits.", ended="stop"), YES, part_tokens=2
    )
    assert conversation.prompts[1:] == [f"{PROMPT.text} It ", f"{PROMPT.text} It 😀 fits.</think>"]
    assert conversation.judgment.reasoning == "It 😀 fits."


@pytest.mark.parametrize("make_part", [part, text_part])
def test_reasoning_cut_inside_a_character_ends_before_it(
    make_part: Callable[[str], Completion],
) -> None:
    conversation = Conversation(make_part(" No end \ufffd"), YES, plan=Plan(max_tokens=4))
    assert conversation.prompts[-1] == f"{PROMPT.text}\nNo end\n</think>"
    assert conversation.judgment.reasoning == "No end"


# Cut by deadline or limit


def test_a_cut_forces_the_verdict_from_the_finished_parts() -> None:
    conversation = Conversation(
        part(" It fits. But", 10), ReasoningCut(), verdict(true=-1.0, false=-3.0), part_tokens=10
    )
    assert conversation.prompts[-1] == f"{PROMPT.text}\nIt fits.\n</think>"
    assert conversation.judgment.finish_reason == "forced"
    assert conversation.judgment.log_odds == 2.0
    assert not conversation.scored.is_final


def test_a_cut_before_the_first_part_gives_a_direct_verdict() -> None:
    conversation = Conversation(ReasoningCut(), YES)
    assert conversation.prompts[-1] == f"{PROMPT.text}\n{FINISHED_REASONING}\n</think>"
    assert conversation.judgment.finish_reason == "direct"
    assert not conversation.scored.is_final


def test_a_cut_before_the_first_part_returns_an_existing_direct_verdict() -> None:
    direct = Judgment(index=3, log_odds=1.5, finish_reason="direct")
    conversation = Conversation(ReasoningCut(), direct=direct)
    assert conversation.judgment is direct
    assert not conversation.scored.is_final


def test_the_token_limit_is_asked_before_each_part() -> None:
    limits = iter([math.inf, 25, 25])
    conversation = Conversation(
        part(" One.", *range(10)), part(" Two.", *range(10, 25)), " One. Two.", YES,
        part_tokens=20, token_limit=lambda: next(limits),
    )  # fmt: skip
    assert [request.max_tokens for request in conversation.requests] == [20, 5, 1]
    assert conversation.judgment.finish_reason == "forced"
    assert not conversation.scored.is_final


# Probes

BAND = UncertaintyBand(low=-3.0, high=3.0)
PROBED = Plan(max_tokens=100, probing=Probing(every=10, band=BAND, agreement=0.25))


def test_a_clear_probe_ends_the_reasoning_and_is_its_verdict() -> None:
    conversation = Conversation(
        part(" It fits. And", 10), verdict(true=-0.5, false=-4.5), plan=PROBED
    )
    assert conversation.prompts[1] == f"{PROMPT.text}\nIt fits.\n</think>"
    assert conversation.judgment.finish_reason == "forced"
    assert conversation.judgment.log_odds == 4.0
    assert conversation.judgment.reasoning == "It fits. And"
    assert conversation.scored.is_final


def test_probes_that_agree_end_the_reasoning() -> None:
    text = " It fits. Or not. Yes."
    conversation = Conversation(
        part(" It fits.", 10), verdict(true=-1.0, false=-2.9),
        part(" Or not.", 11), " It fits. Or not.", verdict(true=-1.0, false=-2.3),
        part(" Yes.", 12), text, verdict(true=-1.0, false=-2.5),
        plan=PROBED,
    )  # fmt: skip
    assert [bool(request.labels) for request in conversation.requests] == [False, True] * 3
    assert conversation.judgment.log_odds == pytest.approx(1.5)
    assert conversation.judgment.finish_reason == "forced"


def test_two_probes_of_the_same_text_are_no_agreement() -> None:
    """A long sentence, a list or code can go on over many parts without a sentence end."""
    open_sentence = [
        *(text_part(" It fits. And then"), verdict(true=-1.0, false=-2.0)),
        *(text_part(" it goes on"), text_part(" and on")),
        *(text_part(" to its end. "), verdict(true=-1.0, false=-2.1)),
    ]
    conversation = Conversation(*open_sentence, plan=PROBED)
    kinds = ["verdict" if request.labels else "reasoning" for request in conversation.requests]
    assert kinds == ["reasoning", "verdict", *["reasoning"] * 3, "verdict"]
    assert len({*conversation.prompts}) == len(conversation.prompts)


def test_reasoning_without_sentence_ends_is_probed_on_all_of_its_text() -> None:
    conversation = Conversation(
        text_part(" one thing"), verdict(true=-1.0, false=-2.0),
        text_part(" and another"), verdict(true=-1.0, false=-2.1),
        plan=PROBED,
    )  # fmt: skip
    assert conversation.prompts[1::2] == [
        f"{PROMPT.text}\none thing\n</think>",
        f"{PROMPT.text}\none thing and another\n</think>",
    ]


def test_a_verdict_is_not_asked_again_on_the_text_of_the_last_probe() -> None:
    conversation = Conversation(
        part(" It fits.", 10), verdict(true=-1.0, false=-2.9), ReasoningCut(), plan=PROBED
    )
    assert len(conversation.requests) == 3
    assert conversation.judgment.log_odds == pytest.approx(1.9)


def test_a_probe_outside_the_band_is_clear() -> None:
    probing = Probing(every=10, band=UncertaintyBand(low=2.0, high=8.0), agreement=0.25)
    assert not probing.is_clear(previous=None, log_odds=4.0)
    assert probing.is_clear(previous=None, log_odds=1.9)
    assert probing.is_clear(previous=None, log_odds=8.0)


def test_probes_agree_if_they_differ_by_less_than_the_agreement() -> None:
    probing = Probing(every=10, band=BAND, agreement=0.25)
    assert probing.is_clear(previous=1.0, log_odds=1.2)
    assert not probing.is_clear(previous=1.0, log_odds=1.3)


def test_agreement_near_a_lone_threshold_is_not_clear() -> None:
    probing = Probing(every=10, band=UncertaintyBand(low=-2.0, high=4.0), agreement=0.25)
    assert not probing.is_clear(previous=1.3, log_odds=1.4)
    assert not probing.is_clear(previous=0.5, log_odds=0.6)
    assert probing.is_clear(previous=1.5, log_odds=1.6)
    open_above = Probing(every=10, band=UncertaintyBand(low=1.0, high=math.inf), agreement=0.25)
    assert open_above.is_clear(previous=1.3, log_odds=1.4)


# Whole sentences


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It fits. But on the oth", "It fits."),
        ("Does it? Yes! And the", "Does it? Yes!"),
        ("no end at all", "no end at all"),
        ("", ""),
        ("它适合查询。版本 2.7 也", "它适合查询。"),
        ("这个段落提到 2.7 版本。它回答了问题。但是", "这个段落提到 2.7 版本。它回答了问题。"),
        ("適合している。しかし 3.11 は", "適合している。"),
        ("यह 2.7 के बारे में है। यह सही है। लेकिन", "यह 2.7 के बारे में है। यह सही है।"),
        ("هل هذا صحيح؟ نعم", "هل هذا صحيح؟"),
        ("یہ درست ہے۔ لیکن", "یہ درست ہے۔"),
        ("これは！しかし", "これは！"),
        ("ይህ ትክክል ነው። ግን", "ይህ ትክክል ነው።"),
        ("Սա ճիշտ է\u0589 Բայց", "Սա ճիշտ է\u0589"),
    ],
)
def test_text_is_cut_at_the_last_sentence_end_of_its_script(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It is fast. Version 2.7 of the lib", "It is fast."),
        ("It is fast. See lists, e.g. in the lib", "It is fast."),
        ("It is fast. They fixed v1. in the lib", "It is fast."),
        ("Use list.append for that, not foo.b", "Use list.append for that, not foo.b"),
        ("It costs 2.75 and", "It costs 2.75 and"),
        ("Wait... it goes on", "Wait... it goes on"),
        ("See example.com/a?b=1 for", "See example.com/a?b=1 for"),
    ],
)
def test_marks_in_numbers_names_and_abbreviations_end_no_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('He said "yes." And then', 'He said "yes."'),
        ("(It fits.) And then", "(It fits.)"),
        ("**It fits.** And then", "**It fits.**"),
        ("他说：“对。”但是", "他说：“对。”"),
        ("「はい。」しかし", "「はい。」"),
    ],
)
def test_quotes_and_brackets_that_close_a_sentence_belong_to_it(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@pytest.mark.parametrize("marker", ["2.", "12.", "b.", "  3.", "- 4.", "**5."])
def test_a_list_marker_ends_no_sentence(marker: str) -> None:
    text = f"Two points. The list:\n1. It covers lists\n{marker} It cov"
    assert whole_sentences(text) == "Two points."


def test_a_sentence_that_ends_in_a_number_ends() -> None:
    assert whole_sentences("It was 1998. Then it") == "It was 1998."
    assert whole_sentences("It is\nabout Python 3. Then it") == "It is\nabout Python 3."


@given(st.text(alphabet=list('ab. \n!?。…")1A'), max_size=60))
def test_whole_sentences_are_a_beginning_of_the_text(text: str) -> None:
    assert text.strip().startswith(whole_sentences(text))
    assert whole_sentences(text) or not text.strip()


@pytest.mark.parametrize("unit", [".", ". ", '."', ". a", "?!", "a", " ", "\n1. "])
def test_cutting_to_whole_sentences_is_linear(unit: str) -> None:
    """50,000 repetitions take minutes if each mark looks at all that follows it."""
    assert len(whole_sentences(unit * 50_000)) <= 50_000 * len(unit)
