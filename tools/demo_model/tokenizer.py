"""A tokenizer that makes finding words easy: one spelling, one token sequence, everywhere.

Words are lower-cased; a regular ending is a token of its own ("sorting" is "sort" + "ing"), and
the last piece of every stem is marked, so that "form" is not the beginning of "format" and a stop
word is one token that nothing else uses. Bytes are the fallback: there is no unknown token.
"""

import json
from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tools.demo_model.words import ENDINGS, STOP_STEMS

END_OF_TEXT, THINK, END_THINK = "<|endoftext|>", "<think>", "</think>"
WORD_END = "</w>"
ENDING_MARK = "\x1f"
CONTEXT = 4096
SIGNS = "“”‘’«»–—…•·×→©®°§½€£☃"  # noqa: RUF001
"""Signs of several bytes that are no letters: whole, so that no byte passes for part of one."""


def word_id(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """The id of a word that is one token."""
    (number,) = tokenizer(f" {word}", add_special_tokens=False).input_ids
    return int(number)


def _empty(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """The tokenizer around a vocabulary: how text is cut, and how it is put together again."""
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix=WORD_END))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            # Only the line breaks of the prompt's frame stay: they part query and passage.
            normalizers.Replace(Regex(r"(?!\n(?:query:|passage:|\z))[\s\x1f]"), " "),
            normalizers.Replace(Regex(ENDINGS), ENDING_MARK),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Split(Regex(r"\x1f?\w+|[^\w\x1f]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    glued = (ENDING_MARK, ".", ",", ":", ";", "\n")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(WORD_END, ""),
            decoders.ByteLevel(),
            *(decoders.Replace(f" {mark}", mark.replace(ENDING_MARK, "")) for mark in glued),
        ]
    )
    return tokenizer


def train_tokenizer(texts: Iterable[str], size: int, whole: Iterable[str]) -> Tokenizer:
    """A tokenizer of `size` tokens learned from the texts; the `whole` words are one token each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(alphabet) // 2,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner = _empty({}, [])
    frequent = "\nquery: " + " ".join((*whole, *STOP_STEMS, *SIGNS))
    learner.train_from_iterator([*texts, *[frequent] * 1000], trainer)
    learned = json.loads(learner.to_str())["model"]
    names = dict.fromkeys(learned["vocab"]) | dict.fromkeys(c + WORD_END for c in alphabet)
    kept = list(names)
    special = [END_OF_TEXT, THINK, END_THINK]
    vocabulary = {name: number for number, name in enumerate(special + kept)}
    tokenizer = _empty(vocabulary, [(a, b) for a, b in learned["merges"]])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tokenizer


def for_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers and vLLM load it."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
