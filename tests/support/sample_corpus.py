"""A few sentences, good and bad answers to one query, and a BM25 retriever of them."""

from __future__ import annotations

from typing import Any

import bm25s
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

QUERY = "How do I sort a list in place?"
BEST = "Call list.sort() to sort a list in place: a list that is sorted in place is not copied."
GOOD = "The sorted() function returns a sorted list and leaves the first list in place."
POOR = "A list can hold numbers, texts and other objects, in the order they were added to it."
WORST = "A socket connects two processes over a network and keeps no list of what it carried."
TEXTS = [WORST, POOR, GOOD, BEST, "Modules are imported once.", "A tuple can't be changed."]


class Bm25Retriever(BaseRetriever):
    """Return the documents with the best BM25 scores."""

    documents: list[Document]
    index: Any
    k: int = 4

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        indices, _ = self.index.retrieve(words([query]), k=self.k, show_progress=False)
        return [self.documents[index] for index in indices[0]]


def sample_retriever() -> Bm25Retriever:
    """Return a retriever of the sentences above, each with an id and a source."""
    index = bm25s.BM25()
    index.index(words(TEXTS), show_progress=False)
    documents = [
        Document(page_content=text, id=f"id-{number}", metadata={"source": f"page-{number}"})
        for number, text in enumerate(TEXTS)
    ]
    return Bm25Retriever(documents=documents, index=index)


def words(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, show_progress=False)
