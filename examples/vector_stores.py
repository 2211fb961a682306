"""The documentation of Python's file modules in the vector store of each framework."""

from __future__ import annotations

from functools import cache

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from examples.embeddings import MiniLMEmbedding, MiniLMEmbeddings
from examples.standard_library import Passage, passages

MODULES = {"pathlib", "shutil", "tempfile"}


@cache
def langchain_store() -> InMemoryVectorStore:
    """Return a LangChain vector store in memory."""
    store = InMemoryVectorStore(MiniLMEmbeddings())
    store.add_documents(
        [
            Document(page_content=passage.text, metadata={"source": passage.source})
            for passage in _passages()
        ]
    )
    return store


@cache
def llama_index_store() -> VectorStoreIndex:
    """Return a LlamaIndex vector index in memory."""
    nodes = [
        TextNode(
            text=passage.text,
            metadata={"source": passage.source},
            excluded_embed_metadata_keys=["source"],
        )
        for passage in _passages()
    ]
    return VectorStoreIndex(nodes, embed_model=MiniLMEmbedding())


def _passages() -> list[Passage]:
    return [passage for passage in passages() if passage.source.split(".")[0] in MODULES]
