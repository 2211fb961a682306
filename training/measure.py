"""Measures the demonstration model: `python -m training.measure [--model DIR] [--collection DIR]`.

What counts as right is decided here from the query and the passage alone, by plain string rules:
a *content word* is a run of letters, digits or underscores (lower-cased, NFKC) that is not a stop
word; the passage *has* it when a word of the passage is the same but for a regular ending (-s, -es,
-ed, -ing, -e). A *statement* is anything of the form "word: yes;" or "word: no;" in a thought.
"""

import argparse
import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training import text
from training.pairs import TEMPLATE, PairWriter
from training.tokenizer import END_THINK
from training.words import STOP_WORDS, stem, words

HERE = Path(__file__).parent.parent / "rank1_integrations" / "demo_model"
LONGEST_THOUGHT = 256
STATEMENT = re.compile(r"(\w+): (yes|no);")


@dataclass(frozen=True)
class Answer:
    """What the model said about one pair: its thought, if that ended, and log P(true)/P(false)."""

    thought: str
    ended: bool
    log_odds: float


class Judge:
    """The model, asked greedily as Rank1 is asked."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._tokenizer.padding_side = "left"
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._end = self._tokenizer.convert_tokens_to_ids(END_THINK)
        self._labels = [
            self._tokenizer(label, add_special_tokens=False).input_ids[0]
            for label in (" true", " false")
        ]

    @torch.inference_mode()
    def answers(self, pairs: Sequence[tuple[str, str]], batch: int = 40) -> list[Answer]:
        """One answer for each pair of query and passage, in their order."""
        prompts = [TEMPLATE.format(query=query, passage=passage) for query, passage in pairs]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            answers.update(zip(chosen, self._batch([prompts[i] for i in chosen]), strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _batch(self, prompts: list[str]) -> list[Answer]:
        """The answers to prompts of about the same length."""
        asked = self._tokenizer(prompts, padding=True, return_tensors="pt")
        written = self._model.generate(
            **asked,
            max_new_tokens=LONGEST_THOUGHT + 2,
            do_sample=False,
            eos_token_id=[*self._labels, self._tokenizer.eos_token_id],
            output_logits=True,
            return_dict_in_generate=True,
        )
        thoughts = written.sequences[:, asked.input_ids.shape[1] :].tolist()
        return [self._answer(row, ids, written.logits) for row, ids in enumerate(thoughts)]

    def _answer(self, row: int, ids: list[int], logits: Sequence[torch.Tensor]) -> Answer:
        """One row's answer; a thought has ended when a label follows its end mark."""
        place = ids.index(self._end) if self._end in ids else len(ids)
        label = ids[place + 1] if place + 1 < len(ids) else None
        ended = place <= LONGEST_THOUGHT and label in self._labels
        thought = str(self._tokenizer.decode(ids[:place]))
        if not ended:
            return Answer(thought, False, -math.inf)
        true, false = logits[place + 1][row][self._labels].tolist()
        return Answer(thought, True, true - false)


def content(query: str) -> list[str]:
    """The query's content words, without repetitions."""
    return list(dict.fromkeys(word for word in words(query) if word not in STOP_WORDS))


def has(passage: str, word: str) -> bool:
    """Whether a word of the passage is this one but for a regular ending."""
    return stem(word) in map(stem, words(passage))


def area_under_curve(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The share of pairs of a positive and a negative in which the positive scores higher."""
    positive = [s for s, label in zip(scores, labels, strict=True) if label]
    negative = [s for s, label in zip(scores, labels, strict=True) if not label]
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return won / (len(positive) * len(negative))


def report_on_text(judge: Judge, size: int, seed: int) -> None:
    """Prints what the model does on pairs of text that it was not trained on."""
    writer = PairWriter(text.passages(test=True), seed)
    pairs = [(pair.query, pair.passage) for pair in (writer.pair() for _ in range(size))]
    answers = judge.answers(pairs)
    named = right_name = right_statement = 0
    wanted = 0.0
    shares: list[tuple[float, bool]] = []
    for (query, passage), answer in zip(pairs, answers, strict=True):
        terms = content(query)
        statements = STATEMENT.findall(answer.thought)
        named += len(statements)
        right_name += sum(term in terms for term, _ in statements)
        right_statement += sum(has(passage, term) == (said == "yes") for term, said in statements)
        wanted += len({term for term, _ in statements} & set(terms)) / max(1, len(terms))
        if terms:
            share = sum(has(passage, term) for term in terms) / len(terms)
            shares.append((answer.log_odds, share >= 0.5))
    ended = sum(answer.ended for answer in answers)
    print(f"thoughts that end within {LONGEST_THOUGHT} tokens: {ended / size:.4f} (n={size})")
    print(f"named terms that are the query's: {right_name / named:.4f} (n={named})")
    print(f"statements of presence that are right: {right_statement / named:.4f} (n={named})")
    print(f"mean share of the query's content words that are named: {wanted / size:.4f} (n={size})")
    area = area_under_curve(*zip(*shares, strict=True))
    print(f"ROC AUC for half of the content words present: {area:.4f} (n={len(shares)})")


def report_on_collection(judge: Judge, folder: Path) -> None:
    """Prints nDCG@10 of the model's order, and of a random one, on a collection with judgments."""
    queries, corpus = _table(folder / "queries.tsv"), _table(folder / "corpus.tsv")
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (folder / "qrels.txt").read_text(encoding="utf-8").splitlines():
        query, _, passage, relevance = line.split()
        judged[query][passage] = int(relevance)
    keys = [(query, passage) for query in judged for passage in judged[query]]
    answers = judge.answers([(queries[query], corpus[passage]) for query, passage in keys])
    scores = dict(zip(keys, (answer.log_odds for answer in answers), strict=True))
    found = [ndcg([scores[q, p] for p in judged[q]], list(judged[q].values())) for q in judged]
    chance = [ndcg([0.0] * len(judged[q]), list(judged[q].values())) for q in judged]
    print(f"nDCG@10: {sum(found) / len(found):.4f} (n={len(found)} queries, {len(keys)} passages)")
    print(f"nDCG@10 of a random order: {sum(chance) / len(chance):.4f}")


def ndcg(scores: Sequence[float], relevance: Sequence[int], orders: int = 100) -> float:
    """nDCG@10 with gains 2^relevance - 1, ties broken at random, the mean over many orders."""
    draw = random.Random(0)
    total = 0.0
    for _ in range(orders):
        order = draw.sample(range(len(scores)), len(scores))
        order.sort(key=lambda i: -scores[i])
        total += _gain([relevance[i] for i in order])
    return total / orders / max(1e-9, _gain(sorted(relevance, reverse=True)))


def _gain(relevance: Sequence[int]) -> float:
    """The discounted gain of the first ten."""
    return sum((2.0**r - 1) / math.log2(place + 2) for place, r in enumerate(relevance[:10]))


def _table(file: Path) -> dict[str, str]:
    """A file of tab-separated keys and texts."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return {key: value for key, _, value in (line.partition("\t") for line in lines)}


def main() -> None:
    """Reads the command line and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--collection", type=Path, help="with corpus.tsv, queries.tsv, qrels.txt")
    parser.add_argument("--size", type=int, default=1000, help="how many pairs of held-out text")
    parser.add_argument("--seed", type=int, default=12345)
    options = parser.parse_args()
    judge = Judge(options.model)
    report_on_text(judge, options.size, options.seed)
    if options.collection:
        report_on_collection(judge, options.collection)


if __name__ == "__main__":
    main()
