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
from dataclasses import dataclass, replace

from rank1_integrations.engines.base import Completion, Request, TokenIds
from rank1_integrations.exceptions import EngineError
from rank1_integrations.judgment import Finish, Judgment
from rank1_integrations.reasoning_budget import Region
from rank1_integrations.scoring.prompt import END_OF_THOUGHT, FALSE, TRUE, Prompt

Procedure = Generator[Request, Completion, Judgment]

# The thought that https://arxiv.org/abs/2505.16886 puts in the model's mouth to skip thinking.
FINISHED_THOUGHT = "Okay, I think I have finished thinking."

SAMPLING_TEMPERATURE = 0.6
"""What the model that Rank1 learned to reason from is sampled with
(https://huggingface.co/deepseek-ai/DeepSeek-R1)."""

# Thoughts are shorter than this in tokens.
_SEEDS_A_SAMPLE = 1_000_003

# Log-probabilities of -inf are cut here: JSON has no infinity, and a difference stays a number.
_LOWEST_LOGPROB = -9999.0

# Where a token ends inside a character, decoders put this in the character's place.
_BROKEN_CHARACTER = "\ufffd"


class OutOfTime(Exception):  # noqa: N818 (a signal between the parts of this package, no error)
    """Thrown into a procedure in place of the completion of a thought: conclude now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """Asks for the verdict in the middle of a thought, to leave it once the answer is plain.

    Attributes:
        step_tokens: Tokens of thought between two probes.
        region: Where the outcome is open; a verdict outside it is final.
        settled: Two probes that differ by less, in log-odds, are final too.
    """

    step_tokens: int
    region: Region
    settled: float

    def is_plain(self, before: float | None, now: float) -> bool:
        """Whether a probe, after the one before it, leaves nothing to think about."""
        return now not in self.region or (before is not None and abs(now - before) < self.settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a passage is to be judged: with model and prompt, all that decides its judgment.

    Attributes:
        max_tokens: The longest thought, in tokens; 0 for the verdict at once.
        probing: When to leave a thought before its end; None to hear it out.
        samples: How many thoughts are sampled, to take the mean of; 1 for the likeliest alone.
    """

    max_tokens: int
    probing: Probing | None = None
    samples: int = 1

    @property
    def temperature(self) -> float:
        """0 for the likeliest thought, above for a sampled one."""
        return 0.0 if self.samples == 1 else SAMPLING_TEMPERATURE


def judge(
    index: int,
    prompt: Prompt,
    plan: Plan,
    *,
    sample: int = 0,
    step_tokens: int | None = None,
    known: Judgment | None = None,
) -> Procedure:
    """The requests that judge one passage, in order; returns the judgment.

    `OutOfTime` may be thrown in for any request that is not for labels.

    Args:
        index: The passage's place in the caller's list.
        prompt: What to ask.
        plan: How to judge.
        sample: Which of the plan's samples this one is, from 0.
        step_tokens: Ask for the thought in parts of so many tokens, so that little is lost where
            it is cut; None for the whole at once. It does not change the judgment.
        known: The direct verdict, if it was asked for before.

    Raises:
        EngineError: The completions hold no label log-probability.
    """
    if plan.max_tokens == 0:
        return (yield from _answer_directly(index, prompt))
    return (yield from _think(index, prompt, plan, sample, step_tokens, known))


@dataclass(slots=True)
class _Thought:
    """What was thought so far, and where it goes on."""

    ahead: str | TokenIds
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    has_ended: bool = False
    probe: Completion | None = None
    """The verdict on exactly this text, if it was asked for."""

    def add(self, part: Completion, prompt: Prompt) -> None:
        if self.tokens == 0:
            self.prompt_tokens, self.cached_tokens = part.prompt_tokens, part.cached_tokens
            self.text = part.text
        else:
            self.text = self.text.removesuffix(_BROKEN_CHARACTER) + part.text.removeprefix(
                _BROKEN_CHARACTER
            )
        self.tokens += part.tokens
        self.ahead, self.has_ended, self.probe = part.continuation, part.stopped, None
        # Where the end mark is several tokens, it can begin in one part and end in the next.
        before, mark, _ = self.text.partition(END_OF_THOUGHT)
        if mark:
            self.text, self.has_ended = before, True
            self.ahead = f"{prompt.text}{before}{mark}"


def _think(
    index: int,
    prompt: Prompt,
    plan: Plan,
    sample: int,
    step_tokens: int | None,
    known: Judgment | None,
) -> Procedure:
    thought, probing = _Thought(prompt.text), plan.probing
    before: float | None = None
    if probing is not None:
        step_tokens = probing.step_tokens
    while thought.tokens < plan.max_tokens:
        left = plan.max_tokens - thought.tokens
        try:
            part = yield Request(
                prompt=thought.ahead,
                max_tokens=min(step_tokens or left, left),
                stop=END_OF_THOUGHT,
                temperature=plan.temperature,
                seed=_seed(sample, thought) if plan.temperature else None,
            )
        except OutOfTime:
            break
        thought.add(part, prompt)
        if thought.has_ended:
            answer = yield _verdict(thought.ahead)
            return _judgment(index, prompt, answer, thought, finish="concluded")
        if not part.unfinished:
            break
        if probing is not None:
            thought.probe = yield _forced_verdict(prompt, thought)
            now, _ = _log_odds(thought.probe)
            if probing.is_plain(before, now):
                break
            before = now
    if thought.tokens == 0:
        return known or (yield from _answer_directly(index, prompt))
    answer = thought.probe or (yield _forced_verdict(prompt, thought))
    return _judgment(index, prompt, answer, thought, finish="forced")


def _seed(sample: int, thought: _Thought) -> int:
    """Another one for every sample, and for every part of it."""
    return sample * _SEEDS_A_SAMPLE + thought.tokens


def _answer_directly(index: int, prompt: Prompt) -> Procedure:
    answer = yield _verdict(_conclude(prompt.text, FINISHED_THOUGHT))
    nothing = _Thought("", prompt_tokens=answer.prompt_tokens, cached_tokens=answer.cached_tokens)
    return _judgment(index, prompt, answer, nothing, finish="direct")


def _judgment(
    index: int, prompt: Prompt, answer: Completion, thought: _Thought, *, finish: Finish
) -> Judgment:
    log_odds, bounded = _log_odds(answer)
    return Judgment(
        index=index,
        log_odds=log_odds,
        bounded=bounded,
        reasoning=thought.text.strip(),
        finish=finish,
        reasoning_tokens=thought.tokens,
        prompt_tokens=thought.prompt_tokens,
        cached_tokens=thought.cached_tokens,
        sanitized=prompt.sanitized,
        truncated=prompt.truncated,
    )


def _verdict(prompt: str | TokenIds) -> Request:
    return Request(prompt=prompt, max_tokens=1, labels=(TRUE, FALSE))


def _forced_verdict(prompt: Prompt, thought: _Thought) -> Request:
    return _verdict(_conclude(prompt.text, _whole_sentences(thought.text)))


def _conclude(prompt: str, thought: str) -> str:
    return f"{prompt}\n{thought}\n{END_OF_THOUGHT}"


def _whole_sentences(thought: str) -> str:
    """The thought up to its last sentence end; all of it if it has none."""
    end = max(thought.rfind(mark) for mark in ".!?")
    return (thought[: end + 1] if end >= 0 else thought).strip()


def mean(samples: list[Judgment]) -> Judgment:
    """One judgment from several sampled thoughts about the same passage.

    Its log-odds are the mean of theirs, its tokens their sum; reasoning and finish are those of
    the sample nearest to the mean.
    """
    odds = [one.log_odds for one in samples if one.log_odds is not None]
    middle = math.fsum(odds) / len(odds)
    nearest = min(samples, key=lambda one: abs((one.log_odds or 0.0) - middle))
    return replace(
        nearest,
        log_odds=middle,
        bounded=any(one.bounded for one in samples),
        reasoning_tokens=sum(one.reasoning_tokens for one in samples),
    )


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
