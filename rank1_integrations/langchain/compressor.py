"""Documents become passages, and judgments become documents again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableConfig

from rank1_integrations._adapter import Rank1Settings
from rank1_integrations.judgment import Judgment
from rank1_integrations.langchain.documents import DocumentLike, Documents, as_documents
from rank1_integrations.langchain.run import Answer, Question, Rerank
from rank1_integrations.langchain.step import Rank1Step


class Rank1Compressor(Rank1Settings, BaseDocumentCompressor):
    """Keeps the documents that Rank1 finds relevant to the query, best first.

    Every kept document is a copy with the same id. Its metadata gains `relevance_score` (a
    float in [0, 1]; None if it could not be judged and `on_error` is "keep"),
    `relevance_reasoning` and `rank1` (the rest of the judgment), all plain JSON types. Callbacks,
    `astream_events` and LangSmith see one run for each call, with the documents kept and dropped
    and the tokens spent.

    Wherever documents are taken, dicts of documents are taken too, as a checkpoint or a queue
    gives them back (`DocumentLike`).

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

    openinference: bool = False
    """Whether OpenInference shows a rerank as a RERANKER span with `reranker.*` attributes. Leave
    it off where runs go to LangSmith, which knows no run of this type."""

    def model_post_init(self, context: Any, /) -> None:
        """Make the reranker, so that a mistake shows here and not at the first query."""
        super().model_post_init(context)
        if self.openinference:
            # A missing library should show here too.
            from rank1_integrations.langchain import openinference  # noqa: F401

    def compress_documents(
        self, documents: Sequence[DocumentLike], query: str, callbacks: Callbacks | None = None
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
            ConfigurationError: The query is empty or does not fit the model's context, or a
                document is none.
            EngineError: The engine failed, and `on_error` is "raise".
        """
        return self._run(query, documents, {"callbacks": callbacks})["documents"]

    async def acompress_documents(
        self, documents: Sequence[DocumentLike], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents`, awaited; the event loop stays free meanwhile."""
        return (await self._arun(query, documents, {"callbacks": callbacks}))["documents"]

    def rerank(self, documents: Documents, query: str) -> list[dict[str, Any]]:
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
        return _places(self._run(query, documents)["documents"])

    async def arerank(self, documents: Documents, query: str) -> list[dict[str, Any]]:
        """`rerank`, awaited."""
        return _places((await self._arun(query, documents))["documents"])

    def grade(self, query: str, text: DocumentLike | str) -> Judgment:
        """Judge one text or document, as a LangGraph document grader does.

        Args:
            query: What is asked.
            text: A text or a document.

        Returns:
            The judgment. Its `relevant` is the verdict, a bool (None if it could not be judged
            and `on_error` is not "raise"), which `score_threshold` does not change. In the state
            of a graph keep `to_dict()`, which every checkpointer takes.

        Raises:
            ConfigurationError: As for `compress_documents`.
            EngineError: As for `compress_documents`.
        """
        return _only_judgment(self._rerank().invoke(self._verdict(query, text)))

    async def agrade(self, query: str, text: DocumentLike | str) -> Judgment:
        """`grade`, awaited."""
        return _only_judgment(await self._rerank().ainvoke(self._verdict(query, text)))

    def as_runnable(self) -> Rank1Step:
        """This compressor as a step of a chain, from `{"query", "documents"}` to documents.

        It goes into `|`, and takes `with_retry`, `with_fallbacks` and `with_config` like any
        other step:

        ```python
        {"query": RunnablePassthrough(), "documents": retriever} | compressor.as_runnable()
        ```
        """
        return Rank1Step(self._run, self._arun, name=type(self).__name__)

    def _run(
        self, query: str, documents: Documents, config: RunnableConfig | None = None
    ) -> Answer:
        return self._rerank().invoke(self._question(query, documents), config)

    async def _arun(
        self, query: str, documents: Documents, config: RunnableConfig | None = None
    ) -> Answer:
        return await self._rerank().ainvoke(self._question(query, documents), config)

    def _question(self, query: str, documents: Documents) -> Question:
        return {
            "query": query,
            "documents": as_documents(documents),
            "top_n": self.top_n,
            "score_threshold": self.score_threshold,
        }

    def _verdict(self, query: str, text: DocumentLike | str) -> Question:
        """Asks whether a text is relevant, which is no matter of what a list is cut to."""
        return {**self._question(query, [text]), "top_n": None, "score_threshold": 0.5}

    def _rerank(self) -> Rerank:
        name = type(self).__name__
        return Rerank(self._rank1, name=name, openinference=self.openinference)


def _only_judgment(answer: Answer) -> Judgment:
    (document,) = answer["documents"] + answer["dropped"]
    return Judgment.from_metadata(document.metadata)


def _places(documents: list[Document]) -> list[dict[str, Any]]:
    return [
        {
            "index": document.metadata["rank1"]["index"],
            "relevance_score": document.metadata["relevance_score"],
        }
        for document in documents
    ]
