"""Documents become passages, and judgments become documents again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableLambda

from rank1_integrations.judgment import Judgment
from rank1_integrations.settings import Rank1Settings


class Rank1Compressor(Rank1Settings, BaseDocumentCompressor):
    """Keeps the documents that Rank1 finds relevant to the query, best first.

    Every kept document is a copy with the same id. Its metadata gains `relevance_score` (a
    float in [0, 1]; None if it could not be judged and `on_error` is "keep"),
    `relevance_reasoning` and `rank1` (the rest of the judgment), all plain JSON types. Callbacks,
    `astream_events` and LangSmith see one run for each call, with the documents kept and dropped.

    Example:
        ```python
        from langchain_classic.retrievers import ContextualCompressionRetriever
        from rank1_integrations.langchain import Rank1Compressor

        compressor = Rank1Compressor(base_url="http://localhost:8000/v1", score_threshold=0.5)
        retriever = ContextualCompressionRetriever(
            base_compressor=compressor, base_retriever=vector_store.as_retriever()
        )
        documents = retriever.invoke("Do honeybees see red?")
        ```
    """

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Judge every document and return the best.

        Args:
            documents: As the retriever had them; they are left as they are.
            query: What is asked.
            callbacks: Of the run that this one belongs to, as a retriever passes them.

        Returns:
            Copies of the kept documents, best first: those with score >= `score_threshold`, at
            most `top_n`. What could not be judged comes last, or is left out if `on_error` is
            "drop".

        Raises:
            ConfigurationError: The query is empty or does not fit the model's context.
            EngineError: The engine failed, and `on_error` is "raise".
        """
        if not documents:
            return []
        question = self._question(documents, query)
        return self._runnable().invoke(question, {"callbacks": callbacks})["documents"]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents`, awaited; the event loop stays free meanwhile."""
        if not documents:
            return []
        question = self._question(documents, query)
        return (await self._runnable().ainvoke(question, {"callbacks": callbacks}))["documents"]

    def rerank(self, documents: Sequence[str | Document], query: str) -> list[dict[str, Any]]:
        """Places and scores of the best documents, for callers that want nothing else.

        Args:
            documents: Texts or documents.
            query: What is asked.

        Returns:
            `{"index": ..., "relevance_score": ...}` for each one kept, best first; `index` is
            its place in `documents`, from 0.

        Raises:
            ConfigurationError: As for `compress_documents`.
            EngineError: As for `compress_documents`.
        """
        return _places(self.compress_documents(_as_documents(documents), query))

    async def arerank(
        self, documents: Sequence[str | Document], query: str
    ) -> list[dict[str, Any]]:
        """`rerank`, awaited."""
        return _places(await self.acompress_documents(_as_documents(documents), query))

    def _question(self, documents: Sequence[Document], query: str) -> _Question:
        return {
            "query": query,
            "documents": list(documents),
            "top_n": self.top_n,
            "score_threshold": self.score_threshold,
        }

    def _runnable(self) -> RunnableLambda[_Question, _Answer]:
        """The work in a form that LangChain shows to callbacks; a compressor alone is invisible."""
        return RunnableLambda(self._judge, self._ajudge, name=type(self).__name__)

    def _judge(self, question: _Question) -> _Answer:
        judgments = self._rank1.judge(question["query"], _texts(question), **_cut(question))
        return self._answer(question, judgments)

    async def _ajudge(self, question: _Question) -> _Answer:
        judgments = await self._rank1.ajudge(question["query"], _texts(question), **_cut(question))
        return self._answer(question, judgments)

    def _answer(self, question: _Question, judgments: list[Judgment]) -> _Answer:
        kept = self._rank1.cut(judgments, **_cut(question))
        places = {judgment.index for judgment in kept}
        dropped = [judgment for judgment in judgments if judgment.index not in places]
        documents = question["documents"]
        return {
            "documents": [_judged(documents[judgment.index], judgment) for judgment in kept],
            "dropped": [_judged(documents[judgment.index], judgment) for judgment in dropped],
        }


class _Cut(TypedDict):
    top_n: int | None
    score_threshold: float | None


class _Question(_Cut):
    """What a run shows as its inputs."""

    query: str
    documents: list[Document]


class _Answer(TypedDict):
    """What a run shows as its outputs: all documents, with their judgments."""

    documents: list[Document]
    dropped: list[Document]


def _texts(question: _Question) -> list[str]:
    return [document.page_content for document in question["documents"]]


def _cut(question: _Question) -> _Cut:
    return {"top_n": question["top_n"], "score_threshold": question["score_threshold"]}


def _judged(document: Document, judgment: Judgment) -> Document:
    metadata = {
        **document.metadata,
        "relevance_score": judgment.score,
        **judgment.to_metadata(),
    }
    return document.model_copy(update={"metadata": metadata})


def _as_documents(documents: Sequence[str | Document]) -> list[Document]:
    return [
        Document(page_content=document) if isinstance(document, str) else document
        for document in documents
    ]


def _places(documents: list[Document]) -> list[dict[str, Any]]:
    return [
        {
            "index": document.metadata["rank1"]["index"],
            "relevance_score": document.metadata["relevance_score"],
        }
        for document in documents
    ]
