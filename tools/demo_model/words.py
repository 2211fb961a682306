"""What a word is to the demonstration model: its stem, and whether it carries meaning."""

import re
import unicodedata

ENDINGS = (
    r"(?<=\w{3})(?<!\btru)(?<!\bfals)(?<!\bpassag)"
    r"(?:(?=(?:es|ed|ing|e)\b)|(?<![es])(?=s\b))"
)
"""The place in a word where a regular ending starts, at least three letters in.

The two labels stay whole, for a label is one token, and so does the word that marks the passage.
"""

_WORD = re.compile(r"\w+")
_ENDING = re.compile(ENDINGS)

STOP_WORDS = frozenset(
    """
    a about above after again all also am an and any are as ask asks at be because been before
    being below between both but by can could did do does doing down during each few for from
    further had has have having he her here hers him his how i if in into is it its just me more
    most my no nor not nothing of off on once only or other our out over own passage passages
    relevant s same she should so
    some such t than that the their them then there these they this those through to too under
    until up us use used uses using very was we were what when where which while who whom whose
    why will with would yes you your
    """.split()
)
"""Words that queries are made of but not about."""


def normalize(text: str) -> str:
    """The text as the tokenizer sees it: NFKC, lower case."""
    return unicodedata.normalize("NFKC", text).lower()


def words(text: str) -> list[str]:
    """The words of a text, in order: runs of letters, digits and underscores."""
    return _WORD.findall(normalize(text))


def stem(word: str) -> str:
    """The word without a regular ending ("sorted", "sorting" and "sorts" become "sort")."""
    place = _ENDING.search(word)
    return word[: place.start()] if place else word


STOP_STEMS = frozenset(map(stem, STOP_WORDS))


def content_words(text: str) -> list[str]:
    """The words that carry meaning, each stem once, in order of their first appearance."""
    first: dict[str, str] = {}
    for word in words(text):
        if stem(word) not in STOP_STEMS:
            first.setdefault(stem(word), word)
    return list(first.values())
