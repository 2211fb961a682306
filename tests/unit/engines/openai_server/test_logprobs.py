"""How a text ended and what a label's log-probability is, in the forms that servers answer in."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion as ServerCompletion
from openai.types import CompletionChoice

from rank1_integrations.engines.openai_server.logprobs import (
    echoed_logprob,
    label_logprobs,
    thought,
)

STOP = "</think>"
IDS: dict[str, int | None] = {" true": 830, " false": 895}


def choice(text: str, tokens: list[str] | None = None, **fields: Any) -> CompletionChoice:
    logprobs = (
        None if tokens is None else {"tokens": tokens, "token_logprobs": [-0.1] * len(tokens)}
    )
    return CompletionChoice.model_validate(
        {"index": 0, "finish_reason": "stop", "text": text, "logprobs": logprobs, **fields}
    )


@pytest.mark.parametrize(
    ("answer", "text", "stopped"),
    [
        (choice("So.", stop_reason=STOP), "So.", True),
        (choice("So.", stop_reason=None), "So.", False),
        (choice("So.", stop_reason=None, finish_reason="length"), "So.", False),
        (choice("So.", ["So", ".", STOP]), "So.", True),
        (choice("So. true", ["So", ".", STOP, " true", "<|endoftext|>"]), "So.", True),
        (choice("So.", ["So", ".", "<|endoftext|>"]), "So.", False),
        (choice("So.", ["So", "."], finish_reason="length"), "So.", False),
        (choice("So.", ["So", "."]), "So.", True),
        (choice("So."), "So.", True),
    ],
    ids=[
        "vLLM says the stop text",
        "vLLM says none: an end of sequence",
        "vLLM says none: the limit",
        "the stop text is listed",
        "it was passed over, hidden",
        "an end of sequence is listed",
        "the limit, nothing hidden",
        "OpenAI lists neither",
        "nothing is listed",
    ],
)
def test_a_thought_is_complete_only_if_the_stop_text_was_written(
    answer: CompletionChoice, text: str, stopped: bool
) -> None:
    assert thought(answer, STOP) == (text, stopped)


@pytest.mark.parametrize("prefix", [" ", "\u0120", "\u2581", "bytes: ", "bytes:\\x20"])
def test_a_label_is_found_by_any_spelling(prefix: str) -> None:
    likeliest = {f"{prefix}true": -0.2, f"{prefix}false": -3.0, "true": -0.1}
    assert label_logprobs(choice(""), likeliest, IDS) == {" true": -0.2, " false": -3.0}


def test_a_label_is_found_by_its_token_where_tokens_are_named_by_number() -> None:
    likeliest = {"token_id:830": -0.2, "token_id:7": -0.1}
    assert label_logprobs(choice(""), likeliest, IDS) == {" true": -0.2}


def test_where_two_tokens_are_named_alike_the_chosen_one_is_known_apart() -> None:
    answer = choice(" true", [" true"])
    assert label_logprobs(answer, {" true": -9.0, " false": -3.0}, IDS)[" true"] == -0.1


def echoed(tokens: list[str], prompt_tokens: int) -> ServerCompletion:
    return ServerCompletion.model_validate(
        {
            "id": "1",
            "created": 0,
            "model": "m",
            "object": "text_completion",
            "choices": [choice("", tokens).model_dump()],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": 1,
                "total_tokens": prompt_tokens + 1,
            },
        }
    )


def test_an_echoed_label_is_the_prompts_last_token() -> None:
    assert echoed_logprob(echoed([STOP, " true", " x"], 2), " true", 830) == -0.1


@pytest.mark.parametrize(
    "answer", [echoed([" x"], 2), echoed([STOP, " tr", "ue", " x"], 3), echoed([], 2)]
)
def test_an_echo_that_does_not_show_the_label_gives_nothing(answer: ServerCompletion) -> None:
    assert echoed_logprob(answer, " true", 830) is None
