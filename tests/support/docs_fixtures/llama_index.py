"""A LlamaIndex user has two indexes, a retriever, an LLM and a question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index_instrumentation import get_dispatcher

from tests.support.llama_index_app import (
    BEST,
    QUERY,
    bm25_retriever,
    searching_llm,
    texts,
)
from tests.unit.llama_index.exporting import attributes, documents, exported


@contextmanager
def reader() -> Iterator[dict[str, Any]]:
    retriever, handlers = bm25_retriever(), [*get_dispatcher().event_handlers]
    # The index holds no more than the page retrieves, so how it embeds does not matter.
    index = VectorStoreIndex(retriever.nodes, embed_model=MockEmbedding(embed_dim=2))
    names: dict[str, Any] = {
        "index": index,
        "archive": VectorStoreIndex([], embed_model=MockEmbedding(embed_dim=2)),
        "retriever": retriever,
        "llm": searching_llm(),
        "question": QUERY,
    }
    try:
        with exported() as spans:
            yield names
    finally:
        get_dispatcher().event_handlers[:] = handlers
    for nodes in (
        names["response"].source_nodes,
        names["reply"].source_nodes,
        names["relevant"],
        names["certain"],
    ):
        assert_filtered(nodes)
    assert len(names["punctual"].source_nodes) == 5
    assert BEST in str(names["response"])
    assert BEST in str(names["answer"])
    assert "relevance_reasoning" not in str(names["response"])
    assert len(names["nodes"]) == len(retriever.retrieve(QUERY))
    assert len(names["archive"].docstore.docs) == len(names["to_store"]) > 0
    for node in names["to_store"]:
        node_to_metadata_dict(node, flat_metadata=True)
    assert set(names["result"].metric_vals_dict) == {"mrr", "hit_rate"}
    assert names["again"].to_json() == names["written"]
    *_, traced = [span for span in spans.rerankers() if "metadata" in attributes(span)]
    judged = json.loads(attributes(traced)["metadata"])["judgments"]
    assert len(judged) == 4 > len(documents(traced, "output"))


def assert_filtered(nodes: list[NodeWithScore]) -> None:
    assert texts(nodes)[0] == BEST
    assert len(nodes) < 4
    assert all(node.metadata["rank1"]["relevant"] for node in nodes)
