"""The server engine before a real vLLM server: what it sends, and how it treats faults.

A proxy in front of the server forces the faults.
"""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from rank1_integrations import EngineError, Rank1
from tests.integration.conftest import SERVED_NAME
from tests.support.tampering_proxy import (
    Answer,
    Call,
    Json,
    TamperingProxy,
    is_about_passages,
)
from tests.support.vllm_server import free_port

QUERY = "How do I sort a list in place?"
PASSAGES = [
    "The sort() method of a list sorts it in place.",
    "A tuple can't be changed once it is made.",
    "Sockets connect to other machines.",
]
KEY = "sk-very-secret-key"


def rank1(proxy: TamperingProxy, **options: Any) -> Rank1:
    return Rank1.from_server(proxy.url, **{"max_reasoning_tokens": 256, **options})


def log_odds(reranker: Rank1) -> list[float | None]:
    with reranker:
        return [one.log_odds for one in reranker.judge(QUERY, PASSAGES)]


def different_passages(count: int) -> list[str]:
    return [f"{PASSAGES[number % 3]} ({number})" for number in range(count)]


@pytest.fixture(scope="module")
def expected(server: Rank1) -> list[float | None]:
    return [one.log_odds for one in server.judge(QUERY, PASSAGES)]


def completions(proxy: TamperingProxy) -> list[Json]:
    """Return the bodies of all completions but the probes of the server's capabilities."""
    return [call.body for call in proxy.calls if is_about_passages(call)]


def no_tokenize(call: Call, status: int = 404) -> Answer | None:
    return Answer(status, {"detail": "Not Found"}) if call.path == "/tokenize" else None


def test_the_models_name_is_asked_for_when_not_given(proxy: TamperingProxy) -> None:
    with rank1(proxy) as reranker:
        reranker.judge(QUERY, PASSAGES)
        assert reranker.model == SERVED_NAME
    assert {body["model"] for body in completions(proxy)} == {SERVED_NAME}


def test_a_bare_host_gets_its_v1(proxy: TamperingProxy, expected: list[float]) -> None:
    bare = Rank1.from_server(proxy.url.removesuffix("/v1"), max_reasoning_tokens=256)
    assert log_odds(bare) == pytest.approx(expected, abs=1e-2)


def test_reasoning_is_asked_for_without_logprobs_and_the_verdict_with_them(
    proxy: TamperingProxy,
) -> None:
    with rank1(proxy) as reranker:
        reranker.judge(QUERY, PASSAGES[:1])
    reasoning, verdict = completions(proxy)
    assert (reasoning.get("logprobs"), reasoning["stop"]) == (None, "</think>")
    assert (verdict["logprobs"], verdict["max_tokens"]) == (20, 1)


def test_the_verdict_is_read_behind_the_exact_tokens_of_the_reasoning(
    proxy: TamperingProxy,
) -> None:
    answers: list[Json] = []

    def remember(call: Call, answer: Json) -> Json:
        if is_about_passages(call):
            answers.append(answer)
        return answer

    proxy.change_answer = remember
    with rank1(proxy) as reranker:
        reranker.judge(QUERY, PASSAGES[:1])
    reasoning = answers[0]["choices"][0]
    assert completions(proxy)[1]["prompt"] == reasoning["prompt_token_ids"] + reasoning["token_ids"]


def test_passages_are_judged_at_the_same_time(proxy: TamperingProxy) -> None:
    proxy.delay = 0.5
    with rank1(proxy, thinking="none") as reranker:
        reranker.judge(QUERY, different_passages(15))
    assert proxy.most_running == 15


def test_no_more_than_max_concurrency_passages_are_judged_at_the_same_time(
    proxy: TamperingProxy,
) -> None:
    proxy.delay = 0.1
    with rank1(proxy, thinking="none", max_concurrency=4) as reranker:
        reranker.judge(QUERY, different_passages(15))
    assert proxy.most_running == 4


async def test_many_callers_share_one_object(server: Rank1, expected: list[float]) -> None:
    answers = await asyncio.gather(*(server.ajudge(QUERY, PASSAGES) for _ in range(16)))
    for judgments in answers:
        assert [one.log_odds for one in judgments] == pytest.approx(expected, abs=1e-2)


def test_no_server_there_is_an_error_that_says_so() -> None:
    nowhere = Rank1.from_server(f"http://127.0.0.1:{free_port()}/v1", max_retries=0)
    with pytest.raises(
        EngineError, match=r"no connection: nothing listens at this port: is the server running"
    ):
        nowhere.judge(QUERY, PASSAGES)


def test_an_address_without_an_api_is_an_error_that_says_so(proxy: TamperingProxy) -> None:
    elsewhere = Rank1.from_server(proxy.url.replace("/v1", "/nothing"), max_retries=0)
    with pytest.raises(EngineError, match="pass model=, and check that the address"):
        elsewhere.judge(QUERY, PASSAGES)


def test_a_wrong_model_name_is_an_error_that_says_what_the_server_says(
    proxy: TamperingProxy,
) -> None:
    with pytest.raises(EngineError, match=r"not found: are base_url= and model= right\?.*rank2"):
        rank1(proxy, model="rank2").judge(QUERY, PASSAGES)


def test_of_several_models_one_must_be_chosen(proxy: TamperingProxy, expected: list[float]) -> None:
    def two_models(call: Call, answer: Json) -> Json:
        if call.path == "/v1/models":
            answer["data"].append({**answer["data"][0], "id": "another", "root": "elsewhere"})
        return answer

    proxy.change_answer = two_models
    with pytest.raises(EngineError, match=f"serves another, {SERVED_NAME}: choose one with model="):
        rank1(proxy).judge(QUERY, PASSAGES)
    assert log_odds(rank1(proxy, model=SERVED_NAME)) == pytest.approx(expected, abs=1e-2)


def needs_key(call: Call) -> Answer | None:
    if call.key == KEY:
        return None
    return Answer(401, {"error": {"message": f"Unauthorized: {call.key}", "code": 401}})


@pytest.mark.parametrize("key", [None, "sk-another-secret"])
def test_a_missing_or_wrong_key_is_an_error_that_does_not_show_it(
    proxy: TamperingProxy, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK1_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    proxy.refuse = needs_key
    with pytest.raises(EngineError, match="refused the key: pass api_key=") as refused:
        rank1(proxy, api_key=key).judge(QUERY, PASSAGES)
    assert key is None or key not in str(refused.value)


def test_the_key_is_sent_and_never_shown(
    proxy: TamperingProxy, expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.refuse = needs_key
    reranker = rank1(proxy, api_key=KEY)
    assert log_odds(reranker) == pytest.approx(expected, abs=1e-2)
    assert KEY not in repr(reranker)
    assert KEY not in caplog.text


def test_the_key_is_taken_from_the_environment(
    proxy: TamperingProxy, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK1_API_KEY", KEY)
    proxy.refuse = needs_key
    assert log_odds(rank1(proxy)) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("key", [None, ""])
def test_a_key_for_openai_is_never_sent(
    proxy: TamperingProxy, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK1_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai")
    with rank1(proxy, api_key=key, thinking="none") as reranker:
        reranker.judge(QUERY, PASSAGES)
    assert {call.key for call in proxy.calls} == {None}


def test_a_server_without_logprobs_is_refused_with_a_sentence(proxy: TamperingProxy) -> None:
    def without(call: Call, answer: Json) -> Json:
        for choice in answer.get("choices", []):
            choice["logprobs"] = None
        return answer

    proxy.change_answer = without
    with pytest.raises(EngineError, match="gives no log-probabilities"):
        rank1(proxy).judge(QUERY, PASSAGES)


def test_a_server_without_logprob_token_ids_gives_the_same_by_its_top_20(
    proxy: TamperingProxy, expected: list[float]
) -> None:
    def forget(body: Json) -> Json:
        newer = {"logprob_token_ids", "return_tokens_as_token_ids"}
        return {name: value for name, value in body.items() if name not in newer}

    proxy.change_request = forget
    assert log_odds(rank1(proxy)) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_server_without_tokenize_gives_the_same_by_the_label_strings(
    proxy: TamperingProxy, expected: list[float], status: int
) -> None:
    proxy.refuse = lambda call: no_tokenize(call, status)
    assert log_odds(rank1(proxy)) == pytest.approx(expected, abs=1e-2)
    assert all(isinstance(body["prompt"], str) for body in completions(proxy))


def test_a_server_without_token_ids_and_stop_reasons_gives_the_same_by_text(
    proxy: TamperingProxy, expected: list[float]
) -> None:
    def plain(call: Call, answer: Json) -> Json:
        for choice in answer.get("choices", []):
            for name in ("token_ids", "prompt_token_ids", "stop_reason"):
                choice.pop(name, None)
        return answer

    proxy.change_answer = plain
    assert log_odds(rank1(proxy)) == pytest.approx(expected, abs=1e-2)


OPENAIS_OWN = {"model", "prompt", "max_tokens", "temperature", "stop", "logprobs", "echo"}
OLD_VLLMS = {
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "repetition_penalty",
    "top_k",
    "min_p",
}


def knows_only(
    names: set[str], *, most_logprobs: int = 20, status: int = 400
) -> Callable[[Call], Answer | None]:
    """Refuse other parameters, more log-probabilities, and /tokenize."""

    def refuse(call: Call) -> Answer | None:
        unknown = set(call.body) - names
        if call.path == "/v1/completions" and (
            unknown or call.body.get("logprobs", 0) > most_logprobs
        ):
            return Answer(status, {"error": {"message": f"unknown: {unknown}", "code": status}})
        return no_tokenize(call)

    return refuse


def openais_fields_only(call: Call, answer: Json) -> Json:
    for choice in answer.get("choices", []):
        for name in ("token_ids", "prompt_token_ids", "stop_reason"):
            choice.pop(name, None)
    return answer


@pytest.mark.parametrize("shows_control_tokens", [True, False])
@pytest.mark.parametrize(("most_logprobs", "status"), [(5, 400), (20, 422)])
def test_a_server_that_knows_openais_parameters_only_gives_the_same(
    proxy: TamperingProxy,
    expected: list[float],
    most_logprobs: int,
    status: int,
    shows_control_tokens: bool,
) -> None:
    proxy.refuse = knows_only(OPENAIS_OWN, most_logprobs=most_logprobs, status=status)
    proxy.change_request = lambda body: {**body, "skip_special_tokens": not shows_control_tokens}
    proxy.change_answer = openais_fields_only
    with rank1(proxy) as reranker:
        judgments = reranker.judge(QUERY, PASSAGES)
    assert [one.log_odds for one in judgments] == pytest.approx(expected, abs=1e-2)
    assert [one.finish_reason for one in judgments] == ["concluded"] * 3
    assert not any("true" in one.reasoning[-5:] for one in judgments)


def test_a_server_that_ignores_what_it_does_not_know_gives_the_same(
    proxy: TamperingProxy, expected: list[float]
) -> None:
    def forget(body: Json) -> Json:
        return {name: value for name, value in body.items() if name in OPENAIS_OWN}

    proxy.refuse, proxy.change_request = no_tokenize, forget
    proxy.change_answer = openais_fields_only
    with rank1(proxy) as reranker:
        judgments = reranker.judge(QUERY, PASSAGES)
    assert [one.log_odds for one in judgments] == pytest.approx(expected, abs=1e-2)
    assert [one.finish_reason for one in judgments] == ["concluded"] * 3


def test_an_old_vllm_that_refuses_newer_parameters_gives_the_same(
    proxy: TamperingProxy, expected: list[float]
) -> None:
    proxy.refuse = knows_only(OPENAIS_OWN | OLD_VLLMS)
    assert log_odds(rank1(proxy)) == pytest.approx(expected, abs=1e-2)
    assert all(body["skip_special_tokens"] is False for body in completions(proxy))


async def test_callers_share_one_probing_of_the_server(
    proxy: TamperingProxy,
) -> None:
    proxy.refuse = knows_only(OPENAIS_OWN, most_logprobs=5)
    async with Rank1.from_server(proxy.url, thinking="none") as reranker:
        await asyncio.gather(*(reranker.ajudge(QUERY, PASSAGES) for _ in range(8)))
    paths = [call.path for call in proxy.calls]
    assert paths.count("/v1/models") == 1
    probes = paths.count("/v1/completions") - len(completions(proxy))
    assert (probes < 20, len(completions(proxy))) == (True, 8 * len(PASSAGES))


async def test_a_vllm_server_is_known_after_one_completion(proxy: TamperingProxy) -> None:
    async with Rank1.from_server(proxy.url, thinking="none") as reranker:
        await asyncio.gather(*(reranker.ajudge(QUERY, PASSAGES) for _ in range(8)))
    start = [call for call in proxy.calls if not is_about_passages(call)]
    assert [call.path for call in start if call.path != "/tokenize"] == [
        "/v1/models",
        "/v1/completions",
    ]
    tokenized = [call.body["prompt"] for call in start if call.path == "/tokenize"]
    assert {" true", " false", "</think>"} <= set(tokenized)


def test_a_server_that_refuses_logprobs_is_refused_with_a_sentence(proxy: TamperingProxy) -> None:
    proxy.refuse = lambda call: (
        Answer(400, {"error": {"message": "no logprobs here", "code": 400}})
        if "logprobs" in call.body
        else None
    )
    with pytest.raises(EngineError, match="gives no log-probabilities"):
        rank1(proxy).judge(QUERY, PASSAGES)
    assert not completions(proxy)


def test_a_server_that_refuses_everything_says_why_itself(proxy: TamperingProxy) -> None:
    proxy.refuse = lambda call: (
        Answer(400, {"error": {"message": "closed on Sundays", "code": 400}})
        if call.path == "/v1/completions"
        else None
    )
    with pytest.raises(EngineError, match="closed on Sundays"):
        rank1(proxy).judge(QUERY, PASSAGES)


def spelled(space: str) -> Callable[[Call, Json], Json]:
    """Name tokens as a vocabulary spells them."""

    def change(call: Call, answer: Json) -> Json:
        for choice in answer.get("choices", []):
            if choice.get("logprobs"):
                choice["logprobs"]["top_logprobs"] = [
                    {name.replace(" ", space, 1): value for name, value in (top or {}).items()}
                    for top in choice["logprobs"]["top_logprobs"]
                ]
        return answer

    return change


@pytest.mark.parametrize("space", ["\u0120", "\u2581", "bytes:\\x20"])
def test_labels_are_found_however_the_server_spells_their_space(
    proxy: TamperingProxy, expected: list[float], space: str
) -> None:
    proxy.refuse, proxy.change_answer = no_tokenize, spelled(space)
    with rank1(proxy) as reranker:
        judgments = reranker.judge(QUERY, PASSAGES)
    assert [one.log_odds for one in judgments] == pytest.approx(expected, abs=1e-2)
    assert not any(one.log_odds_is_bound for one in judgments)


def test_a_prompt_that_the_server_refuses_fails_alone(
    proxy: TamperingProxy, expected: list[float]
) -> None:
    def refuse_tuples(call: Call) -> Answer | None:
        if "A tuple" in str(call.body.get("prompt")):
            return Answer(400, {"error": {"message": "not that one", "code": 400}})
        return None

    proxy.refuse = refuse_tuples
    with rank1(proxy, on_error="keep") as reranker:
        first, second, third = reranker.judge(QUERY, PASSAGES)
        assert "not that one" in str(second.error)
        assert [first.log_odds, third.log_odds] == pytest.approx(
            [expected[0], expected[2]], abs=1e-2
        )
        assert reranker.judge(QUERY, PASSAGES[:1])[0].log_odds == first.log_odds
    assert "return_token_ids" in completions(proxy)[-2]


def without_true(call: Call, answer: Json) -> Json:
    """Take " true" out of the first token's log-probabilities, however it is named."""
    if is_about_passages(call) and call.body.get("logprobs") and not call.body.get("echo"):
        logprobs = answer["choices"][0]["logprobs"]
        logprobs["top_logprobs"] = [{"x": -0.5, " false": -1.0, "true": -1.5, "y": -9.0}]
        logprobs["tokens"], logprobs["token_logprobs"] = ["x"], [-0.5]
    return answer


def forget_newer_parameters(body: Json) -> Json:
    newer = {"logprob_token_ids", "return_tokens_as_token_ids"}
    return {name: value for name, value in body.items() if name not in newer}


@pytest.mark.parametrize("tokenizes", [True, False])
def test_a_label_missing_from_the_answer_is_read_behind_the_echoed_prompt(
    proxy: TamperingProxy, expected: list[float], tokenizes: bool
) -> None:
    def keep_false(call: Call, answer: Json) -> Json:
        if is_about_passages(call) and call.body.get("logprobs") and not call.body.get("echo"):
            logprobs = answer["choices"][0]["logprobs"]
            top = logprobs["top_logprobs"][0]
            logprobs["top_logprobs"] = [{" false": top[" false"]}]
            logprobs["tokens"], logprobs["token_logprobs"] = ["x"], [-0.5]
        return answer

    proxy.change_request, proxy.change_answer = forget_newer_parameters, keep_false
    if not tokenizes:
        proxy.refuse = no_tokenize
    with rank1(proxy) as reranker:
        judgments = reranker.judge(QUERY, PASSAGES)
    assert [one.log_odds for one in judgments] == pytest.approx(expected, abs=1e-2)
    assert not any(one.log_odds_is_bound for one in judgments)
    assert [body["max_tokens"] for body in completions(proxy) if body.get("echo")] == [1] * 3


def test_where_a_server_can_not_echo_a_missing_label_gets_a_bound_and_says_so(
    proxy: TamperingProxy,
) -> None:
    proxy.change_request, proxy.change_answer = forget_newer_parameters, without_true
    proxy.refuse = lambda call: (
        Answer(400, {"error": {"message": "no echo", "code": 400}}) if "echo" in call.body else None
    )
    with rank1(proxy, max_concurrency=1) as reranker:
        judgments = reranker.judge(QUERY, PASSAGES)
    # "true" without the space is another token.
    assert [(one.log_odds_is_bound, one.log_odds) for one in judgments] == [(True, -8.0)] * 3
    assert len([body for body in completions(proxy) if "echo" in body]) == 1


def busy(times: int) -> Any:
    """Refuse the first completions about passages with 429."""
    left = [times]

    def refuse(call: Call) -> Answer | None:
        if is_about_passages(call) and left[0] > 0:
            left[0] -= 1
            return Answer(429, {"error": {"message": "too many", "code": 429}})
        return None

    return refuse


def test_a_busy_server_is_asked_again(proxy: TamperingProxy, expected: list[float]) -> None:
    proxy.refuse = busy(2)
    assert log_odds(rank1(proxy, max_retries=3)) == pytest.approx(expected, abs=1e-2)


def test_without_retries_a_busy_server_is_an_error_that_says_what_to_do(
    proxy: TamperingProxy,
) -> None:
    proxy.refuse = busy(1)
    with pytest.raises(EngineError, match="lower max_concurrency=, or raise max_retries="):
        rank1(proxy, max_retries=0).judge(QUERY, PASSAGES)


def test_one_request_that_fails_costs_one_passage(
    proxy: TamperingProxy, expected: list[float]
) -> None:
    def fail_for_tuples(call: Call) -> Answer | None:
        if "A tuple" in str(call.body.get("prompt")):
            return Answer(500, {"error": {"message": "out of memory", "code": 500}})
        return None

    proxy.refuse = fail_for_tuples
    with rank1(proxy, max_retries=0, on_error="keep") as reranker:
        first, second, third = reranker.judge(QUERY, PASSAGES)
    assert [first.log_odds, third.log_odds] == pytest.approx([expected[0], expected[2]], abs=1e-2)
    assert (second.finish_reason, second.score) == ("failed", None)
    assert "the server answered 500" in str(second.error)


def test_a_server_that_is_too_slow_is_an_error_that_says_what_to_do(
    proxy: TamperingProxy,
) -> None:
    proxy.delay = 2.0
    with pytest.raises(EngineError, match="no answer in time: raise timeout="):
        rank1(proxy, timeout=0.3, max_retries=0).judge(QUERY, PASSAGES)


def test_a_server_that_dies_loses_no_passage_when_told_to_keep(proxy: TamperingProxy) -> None:
    proxy.refuse = lambda call: Answer(503, {"error": {"message": "gone", "code": 503}})
    with rank1(proxy, max_retries=0, on_error="keep") as reranker:
        judgments = reranker.rank(QUERY, PASSAGES, score_threshold=0.9)
    assert [(one.index, one.finish_reason) for one in judgments] == [
        (n, "failed") for n in range(3)
    ]


def test_a_server_that_comes_back_is_used_again(
    proxy: TamperingProxy, expected: list[float]
) -> None:
    proxy.refuse = lambda call: Answer(503, {"error": {"message": "starting", "code": 503}})
    reranker = rank1(proxy, max_retries=0)
    with pytest.raises(EngineError):
        reranker.judge(QUERY, PASSAGES)
    proxy.refuse = lambda call: None
    assert log_odds(reranker) == pytest.approx(expected, abs=1e-2)


async def test_a_cancelled_call_ends_on_the_server(server_url: str) -> None:
    async with Rank1.from_server(server_url, max_reasoning_tokens=256) as reranker:
        start = generated_tokens(server_url)
        await reranker.ajudge(QUERY, different_passages(60))
        whole = generated_tokens(server_url) - start
        start += whole
        call = asyncio.create_task(reranker.ajudge(QUERY, different_passages(60)))
        while generated_tokens(server_url) == start:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    while metric(server_url, "vllm:num_requests_running"):
        await asyncio.sleep(0.1)
    assert generated_tokens(server_url) - start < whole


def generated_tokens(server_url: str) -> float:
    return metric(server_url, "vllm:generation_tokens_total")


def metric(server_url: str, name: str) -> float:
    """One number of the server's /metrics."""
    url = f"{server_url.removesuffix('/v1')}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    found = re.search(rf"^{name}.* ([0-9.e+]+)$", text, re.MULTILINE)
    assert found, f"no {name} in {url}"
    return float(found[1])


@pytest.mark.parametrize("tokenizes", [True, False])
def test_a_truncated_passage_is_a_prefix_of_the_original(
    proxy: TamperingProxy, tokenizes: bool
) -> None:
    if not tokenizes:
        proxy.refuse = no_tokenize
    passage = "The Sort() method,  ÉTÉ and Cafe\u0301, sorts 漢字 🙂 In Place . " * 500
    with rank1(proxy, thinking="none") as reranker:
        (judgment,) = reranker.judge(QUERY, [passage])
    assert judgment.truncated
    (asked,) = (str(body["prompt"]) for body in completions(proxy))
    kept = asked.partition("\nPassage: ")[2].partition("\n<think>")[0]
    assert len(kept) > 1000
    assert passage.startswith(kept)
