"""Trains the demonstration model: `python -m tools.demo_model.train --out DIR`."""

import argparse
import copy
import itertools
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rank1_integrations.scoring.steps import FINISHED_REASONING
from tools.demo_model import model as architecture
from tools.demo_model import pairs, text
from tools.demo_model.heads import FAR, NEARBY, ROPE_THETA
from tools.demo_model.tokenizer import END_THINK, for_transformers, train_tokenizer, word_id
from tools.demo_model.words import words

VOCABULARY = 3584
TOKENIZER_TEXTS = 12_000
BATCH_TOKENS = 4096
REPORT = 50
SLOW = 0.1
"""The learning rate of what is written down, as a share of the rest's."""
THOUGHTS = {"listing": (pairs.Pair, NEARBY), "weighing": (pairs.WeighingPair, FAR)}
"""What pairs a form of thought is learned from, and how far it looks back to its word."""

FINISHED_REASONING_LINE = f"\n{FINISHED_REASONING}\n"


@dataclass(frozen=True)
class Example:
    """Tokens up to the end of a thought, which of them to learn to write, and P(true)."""

    tokens: list[int]
    written: list[bool]
    true: float


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right, and where the model is to learn from them."""

    tokens: Tensor
    written: Tensor
    verdict: Tensor
    true: Tensor


def make_tokenizer(
    passages: list[str], seed: int, kind: type[pairs.Pair]
) -> PreTrainedTokenizerFast:
    """A tokenizer learned from some of the passages; the words of the frame are whole."""
    chosen = random.Random(seed).sample(passages, TOKENIZER_TEXTS)
    return for_transformers(train_tokenizer(chosen, VOCABULARY, words(pairs.frame(kind))))


class Examples:
    """Pairs in every form in which a verdict is asked for."""

    def __init__(
        self, writer: pairs.PairWriter, tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> None:
        self._writer, self._tokenizer, self._random = writer, tokenizer, random.Random(seed)

    def batches(self, longest: int) -> Iterator[Batch]:
        """Endless batches of about equally long examples."""
        while True:
            drawn = sorted((self.example() for _ in range(512)), key=lambda e: len(e.tokens))
            groups: list[list[Example]] = [[]]
            for example in drawn:
                length = len(example.tokens)
                if length > longest:
                    break
                if (len(groups[-1]) + 1) * length > BATCH_TOKENS:
                    groups.append([])
                groups[-1].append(example)
            self._random.shuffle(groups)
            yield from map(_batch, groups)

    def example(self) -> Example:
        """A pair with its whole thought, a part of it, none, or one that repeats itself."""
        pair, draw = self._writer.pair(), self._random
        kind = draw.random()
        if kind < 0.15:
            return self._example(pair, FINISHED_REASONING_LINE, lesson=False)
        if kind < 0.35:
            return self._cut(pair)
        if kind < 0.42 and pair.statements:
            before, again, rest = pair.stumble(draw)
            return self._example(pair, before, stumble=again, rest=rest)
        return self._example(pair, pair.thought)

    def _cut(self, pair: pairs.Pair) -> Example:
        """The thought broken off anywhere, as for a verdict before its end."""
        whole = self._example(pair, pair.thought)
        first = whole.written.index(True)
        place = self._random.randint(first + 1, len(whole.tokens) - 2)
        tail = self._ids(f"\n{END_THINK}")
        return Example(
            whole.tokens[:place] + tail, whole.written[:place] + [False] * len(tail), pair.true
        )

    def _example(
        self,
        pair: pairs.Pair,
        thought: str,
        *,
        stumble: str = "",
        rest: str = "",
        lesson: bool = True,
    ) -> Example:
        """The pair with a thought that is to be learned but for its stumble, or not at all."""
        parts = (
            (self._ids(pair.prompt), False),
            (self._ids(thought), lesson),
            (self._ids(stumble), False),
            (self._ids(rest), lesson),
            (self._ids(END_THINK), lesson),
        )
        tokens = [token for ids, _ in parts for token in ids]
        written = [learned for ids, learned in parts for _ in ids]
        return Example(tokens, written, pair.true)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def _batch(group: list[Example]) -> Batch:
    """One batch; the verdict's place is the token that ends the thought."""
    lengths = [len(example.tokens) for example in group]
    tokens = torch.zeros(len(group), max(lengths), dtype=torch.long)
    written = torch.zeros_like(tokens, dtype=torch.bool)
    for row, example in enumerate(group):
        tokens[row, : lengths[row]] = torch.tensor(example.tokens)
        written[row, : lengths[row] - 1] = torch.tensor(example.written[1:])
    return Batch(
        tokens,
        written,
        torch.tensor(lengths) - 1,
        torch.tensor([example.true for example in group]),
    )


@dataclass(frozen=True)
class Lessons:
    """States before the last step of the model, and what it is to say of them."""

    written: Tensor
    token: Tensor
    verdict: Tensor
    true: Tensor


def verdict_loss(logits: Tensor, labels: list[int], true: Tensor) -> Tensor:
    """The cross-entropy of verdicts to the wanted P(true), less the least that it can be."""
    judged = functional.log_softmax(logits, 1)[:, labels]
    entropy = -(torch.xlogy(true, true) + torch.xlogy(1 - true, 1 - true))
    return (-(true * judged[:, 0] + (1 - true) * judged[:, 1]) - entropy).mean()


class Teacher:
    """Trains first how the model is read out, then all of it.

    What is written down finds its words from the start; the output has to learn the thought's
    frame. That needs no gradients below the last layer's perceptron, so the states there are
    computed once and gone through many times. And the large gradients of that time would wash the
    heads away: in one trial they pointed right in 97 of 100 cases before training, 92 after.
    """

    def __init__(self, model: LlamaForCausalLM, labels: list[int]) -> None:
        self._model, self._labels = model, labels
        last = model.model.layers[-1]
        self._norm, self._perceptron = last.post_attention_layernorm, last.mlp
        # How copies are read out is right from the start. Adam would blur it: it takes the faint
        # gradients of words that did not come up for as good as any.
        model.lm_head.weight.register_hook(_spare_copies)

    def lessons(self, batch: Batch) -> Lessons:
        """What there is to learn from a batch."""
        states: list[Tensor] = []
        hook = self._norm.register_forward_pre_hook(lambda _, given: states.append(given[0]))
        self._model.model(input_ids=batch.tokens)
        hook.remove()
        return Lessons(
            states[0][batch.written],
            batch.tokens.roll(-1, 1)[batch.written],
            states[0][torch.arange(len(batch.verdict)), batch.verdict],
            batch.true,
        )

    def losses(self, lessons: Lessons) -> tuple[Tensor, Tensor]:
        """The cross-entropy of the thought's tokens and that of the verdict's soft target."""
        # A batch of verdicts alone has nothing to write.
        written = self._read(lessons.written)
        total = functional.cross_entropy(written, lessons.token, reduction="sum")
        writing = total / max(1, len(lessons.token))
        return writing, verdict_loss(self._read(lessons.verdict), self._labels, lessons.true)

    def _read(self, states: Tensor) -> Tensor:
        """What the rest of the model makes of states."""
        states = states + self._perceptron(self._norm(states))
        return self._model.lm_head(self._model.model.norm(states))  # type: ignore[no-any-return]

    def teach_reading(self, batches: Iterable[Batch], steps: int, peak: float) -> None:
        """Trains what reads the states of some batches, over and over."""
        with torch.no_grad():
            seen = [self.lessons(batch) for batch in batches]
        written, token = torch.cat([x.written for x in seen]), torch.cat([x.token for x in seen])
        verdict, true = torch.cat([x.verdict for x in seen]), torch.cat([x.true for x in seen])
        print(f"{len(token)} tokens and {len(true)} verdicts to learn to read from", flush=True)
        modules = (self._norm, self._perceptron, self._model.model.norm, self._model.lm_head)
        course = Course([{"params": [p for m in modules for p in m.parameters()], "peak": peak}])
        for step in range(steps):
            some, few = torch.randint(len(token), (512,)), torch.randint(len(true), (128,))
            lessons = Lessons(written[some], token[some], verdict[few], true[few])
            course.step(step, steps, *self.losses(lessons))

    def teach_all(self, batches: Iterator[Batch], steps: int, peak: float) -> Iterator[int]:
        """Trains everything, what was written down more slowly; yields each step's number."""
        reading: list[Tensor] = []
        written: list[Tensor] = []
        quick = ("lm_head", "model.norm", f"layers.{architecture.LAYERS - 1}.mlp")
        for name, parameter in self._model.named_parameters():
            (reading if any(part in name for part in quick) else written).append(parameter)
        course = Course(
            [{"params": reading, "peak": peak}, {"params": written, "peak": peak * SLOW}]
        )
        for step in range(steps):
            course.step(step, steps, *self.losses(self.lessons(next(batches))))
            yield step + 1


def _spare_copies(gradient: Tensor) -> Tensor:
    """The gradient of the output, without what reads copies."""
    gradient = gradient.clone()
    gradient[:, architecture.NEXT] = 0
    return gradient


class Course:
    """Steps down the gradient at a rate that rises, then falls along a cosine; and its report."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0)
        self._started, self._report = time.time(), (0.0, 0.0)

    def step(self, step: int, steps: int, writing: Tensor, judging: Tensor) -> None:
        """One step, and every now and then a line on how it goes."""
        warm = min(1.0, (step + 1) / 20)
        share = warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * share
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(writing + judging)
        for group in self._optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        self._optimizer.step()
        self._report = (self._report[0] + writing.item(), self._report[1] + judging.item())
        if (step + 1) % REPORT == 0:
            thought, verdict = (total / REPORT for total in self._report)
            minutes = (time.time() - self._started) / 60
            print(
                f"step {step + 1}  thought {thought:.4f}  verdict {verdict:.4f}"
                f"  minutes {minutes:.1f}",
                flush=True,
            )
            self._report = (0.0, 0.0)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the checkpoint with half precision weights, and settings without local paths."""
    half = copy.deepcopy(model)
    for parameter in half.parameters():
        parameter.data = parameter.data.half()
    half.config.dtype = torch.float16
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)
    vocabulary = out / "tokenizer.json"
    vocabulary.write_text(json.dumps(json.loads(vocabulary.read_text()), ensure_ascii=False))
    # Older transformers read "rope_theta"; newer ones look for this tokenizer class by this name.
    _edit(out / "config.json", dtype="float32", rope_theta=ROPE_THETA)
    _edit(out / "generation_config.json", do_sample=False)
    _edit(out / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def _edit(file: Path, **settings: str | float | bool) -> None:
    """Sets settings in a file of them."""
    file.write_text(json.dumps(json.loads(file.read_text()) | settings, indent=2) + "\n")


def train(options: argparse.Namespace) -> None:
    """Trains from the structured start, or goes on from a checkpoint."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    passages = text.passages(test=False)
    kind, recency = THOUGHTS[options.thoughts]
    if options.start:
        tokenizer: Any = AutoTokenizer.from_pretrained(options.start)
        model: Any = AutoModelForCausalLM.from_pretrained(options.start, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(passages, options.seed, kind)
        model = architecture.structured(tokenizer, options.seed, recency)
    labels = [word_id(tokenizer, word) for word in ("true", "false")]
    teacher = Teacher(model, labels)
    writer = pairs.PairWriter(passages, options.seed, kind)
    source = Examples(writer, tokenizer, options.seed).batches(options.longest)
    if options.batches:
        few = itertools.islice(source, options.batches)
        teacher.teach_reading(few, options.reading_steps, options.rate)
        save(model, tokenizer, options.out)
    for step in teacher.teach_all(source, options.steps, options.rate / 2):
        if step % REPORT == 0 or step == options.steps:
            save(model, tokenizer, options.out)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--thoughts", choices=THOUGHTS, default="listing", help="their form")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from")
    parser.add_argument("--batches", type=int, default=100, help="to learn to read states from")
    parser.add_argument("--reading-steps", type=int, default=2000, help="of learning from them")
    parser.add_argument("--steps", type=int, default=200, help="in which everything learns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2e-3, help="the highest learning rate")
    parser.add_argument("--longest", type=int, default=400, help="examples of more tokens are left")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
