"""The server engine before servers that answer strangely, refuse, lie or are not there.

A fake of vLLM's server sends what a test says, as no real server can be made to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from rank1_integrations import ConfigurationError, EngineError, Rank1
from rank1_integrations.demo_model import DEMO_MODEL
from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.engines.openai_server.engine import OpenAIServerEngine
from rank1_integrations.scoring.prompt import THINK
from rank1_integrations.scoring.truncation import CLOSING_TOKENS
from tests.support.raw_server import Call, Fault, RawServer, as_text, encode, log_odds_of
from tests.support.raw_tokenizer import write_tokenizer
from tests.support.vllm_server import free_port

Json = dict[str, Any]
LABELS = (" true", " false")
PROMPT = "Query: Which?\nPassage: The number 5.\n<think>"
EXPECTED = log_odds_of("The number 5.")
(TRUE_ID,), (FALSE_ID,), (END_ID,) = map(encode, (*LABELS, "</think>"))
KEY = "sk-very-secret-key"


def reply(body: Any, status: int = 200, **others: Any) -> Fault:
    """Return an answer with this body: bytes, or what JSON is made of."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Fault(status=status, body=content, **others)


class StrangeServer:
    """A fake of vLLM's server, but for the paths that a test has replaced.

    Attributes:
        replies: Function of the request's JSON by path; returns None for the right answer.
    """

    def __init__(self) -> None:
        self.replies: dict[str, Callable[[Json], Fault | None]] = {}
        self.raw = RawServer(self._choose, max_model_len=2048)

    @property
    def url(self) -> str:
        return self.raw.base_url.removesuffix("/v1")

    @property
    def paths(self) -> list[str]:
        return [call.path for call in self.raw.calls]

    @property
    def headers(self) -> list[Mapping[str, str]]:
        return [call.headers for call in self.raw.calls]

    def bodies(self, path: str) -> list[Json]:
        return [call.body for call in self.raw.calls if call.path == path]

    def _choose(self, call: Call) -> Fault | None:
        replaced = self.replies.get(call.path)
        return None if replaced is None else replaced(call.body or {})


def completion(body: Json, **choice: Any) -> Json:
    """Return a verdict or reasoning as vLLM sends it, with other fields in its choice."""
    is_verdict = body["max_tokens"] == 1
    named = {f"token_id:{TRUE_ID}": -0.1, f"token_id:{FALSE_ID}": -2.1}
    logprobs = {"tokens": [" true"], "token_logprobs": [-0.1], "top_logprobs": [named]}
    usual = {
        "text": " true" if is_verdict else "So.",
        "finish_reason": "length" if is_verdict else "stop",
        "stop_reason": None if is_verdict else body.get("stop"),
        "logprobs": logprobs if is_verdict else None,
        "prompt_token_ids": [1, 2],
        "token_ids": [TRUE_ID] if is_verdict else [3, 4, END_ID],
    }
    return {"choices": [{**usual, **choice}]}


@pytest.fixture
def strange() -> Iterator[StrangeServer]:
    server = StrangeServer()
    with server.raw:
        yield server


@asynccontextmanager
async def started(server: StrangeServer, **arguments: Any) -> AsyncIterator[OpenAIServerEngine]:
    engine = OpenAIServerEngine(server.url, **{"max_retries": 0, **arguments})
    try:
        await engine.start()
        yield engine
    finally:
        await engine.aclose()


async def verdict(engine: OpenAIServerEngine) -> Completion:
    return await engine.complete(Request(prompt=PROMPT, max_tokens=1, labels=LABELS))


async def reasoning(engine: OpenAIServerEngine, max_tokens: int = 64) -> Completion:
    return await engine.complete(Request(prompt=PROMPT, max_tokens=max_tokens, stop="</think>"))


def log_odds(answer: Completion) -> float:
    return answer.label_logprobs[" true"] - answer.label_logprobs[" false"]


def always(*arguments: Any, **options: Any) -> Callable[[Json], Fault]:
    return lambda body: reply(*arguments, **options)


def amid(fault: Fault) -> Callable[[Json], Fault | None]:
    """Reply so to all completions but the probes that find out the server's capabilities."""
    return lambda body: fault if body["prompt"] == PROMPT else None


STRANGE = {
    "HTML with 200": (
        reply(b"<html>Sign in</html>"),
        r"HTML, not JSON; .*\(<html>Sign in</html>\)",
    ),
    "JSON cut off": (reply(b'{"choices": [{"te'), r"half of it; .*\(\{\"choices\""),
    "an empty body": (reply(b""), "no JSON"),
    "bytes": (reply(b"\xff\xfe\x00"), "no JSON"),
    "deep JSON": (reply(b"[" * 100_000), "no JSON"),
    "an error with 200": (reply({"error": {"message": "out of memory"}}), "out of memory"),
    "an error as text": (reply({"error": "out of memory"}), "out of memory"),
    "null": (reply(b"null"), "no choices"),
    "a list": (reply([]), "no choices"),
    "no choices": (reply({"choices": []}), "no choices"),
    "null choices": (reply({"choices": None}), "no choices"),
    "a choice without text": (reply({"choices": [{"index": 0}]}), "no text"),
    "a failure": (reply(b"<html>Bad gateway</html>", 502), "answered 502.*Bad gateway"),
    "a body that is cut": (
        reply({"choices": []}, cut="length"),
        "connection broke before the answer",
    ),
    "aborted": (reply({"choices": [{"text": "x", "finish_reason": "abort"}]}), "'abort'"),
}


@pytest.mark.parametrize(("fault", "message"), STRANGE.values(), ids=STRANGE)
async def test_an_answer_that_is_none_is_an_error_that_quotes_it(
    strange: StrangeServer, fault: Fault, message: str
) -> None:
    strange.replies["/v1/completions"] = amid(fault)
    async with started(strange) as engine:
        for ask in (verdict, reasoning):
            with pytest.raises(EngineError, match=message) as failed:
                await ask(engine)
            assert strange.url in str(failed.value)


@pytest.mark.parametrize(
    "fault", [reply(b"<html>"), reply(b'{"choi'), reply({"choices": []}), reply({}, 503)]
)
async def test_an_answer_that_is_none_is_asked_for_again(
    strange: StrangeServer, fault: Fault
) -> None:
    faults = [fault, fault]
    strange.replies["/v1/completions"] = lambda body: faults.pop() if faults else None
    async with started(strange, max_retries=2) as engine:
        assert log_odds(await verdict(engine)) == pytest.approx(EXPECTED)
        assert engine.info["fields"] == sorted(FIELDS)


UNUSABLE_LOGPROBS: dict[str, Any] = {
    "null": None,
    "an empty list": [],
    "text": "x",
    "null instead of lists": {"tokens": None, "token_logprobs": None, "top_logprobs": None},
    "null for the position": {"tokens": ["x"], "token_logprobs": [-1], "top_logprobs": [None]},
    "NaN": {"top_logprobs": [{"token_id:258": math.nan, "token_id:259": -1.0}]},
    "infinity": {"top_logprobs": [{"token_id:258": math.inf, "token_id:259": -1.0}]},
    "a label's null": {"top_logprobs": [{"token_id:258": None, "token_id:259": -1.0}]},
    "text for a number": {"top_logprobs": [{"token_id:258": "-0.1", "token_id:259": -1.0}]},
}


@pytest.mark.parametrize("logprobs", UNUSABLE_LOGPROBS.values(), ids=UNUSABLE_LOGPROBS)
async def test_log_probabilities_that_are_none_are_an_error_and_never_a_score(
    strange: StrangeServer, logprobs: Any
) -> None:
    strange.replies["/v1/completions"] = amid(
        reply(completion({"max_tokens": 1}, logprobs=logprobs))
    )
    async with started(strange) as engine:
        with pytest.raises(EngineError, match=r"log-probabilit"):
            await verdict(engine)


async def test_tokens_of_other_names_give_no_label_and_no_bound(strange: StrangeServer) -> None:
    logprobs = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}]}
    strange.replies["/v1/completions"] = amid(
        reply(completion({"max_tokens": 1}, logprobs=logprobs))
    )
    async with started(strange) as engine:
        answer = await verdict(engine)
    assert (answer.label_logprobs, answer.label_bound) == ({}, None)


async def test_one_echoed_label_of_two_is_below_the_bound(strange: StrangeServer) -> None:
    """Both labels are outside the list, and only the unlikelier one can be echoed."""

    def answer(body: Json) -> Fault:
        prompt = body["prompt"]
        if body.get("echo") and prompt.endswith(" true"):
            return reply({"error": {"message": "busy"}}, 429)
        if body.get("echo"):
            shown = {"tokens": ["x", " false", "x"], "token_logprobs": [None, -12.0, -0.1]}
            return reply({"choices": [{"text": "x", "logprobs": shown}]})
        top = {"x": -0.1, "y": -5.0}
        shown = {"tokens": ["x"], "token_logprobs": [-0.1], "top_logprobs": [top]}
        return reply({"choices": [{"text": "x", "logprobs": shown, "stop_reason": None}]})

    strange.replies["/tokenize"] = always({}, 404)
    strange.replies["/v1/completions"] = answer
    async with started(strange) as engine:
        judged = await verdict(engine)
    assert (judged.label_bound, judged.label_logprobs) == (-5.0, {" false": -12.0})


NO_TOKENIZER: dict[str, Fault] = {
    **{f"status {n}": reply({"detail": "no"}, n) for n in (400, 401, 402, 403, 404, 405, 406)},
    **{f"status {n}": reply({"detail": "no"}, n) for n in (413, 415, 422, 429, 500, 501, 503)},
    "an empty list": reply({"tokens": []}),
    "null": reply({"tokens": None}),
    "other names": reply({"ids": [1, 2]}),
    "a list of text": reply({"tokens": ["a"]}),
    "a list": reply([1, 2]),
    "HTML": reply(b"<html>"),
}


@pytest.mark.parametrize("fault", NO_TOKENIZER.values(), ids=NO_TOKENIZER)
async def test_a_tokenizer_that_can_not_be_used_is_none(
    strange: StrangeServer, fault: Fault
) -> None:
    strange.replies["/tokenize"] = lambda body: fault
    text = "The sort() method sorts a list. " * 30
    async with started(strange) as engine:
        # The estimate is cautious: about two letters a token.
        assert await engine.count_tokens(text) > len(text) / 3
        beginning = await engine.first_tokens(text, 50)
        assert text.startswith(beginning)
        assert 50 < len(beginning) < len(text)
        assert (await reasoning(engine)).ended == "stop"


NO_DETOKENIZER: dict[str, Fault] = {
    "missing": reply({"detail": "Not Found"}, 404),
    "refused": reply({"detail": "no"}, 401),
    "failing": reply({"detail": "no"}, 500),
    "other names": reply({"result": "x"}),
    "empty text": reply({"prompt": ""}),
    "null": reply({"prompt": None}),
    "HTML": reply(b"<html>"),
}


@pytest.mark.parametrize("fault", NO_DETOKENIZER.values(), ids=NO_DETOKENIZER)
async def test_a_passage_is_cut_without_a_detokenizer_and_is_never_empty(
    strange: StrangeServer, fault: Fault
) -> None:
    strange.replies["/tokenize"] = lambda body: reply({"tokens": list(body["prompt"].encode())})
    strange.replies["/detokenize"] = lambda body: fault
    text = "The sort() method sorts a list. " * 30
    async with started(strange) as engine:
        assert await engine.first_tokens(text, 50) == text[:50]
        assert await engine.decode((1, 2)) is None


@pytest.mark.parametrize("field_name", ["prompt", "text", "content"])
async def test_a_detokenizer_may_name_its_answer_in_three_ways(
    strange: StrangeServer, field_name: str
) -> None:
    strange.replies["/tokenize"] = lambda body: reply({"tokens": list(body["prompt"].encode())})
    strange.replies["/detokenize"] = lambda body: reply(
        {field_name: bytes(body["tokens"]).decode()}
    )
    async with started(strange) as engine:
        assert await engine.first_tokens("The sort() method", 8) == "The sort"
        assert await engine.decode(tuple(b"sort")) == "sort"


async def test_a_tokenizer_that_wants_content_is_used(strange: StrangeServer) -> None:
    """llama.cpp's server answers {"tokens": []} to a request that names the text "prompt"."""
    strange.replies["/tokenize"] = lambda body: reply(
        {"tokens": list(body.get("content", "").encode())}
    )
    async with started(strange) as engine:
        assert await engine.count_tokens("sorts") == 5


async def test_a_local_tokenizer_gives_exact_label_ids_and_cuts_without_a_tokenize_endpoint(
    strange: StrangeServer, tmp_path: Path
) -> None:
    strange.replies["/tokenize"] = always({"detail": "no"}, 401)
    text = "The sort() method sorts a list: größer, kleiner. " * 30
    async with started(strange, tokenizer=write_tokenizer(tmp_path)) as engine:
        assert await engine.count_tokens(text) == len(text.encode())
        # Byte 36 is the first of the two that "ö" has.
        assert await engine.first_tokens(text, 36) == text[:35]
        assert await engine.decode((*b"sort", END_ID)) == "sort</think>"
        assert log_odds(await verdict(engine)) == pytest.approx(EXPECTED)
        assert (await reasoning(engine)).token_ids is not None
        label_ids = engine.info["label_ids"]
    assert label_ids == {" true": TRUE_ID, " false": FALSE_ID}
    assert strange.bodies("/v1/completions")[-2]["logprob_token_ids"] == [TRUE_ID, FALSE_ID]
    assert "/tokenize" not in strange.paths
    assert "/detokenize" not in strange.paths


async def test_a_long_passage_fills_the_context_with_a_local_tokenizer(
    strange: StrangeServer, tmp_path: Path
) -> None:
    strange.replies["/tokenize"] = always({"detail": "no"}, 404)
    passage = "The number 5. " + "Größe und Wärme. " * 200
    arguments: Json = {"thinking": "none", "tokenizer": write_tokenizer(tmp_path)}
    async with Rank1.from_server(strange.url, **arguments) as exact:
        (judgment,) = await exact.ajudge("Which?", [passage])
    # The raw server's tokens are bytes, and the direct verdict's words more than usual.
    prompt, _, _ = as_text(strange.bodies("/v1/completions")[-1]["prompt"]).partition(THINK)
    assert judgment.truncated
    assert judgment.log_odds == pytest.approx(EXPECTED)
    assert len(encode(prompt)) + 1 in (2048 - CLOSING_TOKENS - 1, 2048 - CLOSING_TOKENS)


async def test_a_forked_child_has_the_local_tokenizer_too(
    strange: StrangeServer, tmp_path: Path
) -> None:
    strange.replies["/tokenize"] = always({"detail": "no"}, 404)
    async with started(strange, tokenizer=write_tokenizer(tmp_path)) as engine:
        child = engine.after_fork()
        assert await child.count_tokens("sorts") == 5
        await child.aclose()


async def test_a_local_tokenizer_of_another_model_is_refused(strange: StrangeServer) -> None:
    with pytest.raises(ConfigurationError, match="in another way than the server"):
        async with started(strange, tokenizer=DEMO_MODEL):
            pass


MODELS: dict[str, Fault] = {
    "a bare list": reply([{"id": "rank1"}]),
    "null": reply(b"null"),
    "null data": reply({"data": None}),
    "no ids": reply({"data": [{"name": "rank1"}, None, 5]}),
    "another name": reply({"data": [{"id": "rank1:latest"}, {"id": "*"}]}),
    "HTML": reply(b"<html>"),
    **{f"status {n}": reply({"detail": "no"}, n) for n in (400, 401, 403, 404, 405, 500)},
}


@pytest.mark.parametrize("fault", MODELS.values(), ids=MODELS)
async def test_a_list_of_models_that_can_not_be_used_does_not_matter_if_the_name_is_given(
    strange: StrangeServer, fault: Fault
) -> None:
    strange.replies["/v1/models"] = lambda body: fault
    async with started(strange, model="rank1") as engine:
        assert log_odds(await verdict(engine)) == pytest.approx(EXPECTED)


@pytest.mark.parametrize("fault", [MODELS["null"], MODELS["no ids"], MODELS["status 404"]])
async def test_without_a_name_a_list_that_has_none_is_an_error_that_asks_for_it(
    strange: StrangeServer, fault: Fault
) -> None:
    strange.replies["/v1/models"] = lambda body: fault
    with pytest.raises(EngineError, match="pass model="):
        async with started(strange):
            pass


async def test_several_names_of_one_model_need_no_choice(strange: StrangeServer) -> None:
    entries = [{"id": name, "root": "/models/rank1-7b"} for name in ("rank1", "rank1-7b")]
    strange.replies["/v1/models"] = always({"data": entries})
    async with started(strange) as engine:
        assert engine.model == "rank1"


def refusing(*names: str, status: int = 400) -> Callable[[Json], Fault | None]:
    def refuse(body: Json) -> Fault | None:
        unknown = sorted(set(names) & set(body))
        return reply({"error": {"message": f"unknown: {unknown}"}}, status) if unknown else None

    return refuse


FIELDS = [
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "repetition_penalty",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "logprob_token_ids",
]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("status", [400, 422, 500])
async def test_one_refused_parameter_costs_no_other(
    strange: StrangeServer, name: str, status: int
) -> None:
    strange.replies["/v1/completions"] = refusing(name, status=status)
    async with started(strange) as engine:
        assert engine.info["fields"] == sorted(set(FIELDS) - {name})
        assert log_odds(await verdict(engine)) == pytest.approx(EXPECTED)


async def test_a_server_that_takes_no_token_ids_as_a_prompt_gets_text(
    strange: StrangeServer,
) -> None:
    """LiteLLM answers so for some providers."""
    strange.replies["/v1/completions"] = lambda body: (
        reply({"error": "Unmapped prompt format"}, 500)
        if isinstance(body["prompt"], list)
        else None
    )
    async with started(strange) as engine:
        ended = await reasoning(engine)
    assert (engine.info["token_id_prompts"], ended.token_ids) == (False, None)


async def test_a_vllm_server_is_known_after_five_requests(strange: StrangeServer) -> None:
    async with started(strange):
        pass
    assert strange.paths == ["/v1/models", *["/tokenize"] * 3, "/v1/completions"]


@pytest.mark.parametrize(
    ("owner", "name"), [("library", "Ollama"), ("organization_owner", "LM Studio"), ("x", "vLLM")]
)
async def test_a_server_without_log_probabilities_is_refused_by_name(
    strange: StrangeServer, owner: str, name: str
) -> None:
    """Recorded shapes of Ollama's and LM Studio's lists of models."""
    strange.replies["/v1/models"] = always({"data": [{"id": "rank1", "owned_by": owner}]})
    strange.replies["/v1/completions"] = lambda body: reply(completion(body, logprobs=None))
    with pytest.raises(EngineError, match=rf"gives no log-probabilities.*{name}"):
        async with started(strange):
            pass


CONTEXT_REFUSALS = [
    "max_tokens=5000 cannot be greater than max_model_len=4096. Please request fewer tokens.",
    "'max_tokens' is too large: 5000. This model's maximum context length is 4096 tokens and "
    "your request has 1 input tokens (5000 > 4096 - 1).",
    "the request exceeds the available context size (4096 tokens), try increasing it",
    "The input (1 tokens) is longer than the model's context length (4096 tokens).",
]


@pytest.mark.parametrize("message", CONTEXT_REFUSALS)
async def test_a_context_length_that_nobody_told_is_read_from_the_refusal(
    strange: StrangeServer, message: str
) -> None:
    strange.replies["/v1/models"] = always({"data": [{"id": "rank1", "max_model_len": None}]})
    strange.replies["/tokenize"] = lambda body: reply({"tokens": encode(body["prompt"])})
    strange.replies["/v1/completions"] = lambda body: (
        reply({"error": {"message": message}}, 400) if body["max_tokens"] > 4090 else None
    )
    async with started(strange) as engine:
        assert engine.context_length is None
        assert (await reasoning(engine, 5000)).ended == "stop"
        assert engine.context_length == 4096
        assert strange.bodies("/v1/completions")[-1]["max_tokens"] == 4096 - len(encode(PROMPT))


async def test_a_context_length_that_is_given_goes_before_the_servers(
    strange: StrangeServer,
) -> None:
    async with started(strange, context_length=512) as engine:
        assert engine.context_length == 512


async def test_a_stop_text_that_is_several_tokens_is_continued_as_text(
    strange: StrangeServer,
) -> None:
    strange.replies["/tokenize"] = lambda body: (
        reply({"tokens": [5, 6, 8]}) if body["prompt"] == "</think>" else None
    )
    async with started(strange) as engine:
        ended = await reasoning(engine)
    # The answer's ids do not end with these: other tokens spell the stop text there.
    assert (ended.ended, ended.token_ids) == ("stop", None)


def hiding(next_token: str, next_id: int | None) -> Callable[[Json], Fault]:
    """Answer as llama.cpp's server does: control tokens print as "", and no stop_reason."""

    def answer(body: Json) -> Fault:
        entry: Json = {"token": next_token, "logprob": -0.1}
        if next_id is not None:
            entry["id"] = next_id
        content = [{**entry, "top_logprobs": [entry]}]
        if body["max_tokens"] == 1:
            text, finish = next_token, "length"
        else:
            text, finish, content = "So.", "stop", [{"token": "So.", "id": 3, "logprob": -0.1}]
        choice = {"text": text, "finish_reason": finish, "logprobs": {"content": content}}
        return reply({"choices": [choice]})

    return answer


@pytest.mark.parametrize(
    ("token", "token_id", "ended"),
    [
        ("</think>", None, "stop"),
        ("", END_ID, "stop"),
        ("", 2, "eos"),
        ("<|endoftext|>", None, "eos"),
    ],
)
async def test_how_reasoning_ended_is_asked_for_if_the_server_does_not_tell(
    strange: StrangeServer, token: str, token_id: int | None, ended: str
) -> None:
    strange.replies["/v1/completions"] = hiding(token, token_id)
    async with started(strange) as engine:
        assert (await reasoning(engine)).ended == ended
    assert strange.bodies("/v1/completions")[-1]["prompt"] == f"{PROMPT}So."


async def test_a_server_that_hides_how_reasoning_ended_in_every_way_is_refused(
    strange: StrangeServer,
) -> None:
    strange.replies["/v1/completions"] = hiding("", None)
    async with started(strange) as engine:
        with pytest.raises(EngineError, match="does not tell whether '</think>'"):
            await reasoning(engine)


async def test_another_model_behind_the_same_name_has_another_fingerprint(
    strange: StrangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(strange) as engine:
        before = engine.fingerprint
        # The server is restarted with another model; two seconds pass.
        entry = {"id": "rank1", "root": "another", "max_model_len": 1024}
        strange.replies["/v1/models"] = always({"data": [entry]})
        strange.replies["/tokenize"] = lambda body: reply({"tokens": [len(body["prompt"])]})
        await engine.start()
        assert engine.fingerprint == before
        await asyncio.sleep(2.1)
        await engine.start()
        assert engine.fingerprint != before
        assert (engine.context_length, engine.info["label_ids"][" true"]) == (1024, 5)


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refused_request_lets_the_server_be_learned_again(
    strange: StrangeServer, status: int
) -> None:
    async with started(strange) as engine:
        strange.replies["/v1/completions"] = amid(reply({"error": {"message": "no"}}, status))
        with pytest.raises(EngineError):
            await verdict(engine)
        strange.replies["/v1/completions"] = refusing("logprob_token_ids")
        await engine.start()
        assert "logprob_token_ids" not in engine.info["fields"]


async def test_a_lost_connection_lets_the_server_be_learned_again(strange: StrangeServer) -> None:
    async with started(strange) as engine:
        strange.replies["/v1/completions"] = amid(reply({"choices": []}, cut="length"))
        with pytest.raises(EngineError):
            await verdict(engine)
        strange.raw.calls.clear()
        await engine.start()
        assert strange.bodies("/v1/models")


@pytest.mark.parametrize("offset", range(285, 320, 3))
async def test_a_key_that_the_server_repeats_is_masked_before_the_error_is_cut(
    strange: StrangeServer, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    message = f"{'x' * offset}{KEY} and cf-secret-value are wrong"
    strange.replies["/v1/models"] = always({"error": {"message": message}}, 401)
    headers = {"CF-Access-Client-Secret": "cf-secret-value"}
    with pytest.raises(EngineError, match="refused the key") as refused:
        async with started(strange, api_key=KEY, default_headers=headers):
            pass
    for text in (str(refused.value), caplog.text):
        assert "sk-v" not in text
        assert "cf-s" not in text


ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-vendor-key",
    "OPENAI_ADMIN_KEY": "admin-vendor-key",
    "OPENAI_ORG_ID": "vendor-organization",
    "OPENAI_PROJECT_ID": "vendor-project",
    "OPENAI_CUSTOM_HEADERS": "X-Custom: vendor-header\nAuthorization: Bearer vendor-token",
}


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ({}, None),
        ({"api_key": ""}, None),
        ({"api_key": KEY}, f"Bearer {KEY}"),
        ({"api_key": lambda: KEY}, f"Bearer {KEY}"),
        ({"default_headers": {"Authorization": "Basic abc"}}, "Basic abc"),
    ],
    ids=["nothing", "empty", "key", "function", "header"],
)
async def test_nothing_that_belongs_to_openai_is_sent(
    strange: StrangeServer,
    arguments: Json,
    sent: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK1_API_KEY", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with started(strange, **arguments) as engine:
        await verdict(engine)
    for headers in strange.headers:
        assert headers.get("authorization") == sent
        assert "vendor" not in " ".join(headers.values())


async def test_default_headers_are_sent_with_each_request(strange: StrangeServer) -> None:
    async with started(strange, default_headers={"X-Team": "search"}) as engine:
        await verdict(engine)
    assert {headers.get("x-team") for headers in strange.headers} == {"search"}


async def test_a_redirect_is_not_followed_and_named(strange: StrangeServer) -> None:
    location = {"Location": "https://elsewhere.example/v1/models?code=abc"}
    strange.replies["/v1/models"] = lambda body: reply({}, 307, headers=location)
    with pytest.raises(EngineError, match=r"redirects to https://elsewhere\.example/v1/models: "):
        async with started(strange, api_key=KEY):
            pass
    assert strange.paths == ["/v1/models"]


async def test_a_path_prefix_and_a_pasted_endpoint_work(strange: StrangeServer) -> None:
    prefix = "/team/rank1"
    strange.replies = {
        f"{prefix}/v1/models": always({"data": [{"id": "rank1"}]}),
        f"{prefix}/tokenize": lambda body: reply({"tokens": encode(body["prompt"])}),
        f"{prefix}/v1/completions": lambda body: reply(completion(body)),
    }
    engine = OpenAIServerEngine(f"{strange.url}{prefix}/v1/completions", max_retries=0)
    await engine.start()
    assert log_odds(await verdict(engine)) == pytest.approx(2.0)
    await engine.aclose()
    assert all(path.startswith("/team/rank1/") for path in strange.paths)


async def test_a_users_own_client_is_used_and_not_closed(strange: StrangeServer) -> None:
    client = openai.AsyncOpenAI(
        base_url=f"{strange.url}/v1", api_key=KEY, default_headers={"X-Team": "search"}
    )
    async with started(strange, client=client, max_retries=2) as engine:
        assert log_odds(await verdict(engine)) == pytest.approx(EXPECTED)
    assert not client.is_closed()
    assert {headers["authorization"] for headers in strange.headers} == {f"Bearer {KEY}"}
    await client.close()


async def test_a_key_of_the_users_own_client_is_masked_too(strange: StrangeServer) -> None:
    strange.replies["/v1/models"] = always({"error": {"message": f"{KEY} is wrong"}}, 401)
    client = openai.AsyncOpenAI(base_url=f"{strange.url}/v1", api_key=KEY, max_retries=0)
    with pytest.raises(EngineError, match=r"\*\*\* is wrong"):
        async with started(strange, client=client, max_retries=2):
            pass
    await client.close()


async def failure(base_url: str, **arguments: Any) -> str:
    engine = OpenAIServerEngine(base_url, **{"max_retries": 0, **arguments})
    with pytest.raises(EngineError) as failed:
        await engine.start()
    await engine.aclose()
    return str(failed.value)


async def test_a_port_where_nothing_listens_is_named() -> None:
    assert "nothing listens at this port" in await failure(f"http://127.0.0.1:{free_port()}")


async def test_an_unknown_host_is_named() -> None:
    assert "unknown host" in await failure("http://rank1.invalid:8000")


async def test_plain_http_behind_https_is_named() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    message = await failure(f"https://127.0.0.1:{port}")
    listener.close()
    assert "is it https:// rather than http://" in message


async def test_a_server_that_accepts_and_stays_silent_is_a_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "no answer in time: raise timeout=" in await failure(url, timeout=0.3)


async def test_a_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:proxy-secret@127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    message = await failure("http://server.example:8000")
    assert "HTTP_PROXY of the environment sends it through a proxy" in message
    assert "proxy-secret" not in message


async def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Any) -> None:
    trustme = pytest.importorskip("trustme", reason="make test installs it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    message = await failure(f"https://127.0.0.1:{port}")
    listener.close()
    assert "certificate is not trusted" in message
    assert "SSL_CERT_FILE" in message


async def test_a_private_certificate_authority_is_trusted_through_ssl_cert_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme = pytest.importorskip("trustme", reason="make test installs it")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with RawServer(tls=context) as server:
        assert server.base_url.startswith("https://")
        async with Rank1.from_server(server.base_url, max_retries=0) as reranker:
            (judgment,) = await reranker.ajudge("Which?", ["The number 5."])
    assert judgment.log_odds == pytest.approx(EXPECTED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080"),
        ("HTTPS_PROXY", "nonsense://user:secret@127.0.0.1"),
        ("SSL_CERT_FILE", "/nowhere/secret.pem"),
    ],
)
def test_a_variable_that_can_not_work_is_named_when_the_object_is_made(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as refused:
        OpenAIServerEngine("http://localhost:8000")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context_length": 0}, "context_length must be"),
        ({"context_length": "2048"}, "context_length must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": math.inf}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"max_retries": -1}, "max_retries must be"),
        ({"max_retries": 1.5}, "max_retries must be"),
        ({"client": object()}, r"client must be an openai\.AsyncOpenAI; it is object"),
        ({"client": openai.OpenAI(api_key="x")}, "it is OpenAI"),
        ({"client": openai.AsyncOpenAI(api_key="x"), "api_key": "y"}, "api_key would have no"),
        ({"client": openai.AsyncOpenAI(api_key="x"), "timeout": 5}, "timeout would have no"),
    ],
)
def test_arguments_that_can_not_work_are_refused(arguments: Json, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        OpenAIServerEngine("http://localhost:8000", **arguments)


def test_a_key_of_the_environment_that_can_not_be_sent_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK1_API_KEY", "two\nlines")
    with pytest.raises(ConfigurationError, match="RANK1_API_KEY holds a character") as refused:
        OpenAIServerEngine("http://localhost:8000")
    assert "lines" not in str(refused.value).replace("line break", "")


async def test_a_closed_engine_says_so(strange: StrangeServer) -> None:
    async with started(strange) as engine:
        pass
    await engine.aclose()
    with pytest.raises(EngineError, match="is closed"):
        await verdict(engine)


async def test_a_forked_child_gets_an_engine_of_its_own(strange: StrangeServer) -> None:
    async with started(strange, api_key=lambda: KEY, context_length=512) as engine:
        child = engine.after_fork()
        await child.start()
        assert log_odds(await verdict(child)) == pytest.approx(EXPECTED)
        assert child.context_length == 512
        await child.aclose()
        assert log_odds(await verdict(engine)) == pytest.approx(EXPECTED)


def test_a_users_own_client_does_not_survive_a_fork() -> None:
    client = openai.AsyncOpenAI(api_key="x")
    engine = OpenAIServerEngine("http://localhost:8000", client=client)
    with pytest.raises(EngineError, match="make a new Rank1 object in the child process"):
        engine.after_fork()


def test_no_secret_is_in_the_representation() -> None:
    engine = OpenAIServerEngine(
        "http://localhost:8000", api_key=KEY, default_headers={"X-Secret": "header-value"}
    )
    shown = f"{engine!r} {engine.info} {engine.fingerprint} {engine._client!r}"
    assert KEY not in shown
    assert "header-value" not in shown
