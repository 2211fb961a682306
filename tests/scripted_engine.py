"""A stand-in engine that forces exact scores and faults, which no real model gives on demand.

What is under test is never this engine but what sits above it; the real engines have tests of
their own in `tests/integration`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rank1_integrations.engines.base import Completion, Engine, Request
from rank1_integrations.errors import EngineError
from rank1_integrations.prompt import FALSE, TRUE

Script = Callable[[str], float | Exception]


class ScriptedEngine(Engine):
    """Thinks one sentence about every passage, then gives it the log-odds of the script.

    Args:
        script: From a passage to its log-odds, or to the error that judging it raises.
        seconds: How long every completion takes.
    """

    def __init__(self, script: Script, *, seconds: float = 0.0) -> None:
        self.model = "scripted"
        self.context_length: int | None = None
        self.seconds = seconds
        self.requests: list[Request] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.closed = False
        self._script = script

    async def start(self) -> None:
        pass

    async def complete(self, request: Request) -> Completion:
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
        passage = request.prompt.rpartition("\nPassage: ")[2].partition("\n<think>")[0]
        log_odds = self._script(passage)
        if isinstance(log_odds, Exception):
            raise log_odds
        thought = f" I have read: {passage[:40]}."
        return Completion(
            text=thought,
            stopped=request.stop is not None,
            continuation=f"{request.prompt}{thought}{request.stop}",
            tokens=8 if request.stop else 1,
            prompt_tokens=len(request.prompt.split()),
            label_logprobs={TRUE: log_odds / 2 - 5, FALSE: -log_odds / 2 - 5},
        )

    async def count_tokens(self, text: str) -> int:
        return len(text)

    async def first_tokens(self, text: str, count: int) -> str:
        return text[:count]

    async def aclose(self) -> None:
        self.closed = True


def length_script(passage: str) -> float:
    """Longer passages are better; one that says "fail" can't be judged."""
    if "fail" in passage:
        raise EngineError("the script says so")
    return float(len(passage)) - 10
