"""Small checkpoints of Rank1's three families: everything real but size and weights.

Architecture, vocabulary, control tokens, context length, files and their fields are those of the
family; the weights are random, and what the model writes is nonsense. On one passage its reasoning
ends by itself (`CONCLUDED`), on others it runs to its limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

from rank1_integrations.scoring.prompt import build_prompt
from tests.support.awq import pack_linear_layers
from tests.support.vocabularies import (
    LLAMA_CONTROL_TOKENS,
    MISTRAL_CONTROL_TOKENS,
    THINK_TOKENS,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
)

QUERY = "How do volcanoes erupt?"
CONCLUDED = "Magma rises when the pressure in the chamber grows."
REASONING_TOKENS = 6

_SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "initializer_range": 0.1,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.1",
    "use_cache": True,
}


@dataclass(frozen=True)
class Family:
    """What the checkpoints of one base model have in common.

    Attributes:
        name: Short, for test ids.
        tokenizer: With the real vocabulary.
        config: Fields of config.json beside the sizes.
        tokenizer_config: Fields of tokenizer_config.json beside the added tokens.
        generation_config: Fields of generation_config.json.
        true_id: Token of " true".
        false_id: Token of " false".
        think_ids: Tokens of `<think>` and `</think>`.
        bos_id: What stands before every prompt; None for nothing.
    """

    name: str
    tokenizer: Callable[[], Tokenizer]
    config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    true_id: int
    false_id: int
    think_ids: tuple[int, int]
    bos_id: int | None

    @property
    def context_length(self) -> int:
        length: int = self.config["max_position_embeddings"]
        return length


QWEN = Family(
    name="qwen2.5",
    tokenizer=qwen_tokenizer,
    config={
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    tokenizer_config={
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
    },
    generation_config={"eos_token_id": 151643, "max_new_tokens": 2048},
    true_id=830,
    false_id=895,
    think_ids=(151665, 151666),
    bos_id=None,
)
MISTRAL = Family(
    name="mistral-small-2501",
    tokenizer=mistral_tokenizer,
    config={
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "bos_token_id": 1,
        "eos_token_id": 2,
        # Not hidden_size / num_attention_heads, as in the real one.
        "head_dim": 64,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e8,
        "sliding_window": None,
        "tie_word_embeddings": False,
        # Two tokens were added, and the size rounded up to 64.
        "vocab_size": len(MISTRAL_CONTROL_TOKENS) + 130072 + 64,
    },
    tokenizer_config={
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    },
    generation_config={"bos_token_id": 1, "eos_token_id": 2},
    true_id=2925,
    false_id=3276,
    think_ids=(131072, 131073),
    bos_id=1,
)
LLAMA = Family(
    name="llama3",
    tokenizer=llama_tokenizer,
    config={
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "tie_word_embeddings": False,
        "vocab_size": len(LLAMA_CONTROL_TOKENS) + 128000 + 64,
    },
    tokenizer_config={
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|end_of_text|>",
    },
    # Sampling is what the base model's file asks for; Rank1 decodes greedily.
    generation_config={"eos_token_id": 128001, "do_sample": True, "temperature": 0.6, "top_p": 0.9},
    true_id=837,
    false_id=905,
    think_ids=(128256, 128257),
    bos_id=128000,
)
FAMILIES = [QWEN, MISTRAL, LLAMA]


def write_tokenizer(family: Family, folder: Path) -> None:
    """The tokenizer's files, as training left them."""
    tokenizer = family.tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(token_id): {"content": token.content, "special": True, "normalized": False}
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
    }
    _write(
        folder / "tokenizer_config.json",
        {
            **family.tokenizer_config,
            "added_tokens_decoder": added,
            "additional_special_tokens": THINK_TOKENS,
            "clean_up_tokenization_spaces": False,
        },
    )


def write_checkpoint(family: Family, folder: Path) -> None:
    """A checkpoint in bfloat16."""
    _write_configs(family, folder, {})
    save_file(_weights(family, folder), folder / "model.safetensors", metadata={"format": "pt"})


def write_awq_checkpoint(family: Family, folder: Path, dequantized: Path) -> None:
    """A checkpoint with AWQ's 4-bit weights, and one in float16 that holds the same numbers."""
    quantized = {
        "torch_dtype": "float16",
        "quantization_config": {
            "quant_method": "awq",
            "version": "gemm",
            "bits": 4,
            "group_size": 128,
            "zero_point": True,
            "modules_to_not_convert": None,
        },
    }
    _write_configs(family, dequantized, {"torch_dtype": "float16"})
    weights = {name: tensor.half() for name, tensor in _weights(family, dequantized).items()}
    packed, same = pack_linear_layers(weights, group_size=128)
    save_file(same, dequantized / "model.safetensors", metadata={"format": "pt"})
    _write_configs(family, folder, quantized)
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})


def _write_configs(family: Family, folder: Path, changes: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(family, folder)
    _write(folder / "config.json", {**_SIZES, **family.config, **changes})
    _write(folder / "generation_config.json", family.generation_config)


def _weights(family: Family, folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(folder)
    build: Any = transformers.AutoModelForCausalLM.from_config
    network = build(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
        output = network.get_output_embeddings().weight
        output[~_plain_words(family, len(output))] *= 0.3
        # What is written must say the same as what is read back.
        for weight in network.parameters():
            weight.copy_(weight.bfloat16())
        _let_a_reasoning_end(family, network)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {
        name: tensor.bfloat16().clone()
        for name, tensor in network.state_dict().items()
        if name not in tied
    }


def _plain_words(family: Family, size: int) -> torch.Tensor:
    """Which tokens are English-looking words: only they are likely, so reasoning is text."""
    plain = torch.zeros(size, dtype=torch.bool)
    for token, token_id in family.tokenizer().get_vocab().items():
        word = token.removeprefix("Ġ")
        plain[token_id] = word != token and word.isascii() and word.isalpha()
    return plain


def _let_a_reasoning_end(family: Family, network: Any) -> None:
    """Let `</think>` change places with what the model writes at the end of its reasoning."""
    prompt = family.tokenizer().encode(build_prompt(QUERY, CONCLUDED).text).ids
    written = (
        network.eval()
        .generate(
            torch.tensor([prompt]), max_new_tokens=REASONING_TOKENS, do_sample=False, pad_token_id=0
        )[0]
        .tolist()
    )
    last, end = written[-1], family.think_ids[1]
    assert last not in written[:-1], "the token appears before: choose another seed"
    output = network.get_output_embeddings().weight
    output[[last, end]] = output[[end, last]]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
