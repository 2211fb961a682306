"""`HfTokenizer`: a Hugging Face tokenizer as the engines use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rank1_integrations.engines.base import TokenIds
from rank1_integrations.exceptions import EngineError


class HfTokenizer:
    """Encodes and decodes text exactly; control tokens stay as they are."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a tokenizer of the transformers library."""
        self._tokenizer = tokenizer
        self._single_ids: dict[str, int | None] = {}

    def encode(self, text: str) -> TokenIds:
        """Return the token ids of a prompt, with a BOS token if the tokenizer adds one."""
        return tuple(self._tokenizer(text, verbose=False)["input_ids"])

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        text: str = self._tokenizer.decode(
            list(token_ids),
            skip_special_tokens=False,
            # Llama 3's configuration asks for spaces to be tidied up.
            clean_up_tokenization_spaces=False,
        )
        return text

    def single_id(self, text: str) -> int | None:
        """Return the token that `text` is; None if it is several."""
        if text not in self._single_ids:
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            self._single_ids[text] = ids[0] if len(ids) == 1 else None
        return self._single_ids[text]

    def label_ids(self, labels: Iterable[str], *, model: str) -> dict[str, int]:
        """Return the token of each label.

        Raises:
            EngineError: A label is not one token.
        """
        ids = {}
        for label in labels:
            token = self.single_id(label)
            if token is None:
                raise EngineError(f"{label!r} is not one token of {model}: is this a Rank1 model?")
            ids[label] = token
        return ids

    def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text`, to the end of the character in which token `count` ends.

        It is cut by the tokens' positions in the text: decoding them would change what the
        tokenizer normalizes, such as the case of letters or composed accents.
        """
        if count <= 0:
            return ""
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = encoded["offset_mapping"][:count]
        return text[: offsets[-1][1]] if offsets else ""
