"""A tokenizer on this machine, for a server that has none or does not open it to everyone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rank1_integrations.engines.openai_server.answer import ServerAnswer
from rank1_integrations.exceptions import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = (
    "Tokenizers differ in 1234567890 2026-11-26 3.14159265358979, in THESE WORDS and "
    "internationalization, in\n\n\t\tspaces      of code: if (x != y) { return "
    "self.__dict__['Strasse'.lower()] } // antidisestablishmentarianism "
    "<think>\n\tthis.</think> true false"
)
"""A prompt that the families' tokenizers split into different numbers of tokens: Llama 3 into 77,
Qwen 2.5 into 95, Mistral into 98. ASCII alone, as llama.cpp's server does not normalize Unicode."""

_FILE = "tokenizer.json"


class LocalTokenizer:
    """Token ids by the `tokenizers` library. Has the interface of `ServerTokenizer`."""

    context_length = None
    is_usable = True
    detokenizes = True

    def __init__(self, source: str | os.PathLike[str]) -> None:
        """Load a tokenizer.

        Args:
            source: Name of a model on the hub, a folder that holds tokenizer.json, or the path of
                such a file.

        Raises:
            ConfigurationError: It can't be loaded.
            MissingExtraError: tokenizers is not installed.
        """
        self._source = str(source)
        self._tokenizer = _load(source)
        # A tokenizer.json can hold the limits of its training, which would cut long passages.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def check_labels(self, labels: Iterable[str]) -> None:
        """Refuse the tokenizer of a model that is no Rank1 model.

        Raises:
            ConfigurationError: A label takes several tokens.
        """
        for label in labels:
            if len(self._tokenizer.encode(label, add_special_tokens=False).ids) != 1:
                raise ConfigurationError(
                    f"tokenizer={self._source!r}: {label!r} is not one of its tokens: pass the "
                    "tokenizer of the Rank1 model that is served"
                )

    async def check_answer(self, answer: ServerAnswer) -> None:
        """Refuse the tokenizer of another model than the served one.

        Args:
            answer: To the prompt `SAMPLE`.

        Raises:
            ConfigurationError: The server has split the prompt differently.
        """
        ids = await self.encode(SAMPLE, special=True)
        if answer.prompt_ids is not None:
            is_same = list(answer.prompt_ids) == ids
        else:
            # Servers differ in the BOS token.
            is_same = answer.prompt_tokens is None or abs(answer.prompt_tokens - len(ids)) <= 1
        if not is_same:
            raise ConfigurationError(
                f"tokenizer={self._source!r} splits text in another way than the server: pass the "
                "tokenizer of the model that is served"
            )

    async def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: To encode; what reads like a control token becomes one.
            special: Add a BOS token if the tokenizer has one.
        """
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    async def decode(self, token_ids: list[int]) -> str:
        """Return the text of token ids, control tokens included."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    async def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text`, to the end of the character in which token `count` ends.

        The tokens' offsets decide, as decoding would change what the tokenizer normalizes.
        """
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets[:count]
        return text[: offsets[-1][1]] if offsets else ""


def _load(source: str | os.PathLike[str]) -> Tokenizer:
    if not isinstance(source, str | os.PathLike) or not str(source).strip():
        raise ConfigurationError(
            "tokenizer must be the name of a model on the hub, or a folder that holds "
            f"{_FILE}; it is {source!r}"
        )
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError("tokenizers", "tokenizer") from None
    path = Path(source).expanduser()
    is_local = path.exists() or _is_path(source)
    try:
        if is_local:
            return Tokenizer.from_file(str(path / _FILE if path.is_dir() else path))
        return Tokenizer.from_pretrained(str(source))
    # tokenizers raises bare Exceptions, and huggingface_hub errors of many kinds.
    except Exception as error:
        remedy = (
            f"pass a folder that holds {_FILE}, or the path of such a file"
            if is_local
            else "check the name, or pass a folder that holds the model's tokenizer.json"
        )
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(
            f"tokenizer={str(source)!r} can't be loaded ({type(error).__name__}: {reason}): "
            f"{remedy}"
        ) from None


def _is_path(source: str | os.PathLike[str]) -> bool:
    """Return whether it can't be a name on the hub, which has at most one slash."""
    if not isinstance(source, str):
        return True
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
