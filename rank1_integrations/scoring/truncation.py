"""Fit a prompt into the model's context by truncating the passage, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rank1_integrations.engines.base import Engine
from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.scoring.prompt import Prompt, build_prompt, sanitize

# Tokens kept free behind the reasoning: the forced "\n</think>", the verdict, and what reasoning
# cut to whole sentences may gain when its text is tokenized again.
CLOSING_TOKENS = 32


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits into the context.

    Attributes:
        prompt: The prompt, its passage truncated if needed.
        reasoning_tokens: The most tokens of reasoning that fit behind it.
        is_measured: Tokens had to be counted for it, so that it is worth keeping.
    """

    prompt: Prompt
    reasoning_tokens: int
    is_measured: bool


async def fit(
    engine: Engine, query: str, passage: str, *, max_reasoning_tokens: int
) -> FittedPrompt:
    """Return the prompt for a pair, truncated to leave room for reasoning.

    The reasoning may use what the prompt leaves of the context. A passage is truncated only if
    less than half of the context, or of what the reasoning may need, would be left.

    Raises:
        ConfigurationError: The query alone does not fit.
    """
    prompt = build_prompt(query, passage)
    if engine.context_length is None:
        return FittedPrompt(prompt, max_reasoning_tokens, is_measured=False)
    available = engine.context_length - CLOSING_TOKENS
    if _max_tokens(prompt.text) + max_reasoning_tokens <= available:
        return FittedPrompt(prompt, max_reasoning_tokens, is_measured=False)
    longest_prompt = available - min(max_reasoning_tokens, available // 2)
    size = await engine.count_tokens(prompt.text)
    if size > longest_prompt:
        prompt, size = await _truncate(engine, query, passage, prompt, size, longest_prompt)
    return FittedPrompt(prompt, min(max_reasoning_tokens, available - size), is_measured=True)


def _max_tokens(text: str) -> int:
    """Return an upper bound that needs no tokenizer, so that short texts need no counting.

    A token is at least one byte of the normalized text, and Unicode's normal form C can take
    three times the bytes (https://unicode.org/faq/normalization.html).
    """
    return len(text.encode()) * (1 if text.isascii() else 3) + 1


async def _truncate(
    engine: Engine, query: str, passage: str, whole: Prompt, size: int, longest: int
) -> tuple[Prompt, int]:
    """Return the prompt with the longest beginning of the passage that fits, and its tokens.

    The beginning is taken from the sanitized text, which may have grown and can be encoded. A
    text and its beginning can be split into tokens differently, so what is kept is counted again,
    behind query and instruction, until it fits.
    """
    prompt, safe = whole, sanitize(passage)
    keep = await engine.count_tokens(safe)
    while size > longest:
        if keep <= 0:
            raise ConfigurationError(
                f"the query needs {size} tokens without any passage; {engine.model} reads "
                f"{longest} beside its reasoning: shorten the query, or lower "
                "max_reasoning_tokens="
            )
        keep = max(0, keep - (size - longest))
        prompt = build_prompt(query, await engine.first_tokens(safe, keep))
        size = await engine.count_tokens(prompt.text)
    return replace(prompt, sanitized=whole.sanitized, truncated=True), size
