"""Fits a prompt into the model's context: the passage gives way, nothing else does."""

from __future__ import annotations

from dataclasses import replace

from rank1_integrations.engines.base import Engine
from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.scoring.prompt import Prompt, build_prompt, sanitize

# Tokens kept free behind a thought: the forced "\n</think>", the verdict, and what a thought
# cut to whole sentences may gain when its text is tokenized again.
CLOSING_TOKENS = 32


async def fit(
    engine: Engine, query: str, passage: str, *, max_reasoning_tokens: int
) -> tuple[Prompt, int]:
    """The prompt, its passage shortened if it must be, and the longest thought in tokens.

    The thought may use what the prompt leaves of the context. A passage is shortened only where
    less than half of the context, or of what the thought may need, would be left.

    Raises:
        ConfigurationError: The query alone does not fit.
    """
    prompt = build_prompt(query, passage)
    if engine.context_length is None:
        return prompt, max_reasoning_tokens
    room = engine.context_length - CLOSING_TOKENS
    if _most_tokens(prompt.text) + max_reasoning_tokens <= room:
        return prompt, max_reasoning_tokens
    longest_prompt = room - min(max_reasoning_tokens, room // 2)
    size = await engine.count_tokens(prompt.text)
    if size > longest_prompt:
        prompt, size = await _shorten(engine, query, passage, prompt, size, longest_prompt)
    return prompt, min(max_reasoning_tokens, room - size)


def _most_tokens(text: str) -> int:
    """A bound that needs no tokenizer, so that short texts need no counting.

    A token is at least one byte of the normalized text, and Unicode's normal form C can take
    three times the bytes (https://unicode.org/faq/normalization.html).
    """
    return len(text.encode()) * (1 if text.isascii() else 3) + 1


async def _shorten(
    engine: Engine, query: str, passage: str, whole: Prompt, size: int, longest: int
) -> tuple[Prompt, int]:
    """The prompt with the longest beginning of the passage that fits, and its tokens.

    The beginning is taken from the text made harmless: that may have grown, and can be encoded.
    A text and its beginning can be split into tokens differently, so what was kept is counted
    again, behind query and instruction, until it fits.
    """
    prompt, safe = whole, sanitize(passage)
    keep = await engine.count_tokens(safe)
    while size > longest:
        if keep <= 0:
            raise ConfigurationError(
                f"the query needs {size} tokens without any passage; {engine.model} reads "
                f"{longest} beside its thought: shorten the query or max_reasoning_tokens"
            )
        keep = max(0, keep - (size - longest))
        prompt = build_prompt(query, await engine.first_tokens(safe, keep))
        size = await engine.count_tokens(prompt.text)
    return replace(prompt, sanitized=whole.sanitized, truncated=True), size
