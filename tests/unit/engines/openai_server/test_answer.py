"""How a text ended, in the forms that servers answer in; and answers that are none."""

from __future__ import annotations

from typing import Any

import pytest

from rank1_integrations.engines.openai_server.answer import (
    End,
    ServerAnswer,
    UnusableAnswerError,
    read_answer,
    read_end,
)

STOP = "</think>"
STOP_IDS = (7,)


def answer(text: str, finish_reason: Any = "stop", **fields: Any) -> ServerAnswer:
    return read_answer({"choices": [{"text": text, "finish_reason": finish_reason, **fields}]})


def legacy(*tokens: str) -> dict[str, Any]:
    return {"tokens": list(tokens), "token_logprobs": [-0.1] * len(tokens)}


def chat(*tokens: tuple[str, int]) -> dict[str, Any]:
    return {"content": [{"token": text, "id": one, "logprob": -0.1} for text, one in tokens]}


@pytest.mark.parametrize(
    ("told", "text", "ended"),
    [
        (answer("So.", stop_reason=STOP), "So.", "stop"),
        (answer("So.", stop_reason=None), "So.", "eos"),
        (answer("So.", stop_reason=2), "So.", "eos"),
        (answer("So.", "length", stop_reason=None), "So.", "length"),
        (answer("So.", matched_stop=STOP), "So.", "stop"),
        (answer("So.", matched_stop=7), "So.", "stop"),
        (answer("So.", matched_stop=2), "So.", "eos"),
        (answer(f"So.{STOP}"), "So.", "stop"),
        (answer(f"So.{STOP} true", "length"), "So.", "stop"),
        (answer("So.", logprobs=legacy("So", ".", STOP)), "So.", "stop"),
        (answer("So. true", logprobs=legacy("So", ".", STOP, " true", "<eos>")), "So.", "stop"),
        (answer("So. true", logprobs=legacy("So", ".", STOP, " true", "")), "So.", "stop"),
        (answer("So.", logprobs=legacy("So", ".", "<eos>")), "So.", "eos"),
        (answer("So.", "length", logprobs=legacy("So", ".")), "So.", "length"),
        (answer("So.", logprobs=legacy("So", ".", "</", "think", ">")), "So.", "stop"),
        (answer("So", logprobs=legacy("So", ".</", "think", ">")), "So", "stop"),
        (answer("So.", logprobs=chat(("So", 3), (".", 4), ("", 7))), "So.", "stop"),
        (answer("So.", logprobs=chat(("So", 3), (".", 4), ("", 2))), "So.", "eos"),
        (answer("So.", token_ids=[3, 4, 7]), "So.", "stop"),
        (answer("So.", "eos_token"), "So.", "eos"),
        (answer("So.", "stop_sequence"), "So.", "stop"),
        (answer("So.", logprobs=legacy("So", ".")), "So.", None),
        (answer("So.", logprobs=legacy("So", ".", "")), "So.", None),
        (answer("So.", logprobs=chat(("So", 3), (".", 4))), "So.", None),
        (answer("\u6f22", logprobs=legacy("\ufffd", "\ufffd")), "\u6f22", None),
        (answer("So. Yes.", logprobs=chat(("So", 3), (".", 4))), "So. Yes.", None),
        (answer("So."), "So.", None),
        (answer("So.", None), "So.", None),
    ],
    ids=[
        "vLLM: the stop text",
        "vLLM: an end of sequence",
        "vLLM: another end of sequence, by id",
        "vLLM: the limit",
        "SGLang: the stop text",
        "SGLang: the stop token",
        "SGLang: an end of sequence",
        "the stop text is left in the text",
        "the stop text is left in the text, and more",
        "the stop text is listed",
        "the hidden stop text is listed, text follows",
        "the hidden stop text is listed, a hidden token follows",
        "an end of sequence is listed",
        "the limit",
        "a stop text of three tokens is listed",
        "a stop text that begins amid a token is listed",
        "a hidden token is the stop text, by id",
        "a hidden token is another, by id",
        "the ids end with the stop text",
        "TGI: an end of sequence",
        "TGI: the stop text",
        "OpenAI lists neither",
        "a hidden token may be either",
        "text alone is listed, with ids",
        "half characters are listed",
        "llama.cpp: tokens of the text are missing from the list",
        "nothing is listed",
        "no finish_reason",
    ],
)
def test_reasoning_is_concluded_only_if_the_stop_text_is_known_to_have_ended_it(
    told: ServerAnswer, text: str, ended: str | None
) -> None:
    assert read_end(told, STOP, STOP_IDS) == End(text, ended)  # type: ignore[arg-type]


def test_a_stop_text_of_several_tokens_is_known_by_ids() -> None:
    told = answer("So.", token_ids=[3, 4, 5, 6, 8])
    assert read_end(told, STOP, (5, 6, 8)).ended == "stop"
    assert read_end(told, STOP, (6, 5, 8)).ended is None


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter", "tool_calls"])
def test_text_that_was_cut_for_another_reason_is_no_completion(reason: str) -> None:
    with pytest.raises(UnusableAnswerError, match=reason):
        answer("So", reason)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        5,
        {},
        {"choices": None},
        {"choices": []},
        {"choices": {"text": "x"}},
        {"choices": [None]},
        {"choices": ["x"]},
        {"choices": [{}]},
        {"choices": [{"text": None}]},
        {"choices": [{"text": ["x"]}]},
        {"choices": [{"message": {"content": "x"}}]},
    ],
)
def test_a_body_without_a_completion_is_refused(body: Any) -> None:
    with pytest.raises(UnusableAnswerError):
        read_answer(body)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": "5", "completion_tokens": -1, "prompt_tokens_details": []},
        {"prompt_tokens": True, "completion_tokens": 1.5},
        {"input_tokens": 5, "output_tokens": 6},
    ],
)
def test_counts_that_are_missing_or_odd_are_not_known(usage: Any) -> None:
    told = read_answer({"choices": [{"text": "x"}], "usage": usage})
    counts = (told.prompt_tokens, told.completion_tokens, told.cached_tokens)
    assert counts == (None, None, None)


@pytest.mark.parametrize("ids", [None, [], "12", [1, None], [1.0], [True], {"0": 1}])
def test_token_ids_that_are_none_are_not_known(ids: Any) -> None:
    assert answer("x", token_ids=ids, prompt_token_ids=ids).token_ids is None


def test_the_counts_and_ids_of_vllm_are_read() -> None:
    told = read_answer(
        {
            "choices": [{"text": "x", "token_ids": [4], "prompt_token_ids": [1, 2]}],
            "usage": {
                "prompt_tokens": 2,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
        }
    )
    assert (told.prompt_tokens, told.completion_tokens, told.cached_tokens) == (2, 1, 1)
    assert (told.prompt_ids, told.token_ids) == ((1, 2), (4,))
