"""Measures the demonstration model: `python -m tools.demo_model.measure --model DIR`.

What counts as right is decided here from the query and the passage alone, by plain string rules:
a *content word* is a run of letters, digits or underscores (lower-cased, NFKC) that is not a stop
word; the passage *has* it when a word of the passage is the same but for a regular ending (-s, -es,
-ed, -ing, -e). A *statement* is anything in a thought of the form "word: yes" or "word: no".

Verdicts are asked for after the whole thought, after its first tokens, and without any thought; one
that is longer than allowed is broken off.
"""

import argparse
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.demo_model import text
from tools.demo_model.pairs import TEMPLATE, PairWriter
from tools.demo_model.tokenizer import END_THINK, word_id
from tools.demo_model.train import FINISHED_REASONING_LINE
from tools.demo_model.words import STOP_WORDS, stem, words

HERE = Path(__file__).parent.parent / "rank1_integrations" / "demo_model"
QUESTIONS = Path(__file__).parent / "questions.txt"
PROBES = (16, 32, 64, 128)
"""After how many tokens of the thought a verdict is asked for, too."""
STATEMENT = re.compile(r"(\w+): (yes|no)\b")


@dataclass
class Answer:
    """What the model said about one pair: its thought, whether that ended, and its verdicts.

    A verdict is log P(true)/P(false); its key says after how much of the thought it was given.
    """

    thought: str
    tokens: int
    ended: bool
    verdicts: dict[str, float] = field(default_factory=dict)


class Judge:
    """The model, asked greedily as Rank1 is asked."""

    def __init__(self, folder: Path, longest: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._longest = longest
        end: Any = self._tokenizer.convert_tokens_to_ids(END_THINK)
        self._end = int(end)
        self._labels = [word_id(self._tokenizer, word) for word in ("true", "false")]

    @torch.inference_mode()
    def answers(self, pairs: Sequence[tuple[str, str]], batch: int = 64) -> list[Answer]:
        """One answer for each pair of query and passage, in their order."""
        prompts = [TEMPLATE.format(query=query, passage=passage) for query, passage in pairs]
        asked = [self._tokenizer(prompt).input_ids for prompt in prompts]
        thoughts: dict[int, list[int]] = {}
        # Long queries make long thoughts, and a batch takes as long as its longest.
        for chosen in _groups([len(query) for query, _ in pairs], batch):
            thoughts.update(zip(chosen, self._think([asked[i] for i in chosen]), strict=True))
        answers, texts, forms = [], [], []
        for i in range(len(prompts)):
            ended = self._end in thoughts[i]
            thought = thoughts[i][: thoughts[i].index(self._end)] if ended else thoughts[i]
            answers.append(Answer(self._tokenizer.decode(thought), len(thought), ended))
            for form, ids in self._forms(asked[i], thought, ended):
                texts.append(ids)
                forms.append((i, form))
        for chosen in _groups(list(map(len, texts)), batch):
            for (i, form), (log_odds, label) in zip(
                (forms[k] for k in chosen), self._verdicts([texts[k] for k in chosen]), strict=True
            ):
                answers[i].verdicts[form] = log_odds
                # A thought has ended when a label follows its end mark.
                answers[i].ended &= label
        return answers

    def _think(self, asked: list[list[int]]) -> list[list[int]]:
        """What the model writes after prompts."""
        padded = self._tokenizer.pad({"input_ids": asked}, return_tensors="pt", padding_side="left")
        written = self._model.generate(
            **padded,
            max_new_tokens=self._longest + 1,
            do_sample=False,
            cache_implementation="static",
            disable_compile=True,
            eos_token_id=[self._end, self._tokenizer.eos_token_id],
        )
        thoughts: list[list[int]] = written[:, padded.input_ids.shape[1] :].tolist()
        return thoughts

    def _forms(
        self, asked: list[int], thought: list[int], ended: bool
    ) -> Iterator[tuple[str, list[int]]]:
        """What stands before a verdict, for each part of the thought."""
        cut = self._tokenizer(f"\n{END_THINK}", add_special_tokens=False).input_ids
        told = self._tokenizer(f"{FINISHED_REASONING_LINE}{END_THINK}", add_special_tokens=False)
        whole = [*asked, *thought, *([self._end] if ended else cut)]
        yield "none", [*asked, *told.input_ids]
        for size in PROBES:
            yield str(size), [*asked, *thought[:size], *cut] if size < len(thought) else whole
        yield "all", whole

    def _verdicts(self, texts: list[list[int]]) -> list[tuple[float, bool]]:
        """The log-odds of "true" after texts, and whether a label is the likeliest token there."""
        padded = self._tokenizer.pad({"input_ids": texts}, return_tensors="pt", padding_side="left")
        logits = self._model(**padded, logits_to_keep=1).logits[:, -1]
        true, false = logits[:, self._labels].unbind(1)
        likeliest = logits.argmax(1).tolist()
        return [
            (odds, token in self._labels)
            for odds, token in zip((true - false).tolist(), likeliest, strict=True)
        ]


def _groups(sizes: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Places of things of about equal size, a batch at a time."""
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for start in range(0, len(order), batch):
        yield order[start : start + batch]


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


def describe(pairs: Sequence[tuple[str, str]], answers: Sequence[Answer]) -> None:
    """Prints what the model does on pairs."""
    named = right_name = right_statement = 0
    wanted = 0.0
    scores: dict[str, list[float]] = defaultdict(list)
    labels: list[bool] = []
    for (query, passage), answer in zip(pairs, answers, strict=True):
        terms = content(query)
        statements = STATEMENT.findall(answer.thought)
        named += len(statements)
        right_name += sum(term in terms for term, _ in statements)
        right_statement += sum(has(passage, term) == (said == "yes") for term, said in statements)
        wanted += len({term for term, _ in statements} & set(terms)) / max(1, len(terms))
        if terms:
            labels.append(sum(has(passage, term) for term in terms) / len(terms) >= 0.5)
            for form, log_odds in answer.verdicts.items():
                scores[form].append(log_odds)
    size = len(pairs)
    lengths = sorted(answer.tokens for answer in answers)
    quartiles = [lengths[min(size - 1, size * part // 20)] for part in (1, 5, 10, 15, 19, 20)]
    print(f"thoughts that end: {sum(a.ended for a in answers) / size:.4f} (n={size})")
    print(f"tokens of thought, 5 25 50 75 95 100 %: {quartiles}")
    print(f"named terms that are the query's: {right_name / named:.4f} (n={named})")
    print(f"statements of presence that are right: {right_statement / named:.4f} (n={named})")
    print(f"mean share of the query's content words that are named: {wanted / size:.4f}")
    if len(set(labels)) == 2:
        print(f"ROC AUC for half of the content words present: (n={len(labels)})")
        for form, found in scores.items():
            print(f"  after {form}: {area_under_curve(found, labels):.4f}", _spread(found))


def _spread(log_odds: Sequence[float]) -> str:
    """The mean of log-odds and their deviation."""
    mean = sum(log_odds) / len(log_odds)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in log_odds) / len(log_odds))
    return f" (log-odds {mean:.1f}, deviation {deviation:.1f})"


def report_on_text(judge: Judge, size: int, seed: int) -> None:
    """Prints what the model does on pairs of text, and with questions, that it never saw."""
    passages = text.passages(test=True)
    writer = PairWriter(passages, seed)
    pairs = [(pair.query, pair.passage) for pair in (writer.pair() for _ in range(size))]
    print(f"Pairs made from text that was held out, seed {seed}")
    describe(pairs, judge.answers(pairs))
    draw = random.Random(seed)
    questions = QUESTIONS.read_text(encoding="utf-8").splitlines()
    pairs = [(question, draw.choice(passages)) for question in questions for _ in range(5)]
    print(f"{len(questions)} written questions, each with five passages")
    describe(pairs, judge.answers(pairs))


def report_on_collection(judge: Judge, folder: Path) -> None:
    """Prints what the model does on a collection with judgments, and nDCG@10 of its orders."""
    queries, corpus = _table(folder / "queries.tsv"), _table(folder / "corpus.tsv")
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (folder / "qrels.txt").read_text(encoding="utf-8").splitlines():
        query, _, passage, relevance = line.split()
        judged[query][passage] = int(relevance)
    keys = [(query, passage) for query in judged for passage in judged[query]]
    pairs = [(queries[query], corpus[passage]) for query, passage in keys]
    answers = judge.answers(pairs)
    print(f"The collection {folder.name}")
    describe(pairs, answers)
    print(f"nDCG@10: (n={len(judged)} queries, {len(keys)} passages)")
    forms = {form: [answer.verdicts[form] for answer in answers] for form in answers[0].verdicts}
    for form, log_odds in [*forms.items(), ("a random order", [0.0] * len(keys))]:
        scores = dict(zip(keys, log_odds, strict=True))
        found = [ndcg([scores[q, p] for p in judged[q]], list(judged[q].values())) for q in judged]
        print(f"  after {form}: {sum(found) / len(found):.4f}")


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
    parser.add_argument("--longest", type=int, default=256, help="thoughts may be, in tokens")
    options = parser.parse_args()
    judge = Judge(options.model, options.longest)
    if options.size:
        report_on_text(judge, options.size, options.seed)
    if options.collection:
        report_on_collection(judge, options.collection)


if __name__ == "__main__":
    main()
