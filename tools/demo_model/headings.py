"""A collection to measure policies on: `python -m tools.demo_model.headings --out DIR`.

Its queries are headings of documentation that training never saw; to each, the text below it is the
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


def collection(queries: int, candidates: int, seed: int) -> dict[str, list[str]]:
    """The files of a collection, by their names, as lines.

    Args:
        queries: How many there are at most.
        candidates: How many passages each has, its relevant one among them.
        seed: Of the choice among all headings.
    """
    bodies = text.headed()
    passages = [Passage(f"p{number}", body) for number, body in enumerate(bodies)]
    asked = list(zip(passages, bodies.values(), strict=True))
    random.Random(seed).shuffle(asked)
    index, uses = Bm25Index(passages), Counter(bodies.values())
    chosen: list[str] = []
    qrels: list[str] = []
    run: list[str] = []
    for relevant, heading in asked:
        if len(chosen) == queries:
            break
        found = index.search(heading, candidates)
        tells = uses[heading] == 1 and len(content_words(heading)) > 1
        if not tells or relevant not in [passage for passage, _ in found]:
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
    options = parser.parse_args()
    write(collection(options.queries, options.candidates, options.seed), options.out)


if __name__ == "__main__":
    main()
