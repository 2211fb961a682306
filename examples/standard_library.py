"""Real text that comes with every Python: the documentation of its language and library."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics

MODULES = (
    "argparse asyncio bisect collections contextlib csv dataclasses datetime decimal difflib "
    "functools hashlib heapq inspect itertools json logging os pathlib pickle queue random re "
    "shutil socket sqlite3 statistics string subprocess tempfile textwrap threading time "
    "unittest urllib.parse uuid weakref zipfile"
).split()

SHORTEST, LONGEST = 15, 120
"""A passage's length, in words."""


@dataclass(frozen=True)
class Passage:
    """A piece of documentation and its source."""

    source: str
    text: str


def passages() -> list[Passage]:
    """Return the language reference and the library's docstrings in pieces of 15 to 120 words."""
    seen: dict[str, Passage] = {}
    for source, text in _documents():
        for piece in _pieces(text):
            seen.setdefault(piece, Passage(source, piece))
    return list(seen.values())


def _documents() -> Iterator[tuple[str, str]]:
    yield from topics.items()
    for name in MODULES:
        module = importlib.import_module(name)
        yield name, inspect.getdoc(module) or ""
        for member, value in sorted(vars(module).items()):
            if _belongs(value, name) and not member.startswith("_"):
                yield f"{name}.{member}", inspect.getdoc(value) or ""
                yield from _methods(f"{name}.{member}", value)


def _methods(name: str, value: object) -> Iterator[tuple[str, str]]:
    for method, function in sorted(vars(value).items() if inspect.isclass(value) else ()):
        if callable(function) and not method.startswith("_"):
            yield f"{name}.{method}", inspect.getdoc(function) or ""


def _belongs(value: object, module: str) -> bool:
    """Return whether a class or function belongs to the module, or to its version in C."""
    return callable(value) and str(getattr(value, "__module__", "")).lstrip("_").startswith(module)


def _pieces(text: str) -> Iterator[str]:
    """Yield paragraphs; short ones are joined to the next."""
    words: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words += paragraph.split()
        if len(words) >= SHORTEST:
            yield " ".join(words[:LONGEST])
            words = []
