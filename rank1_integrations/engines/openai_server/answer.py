"""What a server's answer to /v1/completions says. Everything in it may be missing or wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rank1_integrations.engines.base import Ending, TokenIds
from rank1_integrations.engines.openai_server.logprobs import Token, chosen_tokens
from rank1_integrations.exceptions import EngineError

_ENDINGS: dict[str, Ending] = {
    "length": "length",
    "max_tokens": "length",
    "eos": "eos",
    "eos_token": "eos",
    "stop_sequence": "stop",
}


class UnusableAnswerError(EngineError):
    """The answer is not of the form that the endpoint has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAnswer:
    """One completion, as a server tells it. What it does not tell is None.

    Attributes:
        text: The generated text.
        finish_reason: OpenAI's field, which calls a stop text and an end of sequence "stop".
        tells_stop: The server has a field for the stop text or token that ended generation.
        stop: What that field says.
        prompt_ids: Token ids of the prompt.
        token_ids: Token ids that were generated.
        prompt_tokens: Number of tokens of the prompt.
        completion_tokens: Number of tokens that were generated.
        cached_tokens: Number of the prompt's tokens that came from the server's cache.
        logprobs: Log-probabilities, as they were sent.
        fingerprint: Name and version of the server, if it gives them.
    """

    text: str
    finish_reason: str | None
    tells_stop: bool
    stop: str | int | None
    prompt_ids: TokenIds | None
    token_ids: TokenIds | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    logprobs: Any
    fingerprint: str | None


def read_answer(body: Any) -> ServerAnswer:
    """Return what the JSON of an answer says.

    Raises:
        UnusableAnswerError: It holds no completion, or one that the server broke off.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        raise UnusableAnswerError("it has no choices")
    choice = choices[0]
    if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
        raise UnusableAnswerError("its first choice has no text")
    finish_reason, fingerprint = choice.get("finish_reason"), body.get("system_fingerprint")
    if isinstance(finish_reason, str) and finish_reason not in ("stop", *_ENDINGS):
        raise UnusableAnswerError(f"generation ended with {finish_reason!r}")
    stop = choice.get("stop_reason", choice.get("matched_stop"))
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    return ServerAnswer(
        text=choice["text"],
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        tells_stop="stop_reason" in choice or "matched_stop" in choice,
        stop=stop if isinstance(stop, str | int) else None,
        prompt_ids=_token_ids(choice.get("prompt_token_ids")),
        token_ids=_token_ids(choice.get("token_ids")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
        logprobs=choice.get("logprobs"),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


@dataclass(frozen=True, slots=True)
class End:
    """How a text ended.

    Attributes:
        text: The text before the stop text.
        ended: None if the answer does not tell a stop text from an end of sequence.
    """

    text: str
    ended: Ending | None


def read_end(answer: ServerAnswer, stop: str | None, stop_ids: TokenIds | None) -> End:
    """Return the text before the stop text, and how generation ended.

    OpenAI's own fields do not tell a stop text from an end of sequence, and a server that hides
    control tokens generates past one. Then only ids or listed tokens show both.

    Args:
        answer: Of the server.
        stop: The stop text that was asked for.
        stop_ids: Its token ids; None if not known.
    """
    if stop is None:
        return End(answer.text, _plain_end(answer) or "eos")
    before, mark, _ = answer.text.partition(stop)
    if mark:
        return End(before, "stop")
    if answer.tells_stop:
        if answer.stop == stop or (stop_ids is not None and (answer.stop,) == stop_ids):
            return End(answer.text, "stop")
        return End(answer.text, _plain_end(answer) or "eos")
    tokens = chosen_tokens(answer.logprobs)
    position = _position(tokens, stop, stop_ids)
    if position is not None:
        return End(_without(answer.text, tokens[position:]), "stop")
    if ends_with(answer.token_ids, stop_ids):
        return End(answer.text, "stop")
    return End(answer.text, _plain_end(answer) or _listed_end(answer.text, tokens, stop_ids))


def ends_with(token_ids: TokenIds | None, stop_ids: TokenIds | None) -> bool:
    """Return whether token ids are known to end with those of the stop text."""
    if not token_ids or not stop_ids:
        return False
    return token_ids[-len(stop_ids) :] == stop_ids


def _plain_end(answer: ServerAnswer) -> Ending | None:
    return _ENDINGS.get(answer.finish_reason or "")


def _listed_end(text: str, tokens: list[Token], stop_ids: TokenIds | None) -> Ending | None:
    """Return "eos" if a token is listed behind the whole text that can't be the stop text.

    llama.cpp's server takes the stop text's tokens off the list, and as many more as it counts, so
    the last listed token can be any token of the text.
    """
    before = "".join(token.text or "" for token in tokens[:-1])
    if not tokens or before != text:
        return None
    last = tokens[-1]
    is_other_token = last.id is not None and stop_ids is not None and len(stop_ids) == 1
    return "eos" if is_other_token or last.text else None


def _position(tokens: list[Token], stop: str, stop_ids: TokenIds | None) -> int | None:
    """Return where the stop text begins among the listed tokens."""
    for position, token in enumerate(tokens):
        single_id = stop_ids[0] if stop_ids is not None and len(stop_ids) == 1 else None
        if token.matches(stop, single_id):
            return position
    texts = [token.text for token in tokens]
    if None in texts or stop not in (joined := "".join(text or "" for text in texts)):
        return None
    start, length = joined.index(stop), 0
    for position, text in enumerate(texts):
        length += len(text or "")
        if length > start:
            return position
    return None


def _without(text: str, tokens: list[Token]) -> str:
    """Return the text before these tokens, some of which the server may not show."""
    for token in reversed(tokens):
        text = text.removesuffix(token.text or "")
    return text


def _token_ids(value: Any) -> TokenIds | None:
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        return tuple(value)
    return None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
