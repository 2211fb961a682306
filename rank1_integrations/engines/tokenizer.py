"""The beginning of a text, by a Hugging Face tokenizer."""

from __future__ import annotations

from typing import Any


def beginning(tokenizer: Any, text: str, count: int) -> str:
    """The beginning of `text`, to the end of the character in which its token `count` ends.

    Cut by the tokens' places in the text: decoding them would change what the tokenizer
    normalizes, such as the case of letters or composed accents.
    """
    if count <= 0:
        return ""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"][:count]
    return text[: offsets[-1][1]] if offsets else ""
