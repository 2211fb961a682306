"""How one passage is judged: think, conclude or be made to, answer.

The steps are those of Rank1's authors (https://github.com/orionw/rank1), except where their
script goes wrong: why generation stopped decides whether a thought is complete, and the labels'
log-probabilities are asked for by name, for one token, instead of being looked up among the
most likely tokens of every position. No I/O happens here: a procedure yields requests and is
sent completions.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Literal

from rank1_integrations.engines.base import Completion, Request, TokenIds
from rank1_integrations.errors import EngineError
from rank1_integrations.judgment import Judgment
from rank1_integrations.prompt import END_OF_THOUGHT, FALSE, TRUE, Prompt

Thinking = Literal["full", "none"]
Procedure = Generator[Request, Completion, Judgment]

# The thought that https://arxiv.org/abs/2505.16886 puts in the model's mouth to skip thinking.
FINISHED_THOUGHT = "Okay, I think I have finished thinking."

# Log-probabilities of -inf are cut here: JSON has no infinity, and a difference stays a number.
_LOWEST_LOGPROB = -9999.0


def judge(index: int, prompt: Prompt, *, thinking: Thinking, max_tokens: int) -> Procedure:
    """The requests that judge one passage, in order; returns the judgment.

    Args:
        index: The passage's place in the caller's list.
        prompt: What to ask.
        thinking: "full": a thought, then the verdict. "none": the verdict at once.
        max_tokens: The longest thought, in tokens.

    Raises:
        EngineError: The completions hold no label log-probability.
    """
    if thinking == "none":
        return (yield from _answer_directly(index, prompt))
    return (yield from _think(index, prompt, max_tokens))


def _answer_directly(index: int, prompt: Prompt) -> Procedure:
    answer = yield _verdict(_conclude(prompt.text, FINISHED_THOUGHT))
    log_odds, bounded = _log_odds(answer)
    return Judgment(
        index=index,
        log_odds=log_odds,
        bounded=bounded,
        finish="direct",
        prompt_tokens=answer.prompt_tokens,
        sanitized=prompt.sanitized,
        truncated=prompt.truncated,
    )


def _think(index: int, prompt: Prompt, max_tokens: int) -> Procedure:
    thought = yield Request(prompt=prompt.text, max_tokens=max_tokens, stop=END_OF_THOUGHT)
    if thought.stopped:
        answer = yield _verdict(thought.continuation)
    else:
        answer = yield _verdict(_conclude(prompt.text, _whole_sentences(thought.text)))
    log_odds, bounded = _log_odds(answer)
    return Judgment(
        index=index,
        log_odds=log_odds,
        bounded=bounded,
        reasoning=thought.text.strip(),
        finish="concluded" if thought.stopped else "forced",
        reasoning_tokens=thought.tokens,
        prompt_tokens=thought.prompt_tokens,
        sanitized=prompt.sanitized,
        truncated=prompt.truncated,
    )


def _verdict(prompt: str | TokenIds) -> Request:
    return Request(prompt=prompt, max_tokens=1, labels=(TRUE, FALSE))


def _conclude(prompt: str, thought: str) -> str:
    return f"{prompt}\n{thought}\n{END_OF_THOUGHT}"


def _whole_sentences(thought: str) -> str:
    """The thought up to its last sentence end; all of it if it has none."""
    end = max(thought.rfind(mark) for mark in ".!?")
    return (thought[: end + 1] if end >= 0 else thought).strip()


def _log_odds(answer: Completion) -> tuple[float, bool]:
    """Log-odds of "true", and whether one label's bound stood in for its log-probability."""
    found = answer.label_logprobs
    if TRUE not in found and FALSE not in found:
        raise EngineError(
            "neither ' true' nor ' false' is among the log-probabilities that the engine "
            "returned for the verdict: is this a Rank1 model?"
        )
    if TRUE in found and FALSE in found:
        return _difference(found[TRUE], found[FALSE]), False
    if answer.label_bound is None:
        raise EngineError("the engine returned the log-probability of one label only")
    return _difference(
        found.get(TRUE, answer.label_bound), found.get(FALSE, answer.label_bound)
    ), True


def _difference(true: float, false: float) -> float:
    if math.isnan(true) or math.isnan(false):
        raise EngineError("the engine returned NaN as a label's log-probability")
    return max(true, _LOWEST_LOGPROB) - max(false, _LOWEST_LOGPROB)
