"""`ScriptedEngine`: a stand-in for the model, to test chains without one.

```python
from rank1_integrations import Rank1
from rank1_integrations.testing import ScriptedEngine

rank1 = Rank1(ScriptedEngine(lambda passage: 3.0 if "honeybee" in passage else -3.0))
compressor = Rank1Compressor(rank1=rank1, score_threshold=0.5)
```

It scores by a function, so that a test decides what is kept. All else is real: prompt, steps,
ranking, adapters.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Self

from rank1_integrations.engines.base import Completion, Ending, Engine, Request, TokenIds
from rank1_integrations.scoring.prompt import END_OF_REASONING, FALSE, THINK, TRUE
from rank1_integrations.scoring.steps import FINISHED_REASONING

Script = Callable[[str], float | Exception]
Hold = Callable[[Request], Awaitable[None]]

# A word with the space before it, a control token, or another ASCII character.
_TOKEN = re.compile(r"</?think>| ?(?:(?!</?think>)[!-~])+|[\x00-\x7f]|[^\x00-\x7f]")
_FIRST_WORD_ID = 256


class ScriptedEngine(Engine):
    """Reasons a given text about each passage; then its log-odds are the script's.

    Its tokens are ASCII words, `<think>`, `</think>`, and single bytes of all other characters,
    so that a character can be split over two completions.

    Attributes:
        requests: All requests so far.
        running: Requests in progress.
        most_running: The most that were in progress at the same time.
        cancelled: Requests that were cancelled.
        closed: Whether `aclose` was called.
    """

    model = "scripted"

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
        """Make an engine.

        Args:
            script: From a passage to its log-odds, or to the exception that judging it raises.
                It may raise that itself.
            direct: The same for verdicts without reasoning; None for `script`.
            reasoning: The reasoning, or a function from a passage to it; None for a sentence.
            seconds: How long each completion takes.
            hold: Awaited before each answer, so that a test decides when it comes.
            tells_usage: Whether completions have token counts.
            tells_ids: Whether completions have token ids.
            context_length: Tokens of prompt and completion together; None for any number.
        """
        self.context_length = context_length
        self.seconds = seconds
        self.requests: list[Request] = []
        self.running = self.most_running = self.cancelled = 0
        self.closed = False
        self._script, self._direct = script, direct or script
        self._reasoning = reasoning
        self._hold = hold
        self._tells_usage, self._tells_ids = tells_usage, tells_ids
        self._ids: dict[bytes, int] = {}
        self._words: list[bytes] = []

    async def start(self) -> None:
        """Do nothing: a script is always ready."""

    async def complete(self, request: Request) -> Completion:
        """Complete the prompt as the script says."""
        self.requests.append(request)
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
        return self._completion(request)

    async def count_tokens(self, text: str) -> int:
        """Count this engine's own tokens."""
        return len(self.encode(text))

    async def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text`, to the end of the character that holds its last token."""
        end = 0
        for token in _TOKEN.finditer(text):
            count -= len(self.encode(token[0]))
            if count < 0:
                break
            end = token.end()
        return text[:end]

    async def decode(self, token_ids: TokenIds) -> str | None:
        """Return the text of token ids; None if this engine tells none."""
        return self._text(token_ids) if self._tells_ids else None

    async def aclose(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def after_fork(self) -> Self:
        """Return another engine with the same script."""
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

    def encode(self, text: str) -> TokenIds:
        """Return the token ids of a text."""
        ids: list[int] = []
        for token in _TOKEN.findall(text):
            data = token.encode()
            ids += [self._word_id(data)] if token.isascii() else data
        return tuple(ids)

    def _word_id(self, word: bytes) -> int:
        if word not in self._ids:
            self._ids[word] = _FIRST_WORD_ID + len(self._words)
            self._words.append(word)
        return self._ids[word]

    def _bytes(self, token_ids: TokenIds) -> bytes:
        return b"".join(
            self._words[token - _FIRST_WORD_ID] if token >= _FIRST_WORD_ID else bytes([token])
            for token in token_ids
        )

    def _text(self, token_ids: TokenIds) -> str:
        return self._bytes(token_ids).decode(errors="replace")

    def _completion(self, request: Request) -> Completion:
        text = request.prompt if isinstance(request.prompt, str) else self._text(request.prompt)
        asked, _, reasoning = text.rpartition(THINK)
        passage = asked.rpartition("\nPassage: ")[2].removesuffix("\n")
        script = self._direct if FINISHED_REASONING in reasoning else self._script
        log_odds = script(passage)
        if isinstance(log_odds, Exception):
            raise log_odds
        if request.labels:
            logprobs = {TRUE: log_odds / 2 - 5, FALSE: -log_odds / 2 - 5}
            return self._answer(request, self.encode(TRUE), "length", logprobs)
        whole = (*self.encode(self._reasoning_about(passage)), *self.encode(END_OF_REASONING))
        rest = whole[self._tokens_written(request.prompt, reasoning, whole) :]
        written = rest[: request.max_tokens]
        return self._answer(request, written, "stop" if written == rest else "length", {})

    def _reasoning_about(self, passage: str) -> str:
        if self._reasoning is None:
            return f" I have read: {passage[:40]}."
        return self._reasoning if isinstance(self._reasoning, str) else self._reasoning(passage)

    def _tokens_written(self, prompt: str | TokenIds, text: str, whole: TokenIds) -> int:
        """Return how many tokens of the reasoning the prompt already holds."""
        if not isinstance(prompt, str):
            return prompt[::-1].index(self._word_id(THINK.encode()))
        lengths = range(len(whole) + 1)
        texts = (self._bytes(whole[:length]).decode(errors="ignore") for length in lengths)
        return next((length for length, one in enumerate(texts) if one == text), 0)

    def _answer(
        self, request: Request, token_ids: TokenIds, ended: Ending, logprobs: dict[str, float]
    ) -> Completion:
        prompt = request.prompt
        prompt_ids = self.encode(prompt) if isinstance(prompt, str) else prompt
        return Completion(
            text=self._text(token_ids[:-1] if ended == "stop" else token_ids),
            ended=ended,
            prompt_ids=prompt_ids if self._tells_ids else None,
            token_ids=token_ids if self._tells_ids else None,
            prompt_tokens=len(prompt_ids) if self._tells_usage else None,
            completion_tokens=len(token_ids) if self._tells_usage else None,
            label_logprobs=logprobs,
        )
