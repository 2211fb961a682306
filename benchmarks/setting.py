"""The demonstration model on vLLM, and passages for it.

It is so small that a step of the engine is as short as on a GPU, so vLLM's own work for each
token weighs about as much as there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from rank1_integrations import Rank1
from rank1_integrations.demo_model import DEMO_MODEL

# Tokens of the prefix cache's blocks, which is reused in whole blocks only: 16 on GPUs. vLLM for
# processors takes 128 by default, and 32 at least.
BLOCK_SIZE = 32
ENGINE_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 2048,
    "enforce_eager": True,
    "block_size": BLOCK_SIZE,
}

T = TypeVar("T")


@contextmanager
def on_own_cores(model: AbstractContextManager[T]) -> Iterator[T]:
    """Start a model on processor cores of its own, as if it ran on another machine.

    Its processes get all cores but one; this thread and those it starts afterwards get that one.
    On shared cores, Linux let a thread that was ready wait for up to 1.4 seconds. With a single
    core, or if cores can't be chosen, all cores are shared.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) < 2:
        with model as started:
            yield started
        return
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores[:-1]))
    os.sched_setaffinity(0, cores[:-1])
    try:
        with model as started:
            os.sched_setaffinity(0, cores[-1:])
            yield started
    finally:
        os.sched_setaffinity(0, cores)
        del os.environ["VLLM_CPU_OMP_THREADS_BIND"]


@contextmanager
def demo_on_vllm() -> Iterator[Rank1]:
    """Load Rank1 on vLLM in this process."""
    # GiB; vLLM for processors would otherwise take half of the memory.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    options: dict[str, Any] = {"engine_args": ENGINE_ARGS, "max_reasoning_tokens": 256}
    with Rank1.from_vllm(str(DEMO_MODEL), **options) as rank1:
        yield rank1


def retrieve(queries: Iterable[str], count: int) -> list[list[str]]:
    """Return the best passages of Python's documentation for each query."""
    # bm25s loads numba. vLLM's processes import the script that started them, and vLLM 0.32 for
    # processors fails to start where numba is loaded: so not before vLLM has started.
    from examples.bm25 import Bm25Index
    from examples.standard_library import passages

    index = Bm25Index(passages())
    return [[passage.text for passage, _ in index.search(query, count)] for query in queries]
