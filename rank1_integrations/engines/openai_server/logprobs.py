"""What a server's answer says: how a text ended, and what the labels' log-probabilities are.

Servers differ in how they name tokens: vLLM's `token_id:830`, the token's text, or the token as
its vocabulary spells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai.types import Completion as ServerCompletion
from openai.types import CompletionChoice


def thought(choice: CompletionChoice, stop: str | None) -> tuple[str, bool]:
    """The text before `stop`, and whether `stop` ended it.

    OpenAI's own fields do not tell a stop text from an end of sequence, and a server that hides
    control tokens runs past one. The tokens listed with the log-probabilities show both.
    """
    if "stop_reason" in (choice.model_extra or {}):
        return choice.text, stop is not None and extra(choice, "stop_reason") == stop
    tokens = (choice.logprobs.tokens if choice.logprobs else None) or []
    if stop in tokens:
        return _without(choice.text, tokens[tokens.index(stop) + 1 :]), True
    hidden_end = bool(tokens) and not choice.text.endswith(tokens[-1])
    return choice.text, choice.finish_reason == "stop" and not hidden_end


def label_logprobs(
    choice: CompletionChoice, likeliest: Mapping[str, float], ids: Mapping[str, int | None]
) -> dict[str, float]:
    """Log-probabilities of those labels that are there.

    Args:
        choice: The answer, whose first token may be a label itself.
        likeliest: The likeliest first tokens by name. Where two are named alike, the server kept
            one of them, which need not be the label; the token that it chose is listed apart.
        ids: The labels' tokens by label; None where not known.
    """
    named = list(likeliest.items())
    if choice.logprobs and choice.logprobs.tokens and choice.logprobs.token_logprobs:
        named.append((choice.logprobs.tokens[0], choice.logprobs.token_logprobs[0]))
    found: dict[str, float] = {}
    for label, token in ids.items():
        logprobs = [logprob for name, logprob in named if _is_label(name, label, token)]
        if logprobs:
            found[label] = max(logprobs)
    return found


def echoed_logprob(answer: ServerCompletion, label: str, token: int | None) -> float | None:
    """Log-probability of the label that ends an echoed prompt; None if it is not shown."""
    logprobs = answer.choices[0].logprobs
    if answer.usage is None or logprobs is None or not logprobs.tokens:
        return None
    place = answer.usage.prompt_tokens - 1
    if place >= len(logprobs.tokens) or not _is_label(logprobs.tokens[place], label, token):
        return None
    return (logprobs.token_logprobs or [])[place]


def extra(model: Any, name: str) -> Any:
    """A field that the server adds to OpenAI's; None if it does not."""
    return (model.model_extra or {}).get(name)


def _is_label(name: str, label: str, token: int | None) -> bool:
    """Whether a token's name stands for the label; "true" is another token than " true"."""
    if name.startswith("token_id:"):
        return name == f"token_id:{token}"
    if name.startswith("bytes:"):
        name = name.removeprefix("bytes:").replace("\\x20", " ")
    elif name[:1] in ("\u0120", "\u2581"):
        # A space, as byte-level and SentencePiece vocabularies spell it.
        name = f" {name[1:]}"
    return name == label


def _without(text: str, tokens: list[str]) -> str:
    """The text before these tokens, some of which the server may not show."""
    for token in reversed(tokens):
        text = text.removesuffix(token)
    return text
