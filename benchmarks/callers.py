"""Throughput of many callers of one object, against one caller with all their passages."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.setting import demo_on_vllm, on_own_cores, retrieve
from rank1_integrations import Rank1

QUERY = "How do I sort a list in place?"
CALLERS = 16
PASSAGES_EACH = 12
ROUNDS = 5


def main() -> None:
    """Print passages per second of one caller and of many, and the ratio."""
    (texts,) = retrieve([QUERY], CALLERS * PASSAGES_EACH)
    parts = [texts[caller::CALLERS] for caller in range(CALLERS)]
    ratios = []
    with on_own_cores(demo_on_vllm()) as rank1, ThreadPoolExecutor(CALLERS) as threads:
        _seconds(rank1, threads, [texts])  # warm up
        for turn in range(1, ROUNDS + 1):
            # Each is first in turn, so that a machine that slows down is fair to both.
            if turn % 2:
                alone, together = (_seconds(rank1, threads, work) for work in ([texts], parts))
            else:
                together, alone = (_seconds(rank1, threads, work) for work in (parts, [texts]))
            ratios.append(alone / together)
            print(
                f"round {turn}: one caller {len(texts) / alone:6.1f} passages/s, "
                f"{CALLERS} callers {len(texts) / together:6.1f} passages/s, "
                f"ratio {ratios[-1]:.2f}"
            )
    print(f"median ratio of {CALLERS} callers to one: {statistics.median(ratios):.2f}")


def _seconds(rank1: Rank1, threads: ThreadPoolExecutor, work: list[list[str]]) -> float:
    started = time.perf_counter()
    for _ in threads.map(lambda texts: rank1.judge(QUERY, texts), work):
        pass
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
