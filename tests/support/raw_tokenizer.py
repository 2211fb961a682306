"""The raw server's tokenizer, as the file that Hugging Face models have."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rank1_integrations.scoring.prompt import END_OF_REASONING, FALSE, THINK, TRUE


def write_tokenizer(folder: Path) -> Path:
    """Write tokenizer.json: single bytes, the control tokens and the labels."""
    byte_of = {_letter_for(byte): byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(byte_of, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([THINK, END_OF_REASONING, TRUE, FALSE])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def _letter_for(byte: int) -> str:
    """Return the letter that stands for a byte in byte-level vocabularies.

    It is the byte's own in Latin-1 if that is visible, or else one of those from U+0100 on
    (https://github.com/openai/gpt-2/blob/master/src/encoder.py).
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in visible:
        return chr(byte)
    hidden = [other for other in range(256) if other not in visible]
    return chr(256 + hidden.index(byte))
