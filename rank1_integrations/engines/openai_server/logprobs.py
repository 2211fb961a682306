"""Log-probabilities, in the two forms that servers answer in.

The legacy form of /v1/completions (vLLM, SGLang, OpenAI):
`{"tokens": [...], "token_logprobs": [...], "top_logprobs": [{name: logprob}]}`.
The form of chat completions (llama.cpp's server, mlx_lm):
`{"content": [{"token", "id", "bytes", "logprob", "top_logprobs": [...]}]}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rank1_integrations.exceptions import EngineError

# Rounding makes some servers' log-probabilities a little positive.
_HIGHEST_LOGPROB = 1e-3


@dataclass(frozen=True, slots=True)
class Token:
    """One listed token, as far as the server names it.

    Attributes:
        text: As the server prints it; "" may be a control token that it hides.
        id: In the vocabulary.
        data: Its bytes.
        logprob: None if the server sent no number that can be one.
    """

    text: str | None
    id: int | None
    data: bytes | None
    logprob: float | None

    def matches(self, text: str, token_id: int | None) -> bool:
        """Whether this is the token `text`: by id, then by bytes, then by its printed text."""
        if self.id is not None and token_id is not None:
            return self.id == token_id
        if self.data:
            return self.data == text.encode()
        # "true" is another token than " true".
        return self.text is not None and _respelled(self.text) == text


def chosen_tokens(logprobs: Any) -> list[Token]:
    """Return the generated tokens that are listed, in order."""
    if not isinstance(logprobs, dict):
        return []
    if isinstance(content := logprobs.get("content"), list):
        return [_chat_token(entry) for entry in content]
    return list(_legacy_tokens(logprobs))


def first_candidates(logprobs: Any) -> list[Token]:
    """Return the tokens that are listed for the first generated position."""
    if not isinstance(logprobs, dict):
        return []
    content, top = logprobs.get("content"), logprobs.get("top_logprobs")
    if isinstance(content, list):
        first = content[0] if content else None
        alternatives = first.get("top_logprobs") if isinstance(first, dict) else None
        named = [_chat_token(entry) for entry in alternatives or []] if alternatives else []
    elif isinstance(top, list) and top and isinstance(top[0], dict):
        named = [_legacy_token(name, value) for name, value in top[0].items()]
    else:
        named = []
    # If two tokens print alike, the legacy form keeps one of them. The generated token is listed
    # apart.
    return named + chosen_tokens(logprobs)[:1] if named else []


@dataclass(frozen=True, slots=True)
class LabelLogprobs:
    """What a server's answer says about labels.

    Attributes:
        found: Log-probability of each label that is listed.
        bound: No other label has a higher one; None if that is not known.
    """

    found: dict[str, float]
    bound: float | None


def read_labels(
    logprobs: Any, labels: Mapping[str, int | None], *, asked_by_id: bool
) -> LabelLogprobs:
    """Return the labels' log-probabilities at the first generated position.

    Args:
        logprobs: Of the answer.
        labels: Token id of each label; None if not known.
        asked_by_id: The request named the labels' ids. A server that follows it lists them
            instead of the most likely tokens, and then nothing bounds a label that is missing.

    Raises:
        EngineError: A label's log-probability is no number that can be one.
    """
    listed = first_candidates(logprobs)
    found: dict[str, float] = {}
    for label, token_id in labels.items():
        values = [token.logprob for token in listed if token.matches(label, token_id)]
        if None in values:
            raise EngineError(f"the server sent no usable log-probability of {label!r}")
        numbers = [value for value in values if value is not None]
        if numbers:
            found[label] = max(numbers)
    logprob_values = [token.logprob for token in listed]
    are_most_likely = not asked_by_id or len(listed) > len(labels) + 2
    usable = [value for value in logprob_values if value is not None]
    is_bounded = are_most_likely and listed and len(usable) == len(listed)
    return LabelLogprobs(found, min(usable) if is_bounded else None)


def echoed_logprob(
    logprobs: Any, label: str, token_id: int | None, *, prompt_tokens: int | None
) -> float | None:
    """Return the log-probability of a label that ends an echoed prompt; None if it is not shown.

    Args:
        logprobs: Of an answer to a request with `echo` and `max_tokens=1`.
        label: The prompt's last token.
        token_id: Its id; None if not known.
        prompt_tokens: Number of the prompt's tokens; None if not known.
    """
    tokens = chosen_tokens(logprobs)
    position = len(tokens) - 2 if prompt_tokens is None else prompt_tokens - 1
    if not 0 <= position < len(tokens) or not tokens[position].matches(label, token_id):
        return None
    return tokens[position].logprob


def _legacy_tokens(logprobs: Mapping[str, Any]) -> Iterator[Token]:
    names, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(names, list):
        return
    values = values if isinstance(values, list) else []
    for position, name in enumerate(names):
        yield _legacy_token(name, values[position] if position < len(values) else None)


def _legacy_token(name: Any, value: Any) -> Token:
    """Return the token that vLLM calls `token_id:830` and others by its text."""
    if not isinstance(name, str):
        return Token(None, None, None, _usable(value))
    if name.startswith("token_id:") and name.removeprefix("token_id:").isdecimal():
        return Token(None, int(name.removeprefix("token_id:")), None, _usable(value))
    return Token(name, None, None, _usable(value))


def _chat_token(entry: Any) -> Token:
    if not isinstance(entry, dict):
        return Token(None, None, None, None)
    text, token_id, data = entry.get("token"), entry.get("id"), entry.get("bytes")
    return Token(
        text if isinstance(text, str) else None,
        token_id if type(token_id) is int else None,
        _as_bytes(data),
        _usable(entry.get("logprob")),
    )


def _as_bytes(data: Any) -> bytes | None:
    try:
        return bytes(data) if isinstance(data, list) else None
    except (TypeError, ValueError):
        return None


def _usable(value: Any) -> float | None:
    """Return a log-probability; None for what can't be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if math.isnan(value) or value > _HIGHEST_LOGPROB else float(value)


def _respelled(name: str) -> str:
    """Return a printed token with the space that vocabularies spell in other ways."""
    if name.startswith("bytes:"):
        return name.removeprefix("bytes:").replace("\\x20", " ")
    # As byte-level and SentencePiece vocabularies spell it.
    return f" {name[1:]}" if name[:1] in ("\u0120", "\u2581") else name
