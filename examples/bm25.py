"""A BM25 retriever (the bm25s library) for each framework."""

from __future__ import annotations

from typing import Any

import bm25s
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever as LangChainRetriever
from llama_index.core.retrievers import BaseRetriever as LlamaIndexRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from examples.standard_library import Passage


class Bm25Index:
    """An index of passages by their words."""

    def __init__(self, passages: list[Passage]) -> None:
        self._passages = passages
        self._index = bm25s.BM25()
        self._index.index(_words([passage.text for passage in passages]), show_progress=False)

    def search(self, query: str, k: int) -> list[tuple[Passage, float]]:
        """Return the `k` best passages with their BM25 scores, best first."""
        indices, scores = self._index.retrieve(_words([query]), k=k, show_progress=False)
        return [
            (self._passages[index], float(score))
            for index, score in zip(indices[0], scores[0], strict=True)
        ]


class Bm25Documents(LangChainRetriever):
    """The index as a LangChain retriever."""

    index: Any
    k: int = 8

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [
            Document(page_content=passage.text, metadata={"source": passage.source})
            for passage, _ in self.index.search(query, self.k)
        ]


class Bm25Nodes(LlamaIndexRetriever):
    """The index as a LlamaIndex retriever."""

    def __init__(self, index: Bm25Index, k: int = 8) -> None:
        super().__init__()
        self._index, self._k = index, k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=_node(passage), score=score)
            for passage, score in self._index.search(query_bundle.query_str, self._k)
        ]


def _node(passage: Passage) -> TextNode:
    """Return a node whose judged text is the passage alone, without its source."""
    return TextNode(
        text=passage.text,
        metadata={"source": passage.source},
        excluded_embed_metadata_keys=["source"],
    )


def _words(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, stopwords="en", show_progress=False)
