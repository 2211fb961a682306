"""Text to token ids and back, by a Hugging Face tokenizer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rank1_integrations.engines.base import Ending, TokenIds
from rank1_integrations.exceptions import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedText:
    """What generated token ids say.

    Attributes:
        text: Without the stop text and without an end-of-sequence token.
        ended: How generation ended.
        token_ids: Up to the end of the stop text; None if no token ends exactly there.
        tokens: Number of tokens, up to the one in which the stop text ends.
    """

    text: str
    ended: Ending
    token_ids: TokenIds | None
    tokens: int


class HfTokenizer:
    """A fast Hugging Face tokenizer that keeps control tokens and spaces as they are."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: A `transformers.PreTrainedTokenizerFast`.

        Raises:
            ValueError: It has no vocabulary. transformers makes one like that without complaint
                for a Qwen checkpoint whose tokenizer.json is missing.
        """
        self._tokenizer = tokenizer
        self._single_ids: dict[str, int | None] = {}
        if not self.encode("a", special=False):
            raise ValueError("the tokenizer has no vocabulary: is tokenizer.json missing?")

    def encode(self, text: str, *, special: bool = True) -> TokenIds:
        """Return the token ids of a text.

        Args:
            text: Control tokens that it spells out become control tokens.
            special: Add what the tokenizer puts around a prompt, such as a BOS token.
        """
        return tuple(self._tokenizer.encode(text, add_special_tokens=special, verbose=False))

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of token ids, control tokens included."""
        text: str = self._tokenizer.decode(
            list(token_ids),
            skip_special_tokens=False,
            # Llama 3's tokenizer_config.json asks for spaces before punctuation to be removed.
            clean_up_tokenization_spaces=False,
        )
        return text

    def count(self, text: str) -> int:
        """Count the tokens of `text` as a prompt."""
        return len(self.encode(text))

    def single_id(self, text: str) -> int | None:
        """Return the id of the one token that makes up `text`; None if it takes several."""
        if text not in self._single_ids:
            ids = self.encode(text, special=False)
            self._single_ids[text] = ids[0] if len(ids) == 1 else None
        return self._single_ids[text]

    def label_ids(self, labels: Iterable[str], *, model: str) -> dict[str, int]:
        """Return the token id of each label.

        Raises:
            EngineError: A label takes several tokens.
        """
        ids = {}
        for label in labels:
            token_id = self.single_id(label)
            if token_id is None:
                raise EngineError(f"{label!r} is not one token of {model}: use a Rank1 model")
            ids[label] = token_id
        return ids

    def first_tokens(self, text: str, count: int) -> str:
        """Return the beginning of `text`, to the end of the character in which token `count` ends.

        The tokens' offsets decide: decoding the tokens would change what the tokenizer normalizes,
        such as letter case or composed accents.
        """
        if count <= 0:
            return ""
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        offsets = encoded["offset_mapping"][:count]
        return text[: offsets[-1][1]] if offsets else ""

    def read(self, token_ids: TokenIds, *, stop: str | None, hit_end: bool) -> GeneratedText:
        """Return what generated token ids say.

        Args:
            token_ids: All that was generated. What follows the stop text is ignored.
            stop: The stop text; None for none.
            hit_end: Whether the last id is an end-of-sequence token.
        """
        text = self.decode(token_ids)
        if stop is not None and stop in text:
            tokens = 1 + bisect_left(
                range(1, len(token_ids)),
                True,
                key=lambda count: stop in self.decode(token_ids[:count]),
            )
            ids = token_ids[:tokens]
            before, _, behind = self.decode(ids).partition(stop)
            return GeneratedText(
                text=before, ended="stop", token_ids=None if behind else ids, tokens=tokens
            )
        return GeneratedText(
            text=self.decode(token_ids[:-1]) if hit_end else text,
            ended="eos" if hit_end else "length",
            token_ids=token_ids,
            tokens=len(token_ids),
        )
