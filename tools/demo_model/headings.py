"""A collection to measure policies on: `python -m tools.demo_model.headings --out DIR`.

Its queries are headings of documentation that training never saw. The text below a heading is its
relevant passage, among those that BM25 finds for it. For `python -m rank1_integrations.evaluation`.
"""

import argparse
import random
from collections import Counter
from pathlib import Path

from examples.bm25 import Bm25Index
from examples.standard_library import Passage
from tools.demo_model import text
from tools.demo_model.words import content_words


def collection(
    queries: int, candidates: int, seed: int, exclude: frozenset[str] = frozenset()
) -> dict[str, list[str]]:
    """Return the files of a collection: name to lines.

    Args:
        queries: The most queries.
        candidates: Passages for each query, its relevant one among them.
        seed: Of the random order in which headings are chosen.
        exclude: Headings that are not chosen.
    """
    bodies = text.headed()
    passages = [Passage(f"p{number}", body) for number, body in enumerate(bodies)]
    shuffled = list(zip(passages, bodies.values(), strict=True))
    random.Random(seed).shuffle(shuffled)
    index, uses = Bm25Index(passages), Counter(bodies.values())
    chosen: list[str] = []
    qrels: list[str] = []
    run: list[str] = []
    for relevant, heading in shuffled:
        if len(chosen) == queries:
            break
        # A heading of one word, or one that is used twice, does not identify its passage.
        if heading in exclude or uses[heading] > 1 or len(content_words(heading)) < 2:
            continue
        found = index.search(heading, candidates)
        if relevant not in [passage for passage, _ in found]:
            continue
        query = f"q{len(chosen)}"
        chosen.append(f"{query}\t{heading}")
        qrels.append(f"{query} 0 {relevant.source} 1")
        run += [
            f"{query} Q0 {passage.source} {rank} {score} bm25"
            for rank, (passage, score) in enumerate(found, 1)
        ]
    corpus = [f"{passage.source}\t{passage.text}" for passage in passages]
    return {"queries.tsv": chosen, "corpus.tsv": corpus, "qrels.txt": qrels, "run.txt": run}


def read_headings(folder: Path) -> frozenset[str]:
    """Return the queries of a collection that this module wrote."""
    lines = (folder / "queries.tsv").read_text(encoding="utf-8").splitlines()
    return frozenset(line.partition("\t")[2] for line in lines)


def write(files: dict[str, list[str]], folder: Path) -> None:
    """Write each file's lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Read the command line and write the collection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exclude", type=Path, help="a collection whose queries are left out")
    options = parser.parse_args()
    exclude = read_headings(options.exclude) if options.exclude else frozenset()
    files = collection(options.queries, options.candidates, options.seed, exclude)
    write(files, options.out)


if __name__ == "__main__":
    main()
