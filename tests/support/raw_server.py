"""A fake of vLLM's server, made to force faults. It runs no model.

It speaks HTTP/1.1 on a raw socket, so that it can answer what no web framework lets out: half a
body, a reset amid an answer, one byte a second. Without a fault it answers as vLLM does, with
content that follows from the passage alone: `log_odds_of(passage)` and `reasoning_about(passage)`.
So a test sees at once if one passage got the judgment of another.

Its tokens are single bytes, the control tokens and the labels.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, Self

from rank1_integrations.scoring.prompt import END_OF_REASONING, FALSE, THINK, TRUE

MODEL = "rank1-raw"

_SPECIAL = (THINK, END_OF_REASONING, TRUE, FALSE)
_SPECIAL_IDS = {text: 256 + number for number, text in enumerate(_SPECIAL)}
_SPLIT = re.compile("(" + "|".join(map(re.escape, _SPECIAL)) + ")")
_TRUE_ID, _FALSE_ID, _END_ID = (_SPECIAL_IDS[text] for text in (TRUE, FALSE, END_OF_REASONING))
_NUMBER = re.compile(r"\d+")
# Log-probability of a token that is not the point.
_UNLIKELY = -20.0
_LIMIT = 1 << 24


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        number: How many came before it.
        method: Of HTTP.
        path: For instance "/v1/completions".
        headers: By name in lower case.
        body: The JSON; None if there is none.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def prompt(self) -> str:
        """The prompt of a completion, as text."""
        return as_text(self.body["prompt"])

    @property
    def passage(self) -> str:
        """The passage that the prompt is about; "" if there is none."""
        return passage_in(self.prompt)

    @property
    def is_completion(self) -> bool:
        """Whether it asks for a completion."""
        return self.path.endswith("/completions")

    @property
    def is_verdict(self) -> bool:
        """Whether it asks for the labels of a passage."""
        return self.is_completion and THINK in self.prompt and self.body["max_tokens"] == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with an answer.

    Attributes:
        status: Of HTTP.
        body: Sent instead of the right answer.
        headers: Sent beside the usual ones.
        change: Applied to the JSON of a right completion; its result is sent.
        delay: Seconds before the answer.
        byte_delay: Seconds before each byte of the answer.
        cut: Half of the answer is sent: "length" announces all of it and closes the connection,
            "json" announces what is sent.
        reset: The connection is reset "before" the answer or "amid" it.
    """

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    change: Callable[[dict[str, Any]], Any] | None = None
    delay: float = 0.0
    byte_delay: float = 0.0
    cut: Literal["length", "json"] | None = None
    reset: Literal["before", "amid"] | None = None


ChooseFault = Callable[[Call], Fault | None]


def _error(status: int, **headers: str) -> Fault:
    body = {"error": {"message": f"forced fault {status}", "type": "fault", "code": status}}
    return Fault(status=status, body=json.dumps(body).encode(), headers=headers)


def _with_choices(choices: Any) -> Fault:
    return Fault(change=lambda answer: {**answer, "choices": choices})


def _with_first_choice(**fields: Any) -> Fault:
    return Fault(change=lambda answer: {**answer, "choices": [{**answer["choices"][0], **fields}]})


def _with_logprobs(change: Callable[[str, float], tuple[str, Any]]) -> Fault:
    """Return a fault that renames or replaces every listed log-probability."""

    def applied(answer: dict[str, Any]) -> dict[str, Any]:
        choice = answer["choices"][0]
        if choice["logprobs"] is None:
            return answer
        legacy = choice["logprobs"]
        pairs = zip(legacy["tokens"], legacy["token_logprobs"], strict=True)
        chosen = [change(name, value) for name, value in pairs]
        changed = {
            **legacy,
            "tokens": [name for name, _ in chosen],
            "token_logprobs": [value for _, value in chosen],
            "top_logprobs": [
                dict(change(name, value) for name, value in listed.items())
                for listed in legacy["top_logprobs"]
            ],
        }
        return {**answer, "choices": [{**choice, "logprobs": changed}]}

    return Fault(change=applied)


def _without(*names: str) -> Fault:
    return Fault(change=lambda answer: {k: v for k, v in answer.items() if k not in names})


_PAGE = b"<!doctype html><html><head><title>Gateway</title></head><body>Please wait.</body></html>"

FAULTS: Mapping[str, Fault] = {
    "status 401": _error(401),
    "status 404": _error(404),
    "status 429": _error(429),
    "status 429 with Retry-After": _error(429, **{"Retry-After": "1"}),
    "status 500": _error(500),
    "status 503": _error(503),
    "redirect": Fault(status=307, body=b"", headers={"Location": "/elsewhere"}),
    "HTML": Fault(body=_PAGE, headers={"Content-Type": "text/html"}),
    "no JSON": Fault(body=b"ok"),
    "empty body": Fault(body=b""),
    "JSON null": Fault(body=b"null"),
    "error with status 200": Fault(body=b'{"error": {"message": "out of memory", "code": 500}}'),
    "cut body": Fault(cut="length"),
    "cut JSON": Fault(cut="json"),
    "reset before the answer": Fault(reset="before"),
    "reset amid the answer": Fault(reset="amid"),
    "no choices": _without("choices"),
    "empty choices": _with_choices([]),
    "null choices": _with_choices(None),
    "null choice": _with_choices([None]),
    "null text": _with_first_choice(text=None),
    "unknown finish_reason": _with_first_choice(finish_reason="content_filter"),
    "no log-probabilities": _with_first_choice(logprobs=None),
    "empty log-probabilities": _with_first_choice(
        logprobs={"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    ),
    "null log-probabilities": _with_logprobs(lambda name, _: (name, None)),
    "NaN": _with_logprobs(lambda name, _: (name, math.nan)),
    "infinity": _with_logprobs(lambda name, _: (name, math.inf)),
    "minus infinity": _with_logprobs(lambda name, _: (name, -math.inf)),
    "log-probabilities as text": _with_logprobs(lambda name, value: (name, str(value))),
    "wrong token names": _with_logprobs(lambda name, value: (f"x{name}", value)),
    "wrong token ids": _with_logprobs(lambda name, value: (f"token_id:9{len(name)}", value)),
    "ids that are no numbers": _with_first_choice(token_ids=["a"], prompt_token_ids=[None]),
    "no ids": _with_first_choice(token_ids=None, prompt_token_ids=None),
    "no usage": _without("usage"),
    "usage of zeros": Fault(
        change=lambda answer: {**answer, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    ),
    "delay of 2.5 s": Fault(delay=2.5),
}
"""Faults by what they are. Those of `change` concern completions only."""

SLOW_LORIS = Fault(byte_delay=0.05)
"""Not among `FAULTS`: each such answer takes a minute."""


def number_in(passage: str) -> int:
    """Return the passage's first number; another number that it decides if it has none."""
    number = _NUMBER.search(passage)
    return zlib.crc32(passage.encode()) if number is None else int(number[0])


def log_odds_of(passage: str) -> float:
    """Return the log-odds that a passage gets, between -9 and 9: its neighbours get others."""
    return (number_in(passage) * 7919 % 18_001 - 9_000) / 1_000


def reasoning_about(passage: str) -> str:
    """Return the reasoning that a passage gets, as its judgment has it."""
    return f"The passage holds the number {number_in(passage)}. That decides."


def encode(text: str) -> list[int]:
    """Return the token ids of a text."""
    ids: list[int] = []
    for part in _SPLIT.split(text):
        ids += [_SPECIAL_IDS[part]] if part in _SPECIAL_IDS else part.encode()
    return ids


def decode(token_ids: Sequence[int]) -> str:
    """Return the text of token ids."""
    names = [_SPECIAL[i - 256].encode() if i > 255 else bytes([i]) for i in token_ids]
    return b"".join(names).decode(errors="replace")


def as_text(prompt: str | list[int]) -> str:
    """Return a prompt, which may be token ids, as text."""
    return prompt if isinstance(prompt, str) else decode(prompt)


def passage_in(prompt: str) -> str:
    """Return the passage of a prompt; "" if there is none."""
    asked, mark, _ = prompt.rpartition(THINK)
    return asked.rpartition("\nPassage: ")[2].removesuffix("\n") if mark else ""


class RawServer:
    """The server, on a thread and an event loop of its own.

    Attributes:
        port: On 127.0.0.1.
        requests: Requests so far.
        calls: The requests themselves; empty if they are not kept.
        faults: Answers at fault so far.
        open_connections: Connections that are open now.
        most_open: The most that were open at the same time.
    """

    def __init__(
        self,
        fault: ChooseFault | None = None,
        *,
        port: int = 0,
        max_model_len: int | None = 16_384,
        reasoning: Callable[[str], str] = reasoning_about,
        keeps_calls: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Make a server; `with` starts and ends it.

        Args:
            fault: Chooses what is wrong with the answer to a request; None for nothing.
            port: To listen on; 0 for a free one.
            max_model_len: Context length that /v1/models tells; None to tell none.
            reasoning: From a passage to the reasoning about it.
            keeps_calls: Whether `calls` is filled.
            tls: Certificate and key, for https; None for http.
        """
        self.port = port
        self.requests = self.faults = self.open_connections = self.most_open = 0
        self.calls: list[Call] = []
        self._fault = fault or (lambda _: None)
        self._max_model_len = max_model_len
        self._reasoning = reasoning
        self._keeps_calls = keeps_calls
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="raw", daemon=True)
        self._connections: set[asyncio.Task[Any]] = set()

    @property
    def base_url(self) -> str:
        """The address for `Rank1.from_server`."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def stats(self) -> dict[str, int]:
        """The counts, as GET /stats answers them; the connection that asks is an open one."""
        names = ("requests", "faults", "open_connections", "most_open")
        return {name: getattr(self, name) for name in names}

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=_LIMIT, backlog=1024, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in [*self._connections]:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.open_connections += 1
        self.most_open = max(self.most_open, self.open_connections)
        try:
            while (call := await self._read(reader)) is not None:
                if not await self._answer(call, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # asyncio's streams log a handler that was cancelled as an error.
            pass
        finally:
            self._connections.discard(task)
            self.open_connections -= 1
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Call | None:
        """Return the next request; None at the connection's end."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(self.requests, method, path, headers, json.loads(content) if content else None)
        if path != "/stats":
            self.requests += 1
            if self._keeps_calls:
                self.calls.append(call)
        return call

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        """Answer, and return whether the connection stays open."""
        fault = None if call.path == "/stats" else self._fault(call)
        if fault is None:
            return await _send(writer, *self._right_answer(call))
        self.faults += 1
        await asyncio.sleep(fault.delay)
        if fault.reset == "before":
            return _reset(writer)
        status, right = self._right_answer(call)
        if fault.change is not None and call.is_completion:
            right = json.dumps(fault.change(json.loads(right))).encode()
        is_right = fault.body is None and fault.status == HTTPStatus.OK
        return await _send(
            writer,
            status if is_right else fault.status,
            right if fault.body is None else fault.body,
            fault,
        )

    def _right_answer(self, call: Call) -> tuple[int, bytes]:
        answers: dict[str, Callable[[Any], Any]] = {
            "/stats": lambda _: self.stats,
            "/v1/models": self._models,
            "/tokenize": self._tokenize,
            "/detokenize": lambda body: {"prompt": decode(body["tokens"])},
            "/v1/completions": self._complete,
        }
        if call.path not in answers:
            return 404, _error(404).body or b""
        try:
            return 200, json.dumps(answers[call.path](call.body)).encode()
        except KeyError:
            # Parameters of another kind of server, which are tried after a fault.
            return 400, _error(400).body or b""

    def _models(self, _: Any) -> Any:
        model: dict[str, Any] = {"id": MODEL, "object": "model", "owned_by": "vllm", "root": MODEL}
        if self._max_model_len is not None:
            model["max_model_len"] = self._max_model_len
        return {"object": "list", "data": [model]}

    def _tokenize(self, body: Any) -> Any:
        ids = encode(body.get("prompt", ""))
        return {"count": len(ids), "max_model_len": self._max_model_len, "tokens": ids}

    def _complete(self, body: Any) -> Any:
        given = body["prompt"]
        prompt = encode(given) if isinstance(given, str) else given
        passage, stop = passage_in(as_text(given)), body.get("stop")
        rest = self._continuation(prompt, passage)
        shown = rest[: body["max_tokens"]]
        finish_reason = "stop" if len(shown) == len(rest) else "length"
        text, mark, _ = decode(shown).partition(stop) if stop else (decode(shown), "", "")
        if mark:
            shown, finish_reason = [*encode(text), *encode(stop)], "stop"
        choice = {
            "index": 0,
            "text": text,
            "finish_reason": finish_reason,
            "stop_reason": stop if mark else None,
            "logprobs": _logprobs(body, shown, log_odds_of(passage)),
        }
        if body.get("return_token_ids"):
            choice |= {"token_ids": shown, "prompt_token_ids": prompt}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(shown)}
        return {"id": "cmpl", "object": "text_completion", "choices": [choice], "usage": usage}

    def _continuation(self, prompt: list[int], passage: str) -> list[int]:
        """Return all that the model would write behind a prompt."""
        verdict = _TRUE_ID if log_odds_of(passage) > 0 else _FALSE_ID
        text = decode(prompt)
        written = text.rpartition(THINK)[2]
        whole = f" {self._reasoning(passage)}{END_OF_REASONING}"
        if THINK not in text or END_OF_REASONING in written or not whole.startswith(written):
            return [verdict]
        return [*encode(whole)[len(encode(written)) :], verdict]


def _logprobs(body: Mapping[str, Any], shown: list[int], log_odds: float) -> Any:
    """Return log-probabilities in the legacy form, as vLLM does; None if none are wanted."""
    if body.get("logprobs") is None:
        return None

    def name(token: int) -> str:
        return f"token_id:{token}" if body.get("return_tokens_as_token_ids") else decode([token])

    normalizer = math.log1p(math.exp(-abs(log_odds))) + max(log_odds, 0.0)
    labels = {_TRUE_ID: log_odds - normalizer, _FALSE_ID: -normalizer}
    others = range(ord("a"), ord("a") + max(0, body["logprobs"] - len(labels)))
    listed = body.get("logprob_token_ids") or [*labels, *others]
    top = {name(token): labels.get(token, _UNLIKELY) for token in [*shown[:1], *listed]}
    return {
        "text_offset": [0] * len(shown),
        "tokens": [name(token) for token in shown],
        "token_logprobs": [labels.get(token, _UNLIKELY) for token in shown],
        "top_logprobs": [top] * len(shown),
    }


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, fault: Fault | None = None
) -> bool:
    """Send an answer, and return whether the connection stays open."""
    fault = fault or Fault()
    half = body[: len(body) // 2]
    body = half if fault.cut == "json" else body
    headers = {"Content-Type": "application/json", "Content-Length": len(body), **fault.headers}
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    content = head.encode() + (half if fault.cut == "length" or fault.reset == "amid" else body)
    if fault.byte_delay:
        for byte in content:
            await asyncio.sleep(fault.byte_delay)
            writer.write(bytes([byte]))
            await writer.drain()
    else:
        writer.write(content)
        await writer.drain()
    if fault.reset == "amid":
        # The half must have left before: a reset drops what waits.
        await asyncio.sleep(0.01)
        return _reset(writer)
    return fault.cut != "length"


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Reset the connection: without lingering, closing it sends RST. Returns False."""
    connection = writer.get_extra_info("socket")
    # The client may have closed it.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def random_faults(rate: float, seed: int = 0) -> ChooseFault:
    """Return a function that puts this share of the answers at fault, with all `FAULTS`."""
    dice, faults = random.Random(seed), [*FAULTS.values()]
    return lambda _: dice.choice(faults) if dice.random() < rate else None


class RawServerProcess:
    """The server in a process of its own, with `random_faults`."""

    def __init__(self, fault_rate: float, *, seed: int = 0) -> None:
        self._command = [
            *(sys.executable, "-m", "tests.support.raw_server"),
            *(f"--fault-rate={fault_rate}", f"--seed={seed}"),
        ]
        self.port = 0

    @property
    def base_url(self) -> str:
        """The address for `Rank1.from_server`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        """Return the server's counts, without the connection that asks for them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as answer:
            stats: dict[str, int] = json.load(answer)
        return {**stats, "open_connections": stats["open_connections"] - 1}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Serve until killed; the first line of the output is the port."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = random_faults(options.fault_rate, options.seed)
    with RawServer(faults, port=options.port, keeps_calls=False) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
