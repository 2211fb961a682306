"""A scripted engine, for tests of chains and query engines without a model.

```python
from rank1_integrations import Rank1
from rank1_integrations.testing import ScriptedEngine

def test_only_passages_about_france_are_kept() -> None:
    engine = ScriptedEngine(lambda passage: 3.0 if "France" in passage else -3.0)
    rank1 = Rank1(engine)
    kept = rank1.rank("capital of France", ["Paris is in France.", "Rome."], score_threshold=0.5)
    assert [judgment.index for judgment in kept] == [0]
```

Every adapter takes such an object as `rank1=`. A script that returns or raises an `EngineError`
shows what an application does when the model fails.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from rank1_integrations.engines.base import Completion, Ending, Engine, Request, TokenIds
from rank1_integrations.exceptions import EngineError
from rank1_integrations.scoring.prompt import END_OF_REASONING, FALSE, THINK, TRUE
from rank1_integrations.scoring.steps import FINISHED_REASONING

Script = Callable[[str], float | Exception]
"""From a passage to its log-odds, or to the exception that judging it raises."""

Hold = Callable[[Request], Awaitable[object]]
"""Awaited with a request before it is answered."""

# A control token, a byte of a character outside ASCII, a word with the space before it, or a
# single character.
_TOKEN = re.compile(rb"</?think>|[\x80-\xff]|\s?[!-;=-~]{1,63}|[\x00-\x7f]")
# Ids below are bytes. Others are a word's bytes as a number, behind this byte: so ids need no
# table and mean the same in every process.
_WORD = b"\x01"
_PASSAGE = "\nPassage: "
_BROKEN_CHARACTER = "\ufffd"


class ScriptedEngine(Engine):
    """An engine that answers as a script says.

    It reasons about every passage, one token a word, then gives the script's log-odds, exactly.
    A completion continues the reasoning in its prompt, be it text or token ids.

    Attributes:
        requests: All requests so far.
        running: Number of requests that are being answered.
        most_running: The most at the same time so far.
        cancelled: Number of requests that were cancelled.
        closed: Whether `aclose` was called.
    """

    def __init__(
        self,
        script: Script,
        *,
        direct: Script | None = None,
        reasoning: str | Callable[[str], str] | None = None,
        seconds: float = 0.0,
        hold: Hold | None = None,
        tells_usage: bool = True,
        tells_ids: bool = True,
        context_length: int | None = None,
    ) -> None:
        """Make an engine that follows `script`.

        Args:
            script: Returns a passage's log-odds, or an exception that is raised.
            direct: The same for verdicts without reasoning; None for `script`.
            reasoning: The whole reasoning text, or a function from passage to text; None for
                " I have read: " and the passage's first 40 characters.
            seconds: Duration of every completion.
            hold: Awaited with every request before it is answered, on the background loop.
            tells_usage: Whether completions carry token counts.
            tells_ids: Whether completions carry token ids.
            context_length: Most tokens of prompt and completion together; longer requests are
                refused. None for no limit.
        """
        self.model = "scripted"
        self.context_length = context_length
        self.seconds = seconds
        self.requests: list[Request] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.closed = False
        self._script, self._direct, self._reasoning = script, direct, reasoning
        self._hold, self._tells_usage, self._tells_ids = hold, tells_usage, tells_ids

    async def start(self) -> None:
        """Do nothing: a script is always ready."""

    async def complete(self, request: Request) -> Completion:
        """Complete the prompt as the script says.

        Raises:
            EngineError: The engine was closed meanwhile, or the request does not fit the context.
            Exception: The one that the script returns or raises.
        """
        self.requests.append(request)
        was_closed = self.closed
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
            if self._hold is not None:
                await self._hold(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if self.closed and not was_closed:
            raise EngineError("the scripted engine is closed: make a new Rank1 object")
        return self._answer(request)

    def encode(self, text: str) -> TokenIds:
        """Return the token ids of `text`."""
        return _encode(text.encode(errors="surrogatepass"))

    async def count_tokens(self, text: str) -> int:
        """Count the tokens of `text`."""
        return len(self.encode(text))

    async def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text` that its first `count` tokens make up."""
        # A character of which only some bytes are among the tokens is left out.
        return _decode(self.encode(text)[:count]).decode(errors="ignore")

    async def decode(self, token_ids: TokenIds) -> str | None:
        """Return the text of token ids, with U+FFFD for incomplete characters at either end.

        None if this engine tells no token ids.
        """
        return _text(token_ids) if self._tells_ids else None

    async def aclose(self) -> None:
        """Fail the requests that run.

        A new `Rank1` object may use the engine again, so that a test can count over several.
        """
        self.closed = True

    def after_fork(self) -> Self:
        """Return an engine with the same script that has seen no requests."""
        return type(self)(
            self._script,
            direct=self._direct,
            reasoning=self._reasoning,
            seconds=self.seconds,
            hold=self._hold,
            tells_usage=self._tells_usage,
            tells_ids=self._tells_ids,
            context_length=self.context_length,
        )

    def _answer(self, request: Request) -> Completion:
        prompt = _Prompt.read(request.prompt)
        if self.context_length and len(prompt.ids) + request.max_tokens > self.context_length:
            raise EngineError(
                f"the context of {self.context_length} tokens is too short for {len(prompt.ids)} "
                f"tokens of prompt and {request.max_tokens} of completion"
            )
        log_odds = (self._direct or self._script if prompt.is_direct else self._script)(
            prompt.passage
        )
        if isinstance(log_odds, Exception):
            raise log_odds
        # One of the two is 0, so that their difference is exactly the script's number.
        true, false = (0.0, -log_odds) if log_odds > 0 else (log_odds, 0.0)
        verdict = TRUE if log_odds > 0 else FALSE
        if request.labels:
            logprobs = {TRUE: true, FALSE: false}
            ids = _encode(verdict.encode())
            labels = {label: logprobs[label] for label in request.labels if label in logprobs}
            return self._completion(prompt, ids, verdict, "length", labels)
        rest = prompt.rest_of(f"{self._reasoning_about(prompt.passage)}{END_OF_REASONING}{verdict}")
        return self._generate(request, prompt, _encode(rest))

    def _reasoning_about(self, passage: str) -> str:
        if self._reasoning is None:
            return f" I have read: {passage[:40]}."
        return self._reasoning if isinstance(self._reasoning, str) else self._reasoning(passage)

    def _generate(self, request: Request, prompt: _Prompt, rest: TokenIds) -> Completion:
        ids = rest[: request.max_tokens]
        stop = _encode((request.stop or "").encode())
        if len(stop) == 1 and stop[0] in ids:
            end = ids.index(stop[0])
            return self._completion(prompt, ids[: end + 1], _text(ids[:end]), "stop")
        return self._completion(prompt, ids, _text(ids), "eos" if ids == rest else "length")

    def _completion(
        self,
        prompt: _Prompt,
        ids: TokenIds,
        text: str,
        ended: Ending,
        label_logprobs: dict[str, float] | None = None,
    ) -> Completion:
        return Completion(
            text=text,
            ended=ended,
            prompt_ids=prompt.ids if self._tells_ids else None,
            token_ids=ids if self._tells_ids else None,
            prompt_tokens=len(prompt.ids) if self._tells_usage else None,
            completion_tokens=len(ids) if self._tells_usage else None,
            cached_tokens=0 if self._tells_usage else None,
            label_logprobs=label_logprobs or {},
        )


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What a prompt says: the passage, and the reasoning so far as bytes."""

    ids: TokenIds
    passage: str
    reasoning: bytes

    @classmethod
    def read(cls, prompt: str | TokenIds) -> Self:
        if isinstance(prompt, str):
            content = prompt.encode(errors="surrogatepass")
            ids = _encode(content)
        else:
            content, ids = _decode(prompt), prompt
        question, _, reasoning = content.rpartition(THINK.encode())
        passage = question.decode(errors="replace").rpartition(_PASSAGE)[2].removesuffix("\n")
        return cls(ids, passage, reasoning)

    @property
    def is_direct(self) -> bool:
        """Whether the reasoning is the one that stands for none."""
        text = self.reasoning.decode(errors="replace").strip()
        return text.removesuffix(END_OF_REASONING).strip() == FINISHED_REASONING

    def rest_of(self, whole: str) -> bytes:
        """Return what follows the reasoning so far in the scripted text."""
        encoded = whole.encode(errors="surrogatepass")
        # A prompt of text that was cut within a character goes on before that character.
        text = self.reasoning.decode(errors="replace").rstrip(_BROKEN_CHARACTER)
        for before in (self.reasoning, text.encode()):
            if encoded.startswith(before):
                return encoded[len(before) :]
        raise EngineError(
            f"the prompt's reasoning is not how the scripted one begins: {text!r} is no beginning "
            f"of {whole!r}. Was something lost between two parts?"
        )


def _encode(content: bytes) -> TokenIds:
    return tuple(
        token[0] if token[0] >= 0x80 else int.from_bytes(_WORD + token)
        for token in _TOKEN.findall(content)
    )


def _decode(ids: TokenIds) -> bytes:
    return b"".join(
        bytes([token]) if token < 0x100 else token.to_bytes((token.bit_length() + 7) // 8)[1:]
        for token in ids
    )


def _text(ids: TokenIds) -> str:
    return _decode(ids).decode(errors="replace")
