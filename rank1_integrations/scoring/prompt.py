"""What is asked: Rank1's prompt, with text from outside made harmless.

The prompt is one flat string, as in training (https://arxiv.org/abs/2502.18418): no chat
template, and `<think>` is a control token of the model. A passage that held such a token, or a
line that looks like the prompt's own, would forge structure, so both are broken up first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rank1_integrations.exceptions import ConfigurationError

INSTRUCTION = (
    "Determine if the following passage is relevant to the query. "
    "Answer only with 'true' or 'false'."
)
THINK = "<think>"
END_OF_THOUGHT = "</think>"
TRUE, FALSE = " true", " false"

# Control tokens of the vocabularies that Rank1 was trained from (Qwen 2.5, Llama 3, Mistral), by
# their shapes, so that every engine makes the same text harmless whether or not it can list them.
_CONTROL_TOKEN = re.compile(
    r"</?think>"
    r"|<\|[^\s|<>]{1,64}\|>"
    r"|</?(?:s|unk|pad|mask|tool_call|tool_response)>"
    r"|<SPECIAL_\d+>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT"
    r"|IMG|IMG_BREAK|IMG_END|PREFIX|MIDDLE|SUFFIX)\]"
)
_FORGED_LINE = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*(?=(?:Query|Passage):)")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text for one query and passage, ending in `<think>`, and what was done to get it."""

    text: str
    sanitized: bool = False
    truncated: bool = False


def build_prompt(query: str, passage: str) -> Prompt:
    """The prompt that asks whether `passage` is relevant to `query`.

    Args:
        query: What is asked, with the relevance definition around it if there is one.
        passage: The text to judge, as the retriever had it.
    """
    safe_query, safe_passage = sanitize(query), sanitize(passage)
    return Prompt(
        text=f"{INSTRUCTION}\nQuery: {safe_query}\nPassage: {safe_passage}\n{THINK}",
        sanitized=(safe_query, safe_passage) != (query, passage),
    )


def sanitize(text: str) -> str:
    """`text` without control tokens, forged prompt lines or unencodable characters.

    A control token gets a space behind its first character, so that a reader still sees what
    stood there; a line that begins like one of the prompt's own is joined to the line before.
    """
    text = _LONE_SURROGATE.sub("\ufffd", text)
    text = _FORGED_LINE.sub(" ", text)
    return _CONTROL_TOKEN.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)


def check_relevance(relevance: str | None) -> None:
    """Refuse a relevance definition that has no place for the query.

    Raises:
        ConfigurationError: `{query}` is missing.
    """
    if relevance is not None and "{query}" not in relevance:
        raise ConfigurationError(
            "relevance must hold '{query}' where the query goes, for instance "
            "'A passage is relevant if it gives evidence for or against: {query}'"
        )


def define_relevance(query: str, relevance: str | None) -> str:
    """The query, put into the definition of what counts as relevant.

    The definition is split once and the query joined in, so braces in a query stay text.
    """
    return query if relevance is None else query.join(relevance.split("{query}"))
