"""Fits a prompt into the model's context: the passage gives way, nothing else does."""

from __future__ import annotations

from rank1_integrations.engines.base import Engine
from rank1_integrations.errors import ConfigurationError
from rank1_integrations.prompt import Prompt, build_prompt

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
    # A token is at least one byte, so short texts need no counting.
    if len(prompt.text.encode()) + 1 + max_reasoning_tokens <= room:
        return prompt, max_reasoning_tokens
    longest_prompt = room - min(max_reasoning_tokens, room // 2)
    size = await engine.count_tokens(prompt.text)
    keep = await engine.count_tokens(passage)
    while size > longest_prompt:
        if keep <= 0:
            raise ConfigurationError(
                f"the query needs {size} tokens without any passage; {engine.model} reads "
                f"{longest_prompt} beside its thought: shorten the query or max_reasoning_tokens"
            )
        keep = max(0, keep - (size - longest_prompt))
        prompt = build_prompt(query, await engine.first_tokens(passage, keep), truncated=True)
        size = await engine.count_tokens(prompt.text)
    return prompt, min(max_reasoning_tokens, room - size)
