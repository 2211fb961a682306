"""The demonstration model on vLLM, and passages for it.

It is so small that a step of the engine is as short as on a GPU, so what vLLM does in Python for
every token weighs about as much as it does there.
"""

from __future__ import annotations

import os
from typing import Any

from rank1_integrations import Rank1
from rank1_integrations.demo import DEMO_MODEL

ENGINE_ARGS: dict[str, Any] = {"dtype": "float32", "max_model_len": 2048, "enforce_eager": True}


def demo_on_vllm() -> Rank1:
    """Rank1 on vLLM in this process."""
    # GiB; vLLM for processors would otherwise take half of the memory.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    return Rank1.from_vllm(str(DEMO_MODEL), engine_args=ENGINE_ARGS, max_reasoning_tokens=256)


def found_passages(query: str, count: int) -> list[str]:
    """The best passages for a query, from the documentation of Python's standard library."""
    # bm25s loads numba. vLLM's processes import the script that started them, and vLLM 0.32 for
    # processors fails to start where numba is loaded: so not before vLLM has started.
    from examples.bm25 import Bm25Index
    from examples.standard_library import passages

    return [passage.text for passage, _ in Bm25Index(passages()).search(query, count)]
