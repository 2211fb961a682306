"""Trains the demonstration model: `python -m training.train --out DIR --steps N --seed S`."""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, LlamaForCausalLM

from training import model as architecture
from training import pairs, text
from training.tokenizer import END_THINK, for_transformers, train_tokenizer
from training.words import words

VOCABULARY = 4096
TOKENIZER_TEXTS = 12_000
BATCH_TOKENS = 4096
SHARPNESS, MIDDLE = 12.0, 0.25
"""The log-odds of "true" are trained towards SHARPNESS * (relevance - MIDDLE)."""


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right, and where the model is to learn from them."""

    tokens: Tensor
    thought: Tensor
    verdict: Tensor
    truth: Tensor


def make_tokenizer(passages: list[str], seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer learned from some of the passages; the words of the frame are whole."""
    chosen = random.Random(seed).sample(passages, TOKENIZER_TEXTS)
    frame = [
        word
        for share in ([], [0], [1], [0, 1], [0, 0, 1])
        for word in words(pairs.frame(share))
    ]
    return for_transformers(train_tokenizer(chosen, VOCABULARY, frame))


def batches(
    writer: pairs.PairWriter, tokenizer: PreTrainedTokenizerFast, longest: int
) -> Iterator[Batch]:
    """Endless batches of about equally long examples."""
    end = tokenizer.convert_tokens_to_ids(END_THINK)
    while True:
        drawn = [writer.pair() for _ in range(512)]
        prompts = tokenizer([pair.prompt for pair in drawn]).input_ids
        thoughts = tokenizer([pair.thought for pair in drawn]).input_ids
        examples = sorted(
            zip(prompts, thoughts, drawn, strict=True), key=lambda e: len(e[0]) + len(e[1])
        )
        groups: list[list[tuple[list[int], list[int], pairs.Pair]]] = [[]]
        for example in examples:
            length = len(example[0]) + len(example[1]) + 1
            if length > longest:
                break
            if (len(groups[-1]) + 1) * length > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(example)
        random.shuffle(groups)
        yield from (_batch(group, end) for group in groups)


def _batch(group: list[tuple[list[int], list[int], pairs.Pair]], end: int) -> Batch:
    """One batch; the verdict's place is the token that ends the thought."""
    lengths = [len(prompt) + len(thought) + 1 for prompt, thought, _ in group]
    tokens = torch.zeros(len(group), max(lengths), dtype=torch.long)
    thought = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (start, rest, _) in enumerate(group):
        tokens[row, : lengths[row]] = torch.tensor([*start, *rest, end])
        thought[row, len(start) - 1 : lengths[row] - 1] = True
    verdict = torch.tensor([length - 1 for length in lengths])
    return Batch(tokens, thought, verdict, torch.tensor([pair.relevance for *_, pair in group]))


def losses(model: LlamaForCausalLM, batch: Batch, labels: list[int]) -> tuple[Tensor, Tensor]:
    """The cross-entropy of the thought's tokens and that of the verdict's soft target."""
    states = model.model(input_ids=batch.tokens).last_hidden_state
    following = batch.tokens.roll(-1, 1)[batch.thought]
    writing = functional.cross_entropy(model.lm_head(states[batch.thought]), following)
    judging = model.lm_head(states[torch.arange(len(batch.verdict)), batch.verdict])
    true = torch.sigmoid(SHARPNESS * (batch.truth - MIDDLE))
    target = torch.zeros_like(judging)
    target[:, labels[0]], target[:, labels[1]] = true, 1 - true
    entropy = -(torch.xlogy(true, true) + torch.xlogy(1 - true, 1 - true)).mean()
    return writing, functional.cross_entropy(judging, target) - entropy


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the checkpoint with half precision weights, and settings without local paths."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)
    vocabulary = out / "tokenizer.json"
    vocabulary.write_text(json.dumps(json.loads(vocabulary.read_text()), ensure_ascii=False))
    # Older transformers read "rope_theta"; newer ones look for this tokenizer class by this name.
    _edit(out / "config.json", dtype="float32", rope_theta=architecture.ROPE_THETA)
    _edit(out / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def _edit(file: Path, **settings: str | float) -> None:
    """Sets settings in a file of them."""
    file.write_text(json.dumps(json.loads(file.read_text()) | settings, indent=2) + "\n")


def rate(step: int, steps: int, peak: float) -> float:
    """The learning rate: up over fifty steps, then down along a cosine to a hundredth."""
    if step < 50:
        return peak * (step + 1) / 50
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(options: argparse.Namespace) -> None:
    """Trains from the structured start and saves every few hundred steps."""
    random.seed(options.seed)
    passages = text.passages(test=False)
    tokenizer = make_tokenizer(passages, options.seed)
    model = architecture.structured(tokenizer, options.seed)
    labels = [tokenizer(f" {x}", add_special_tokens=False).input_ids[0] for x in ("true", "false")]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0
    )
    source = batches(pairs.PairWriter(passages, options.seed), tokenizer, options.longest)
    started, report = time.time(), (0.0, 0.0)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.steps, options.rate)
        writing, judging = losses(model, next(source), labels)
        optimizer.zero_grad(set_to_none=True)
        (writing + judging).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        report = (report[0] + writing.item(), report[1] + judging.item())
        if (step + 1) % 25 == 0:
            minutes = (time.time() - started) / 60
            print(
                f"step {step + 1}  thought {report[0] / 25:.4f}  verdict {report[1] / 25:.4f}"
                f"  minutes {minutes:.1f}", flush=True,
            )  # fmt: skip
            report = (0.0, 0.0)
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            save(model, tokenizer, options.out)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=5e-4, help="the highest learning rate")
    parser.add_argument("--longest", type=int, default=400, help="examples of more tokens are left")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
