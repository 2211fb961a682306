"""Throughput of passages judged together, against one after the other."""

from __future__ import annotations

import time

from examples.bm25 import Bm25Index
from examples.standard_library import passages
from rank1_integrations import Rank1

QUERY = "How do I sort a list in place?"
PASSAGES = 48
ROUNDS = 3


def main() -> None:
    """Print passages per second, one at a time and together, and the ratio."""
    texts = [passage.text for passage, _ in Bm25Index(passages()).search(QUERY, PASSAGES)]
    with Rank1.demo(max_concurrency=1) as alone, Rank1.demo() as together:
        _seconds(together, texts[:4])  # warm up
        for turn in range(1, ROUNDS + 1):
            one_by_one, batched = _seconds(alone, texts), _seconds(together, texts)
            print(
                f"round {turn}: one at a time {PASSAGES / one_by_one:6.1f} passages/s, "
                f"together {PASSAGES / batched:6.1f} passages/s, ratio {one_by_one / batched:.2f}"
            )


def _seconds(rank1: Rank1, texts: list[str]) -> float:
    started = time.perf_counter()
    rank1.judge(QUERY, texts)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
