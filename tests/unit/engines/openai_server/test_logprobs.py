"""Labels' log-probabilities in both forms that servers answer in."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rank1_integrations.engines.openai_server.logprobs import (
    LabelLogprobs,
    chosen_tokens,
    echoed_logprob,
    first_candidates,
    read_labels,
)
from rank1_integrations.exceptions import EngineError

IDS: dict[str, int | None] = {" true": 830, " false": 895}
NO_IDS: dict[str, int | None] = {" true": None, " false": None}


def legacy(top: dict[str, Any], chosen: tuple[str, Any] = ("x", -0.5)) -> dict[str, Any]:
    return {"tokens": [chosen[0]], "token_logprobs": [chosen[1]], "top_logprobs": [top]}


def entry(token: str, logprob: Any, token_id: int | None = None, **fields: Any) -> dict[str, Any]:
    if token_id is not None:
        fields["id"] = token_id
    return {"token": token, "logprob": logprob, **fields}


def chat(*top: dict[str, Any], chosen: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"content": [{**(chosen or entry("x", -0.5)), "top_logprobs": list(top)}]}


def found(logprobs: Any, ids: dict[str, int | None] = IDS) -> dict[str, float]:
    return read_labels(logprobs, ids, asked_by_id=False).found


@pytest.mark.parametrize("prefix", [" ", "\u0120", "\u2581", "bytes: ", "bytes:\\x20"])
@pytest.mark.parametrize("ids", [IDS, NO_IDS], ids=["ids known", "ids not known"])
def test_a_label_is_found_by_any_spelling(prefix: str, ids: dict[str, int | None]) -> None:
    top = {f"{prefix}true": -0.2, f"{prefix}false": -3.0, "true": -0.1}
    assert found(legacy(top), ids) == {" true": -0.2, " false": -3.0}


def test_a_label_is_found_by_its_id_if_tokens_are_named_by_id() -> None:
    assert found(legacy({"token_id:830": -0.2, "token_id:7": -0.1})) == {" true": -0.2}


def test_the_chat_form_is_read_by_id() -> None:
    top = (entry("T", -0.2, 830), entry(" true", -0.1, 7), entry("F", -3.0, 895))
    assert found(chat(*top)) == {" true": -0.2, " false": -3.0}


def test_the_chat_form_is_read_by_bytes_before_text() -> None:
    top = (entry("\u2581true", -0.2, bytes=list(b" true")), entry(" true", -0.1, bytes=[1, 2]))
    assert found(chat(*top)) == {" true": -0.2}


def test_the_chat_form_is_read_by_text_if_there_is_nothing_else() -> None:
    assert found(chat(entry(" true", -0.2), entry("false", -0.1))) == {" true": -0.2}


def test_if_two_tokens_are_named_alike_the_generated_one_is_known_apart() -> None:
    top = {" true": -9.0, " false": -3.0}
    assert found(legacy(top, (" true", -0.1)))[" true"] == -0.1


def test_a_label_outside_the_list_is_below_the_lowest_of_it() -> None:
    labels = read_labels(legacy({" true": -0.2, "x": -7.0}), IDS, asked_by_id=False)
    assert labels == LabelLogprobs({" true": -0.2}, -7.0)


def test_a_list_of_the_labels_alone_bounds_nothing() -> None:
    top = {"token_id:830": -0.2, "token_id:7": -0.1}
    assert read_labels(legacy(top), IDS, asked_by_id=True).bound is None


def test_a_list_of_the_most_likely_tokens_is_a_bound_though_labels_were_asked_for() -> None:
    top = {f"token_id:{n}": -1.0 - n for n in range(20)}
    assert read_labels(legacy(top), IDS, asked_by_id=True).bound == -20.0


@pytest.mark.parametrize("value", [None, math.nan, 0.5, math.inf, "-0.1", True, [], {}])
def test_a_label_without_a_usable_number_is_an_error_and_never_a_score(value: Any) -> None:
    for logprobs in (legacy({" true": value, " false": -1.0}), chat(entry(" true", value))):
        with pytest.raises(EngineError, match="no usable log-probability of ' true'"):
            found(logprobs)


@pytest.mark.parametrize("value", [None, math.nan, 0.5])
def test_an_unusable_number_elsewhere_in_the_list_takes_the_bound_away(value: Any) -> None:
    labels = read_labels(legacy({" true": -0.2, "x": value}), IDS, asked_by_id=False)
    assert labels == LabelLogprobs({" true": -0.2}, None)


def test_a_label_that_can_not_come_keeps_its_minus_infinity() -> None:
    assert found(legacy({" true": -math.inf, " false": 0.0})) == {" true": -math.inf, " false": 0.0}


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        "x",
        {},
        {"tokens": None, "top_logprobs": None},
        {"tokens": ["x"], "token_logprobs": [-0.1], "top_logprobs": [None]},
        {"tokens": ["x"], "token_logprobs": [-0.1], "top_logprobs": [{}]},
        {"tokens": ["x"], "token_logprobs": [-0.1], "top_logprobs": {"x": 1}},
        {"content": []},
        {"content": [None]},
        {"content": ["x"]},
        {"content": [{"token": "x", "logprob": -0.1, "top_logprobs": []}]},
        {"content": [{"token": "x", "logprob": -0.1, "top_logprobs": None}]},
    ],
)
def test_an_answer_without_log_probabilities_has_no_candidates(logprobs: Any) -> None:
    assert first_candidates(logprobs) == []


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": [None, 5], "token_logprobs": None},
        {"tokens": ["a", "b"], "token_logprobs": [-0.1]},
        {"content": [None, {"token": 5, "id": "x", "bytes": ["y"], "logprob": {}}]},
        {"content": [{"bytes": [999]}, {"id": True}]},
    ],
)
def test_tokens_of_strange_shapes_are_read_without_an_error(logprobs: Any) -> None:
    tokens = chosen_tokens(logprobs)
    assert len(tokens) == 2
    assert not any(token.matches(" true", 830) for token in tokens)


def echo(*tokens: str, logprob: Any = -0.1) -> dict[str, Any]:
    return {"tokens": list(tokens), "token_logprobs": [logprob] * len(tokens)}


@pytest.mark.parametrize("prompt_tokens", [2, None])
def test_an_echoed_label_is_the_prompts_last_token(prompt_tokens: int | None) -> None:
    logprobs = echo("</think>", " true", " x")
    assert echoed_logprob(logprobs, " true", 830, prompt_tokens=prompt_tokens) == -0.1


@pytest.mark.parametrize(
    ("logprobs", "prompt_tokens"),
    [
        (echo(" x"), 2),
        (echo("</think>", " tr", "ue", " x"), 3),
        (echo("</think>", " true", " x", logprob=None), 2),
        (echo("</think>", " true", " x", logprob=math.nan), 2),
        (echo(), 2),
        (echo(), None),
        (None, 2),
    ],
)
def test_an_echo_that_does_not_show_the_label_gives_nothing(
    logprobs: Any, prompt_tokens: int | None
) -> None:
    assert echoed_logprob(logprobs, " true", 830, prompt_tokens=prompt_tokens) is None
