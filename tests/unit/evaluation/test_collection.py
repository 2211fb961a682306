"""Collections are read as written, and mistakes are reported with file and line."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank1_integrations import ConfigurationError
from rank1_integrations.evaluation.collection import read_collection
from tests.unit.evaluation.collections import CORPUS, QRELS, QUERIES, write_beir, write_trec

ids = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8).filter(
    lambda name: name != "query-id" and not name.startswith("\ufeff")
)
texts = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])).filter(
    lambda text: text == text.strip() != ""
)


@pytest.mark.parametrize("write", [write_trec, write_beir])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_written_collection_is_read_back(write: Any, data: st.DataObject) -> None:
    corpus = data.draw(st.dictionaries(ids, texts, min_size=2, max_size=5))
    queries = data.draw(st.dictionaries(ids, texts, min_size=1, max_size=4))
    # One relevant and one other passage for each query, in any order; then any labels.
    qrels = {
        name: dict(zip(data.draw(st.permutations(list(corpus))), [3, 0, -1, 1, 2], strict=False))
        for name in queries
    }
    with TemporaryDirectory() as folder:
        collection = read_collection(write(Path(folder), queries, corpus, qrels))
    assert {query.id: query.text for query in collection.queries} == queries
    assert {query.id: query.qrels for query in collection.queries} == qrels
    for query in collection.queries:
        assert list(query.passages.items()) == [(p, corpus[p]) for p in qrels[query.id]]
    assert collection.excluded == 0


def test_without_a_run_candidates_are_the_labelled_passages_in_file_order(tmp_path: Path) -> None:
    first, second = read_collection(write_trec(tmp_path)).queries
    assert list(first.passages) == ["b", "a"]
    assert list(second.passages) == ["c", "d", "a"]


def test_candidates_of_a_run_are_ordered_by_score_not_by_rank(tmp_path: Path) -> None:
    write_trec(tmp_path)
    (tmp_path / "run.txt").write_text(
        "q2 Q0 a 1 0.5 bm25\nq2 Q0 c 2 7 bm25\nq2 Q0 b 3 0.5 bm25\nq1 Q0 b 1 2 bm25\n"
    )
    first, second = read_collection(tmp_path).queries
    assert list(first.passages) == ["b"]
    assert list(second.passages) == ["c", "a", "b"]
    assert second.qrels == QRELS["q2"]
    assert list(read_collection(tmp_path, candidates=2).queries[1].passages) == ["c", "a"]


def test_other_files_for_qrels_and_run_can_be_given(tmp_path: Path) -> None:
    write_trec(tmp_path)
    (tmp_path / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\tc\t1\n")
    (tmp_path / "dense.txt").write_text("q2 Q0 d 1 2.5 dense\nq2 Q0 c 2 1.5 dense\n")
    (only,) = read_collection(
        tmp_path, qrels=tmp_path / "dev.tsv", run=tmp_path / "dense.txt"
    ).queries
    assert (only.id, list(only.passages), only.qrels) == ("q2", ["d", "c"], {"c": 1})


def test_a_title_is_put_before_its_text(tmp_path: Path) -> None:
    write_beir(tmp_path, corpus={})
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "title": "Red", "text": "Blood."}\n{"_id": "b", "text": "Grass."}\n'
        '{"_id": "c", "title": "", "text": "Sky.", "metadata": {}}\n{"_id": "d", "text": "Snow."}\n'
    )
    first, second = read_collection(tmp_path).queries
    assert first.passages == {"b": "Grass.", "a": "Red Blood."}
    assert second.passages["c"] == "Sky."


def test_queries_without_a_relevant_passage_or_a_candidate_are_excluded_and_counted(
    tmp_path: Path,
) -> None:
    qrels = {**QRELS, "q3": {"a": 0}, "q4": {"a": 1}}
    write_trec(tmp_path, {**QUERIES, "q3": "What?", "q4": "Which?"}, CORPUS, qrels)
    (tmp_path / "run.txt").write_text("q1 Q0 b 1 2 x\nq1 Q0 a 2 1 x\nq3 Q0 a 1 1 x\n")
    collection = read_collection(tmp_path)
    assert [query.id for query in collection.queries] == ["q1"]
    assert collection.excluded == 3


def test_the_lowest_relevant_label_can_be_raised(tmp_path: Path) -> None:
    collection = read_collection(write_trec(tmp_path), min_relevance=2)
    assert [query.id for query in collection.queries] == ["q1"]


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    write_trec(tmp_path)
    (tmp_path / "queries.tsv").write_bytes(
        b"\xef\xbb\xbfq1\tWhat is red?\r\n\r\nq2\tWhat is blue?\r\n"
    )
    assert [query.text for query in read_collection(tmp_path).queries] == list(QUERIES.values())


def test_the_digest_changes_with_texts_and_labels_only(tmp_path: Path) -> None:
    before = read_collection(write_trec(tmp_path)).digest
    assert read_collection(write_trec(tmp_path)).digest == before
    write_trec(tmp_path, corpus={**CORPUS, "unused": "No query has this candidate."})
    assert read_collection(tmp_path).digest == before
    write_trec(tmp_path, corpus={**CORPUS, "a": "Blood is dark red."})
    assert read_collection(tmp_path).digest != before
    write_trec(tmp_path, qrels={**QRELS, "q1": {"b": 0, "a": 1}})
    assert read_collection(tmp_path).digest != before
    write_trec(tmp_path, qrels={**QRELS, "q1": {"a": 2, "b": 0}})
    assert read_collection(tmp_path).digest != before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("queries.tsv", None, "has no queries.tsv or queries.jsonl"),
        ("corpus.tsv", None, "has no corpus.tsv or corpus.jsonl"),
        ("qrels.txt", None, "has no qrels.txt or qrels.tsv or qrels/test.tsv"),
        ("queries.tsv", "q1 What?\n", r"queries.tsv, line 1: expected: id, tab, text"),
        ("queries.tsv", "q1\tWhat?\n", r"queries.tsv lacks 1 of the needed ids: q2"),
        ("queries.tsv", "q1\tWhat?\nq2\t \n", r"queries.tsv, line 2: query q2 has no text"),
        ("corpus.tsv", "a\tRed.\nb\tGreen.\n", r"corpus.tsv lacks 2 of the needed ids: c, d"),
        ("corpus.tsv", "a\tRed.\n\na\tRed.\n", r"corpus.tsv, line 3: passage a is repeated"),
        ("corpus.tsv", b"a\t\xff\n", "corpus.tsv is not UTF-8 text"),
        ("qrels.txt", "q1 Q0 a 1\nq1 a\n", r"qrels.txt, line 2: expected: query Q0 passage label"),
        ("qrels.txt", "q1 Q0 a yes\n", r"qrels.txt, line 1: .*'yes'"),
        ("qrels.txt", "q1 Q0 a 1\nq1 Q0 a 0\n", r"line 2: passage a of query q1 is repeated"),
        ("qrels.txt", "q1 Q0 a 0\n", "no passage of the qrels has label 1 or above"),
        ("qrels.txt", "", "no passage of the qrels has label 1 or above"),
        ("qrels.txt", "q1 Q0 a 1\nq2 Q0 c 1\n", "all policies are equally good: put a retriever's"),
        ("run.txt", "q1 Q0 a 1 0.5\n", r"run.txt, line 1: expected: query Q0 passage rank score"),
        ("run.txt", "q1 Q0 a 1 high x\n", r"run.txt, line 1: .*'high'"),
        ("run.txt", "q1 Q0 a 1 nan x\n", r"run.txt, line 1: expected"),
        ("run.txt", "q1 Q0 a 1 2 x\nq1 Q0 a 2 1 x\n", r"line 2: passage a of query q1 is rep"),
        ("run.txt", "q1 Q0 z 1 2 x\nq1 Q0 a 2 1 x\n", r"corpus.tsv lacks 1 of the needed ids: z"),
        ("run.txt", "q9 Q0 a 1 2 x\n", r"no query of .*run.txt has a relevant passage"),
        (
            "run.txt",
            "q1 Q0 b 1 2 x\n",
            "run.txt has no relevant candidate: check that qrels and run use the same ids",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_file_and_line(
    tmp_path: Path, file: str, content: str | bytes | None, message: str
) -> None:
    write_trec(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    elif isinstance(content, bytes):
        (tmp_path / file).write_bytes(content)
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        read_collection(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"_id": "a"}', '{"_id": 7, "text": "x"}', "null"])
def test_a_malformed_object_is_reported_with_its_line(tmp_path: Path, line: str) -> None:
    write_beir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text(f'{{"_id": "a", "text": "Blood."}}\n{line}\n')
    with pytest.raises(ConfigurationError, match=r"corpus.jsonl, line 2: "):
        read_collection(tmp_path)


def test_a_missing_folder_or_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no folder .*nowhere"):
        read_collection(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"there is no file .*other.txt"):
        read_collection(write_trec(tmp_path), run=tmp_path / "other.txt")
