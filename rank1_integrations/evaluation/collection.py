"""Reads a test collection: queries, passages, and what people judged, in TREC's or BEIR's files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from rank1_integrations.exceptions import ConfigurationError

T = TypeVar("T")

QUERIES = ("queries.tsv", "queries.jsonl")
CORPUS = ("corpus.tsv", "corpus.jsonl")
QRELS = ("qrels.txt", "qrels.tsv", "qrels/test.tsv")
RUN = "run.txt"


@dataclass(frozen=True, slots=True)
class Query:
    """A query, the passages to judge for it, and how relevant people found them.

    Attributes:
        id: Its name in the files.
        text: What is asked.
        passages: Id and text of each candidate, in the retriever's order.
        grades: Passage id to grade, for every passage that people judged, candidate or not.
            Above 0 is relevant, more is better.
    """

    id: str
    text: str
    passages: dict[str, str]
    grades: dict[str, int]


@dataclass(frozen=True, slots=True)
class Collection:
    """Queries to try policies on.

    Attributes:
        name: The folder's name.
        queries: In the order of the qrels file.
        left_out: How many queries of the qrels have no relevant passage or no candidate. No
            order of passages is better than another for them.
    """

    name: str
    queries: list[Query]
    left_out: int

    @property
    def digest(self) -> str:
        """Changes with any text, candidate or grade of any query."""
        content = [[q.id, q.text, list(q.passages.items()), q.grades] for q in self.queries]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_collection(
    folder: Path,
    *,
    qrels: Path | None = None,
    run: Path | None = None,
    min_grade: int = 1,
    candidates: int | None = None,
) -> Collection:
    """The collection in a folder.

    Args:
        folder: Holds queries.tsv and corpus.tsv (id, tab, text) or queries.jsonl and corpus.jsonl
            (objects with "_id", "text" and maybe "title"), and qrels.txt or qrels/test.tsv.
        qrels: Another place for the judgments of people: TREC's four columns or BEIR's three.
        run: Another place for run.txt: a retriever's result in TREC's six columns. Without one,
            the candidates are the passages that people judged, in the order of the qrels.
        min_grade: The lowest grade that counts as relevant.
        candidates: The most passages of one query, the retriever's first; None for all.

    Raises:
        ConfigurationError: A file is missing, a line is malformed, an id is unknown, or no query
            has both a relevant and another candidate.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}")
    grades = _read_qrels(_existing(qrels) if qrels else _first(folder, QRELS))
    if run is None and (folder / RUN).exists():
        run = folder / RUN
    retrieved = _read_run(_existing(run)) if run else {q: list(g) for q, g in grades.items()}
    chosen = {
        query: list(islice(retrieved[query], candidates))
        for query in grades
        if query in retrieved and any(grade >= min_grade for grade in grades[query].values())
    }
    _check_contrast(chosen, grades, min_grade, run)
    needed = {passage for passages in chosen.values() for passage in passages}
    texts = _read_texts(_first(folder, CORPUS), needed, "passage")
    asked = _read_texts(_first(folder, QUERIES), set(chosen), "query")
    queries = [
        Query(query, asked[query], {p: texts[p] for p in passages}, grades[query])
        for query, passages in chosen.items()
    ]
    return Collection(folder.resolve().name, queries, len(grades) - len(queries))


def _check_contrast(
    chosen: dict[str, list[str]],
    grades: dict[str, dict[str, int]],
    min_grade: int,
    run: Path | None,
) -> None:
    if not any(g >= min_grade for of_query in grades.values() for g in of_query.values()):
        raise ConfigurationError(f"no passage of the qrels has grade {min_grade} or above")
    if not chosen:
        raise ConfigurationError(f"no query of {run} has a relevant passage in the qrels")
    found = [
        grades[query].get(passage, 0) >= min_grade
        for query, passages in chosen.items()
        for passage in passages
    ]
    if all(found):
        raise ConfigurationError(
            "every candidate is relevant, so there is nothing to tell apart: put a retriever's "
            f"result beside the qrels as {RUN} (query Q0 passage rank score tag)"
        )
    if not any(found):
        raise ConfigurationError(f"{run} found no passage that the qrels call relevant")


def _read_qrels(file: Path) -> dict[str, dict[str, int]]:
    """Query id to passage id to grade, in the file's order."""
    grades: dict[str, dict[str, int]] = {}
    for place, (query, passage, grade) in _parsed(file, _qrels_row):
        if passage in grades.setdefault(query, {}):
            raise ConfigurationError(f"{place}: passage {passage} of query {query} stands twice")
        grades[query][passage] = grade
    return grades


def _qrels_row(line: str) -> tuple[str, str, int]:
    match line.split():
        case [query, _, passage, grade] | [query, passage, grade]:
            return query, passage, int(grade)
    raise ValueError("expected: query Q0 passage grade, or: query passage grade")


def _read_run(file: Path) -> dict[str, list[str]]:
    """Query id to passage ids, best first by score as TREC does it, ties in the file's order."""
    scores: dict[str, dict[str, float]] = {}
    for place, (query, passage, score) in _parsed(file, _run_row):
        if passage in scores.setdefault(query, {}):
            raise ConfigurationError(f"{place}: passage {passage} of query {query} stands twice")
        scores[query][passage] = score
    return {query: sorted(of, key=of.__getitem__, reverse=True) for query, of in scores.items()}


def _run_row(line: str) -> tuple[str, str, float]:
    match line.split():
        case [query, _, passage, _, score, _] if not math.isnan(float(score)):
            return query, passage, float(score)
    raise ValueError("expected: query Q0 passage rank score tag")


def _read_texts(file: Path, wanted: set[str], kind: str) -> dict[str, str]:
    """The texts that are wanted; the rest of the file, which may be large, is passed over."""
    texts: dict[str, str] = {}
    row = _json_row if file.suffix == ".jsonl" else _table_row
    for place, (name, text) in _parsed(file, row):
        if name not in wanted:
            continue
        if name in texts:
            raise ConfigurationError(f"{place}: {kind} {name} stands twice")
        if not text.strip():
            raise ConfigurationError(f"{place}: {kind} {name} has no text")
        texts[name] = text
    missing = sorted(wanted - texts.keys())
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ConfigurationError(f"{file} lacks {len(missing)} of the ids asked for: {some}")
    return texts


def _table_row(line: str) -> tuple[str, str]:
    name, tab, text = line.partition("\t")
    if not tab:
        raise ValueError("expected: id, tab, text")
    return name.strip(), text


def _json_row(line: str) -> tuple[str, str]:
    match json.loads(line):
        case {"_id": str(name), "text": str(text), "title": str(title)}:
            return name, f"{title} {text}".strip()
        case {"_id": str(name), "text": str(text)}:
            return name, text
    raise ValueError('expected: {"_id": "...", "text": "..."}')


def _parsed(file: Path, parse: Callable[[str], T]) -> Iterator[tuple[str, T]]:
    """Each line's place, for messages, and what it says; empty lines and BEIR's heading aside."""
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip() or (number == 1 and line.split()[0] == "query-id"):
            continue
        try:
            yield f"{file}, line {number}", parse(line)
        except ValueError as error:
            raise ConfigurationError(f"{file}, line {number}: {error}") from None


def _lines(file: Path) -> Iterable[str]:
    try:
        # Only "\n" ends a line: texts may hold other characters that Python would split at.
        with file.open(encoding="utf-8-sig", newline="\n") as opened:
            for line in opened:
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text: {error}") from None


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ConfigurationError(f"{folder} has no {' or '.join(names)}")


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ConfigurationError(f"there is no file {file}")
    return file
