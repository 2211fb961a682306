"""Rank1's prompt, and sanitizing of the text that goes into it.

The prompt is one flat string, as in training (https://arxiv.org/abs/2502.18418): no chat
template, and `<think>` is a control token of the model. A passage that held such a token, or a
line that looks like one of the prompt's own, would forge structure, so both are broken up first.
All patterns are linear in the text: a page with 100,000 blank lines must not stop the process.
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
END_OF_REASONING = "</think>"
TRUE, FALSE = " true", " false"

# Control tokens of the vocabularies that Rank1 was trained from (Qwen 2.5, Llama 3, Mistral), by
# their shapes, so that every engine sanitizes alike, whether or not it can list them.
_CONTROL_TOKEN = re.compile(
    r"</?think>"
    r"|<\|[^\s|<>]{1,64}\|>"
    r"|</?(?:s|unk|pad|mask|tool_call|tool_response)>"
    r"|<SPECIAL_\d+>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT"
    r"|IMG|IMG_BREAK|IMG_END|PREFIX|MIDDLE|SUFFIX)\]"
)
# Characters that show nothing, and could hide a forged line from a plain comparison.
_INVISIBLE = "\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
_BREAKS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
# The field name is found first and the text before it looked at from its end: a pattern that
# began with the line break would scan a run of blank lines once for each of its lines.
_FIELD_NAME = re.compile(rf"(?:query|passage)[\s{_INVISIBLE}]*:", re.IGNORECASE)
_BLANK_END = re.compile(rf"[\s{_INVISIBLE}]")
_LINE_BREAK = re.compile(rf"[{_BREAKS}]")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text for one query and passage, ending in `<think>`, and what was done to it."""

    text: str
    sanitized: bool = False
    truncated: bool = False


def build_prompt(query: str, passage: str) -> Prompt:
    """Return the prompt that asks whether `passage` is relevant to `query`.

    Args:
        query: The query, with definition of relevance and instruction.
        passage: The text to judge, as the retriever returned it.
    """
    safe_query, safe_passage = sanitize(query), sanitize(passage)
    return Prompt(
        text=f"{INSTRUCTION}\nQuery: {safe_query}\nPassage: {safe_passage}\n{THINK}",
        sanitized=(safe_query, safe_passage) != (query, passage),
    )


def sanitize(text: str) -> str:
    """Return `text` without control tokens, forged prompt lines or unencodable characters.

    A line that begins like one of the prompt's own is joined to the line before it.
    """
    return break_control_tokens(_join_forged_lines(_LONE_SURROGATE.sub("\ufffd", text)))


def break_control_tokens(text: str) -> str:
    """Return `text` with a space behind the first character of each control token.

    So a reader still sees what stood there, and a tokenizer sees plain text.
    """
    return _CONTROL_TOKEN.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)


def check_relevance(relevance: str | None) -> None:
    """Refuse a definition of relevance without a place for the query.

    Raises:
        ConfigurationError: `{query}` is missing.
    """
    if relevance is not None and "{query}" not in relevance:
        raise ConfigurationError(
            "relevance must hold '{query}' where the query goes, for instance "
            "'A passage is relevant if it gives evidence for or against: {query}'"
        )


def define_relevance(query: str, relevance: str | None) -> str:
    """Return the query inside the definition of relevance.

    The definition is split once and the query joined in, so braces in a query stay text.
    """
    return query if relevance is None else query.join(relevance.split("{query}"))


def _join_forged_lines(text: str) -> str:
    parts, end = [], 0
    for name in _FIELD_NAME.finditer(text):
        start = name.start()
        while start > end and _BLANK_END.match(text, start - 1):
            start -= 1
        if _LINE_BREAK.search(text, start, name.start()):
            parts += [text[end:start], " "]
            end = name.start()
    return "".join([*parts, text[end:]]) if parts else text
