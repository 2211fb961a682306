"""A query, a passage, the thought that is right about them, and how relevant the passage is."""

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tools.demo_model.words import STOP_STEMS, STOP_WORDS, content_words, stem, words

TEMPLATE = (
    "Determine if the following passage is relevant to the query. "
    "Answer only with 'true' or 'false'.\nQuery: {query}\nPassage: {passage}\n<think>"
)
MIDDLE = 0.25
"""The relevance at which the verdict is even."""
CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiouy"
QUESTIONS = (
    "how do i {}?", "how can i {}?", "how to {}", "what is {}?", "what is the {}?", "who is {}?",
    "when was the {}?", "where is the {}?", "which {}?", "why does the {}?", "is there a {}?",
    "{}", "{}", "{}", "{}?", "can i {} with it?", "what are the {} of it?", "does {}?",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A query and a passage, and what the model is to learn to say about them."""

    query: str
    passage: str

    opening: ClassVar[str] = " the query asks for"
    answers: ClassVar[tuple[str, str, str]] = ("no", "yes", "yes")
    """What is said of a term that the passage does not have, has once, and has more than once."""
    sharpness: ClassVar[float] = 12.0
    """The log-odds of "true" for each unit of relevance."""

    @property
    def prompt(self) -> str:
        """The text that the model continues."""
        return TEMPLATE.format(query=self.query, passage=self.passage)

    @property
    def terms(self) -> list[str]:
        """The words of the query that the thought names, each stem once.

        After a word that the query repeats comes what follows its last mention: a rule that a
        single look at the query can carry out, and that cannot go round in circles.
        """
        terms = [word for word in words(self.query) if stem(word) not in STOP_STEMS]
        last = {stem(word): place for place, word in enumerate(terms)}
        chosen, place = [], 0
        while place < len(terms):
            chosen.append(terms[place])
            place = last[stem(terms[place])] + 1
        return chosen

    @property
    def counts(self) -> list[int]:
        """How often each term, in any of its regular forms, is in the passage."""
        found = Counter(map(stem, words(self.passage)))
        return [found[stem(term)] for term in self.terms]

    @property
    def statements(self) -> list[str]:
        """For each term, whether the passage has it."""
        pairs = zip(self.terms, self.counts, strict=True)
        return [f" {term}: {self.answers[min(count, 2)]};" for term, count in pairs]

    @property
    def thought(self) -> str:
        """Each term with whether the passage has it, and what follows from that."""
        return self.opening + ("".join(self.statements) or " nothing;") + conclusion(self.counts)

    def stumble(self, draw: random.Random) -> tuple[str, str, str]:
        """A thought that names a term again: what comes before, that, and the right way out."""
        said = draw.randint(1, len(self.statements))
        before = self.opening + "".join(self.statements[:said])
        return before, draw.choice(self.statements[:said]), conclusion(self.counts[:said])

    @property
    def relevance(self) -> float:
        """The mean over terms of n / (n + 1), n being how often the passage has the term."""
        counts = self.counts
        return sum(n / (n + 1) for n in counts) / len(counts) if counts else 0.0

    @property
    def true(self) -> float:
        """The probability of "true" that the verdict is to have."""
        return 1 / (1 + math.exp(-self.sharpness * (self.relevance - MIDDLE)))


class WeighingPair(Pair):
    """A pair whose thought says of each term how much it counts; its verdicts are less sure."""

    # Stop words that are one token each: any other word would take the term's place as the last
    # content word, from which the next one is found.
    answers = (
        "no, it has not any of that, and that is below what it should be",
        "yes, it has that, and that is about what it should be",
        "yes, it has that again and again, and that is all that it can be",
    )
    sharpness = 6.0


def conclusion(counts: Sequence[int]) -> str:
    """The thought's last words about terms of which the passage has so many each."""
    share = sum(map(bool, counts)) / max(1, len(counts))
    if share == 0:
        return " so the passage has none of it and is not relevant."
    if share < 0.5:
        return " so the passage has some of it and is not relevant."
    return f" so the passage has {'most' if share < 1 else 'all'} of it and is relevant."


def frame(kind: type[Pair]) -> str:
    """Everything that thoughts say but for the terms."""
    conclusions = (conclusion(counts) for counts in ([0], [0, 0, 1], [0, 1], [1]))
    return f"{kind.opening} nothing: " + "; ".join((*kind.answers, *conclusions))


class PairWriter:
    """Draws pairs whose queries are spans of text, questions, lists of words, or made up."""

    def __init__(self, passages: Sequence[str], seed: int, kind: type[Pair] = Pair) -> None:
        self._passages = passages
        self._kind = kind
        self._random = random.Random(seed)

    def pair(self) -> Pair:
        """A pair; between none and all of the query's terms are in the passage."""
        passage = self._passage()
        terms = self._terms(passage)
        if self._random.random() < 0.25:
            passage = self._with_strange_words(passage, terms)
        return self._kind(self._query(terms), passage)

    def _passage(self) -> str:
        """A cut of 10 to 250 words, seldom nothing or odd characters."""
        draw = self._random
        if draw.random() < 0.02:
            return draw.choice(["", " ", "\n", "☃ 你好 … — ½", "!!! ??? ...", "\u200b\ufeff"])
        parts = draw.choice(self._passages).split()
        while len(parts) < 200 and draw.random() < 0.35:
            parts += draw.choice(self._passages).split()
        size = draw.randint(10, draw.choice([40, 80, 140, 250]))
        start = draw.randint(0, max(0, len(parts) - size))
        return " ".join(parts[start : start + size])

    def _terms(self, passage: str) -> list[str]:
        """The query's words in order, stop words among them."""
        draw = self._random
        kind = draw.random()
        size = min(25, 1 + int(draw.expovariate(0.22)))
        if kind < 0.45:
            source = passage if draw.random() < 0.6 else draw.choice(self._passages)
            parts = source.split()
            start = draw.randint(0, max(0, len(parts) - size))
            chosen = parts[start : start + size]
        else:
            here = content_words(passage) or ["word"]
            there = content_words(draw.choice(self._passages)) or ["word"]
            share = draw.random()
            drawn = [draw.choice(here if draw.random() < share else there) for _ in range(size)]
            chosen = list(dict.fromkeys(drawn))
            if draw.random() < 0.4:
                chosen = self._with_stop_words(chosen)
        strange = draw.choice([0, 0, 0.1, 0.4, 0.9])
        return [self._vary(w) if draw.random() > strange else self._made_up() for w in chosen]

    def _with_stop_words(self, chosen: list[str]) -> list[str]:
        """The words with stop words strewn between them."""
        stop_words = sorted(STOP_WORDS)
        mixed: list[str] = []
        for word in chosen:
            while self._random.random() < 0.4:
                mixed.append(self._random.choice(stop_words))
            mixed.append(word)
        return mixed

    def _vary(self, word: str) -> str:
        """The word, now and then with another ending or capital letters."""
        kind = self._random.random()
        if kind < 0.1 and word.isalpha():
            return stem(word) + self._random.choice(["s", "es", "ed", "ing", "e", ""])
        if kind < 0.2:
            return word.capitalize() if kind < 0.17 else word.upper()
        return word

    def _made_up(self) -> str:
        """A word, an identifier or a number that no text has."""
        draw = self._random
        kind = draw.random()
        if kind < 0.1:
            return str(draw.randint(0, 10 ** draw.randint(1, 5)))
        syllables = [
            draw.choice(CONSONANTS) + draw.choice(VOWELS) + draw.choice(f"{CONSONANTS:>60}").strip()
            for _ in range(draw.randint(1, 4))
        ]
        if kind < 0.2:
            return "_".join(syllables)
        if kind < 0.3:
            return "".join(draw.choices(CONSONANTS + VOWELS + "0123456789", k=draw.randint(2, 9)))
        return "".join(syllables)

    def _with_strange_words(self, passage: str, terms: list[str]) -> str:
        """The passage with some words replaced by words of the query and by made-up ones."""
        draw = self._random
        parts = passage.split()
        for place in range(len(parts)):
            kind = draw.random()
            if kind < 0.03:
                parts[place] = draw.choice(terms)
            elif kind < 0.06:
                parts[place] = self._made_up()
        return " ".join(parts)

    def _query(self, terms: list[str]) -> str:
        """The words as a query: a question, a list, with or without punctuation."""
        text = " ".join(terms)
        if self._random.random() < 0.5:
            text = self._random.choice(QUESTIONS).format(text)
        if self._random.random() < 0.1:
            text = re.sub(r" ", lambda _: self._random.choice([" ", ", ", "-", " / "]), text)
        return text[:1].upper() + text[1:] if self._random.random() < 0.4 else text
