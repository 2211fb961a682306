"""A LangChain user has a retriever, a vector store, a chat model and a question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from openinference.instrumentation.langchain import LangChainInstrumentor

from tests.support.sample_corpus import BEST, POOR, QUERY, WORST, sample_retriever
from tests.support.searching_model import SearchingModel


class FlatStore(InMemoryVectorStore):
    """A vector store with the metadata types of Pinecone: str, int, float and bool."""

    def add_documents(
        self, documents: list[Document], ids: list[str] | None = None, **kwargs: Any
    ) -> list[str]:
        for document in documents:
            for value in document.metadata.values():
                assert isinstance(value, str | int | float | bool)
        return super().add_documents(documents, ids, **kwargs)


@contextmanager
def reader() -> Iterator[dict[str, Any]]:
    names: dict[str, Any] = {
        "retriever": sample_retriever(),
        "vector_store": FlatStore(DeterministicFakeEmbedding(size=4)),
        "chat_model": SearchingModel(),
        "question": QUERY,
    }
    try:
        yield names
    finally:
        LangChainInstrumentor().uninstrument()
    for name in ("relevant", "thorough", "kept"):
        assert_filtered(names[name])
    assert_filtered(names["state"]["documents"])
    assert len(names["vector_store"].store) == len(names["to_store"]) > 0
    # How many documents are judged in time depends on the load of the machine.
    scores = [document.metadata["relevance_score"] for document in names["judged_in_time"]]
    assert all(score is None or score >= 0.5 for score in scores)
    for answer in (
        names["answer"].text,
        names["state"]["answer"],
        names["messages"][-1].text,
    ):
        assert BEST in answer
        assert WORST not in answer


def assert_filtered(documents: list[Document]) -> None:
    texts = [document.page_content for document in documents]
    assert BEST in texts
    assert not {POOR, WORST} & set(texts)
