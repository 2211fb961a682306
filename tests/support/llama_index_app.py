"""A small application in LlamaIndex: six passages, a BM25 retriever, a query engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bm25s
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

QUERY = "How do honeybees tell each other where food is?"
BEST = "Honeybees tell each other where food is by a dance: the dance tells how far the food is."
OTHERS = [
    "Ants tell each other where food is by a trail of scent.",
    "Honeybees live in hives that they build of wax.",
    "Food is sold on the market of the town.",
    "Wax melts in warm water.",
    "The Nile is a river of Africa.",
]
TEXTS = [*OTHERS, BEST]


class Bm25Retriever(BaseRetriever):
    """Return the four nodes with the best BM25 scores."""

    def __init__(self, nodes: list[TextNode]) -> None:
        super().__init__()
        self.nodes, self._index = nodes, bm25s.BM25()
        self._index.index(words([node.text for node in nodes]), show_progress=False)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        indices, scores = self._index.retrieve(
            words([query_bundle.query_str]), k=4, show_progress=False
        )
        # numpy's floats, as some retrievers return them.
        return [
            NodeWithScore.model_construct(node=self.nodes[index], score=score)
            for index, score in zip(indices[0], scores[0], strict=True)
        ]


def words(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, show_progress=False)


def engine(
    retriever: BaseRetriever, *postprocessors: BaseNodePostprocessor
) -> RetrieverQueryEngine:
    """Return an engine that answers with the nodes alone and calls no language model."""
    return RetrieverQueryEngine(
        retriever,
        response_synthesizer=NoText(llm=MockLLM()),
        node_postprocessors=list(postprocessors),
    )


async def ask(form: str, query_engine: RetrieverQueryEngine) -> list[NodeWithScore]:
    response = query_engine.query(QUERY) if form == "sync" else await query_engine.aquery(QUERY)
    return response.source_nodes


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.get_content(MetadataMode.NONE) for node in nodes]


def scores(nodes: list[NodeWithScore]) -> list[float]:
    return [node.get_score(raise_error=True) for node in nodes]


def bm25_retriever() -> Bm25Retriever:
    """Return a retriever of TEXTS, with the position in each node's id."""
    return Bm25Retriever([TextNode(text=text, id_=f"id-{i}") for i, text in enumerate(TEXTS)])


def searching_llm() -> MockFunctionCallingLLM:
    """Return an LLM that calls every tool with the user's message, then answers with the result."""

    def answer(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        last, tools = messages[-1], kwargs.get("tools") or []
        if last.role == MessageRole.TOOL or not tools:
            return ChatMessage(role="assistant", content=f"I have read: {last.content}")
        calls = [
            ToolCallBlock(tool_name=tool.metadata.name, tool_kwargs={"input": last.content})
            for tool in tools
        ]
        return ChatMessage(role="assistant", blocks=calls)

    return MockFunctionCallingLLM(response_generator=answer)
