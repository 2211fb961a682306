"""Small collections in the file formats of TREC and BEIR."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rank1_integrations.evaluation.collection import Query

QUERIES = {"q1": "What is red?", "q2": "What is blue?"}
CORPUS = {"a": "Blood is red.", "b": "Grass is green.", "c": "The sky is blue.", "d": "Snow."}
QRELS = {"q1": {"b": 0, "a": 2}, "q2": {"c": 1, "d": 0, "a": 0}}


def write_trec(
    folder: Path,
    queries: Mapping[str, str] = QUERIES,
    corpus: Mapping[str, str] = CORPUS,
    qrels: Mapping[str, Mapping[str, int]] = QRELS,
) -> Path:
    """Write queries.tsv, corpus.tsv and qrels.txt."""
    _write(folder / "queries.tsv", [f"{name}\t{text}" for name, text in queries.items()])
    _write(folder / "corpus.tsv", [f"{name}\t{text}" for name, text in corpus.items()])
    rows = [f"{q} Q0 {p} {label}" for q, of in qrels.items() for p, label in of.items()]
    _write(folder / "qrels.txt", rows)
    return folder


def write_beir(
    folder: Path,
    queries: Mapping[str, str] = QUERIES,
    corpus: Mapping[str, str] = CORPUS,
    qrels: Mapping[str, Mapping[str, int]] = QRELS,
) -> Path:
    """Write queries.jsonl, corpus.jsonl and qrels/test.tsv."""
    query_rows = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    passage_rows = [
        json.dumps({"_id": name, "title": "", "text": text}) for name, text in corpus.items()
    ]
    qrels_rows = [f"{q}\t{p}\t{label}" for q, of in qrels.items() for p, label in of.items()]
    _write(folder / "queries.jsonl", query_rows)
    _write(folder / "corpus.jsonl", passage_rows)
    (folder / "qrels").mkdir(exist_ok=True)
    _write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *qrels_rows])
    return folder


def query(qrels: Mapping[str, int], name: str = "q") -> Query:
    """Return a query whose candidates are its labelled passages, in their order."""
    return Query(name, "What?", {passage: f"Text of {passage}." for passage in qrels}, dict(qrels))


def _write(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
