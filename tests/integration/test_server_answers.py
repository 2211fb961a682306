"""The server engine before servers that answer strangely, refuse, lie or are not there.

A small HTTP server sends exactly what a test says, as no real server can be made to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from rank1_integrations import ConfigurationError, EngineError
from rank1_integrations.engines.base import Completion, Request
from rank1_integrations.engines.openai_server.engine import OpenAIServerEngine
from tests.support.vllm_server import free_port

Json = dict[str, Any]
LABELS = (" true", " false")
IDS = {" true": 830, " false": 895, "</think>": 7}
KEY = "sk-very-secret-key"


@dataclass
class Reply:
    """A response, as bytes. A body that is no bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: str = ""
    cut: int | None = None
    """Send so many bytes of the body, then close."""

    def encode(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        head = f"HTTP/1.1 {self.status} Said\r\nContent-Length: {len(body)}\r\n{self.headers}"
        return head.encode() + b"\r\n" + body[: self.cut]


@dataclass
class StrangeServer:
    """Answers like a small vLLM, but for the paths that a test has replaced.

    Attributes:
        replies: Function of the request's JSON by path; returns None for the usual answer.
        requests: Path, JSON and headers of all requests.
    """

    replies: dict[str, Callable[[Json], Reply | None]] = field(default_factory=dict)
    requests: list[tuple[str, Json, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def bodies(self, path: str) -> list[Json]:
        return [body for called, body, _ in self.requests if called == path]

    def reply(self, path: str, body: Json) -> Reply:
        replaced = self.replies.get(path)
        if replaced is not None and (reply := replaced(body)) is not None:
            return reply
        match path:
            case "/v1/models":
                return Reply({"data": [{"id": "rank1", "root": "r", "max_model_len": 2048}]})
            case "/tokenize":
                ids = [IDS.get(body["prompt"], 9)]
                return Reply({"tokens": ids, "max_model_len": 2048})
            case "/detokenize":
                return Reply({"prompt": "x"})
            case "/v1/completions":
                return Reply(vllm_answer(body))
        return Reply({"detail": "Not Found"}, 404)


def vllm_answer(body: Json, **choice: Any) -> Json:
    """A completion as vLLM sends it: "So." and `</think>`, or a verdict."""
    is_verdict = body["max_tokens"] == 1
    named = {"token_id:830": -0.1, "token_id:895": -2.1}
    logprobs = {"tokens": ["token_id:830"], "token_logprobs": [-0.1], "top_logprobs": [named]}
    usual = {
        "index": 0,
        "text": " true" if is_verdict else "So.",
        "finish_reason": "length" if is_verdict else "stop",
        "stop_reason": None if is_verdict else body.get("stop"),
        "logprobs": logprobs if is_verdict else None,
        "prompt_token_ids": [1, 2],
        "token_ids": [830] if is_verdict else [3, 4, 7],
    }
    usage = {"prompt_tokens": 2, "completion_tokens": 1 if is_verdict else 3}
    return {"choices": [{**usual, **choice}], "usage": usage}


@asynccontextmanager
async def serving(server: StrangeServer) -> AsyncIterator[None]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines)
                }
                length = int(headers.get("content-length", 0))
                content = await reader.readexactly(length)
                path = first.split(" ")[1]
                body = json.loads(content) if content else {}
                server.requests.append((path, body, headers))
                reply = server.reply(path, body)
                writer.write(reply.encode())
                await writer.drain()
                if reply.cut is not None:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield
    finally:
        listener.close()


@pytest.fixture
async def strange() -> AsyncIterator[StrangeServer]:
    server = StrangeServer()
    async with serving(server):
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
    return await engine.complete(Request(prompt="Is it?", max_tokens=1, labels=LABELS))


async def reasoning(engine: OpenAIServerEngine, max_tokens: int = 64) -> Completion:
    return await engine.complete(Request(prompt="Is it?", max_tokens=max_tokens, stop="</think>"))


def log_odds(completion: Completion) -> float:
    return completion.label_logprobs[" true"] - completion.label_logprobs[" false"]


def always(*arguments: Any, **options: Any) -> Callable[[Json], Reply]:
    return lambda body: Reply(*arguments, **options)


def amid(reply: Reply) -> Callable[[Json], Reply | None]:
    """Reply to all completions but the probes that find out the server's capabilities."""
    return lambda body: reply if body["prompt"] == "Is it?" else None


STRANGE = {
    "HTML with 200": (
        Reply(b"<html>Sign in</html>"),
        r"HTML, not JSON; .*\(<html>Sign in</html>\)",
    ),
    "JSON cut off": (Reply(b'{"choices": [{"te'), r"half of it; .*\(\{\"choices\""),
    "an empty body": (Reply(b""), "no JSON"),
    "bytes": (Reply(b"\xff\xfe\x00"), "no JSON"),
    "deep JSON": (Reply(b"[" * 100_000), "no JSON"),
    "an error with 200": (Reply({"error": {"message": "out of memory"}}), "out of memory"),
    "an error as text": (Reply({"error": "out of memory"}), "out of memory"),
    "null": (Reply(b"null"), "no choices"),
    "a list": (Reply([]), "no choices"),
    "no choices": (Reply({"choices": []}), "no choices"),
    "null choices": (Reply({"choices": None}), "no choices"),
    "a choice without text": (Reply({"choices": [{"index": 0}]}), "no text"),
    "a failure": (Reply(b"<html>Bad gateway</html>", 502), "answered 502.*Bad gateway"),
    "a body that is cut": (Reply({"choices": []}, cut=5), "closed the connection|no connection"),
    "aborted": (Reply({"choices": [{"text": "x", "finish_reason": "abort"}]}), "'abort'"),
}


@pytest.mark.parametrize(("reply", "message"), STRANGE.values(), ids=STRANGE)
async def test_an_answer_that_is_none_is_an_error_that_quotes_it(
    strange: StrangeServer, reply: Reply, message: str
) -> None:
    strange.replies["/v1/completions"] = amid(reply)
    async with started(strange) as engine:
        for ask in (verdict, reasoning):
            with pytest.raises(EngineError, match=message) as failed:
                await ask(engine)
            assert strange.url in str(failed.value)


@pytest.mark.parametrize(
    "reply", [Reply(b"<html>"), Reply(b'{"choi'), Reply({"choices": []}), Reply({}, 503)]
)
async def test_an_answer_that_is_none_is_asked_for_again(
    strange: StrangeServer, reply: Reply
) -> None:
    faults = [reply, reply]
    strange.replies["/v1/completions"] = lambda body: faults.pop() if faults else None
    async with started(strange, max_retries=2) as engine:
        assert log_odds(await verdict(engine)) == pytest.approx(2.0)
        assert engine.info["fields"] == sorted(FIELDS)


UNUSABLE_LOGPROBS: dict[str, Any] = {
    "null": None,
    "an empty list": [],
    "text": "x",
    "null instead of lists": {"tokens": None, "token_logprobs": None, "top_logprobs": None},
    "null for the position": {"tokens": ["x"], "token_logprobs": [-1], "top_logprobs": [None]},
    "NaN": {"top_logprobs": [{"token_id:830": math.nan, "token_id:895": -1.0}]},
    "infinity": {"top_logprobs": [{"token_id:830": math.inf, "token_id:895": -1.0}]},
    "a label's null": {"top_logprobs": [{"token_id:830": None, "token_id:895": -1.0}]},
    "text for a number": {"top_logprobs": [{"token_id:830": "-0.1", "token_id:895": -1.0}]},
}


@pytest.mark.parametrize("logprobs", UNUSABLE_LOGPROBS.values(), ids=UNUSABLE_LOGPROBS)
async def test_log_probabilities_that_are_none_are_an_error_and_never_a_score(
    strange: StrangeServer, logprobs: Any
) -> None:
    answer = vllm_answer({"max_tokens": 1}, logprobs=logprobs)
    strange.replies["/v1/completions"] = amid(Reply(answer))
    async with started(strange) as engine:
        with pytest.raises(EngineError, match=r"log-probabilit"):
            await verdict(engine)


async def test_tokens_of_other_names_give_no_label_and_no_bound(strange: StrangeServer) -> None:
    logprobs = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}]}
    answer = vllm_answer({"max_tokens": 1}, logprobs=logprobs)
    strange.replies["/v1/completions"] = amid(Reply(answer))
    async with started(strange) as engine:
        completion = await verdict(engine)
    assert (completion.label_logprobs, completion.label_bound) == ({}, None)


async def test_one_echoed_label_of_two_is_below_the_bound(strange: StrangeServer) -> None:
    """Both labels are outside the list, and only the unlikelier one can be echoed."""

    def answer(body: Json) -> Reply:
        prompt = body["prompt"]
        if body.get("echo") and prompt.endswith(" true"):
            return Reply({"error": {"message": "busy"}}, 500)
        if body.get("echo"):
            shown = {"tokens": ["Is", " false", "x"], "token_logprobs": [None, -12.0, -0.1]}
            return Reply({"choices": [{"text": "x", "logprobs": shown}]})
        top = {"x": -0.1, "y": -5.0}
        shown = {"tokens": ["x"], "token_logprobs": [-0.1], "top_logprobs": [top]}
        return Reply({"choices": [{"text": "x", "logprobs": shown, "stop_reason": None}]})

    strange.replies["/tokenize"] = always({}, 404)
    strange.replies["/v1/completions"] = answer
    async with started(strange) as engine:
        completion = await verdict(engine)
    assert completion.label_bound == -5.0
    assert all(value < -5.0 for value in completion.label_logprobs.values())
    assert " true" not in completion.label_logprobs


NO_TOKENIZER: dict[str, Reply] = {
    **{f"status {n}": Reply({"detail": "no"}, n) for n in (400, 401, 402, 403, 404, 405, 406)},
    **{f"status {n}": Reply({"detail": "no"}, n) for n in (413, 415, 422, 429, 500, 501, 503)},
    "an empty list": Reply({"tokens": []}),
    "null": Reply({"tokens": None}),
    "other names": Reply({"ids": [1, 2]}),
    "a list of text": Reply({"tokens": ["a"]}),
    "a list": Reply([1, 2]),
    "HTML": Reply(b"<html>"),
}


@pytest.mark.parametrize("reply", NO_TOKENIZER.values(), ids=NO_TOKENIZER)
async def test_a_tokenizer_that_can_not_be_used_is_none(
    strange: StrangeServer, reply: Reply
) -> None:
    strange.replies["/tokenize"] = lambda body: reply
    text = "The sort() method sorts a list. " * 30
    async with started(strange) as engine:
        # The estimate is cautious: about two letters a token.
        assert await engine.count_tokens(text) > len(text) / 3
        beginning = await engine.first_tokens(text, 50)
        assert text.startswith(beginning)
        assert 50 < len(beginning) < len(text)
        assert (await reasoning(engine)).ended == "stop"


NO_DETOKENIZER: dict[str, Reply] = {
    "missing": Reply({"detail": "Not Found"}, 404),
    "refused": Reply({"detail": "no"}, 401),
    "failing": Reply({"detail": "no"}, 500),
    "other names": Reply({"result": "x"}),
    "empty text": Reply({"prompt": ""}),
    "null": Reply({"prompt": None}),
    "HTML": Reply(b"<html>"),
}


@pytest.mark.parametrize("reply", NO_DETOKENIZER.values(), ids=NO_DETOKENIZER)
async def test_a_passage_is_cut_without_a_detokenizer_and_is_never_empty(
    strange: StrangeServer, reply: Reply
) -> None:
    strange.replies["/tokenize"] = lambda body: Reply({"tokens": list(body["prompt"].encode())})
    strange.replies["/detokenize"] = lambda body: reply
    text = "The sort() method sorts a list. " * 30
    async with started(strange) as engine:
        assert await engine.first_tokens(text, 50) == text[:50]
        assert await engine.decode((1, 2)) is None


@pytest.mark.parametrize("field_name", ["prompt", "text", "content"])
async def test_a_detokenizer_may_name_its_answer_in_three_ways(
    strange: StrangeServer, field_name: str
) -> None:
    strange.replies["/tokenize"] = lambda body: Reply({"tokens": list(body["prompt"].encode())})
    strange.replies["/detokenize"] = lambda body: Reply(
        {field_name: bytes(body["tokens"]).decode()}
    )
    async with started(strange) as engine:
        assert await engine.first_tokens("The sort() method", 8) == "The sort"
        assert await engine.decode(tuple(b"sort")) == "sort"


async def test_a_tokenizer_that_wants_content_is_used(strange: StrangeServer) -> None:
    """llama.cpp's server answers {"tokens": []} to a request that names the text "prompt"."""
    strange.replies["/tokenize"] = lambda body: Reply(
        {"tokens": list(body.get("content", "").encode())}
    )
    async with started(strange) as engine:
        assert await engine.count_tokens("sorts") == 5


MODELS: dict[str, Reply] = {
    "a bare list": Reply([{"id": "rank1"}]),
    "null": Reply(b"null"),
    "null data": Reply({"data": None}),
    "no ids": Reply({"data": [{"name": "rank1"}, None, 5]}),
    "another name": Reply({"data": [{"id": "rank1:latest"}, {"id": "*"}]}),
    "HTML": Reply(b"<html>"),
    **{f"status {n}": Reply({"detail": "no"}, n) for n in (400, 401, 403, 404, 405, 500)},
}


@pytest.mark.parametrize("reply", MODELS.values(), ids=MODELS)
async def test_a_list_of_models_that_can_not_be_used_does_not_matter_if_the_name_is_given(
    strange: StrangeServer, reply: Reply
) -> None:
    strange.replies["/v1/models"] = lambda body: reply
    async with started(strange, model="rank1") as engine:
        assert log_odds(await verdict(engine)) == pytest.approx(2.0)


@pytest.mark.parametrize("reply", [MODELS["null"], MODELS["no ids"], MODELS["status 404"]])
async def test_without_a_name_a_list_that_has_none_is_an_error_that_asks_for_it(
    strange: StrangeServer, reply: Reply
) -> None:
    strange.replies["/v1/models"] = lambda body: reply
    with pytest.raises(EngineError, match="pass model="):
        async with started(strange):
            pass


async def test_several_names_of_one_model_need_no_choice(strange: StrangeServer) -> None:
    entries = [{"id": name, "root": "/models/rank1-7b"} for name in ("rank1", "rank1-7b")]
    strange.replies["/v1/models"] = always({"data": entries})
    async with started(strange) as engine:
        assert engine.model == "rank1"


def refusing(*names: str, status: int = 400) -> Callable[[Json], Reply | None]:
    def refuse(body: Json) -> Reply | None:
        unknown = sorted(set(names) & set(body))
        return Reply({"error": {"message": f"unknown: {unknown}"}}, status) if unknown else None

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
        assert log_odds(await verdict(engine)) == pytest.approx(2.0)


async def test_a_server_that_takes_no_token_ids_as_a_prompt_gets_text(
    strange: StrangeServer,
) -> None:
    """LiteLLM answers so for some providers."""
    strange.replies["/v1/completions"] = lambda body: (
        Reply({"error": "Unmapped prompt format"}, 500)
        if isinstance(body["prompt"], list)
        else None
    )
    async with started(strange) as engine:
        completion = await reasoning(engine)
    assert (engine.info["token_id_prompts"], completion.token_ids) == (False, None)


async def test_a_vllm_server_is_known_after_five_requests(strange: StrangeServer) -> None:
    async with started(strange):
        pass
    paths = [path for path, _, _ in strange.requests]
    assert paths == ["/v1/models", *["/tokenize"] * 3, "/v1/completions"]


@pytest.mark.parametrize(
    ("owner", "name"), [("library", "Ollama"), ("organization_owner", "LM Studio"), ("x", "vLLM")]
)
async def test_a_server_without_log_probabilities_is_refused_by_name(
    strange: StrangeServer, owner: str, name: str
) -> None:
    """Recorded shapes of Ollama's and LM Studio's lists of models."""
    strange.replies["/v1/models"] = always({"data": [{"id": "rank1", "owned_by": owner}]})
    strange.replies["/v1/completions"] = lambda body: Reply(vllm_answer(body, logprobs=None))
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
    strange.replies["/tokenize"] = lambda body: Reply({"tokens": [IDS.get(body["prompt"], 9)]})
    strange.replies["/v1/completions"] = lambda body: (
        Reply({"error": {"message": message}}, 400) if body["max_tokens"] > 4095 else None
    )
    async with started(strange) as engine:
        assert engine.context_length is None
        assert (await reasoning(engine, 5000)).ended == "stop"
        assert engine.context_length == 4096
        assert strange.bodies("/v1/completions")[-1]["max_tokens"] == 4095


async def test_a_context_length_that_is_given_goes_before_the_servers(
    strange: StrangeServer,
) -> None:
    async with started(strange, context_length=512) as engine:
        assert engine.context_length == 512


async def test_a_stop_text_that_is_several_tokens_is_continued_as_text(
    strange: StrangeServer,
) -> None:
    strange.replies["/tokenize"] = lambda body: (
        Reply({"tokens": [5, 6, 8]}) if body["prompt"] == "</think>" else None
    )
    async with started(strange) as engine:
        completion = await reasoning(engine)
    # [3, 4, 7] does not end with [5, 6, 8]: other tokens spell the stop text there.
    assert (completion.ended, completion.token_ids) == ("stop", None)


def hiding(next_token: str, next_id: int | None) -> Callable[[Json], Reply]:
    """Answer as llama.cpp's server does: control tokens print as "", and no stop_reason."""

    def answer(body: Json) -> Reply:
        entry: Json = {"token": next_token, "logprob": -0.1}
        if next_id is not None:
            entry["id"] = next_id
        content = [{**entry, "top_logprobs": [entry]}]
        if body["max_tokens"] == 1:
            text, finish = next_token, "length"
        else:
            text, finish, content = "So.", "stop", [{"token": "So.", "id": 3, "logprob": -0.1}]
        choice = {"text": text, "finish_reason": finish, "logprobs": {"content": content}}
        return Reply({"choices": [choice]})

    return answer


@pytest.mark.parametrize(
    ("token", "token_id", "ended"),
    [("</think>", None, "stop"), ("", 7, "stop"), ("", 2, "eos"), ("<|endoftext|>", None, "eos")],
)
async def test_how_reasoning_ended_is_asked_for_if_the_server_does_not_tell(
    strange: StrangeServer, token: str, token_id: int | None, ended: str
) -> None:
    strange.replies["/v1/completions"] = hiding(token, token_id)
    async with started(strange) as engine:
        assert (await reasoning(engine)).ended == ended
    assert strange.bodies("/v1/completions")[-1]["prompt"] == "Is it?So."


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
        strange.replies["/tokenize"] = lambda body: Reply({"tokens": [len(body["prompt"])]})
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
        strange.replies["/v1/completions"] = amid(Reply({"error": {"message": "no"}}, status))
        with pytest.raises(EngineError):
            await verdict(engine)
        strange.replies["/v1/completions"] = refusing("logprob_token_ids")
        await engine.start()
        assert "logprob_token_ids" not in engine.info["fields"]


async def test_a_lost_connection_lets_the_server_be_learned_again(strange: StrangeServer) -> None:
    async with started(strange) as engine:
        strange.replies["/v1/completions"] = amid(Reply({"choices": []}, cut=0))
        with pytest.raises(EngineError):
            await verdict(engine)
        strange.requests.clear()
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
    for _, _, headers in strange.requests:
        assert headers.get("authorization") == sent
        assert "vendor" not in " ".join(headers.values())


async def test_default_headers_are_sent_with_each_request(strange: StrangeServer) -> None:
    async with started(strange, default_headers={"X-Team": "search"}) as engine:
        await verdict(engine)
    assert {headers.get("x-team") for _, _, headers in strange.requests} == {"search"}


async def test_a_redirect_is_not_followed_and_named(strange: StrangeServer) -> None:
    location = "Location: https://elsewhere.example/v1/models?code=abc\r\n"
    strange.replies["/v1/models"] = lambda body: Reply({}, 307, location)
    with pytest.raises(EngineError, match=r"redirects to https://elsewhere\.example/v1/models: "):
        async with started(strange, api_key=KEY):
            pass
    assert [path for path, _, _ in strange.requests] == ["/v1/models"]


async def test_a_path_prefix_and_a_pasted_endpoint_work(strange: StrangeServer) -> None:
    for path in ("/v1/models", "/v1/completions", "/tokenize", "/detokenize"):
        usual = path

        def reply(body: Json, usual: str = usual) -> Reply:
            return StrangeServer().reply(usual, body)

        strange.replies[f"/team/rank1{path}"] = reply
    strange.url += "/team/rank1/v1/completions"
    async with started(strange) as engine:
        assert log_odds(await verdict(engine)) == pytest.approx(2.0)
    assert all(path.startswith("/team/rank1/") for path, _, _ in strange.requests)


async def test_a_users_own_client_is_used_and_not_closed(strange: StrangeServer) -> None:
    client = openai.AsyncOpenAI(
        base_url=f"{strange.url}/v1", api_key=KEY, default_headers={"X-Team": "search"}
    )
    async with started(strange, client=client, max_retries=2) as engine:
        assert log_odds(await verdict(engine)) == pytest.approx(2.0)
    assert not client.is_closed()
    assert {headers["authorization"] for _, _, headers in strange.requests} == {f"Bearer {KEY}"}
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
        assert log_odds(await verdict(child)) == pytest.approx(2.0)
        assert child.context_length == 512
        await child.aclose()
        assert log_odds(await verdict(engine)) == pytest.approx(2.0)


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
