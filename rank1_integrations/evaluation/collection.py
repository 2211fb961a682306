"""Read a test collection (queries, corpus, qrels, run) in the file formats of TREC or BEIR."""

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
    """A query with its candidates and its relevance labels.

    Attributes:
        id: Its id in the files.
        text: Its text.
        passages: Id and text of each candidate, in the first-stage order.
        qrels: Passage id to relevance label, for every labelled passage, candidate or not. Labels
            above 0 are relevant, higher is better.
    """

    id: str
    text: str
    passages: dict[str, str]
    qrels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Collection:
    """The queries to evaluate policies on.

    Attributes:
        name: Name of its folder.
        queries: In the order of the qrels file.
        excluded: Number of queries in the qrels without a relevant passage or without a
            candidate. Every order of passages is equally good for them.
    """

    name: str
    queries: list[Query]
    excluded: int

    @property
    def digest(self) -> str:
        """A hash of all texts, candidates and relevance labels."""
        content = [[q.id, q.text, list(q.passages.items()), q.qrels] for q in self.queries]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_collection(
    folder: Path,
    *,
    qrels: Path | None = None,
    run: Path | None = None,
    min_relevance: int = 1,
    candidates: int | None = None,
) -> Collection:
    """Return the collection in a folder.

    Args:
        folder: Holds queries.tsv and corpus.tsv (id, tab, text) or queries.jsonl and corpus.jsonl
            (objects with "_id", "text" and maybe "title"), and qrels.txt or qrels/test.tsv.
        qrels: Another qrels file: TREC's four columns or BEIR's three.
        run: Another run file: a retriever's result in TREC's six columns. None for run.txt. If
            there is none, the candidates are the labelled passages, in the order of the qrels.
        min_relevance: The lowest relevance label that counts as relevant.
        candidates: The most candidates of a query, best first; None for all.

    Raises:
        ConfigurationError: A file is missing, a line is malformed, an id is unknown, or no query
            has both a relevant and another candidate.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}")
    labels = _read_qrels(_existing(qrels) if qrels else _first(folder, QRELS))
    if run is None and (folder / RUN).exists():
        run = folder / RUN
    retrieved = _read_run(_existing(run)) if run else {q: list(of) for q, of in labels.items()}
    chosen = {
        query: list(islice(retrieved[query], candidates))
        for query in labels
        if query in retrieved and any(label >= min_relevance for label in labels[query].values())
    }
    _check_contrast(chosen, labels, min_relevance, run)
    needed = {passage for passages in chosen.values() for passage in passages}
    passage_texts = _read_texts(_first(folder, CORPUS), needed, "passage")
    query_texts = _read_texts(_first(folder, QUERIES), set(chosen), "query")
    queries = [
        Query(query, query_texts[query], {p: passage_texts[p] for p in passages}, labels[query])
        for query, passages in chosen.items()
    ]
    return Collection(folder.resolve().name, queries, len(labels) - len(queries))


def _check_contrast(
    chosen: dict[str, list[str]],
    labels: dict[str, dict[str, int]],
    min_relevance: int,
    run: Path | None,
) -> None:
    if not any(label >= min_relevance for of in labels.values() for label in of.values()):
        raise ConfigurationError(f"no passage of the qrels has label {min_relevance} or above")
    if not chosen:
        raise ConfigurationError(f"no query of {run} has a relevant passage in the qrels")
    is_relevant = [
        labels[query].get(passage, 0) >= min_relevance
        for query, passages in chosen.items()
        for passage in passages
    ]
    if all(is_relevant):
        raise ConfigurationError(
            "every candidate is relevant, so all policies are equally good: put a retriever's "
            f"result beside the qrels as {RUN} (query Q0 passage rank score tag)"
        )
    if not any(is_relevant):
        raise ConfigurationError(
            f"{run} has no relevant candidate: check that qrels and run use the same ids"
        )


def _read_qrels(file: Path) -> dict[str, dict[str, int]]:
    """Return query id to passage id to relevance label, in the file's order."""
    labels: dict[str, dict[str, int]] = {}
    for position, (query, passage, label) in _parsed(file, _qrels_row):
        if passage in labels.setdefault(query, {}):
            raise ConfigurationError(f"{position}: passage {passage} of query {query} is repeated")
        labels[query][passage] = label
    return labels


def _qrels_row(line: str) -> tuple[str, str, int]:
    match line.split():
        case [query, _, passage, label] | [query, passage, label]:
            return query, passage, int(label)
    raise ValueError("expected: query Q0 passage label, or: query passage label")


def _read_run(file: Path) -> dict[str, list[str]]:
    """Return query id to passage ids, best score first as in trec_eval, ties in file order."""
    scores: dict[str, dict[str, float]] = {}
    for position, (query, passage, score) in _parsed(file, _run_row):
        if passage in scores.setdefault(query, {}):
            raise ConfigurationError(f"{position}: passage {passage} of query {query} is repeated")
        scores[query][passage] = score
    return {query: sorted(of, key=of.__getitem__, reverse=True) for query, of in scores.items()}


def _run_row(line: str) -> tuple[str, str, float]:
    match line.split():
        case [query, _, passage, _, score, _] if not math.isnan(float(score)):
            return query, passage, float(score)
    raise ValueError("expected: query Q0 passage rank score tag")


def _read_texts(file: Path, wanted: set[str], kind: str) -> dict[str, str]:
    """Return the texts of the wanted ids. A corpus is large, so the others are not kept."""
    texts: dict[str, str] = {}
    row = _json_row if file.suffix == ".jsonl" else _table_row
    for position, (name, text) in _parsed(file, row):
        if name not in wanted:
            continue
        if name in texts:
            raise ConfigurationError(f"{position}: {kind} {name} is repeated")
        if not text.strip():
            raise ConfigurationError(f"{position}: {kind} {name} has no text")
        texts[name] = text
    missing = sorted(wanted - texts.keys())
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ConfigurationError(f"{file} lacks {len(missing)} of the needed ids: {some}")
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
    """Yield each line's position, for messages, and its content.

    Empty lines and the heading of BEIR's qrels are skipped.
    """
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
