"""The steps that score one pair: reason, conclude or be forced to, answer. No I/O happens here.

`scoring_steps` is a generator: it yields requests and is sent completions. It alone counts
tokens, continues reasoning and decides when it ends, and trusts no number that an engine may leave
out. The steps are those of Rank1's authors (https://github.com/orionw/rank1), except where their
script goes wrong: how generation ended decides whether the reasoning is complete, and the labels'
log-probabilities are asked for by name, for one token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from rank1_integrations.engines.base import Completion, Request, TokenIds
from rank1_integrations.exceptions import EngineError
from rank1_integrations.judgment import FinishReason, Judgment
from rank1_integrations.scoring.prompt import (
    END_OF_REASONING,
    FALSE,
    TRUE,
    Prompt,
    break_control_tokens,
)

# What https://arxiv.org/abs/2505.16886 puts in the place of the reasoning to skip it.
FINISHED_REASONING = "Okay, I think I have finished thinking."

# Log-probabilities of -inf are cut here: JSON has no infinity, and a difference stays a number.
_LOWEST_LOGPROB = -9999.0

# Where a token ends inside a character, decoders put this in the character's place.
_BROKEN_CHARACTER = "\ufffd"

# Sentence ends of all scripts. A full stop also stands in numbers and abbreviations.
_SENTENCE_ENDS = frozenset(
    ".!?\u2026\u3002\uff01\uff1f\uff0e\uff61\u0964\u0965\u06d4\u061f\u1362\u104b\u0589\u17d4\u0f0d"
)
_STOPS_IN_WORDS = frozenset(".!?\u2026")
_CLOSERS = frozenset("\"'\u201d\u2019\u00bb)]}\u300d\u300f\uff09*_`")

# A full stop behind the number or letter that begins a line belongs to a list.
_LIST_MARKER = re.compile(r"(?:\A|\n)[ \t*_#>(-]{0,8}(?:\d{1,3}|[A-Za-z])\.\Z")
_LIST_MARKER_LENGTH = 13


class ReasoningCut(Exception):  # noqa: N818 (a signal between parts of this package, no error)
    """Thrown into the steps in place of the completion of reasoning: conclude now."""


@dataclass(frozen=True, slots=True)
class Decode:
    """Asks for the text of token ids; answered by a str, or None without a tokenizer."""

    token_ids: TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintyBand:
    """The log-odds between which reasoning can still change what the caller gets."""

    low: float
    high: float

    def __contains__(self, log_odds: float) -> bool:
        return self.low < log_odds < self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """Early exit: ask for the verdict amid reasoning, and stop when it is clear.

    Attributes:
        every: Tokens of reasoning between two probes.
        band: A verdict outside of it is clear.
        agreement: So are two verdicts, on different texts, that differ by less, in log-odds;
            unless they are near a single boundary, which later reasoning often crosses.
    """

    every: int
    band: UncertaintyBand
    agreement: float

    def is_clear(self, previous: float | None, log_odds: float) -> bool:
        """Return whether a probe, after the one before it, leaves nothing to reason about."""
        if log_odds not in self.band:
            return True
        boundary = (self.band.low + self.band.high) / 2
        is_near = math.isfinite(boundary) and abs(log_odds - boundary) < 2 * self.agreement
        agrees = previous is not None and abs(log_odds - previous) < self.agreement
        return agrees and not is_near


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a pair is scored: with model and prompt, all that decides its judgment.

    Attributes:
        max_tokens: The most tokens of reasoning; 0 for a direct verdict.
        probing: Early exit; None to let the reasoning end by itself.
    """

    max_tokens: int
    probing: Probing | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """What the steps return.

    Attributes:
        judgment: The judgment.
        is_final: Whether nothing outside of the plan, such as a deadline, cut it short.
    """

    judgment: Judgment
    is_final: bool


Steps = Generator[Request | Decode, Any, Scored]


def scoring_steps(
    index: int,
    prompt: Prompt,
    plan: Plan,
    *,
    part_tokens: int | None = None,
    token_limit: Callable[[], float] = lambda: math.inf,
    direct: Judgment | None = None,
) -> Steps:
    """Yield the requests that score one pair, and return its judgment.

    `ReasoningCut` may be thrown in for any request without labels.

    Args:
        index: Position of the passage in the caller's list.
        prompt: The prompt.
        plan: How to score.
        part_tokens: Ask for the reasoning in parts of so many tokens, so that little is lost when
            it is cut; None for all at once. It does not change the judgment.
        token_limit: Returns the most tokens that the reasoning may have by now; asked before each
            part.
        direct: The direct verdict, if there is one, to fall back on.

    Raises:
        EngineError: The completions hold no usable label log-probability.
    """
    if plan.max_tokens == 0:
        return Scored((yield from _answer_directly(index, prompt)), is_final=True)
    reasoning = _Reasoning(prompt)
    is_final = yield from _reason(reasoning, plan, part_tokens, token_limit)
    if reasoning.parts == 0:
        judgment = direct or (yield from _answer_directly(index, prompt))
        return Scored(judgment, is_final=False)
    if reasoning.is_concluded:
        answer = yield _verdict(reasoning.continuation)
        yield from reasoning.repair_text()
        return Scored(_judgment(index, reasoning, answer, "concluded"), is_final=True)
    answer = yield from reasoning.forced_verdict()
    return Scored(_judgment(index, reasoning, answer, "forced"), is_final)


def _reason(
    reasoning: _Reasoning,
    plan: Plan,
    part_tokens: int | None,
    token_limit: Callable[[], float],
) -> Generator[Request | Decode, Any, bool]:
    """Let the model reason until it ends, its verdict is clear, or it is cut.

    Returns whether only the plan decided where it ended.
    """
    probing, previous = plan.probing, None
    if probing is not None:
        part_tokens = probing.every
    while (left := plan.max_tokens - reasoning.spent) > 0:
        left = min(left, math.floor(min(token_limit() - reasoning.spent, left)))
        if left <= 0:
            return False
        request = Request(
            prompt=reasoning.continuation,
            max_tokens=min(part_tokens or left, left),
            stop=END_OF_REASONING,
        )
        try:
            part = yield request
        except ReasoningCut:
            return False
        reasoning.add(part, request)
        if reasoning.is_concluded or part.ended != "length":
            break
        if probing is not None and (yield from reasoning.text_changed()):
            answer = yield from reasoning.forced_verdict()
            log_odds, _ = _log_odds(answer)
            if probing.is_clear(previous, log_odds):
                break
            previous = log_odds
    return True


@dataclass(slots=True)
class _Reasoning:
    """The reasoning so far, and where it continues.

    Attributes:
        prompt: What it follows.
        text: The text, without `</think>`.
        prompt_ids: Token ids of the prompt; None if not known.
        token_ids: Token ids of the reasoning, those of `</think>` included; None if not known.
        parts: Completions so far.
        tokens: Tokens generated.
        spent: Tokens that count against the plan: for a part that ended at its limit what was
            asked for, whatever the engine says.
        is_concluded: The model has written `</think>`.
    """

    prompt: Prompt
    text: str = ""
    prompt_ids: TokenIds | None = None
    token_ids: TokenIds | None = ()
    parts: int = 0
    tokens: int = 0
    spent: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    is_concluded: bool = False
    _joined: tuple[str, str] | None = None
    _forced_prompt: str | None = None
    _forced_answer: Completion | None = None

    @property
    def continuation(self) -> str | TokenIds:
        """The prompt that continues exactly here: token ids if all are known."""
        if self.parts and self.prompt_ids is not None and self.token_ids is not None:
            return self.prompt_ids + self.token_ids
        end = END_OF_REASONING if self.is_concluded else ""
        return f"{self.prompt.text}{self.text}{end}"

    def add(self, part: Completion, request: Request) -> None:
        """Append a completion."""
        # A character that the part ends in: decoded with the next part's, or written again.
        text = part.text.rstrip(_BROKEN_CHARACTER)
        if self.parts == 0:
            self.prompt_ids = part.prompt_ids
            self.prompt_tokens = part.prompt_tokens or 0
            self.cached_tokens = part.cached_tokens or 0
            self.text = text
        else:
            begin, end = self.text, text.lstrip(_BROKEN_CHARACTER)
            self.text = begin + end
            self._joined = (self._joined[0] if self._joined else begin), end
        self.parts += 1
        self._count(part, request.max_tokens)
        if self.token_ids is not None and part.token_ids is not None:
            self.token_ids += part.token_ids
        else:
            self.token_ids = None
        self.is_concluded = part.ended == "stop"
        # If `</think>` is several tokens, it can begin in one part and end in the next.
        text, mark, _ = self.text.partition(END_OF_REASONING)
        if mark:
            self.text, self.token_ids, self.is_concluded = text, None, True

    def text_changed(self) -> Generator[Decode, Any, bool]:
        """Return whether the text of a forced verdict differs from that of the last one."""
        return (yield from self._conclusion()) != self._forced_prompt

    def forced_verdict(self) -> Generator[Request | Decode, Any, Completion]:
        """Return the verdict on the whole sentences so far; asked once for the same text."""
        conclusion = yield from self._conclusion()
        if self._forced_answer is None or conclusion != self._forced_prompt:
            self._forced_answer = yield _verdict(conclusion)
            self._forced_prompt = conclusion
        return self._forced_answer

    def _conclusion(self) -> Generator[Decode, Any, str]:
        yield from self.repair_text()
        return _conclude(self.prompt.text, whole_sentences(self.text))

    def repair_text(self) -> Generator[Decode, Any, None]:
        """Decode the parts as one: a character can be split over two of them."""
        if self._joined is None or self.token_ids is None:
            return
        (begin, end), self._joined = self._joined, None
        decoded: str | None = yield Decode(self.token_ids)
        text = (decoded or "").partition(END_OF_REASONING)[0].rstrip(_BROKEN_CHARACTER)
        # A decoder that hides tokens or tidies spaces up would change more than the seams.
        if text.startswith(begin) and text.endswith(end) and len(text) >= len(self.text):
            self.text = text

    def _count(self, part: Completion, asked: int) -> None:
        counts = (len(part.token_ids) if part.token_ids else None, part.completion_tokens)
        known = next((count for count in counts if count and 0 < count <= asked), None)
        if part.ended == "length":
            self.spent += asked
            self.tokens += known or asked
        else:
            self.spent += known or 0
            # English has about four bytes a token (https://platform.openai.com/tokenizer).
            self.tokens += known or min(asked, len(part.text.encode()) // 4 + 1)


def _answer_directly(index: int, prompt: Prompt) -> Generator[Request, Completion, Judgment]:
    answer = yield _verdict(_conclude(prompt.text, FINISHED_REASONING))
    nothing = _Reasoning(
        prompt,
        prompt_tokens=answer.prompt_tokens or 0,
        cached_tokens=answer.cached_tokens or 0,
    )
    return _judgment(index, nothing, answer, "direct")


def _judgment(
    index: int, reasoning: _Reasoning, answer: Completion, finish_reason: FinishReason
) -> Judgment:
    log_odds, is_bound = _log_odds(answer)
    return Judgment(
        index=index,
        log_odds=log_odds,
        log_odds_is_bound=is_bound,
        reasoning=break_control_tokens(reasoning.text.strip()),
        finish_reason=finish_reason,
        reasoning_tokens=reasoning.tokens,
        prompt_tokens=reasoning.prompt_tokens,
        cached_tokens=reasoning.cached_tokens,
        sanitized=reasoning.prompt.sanitized,
        truncated=reasoning.prompt.truncated,
    )


def _verdict(prompt: str | TokenIds) -> Request:
    return Request(prompt=prompt, max_tokens=1, labels=(TRUE, FALSE))


def _conclude(prompt: str, reasoning: str) -> str:
    return f"{prompt}\n{reasoning}\n{END_OF_REASONING}"


def whole_sentences(text: str) -> str:
    """Return the text up to its last sentence end; all of it if it has none."""
    for end in range(len(text), 0, -1):
        if text[end - 1] in _SENTENCE_ENDS and _ends_sentence(text, end):
            return text[: _behind(text, end, _CLOSERS.__contains__)].strip()
    return text.strip()


def _ends_sentence(text: str, end: int) -> bool:
    """Return whether the mark before `end` ends a sentence, no number, abbreviation or marker."""
    if text[end - 1] not in _STOPS_IN_WORDS:
        return True
    if _LIST_MARKER.search(text, max(0, end - _LIST_MARKER_LENGTH), end):
        return False
    close = _behind(text, end, _CLOSERS.__contains__)
    following = _behind(text, close, str.isspace)
    if close == len(text):
        return True
    return following > close and not text[following : following + 1].islower()


def _behind(text: str, start: int, belongs: Callable[[str], bool]) -> int:
    """Return where a run of characters that begins at `start` ends."""
    while start < len(text) and belongs(text[start]):
        start += 1
    return start


def _log_odds(answer: Completion) -> tuple[float, bool]:
    """Return the log-odds of "true", and whether a bound stands for one label."""
    logprobs = answer.label_logprobs
    if TRUE not in logprobs and FALSE not in logprobs:
        raise EngineError(
            "neither ' true' nor ' false' is among the log-probabilities that the engine "
            "returned for the verdict: is this a Rank1 model?"
        )
    if TRUE in logprobs and FALSE in logprobs:
        return _difference(logprobs[TRUE], logprobs[FALSE]), False
    bound, (listed,) = answer.label_bound, logprobs.values()
    if bound is None or not listed >= bound:
        # The label that is missing may be the likelier one.
        raise EngineError(
            "the engine returned the log-probability of one label only, which does not tell "
            "which is the likelier: raise the server's number of log-probabilities"
        )
    return _difference(logprobs.get(TRUE, bound), logprobs.get(FALSE, bound)), True


def _difference(true: float, false: float) -> float:
    if math.isnan(true) or math.isnan(false) or math.inf in (true, false):
        raise EngineError("the engine returned NaN or infinity as a label's log-probability")
    true, false = max(true, _LOWEST_LOGPROB), max(false, _LOWEST_LOGPROB)
    if true == false == _LOWEST_LOGPROB:
        raise EngineError("the engine returned a probability of zero for both labels")
    return true - false
