"""A stand-in engine that forces exact scores and faults, which no real model gives on demand.

What is under test is never this engine but what sits above it; the real engines have tests of
their own in `tests/integration`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from rank1_integrations.engines.base import Completion, Engine, Request
from rank1_integrations.exceptions import EngineError
from rank1_integrations.scoring.prompt import FALSE, TRUE
from rank1_integrations.scoring.steps import FINISHED_THOUGHT

_WORD = re.compile(r" [^ ]*")

Script = Callable[[str], float | Exception]


class ScriptedEngine(Engine):
    """Thinks a sentence about every passage, a token a word; then its log-odds are the script's.

    Args:
        script: From a passage to its log-odds, or to the error that judging it raises.
        direct: The same for the verdict without a thought; as `script` if not given.
        seconds: How long every completion takes.
    """

    def __init__(
        self, script: Script, *, direct: Script | None = None, seconds: float = 0.0
    ) -> None:
        self.model = "scripted"
        self.context_length: int | None = None
        self.seconds = seconds
        self.requests: list[Request] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.closed = False
        self._script, self._direct = script, direct or script

    async def start(self) -> None:
        """Do nothing: a script is always ready."""

    async def complete(self, request: Request) -> Completion:
        """Complete the prompt as the script says."""
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return self._completion(request)

    def _completion(self, request: Request) -> Completion:
        assert isinstance(request.prompt, str)
        asked, _, thought = request.prompt.rpartition("<think>")
        passage = asked.rpartition("\nPassage: ")[2].removesuffix("\n")
        script = self._direct if FINISHED_THOUGHT in thought else self._script
        log_odds = script(passage)
        if isinstance(log_odds, Exception):
            raise log_odds
        if request.labels:
            return Completion(
                text="",
                stopped=False,
                continuation="",
                tokens=1,
                prompt_tokens=len(request.prompt.split()),
                label_logprobs={TRUE: log_odds / 2 - 5, FALSE: -log_odds / 2 - 5},
            )
        return self._go_on(request, f" I have read: {passage[:40]}.", thought)

    def _go_on(self, request: Request, whole: str, before: str) -> Completion:
        words = _WORD.findall(whole)[len(_WORD.findall(before)) :]
        written = words[: request.max_tokens]
        text = "".join(written)
        is_whole = len(written) == len(words)
        return Completion(
            text=text,
            stopped=is_whole,
            unfinished=not is_whole,
            continuation=f"{request.prompt}{text}{request.stop if is_whole else ''}",
            tokens=len(written),
            prompt_tokens=len(str(request.prompt).split()),
        )

    async def count_tokens(self, text: str) -> int:
        """Count a token a character."""
        return len(text)

    async def first_tokens(self, text: str, count: int) -> str:
        """Return the first characters."""
        return text[:count]

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.closed = True


def length_script(passage: str) -> float:
    """Longer passages are better; one that says "fail" can't be judged."""
    if "fail" in passage:
        raise EngineError("the script says so")
    return float(len(passage)) - 10
