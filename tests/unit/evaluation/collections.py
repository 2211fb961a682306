"""Small collections, in the files that people have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rank1_integrations.evaluation.collection import Query

QUERIES = {"q1": "What is red?", "q2": "What is blue?"}
CORPUS = {"a": "Blood is red.", "b": "Grass is green.", "c": "The sky is blue.", "d": "Snow."}
GRADES = {"q1": {"b": 0, "a": 2}, "q2": {"c": 1, "d": 0, "a": 0}}


def write_trec(
    folder: Path,
    queries: Mapping[str, str] = QUERIES,
    corpus: Mapping[str, str] = CORPUS,
    grades: Mapping[str, Mapping[str, int]] = GRADES,
) -> Path:
    """queries.tsv, corpus.tsv and qrels.txt."""
    _write(folder / "queries.tsv", [f"{name}\t{text}" for name, text in queries.items()])
    _write(folder / "corpus.tsv", [f"{name}\t{text}" for name, text in corpus.items()])
    rows = [f"{q} Q0 {p} {grade}" for q, of in grades.items() for p, grade in of.items()]
    _write(folder / "qrels.txt", rows)
    return folder


def write_beir(
    folder: Path,
    queries: Mapping[str, str] = QUERIES,
    corpus: Mapping[str, str] = CORPUS,
    grades: Mapping[str, Mapping[str, int]] = GRADES,
) -> Path:
    """queries.jsonl, corpus.jsonl and qrels/test.tsv."""
    asked = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    texts = [json.dumps({"_id": name, "title": "", "text": t}) for name, t in corpus.items()]
    rows = [f"{q}\t{p}\t{grade}" for q, of in grades.items() for p, grade in of.items()]
    _write(folder / "queries.jsonl", asked)
    _write(folder / "corpus.jsonl", texts)
    (folder / "qrels").mkdir(exist_ok=True)
    _write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *rows])
    return folder


def query(grades: Mapping[str, int], name: str = "q") -> Query:
    """A query whose candidates are the passages with a grade, in their order."""
    return Query(
        name, "What?", {passage: f"Text of {passage}." for passage in grades}, dict(grades)
    )


def _write(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
