"""`Rank1Compressor`, a document compressor for retrievers, chains and graders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import RunnableConfig
from pydantic import InstanceOf

from rank1_integrations._adapter import Rank1Settings
from rank1_integrations.judgment import Judgment
from rank1_integrations.langchain.documents import DocumentLike, Documents, as_documents
from rank1_integrations.langchain.run import RerankInputs, RerankOutputs, RerankRunnable
from rank1_integrations.langchain.step import Rank1Step


class Rank1Compressor(Rank1Settings, BaseDocumentCompressor):
    """Keep the documents that Rank1 finds relevant to the query, best first.

    Every kept document is a copy with the same id. Its metadata gain `relevance_score` (a float
    in [0, 1]; None if it was not judged), `relevance_reasoning` and `rank1` (the rest of the
    judgment), all plain JSON types. Callbacks, `astream_events` and LangSmith see one run for
    each call, with the kept documents, the dropped ones, and the query's usage.

    Wherever documents are taken, dicts of documents are taken too, as a checkpoint or a queue
    returns them (`DocumentLike`).

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

    document_prompt: InstanceOf[BasePromptTemplate[str]] | None = None
    """Makes the judged text of a document, with its `page_content` and metadata as variables. A
    value that a document lacks reads "n/a". None to judge `page_content` alone."""

    openinference: bool = False
    """Whether OpenInference shows a rerank as a RERANKER span with `reranker.*` attributes. Leave
    it off if runs go to LangSmith, which has no run of this type."""

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
            documents: In the retriever's order. They are not changed.
            query: The user's question.
            callbacks: Of the run that this one belongs to, as a retriever passes them.

        Returns:
            Copies of the kept documents, best first: those with score >= `score_threshold`, at
            most `top_n`. Unscored documents come last, unless `on_error` is "drop".

        Raises:
            ConfigurationError: The query is empty or does not fit the model's context, or an
                element of `documents` is no document.
            EngineError: The engine failed, and `on_error` is "raise".
        """
        return self._run(query, documents, {"callbacks": callbacks})["documents"]

    async def acompress_documents(
        self, documents: Sequence[DocumentLike], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Async version of `compress_documents`."""
        return (await self._arun(query, documents, {"callbacks": callbacks}))["documents"]

    def rerank(self, documents: Documents, query: str) -> list[dict[str, Any]]:
        """Return positions and scores of the best documents.

        Args:
            documents: Texts or documents.
            query: The user's question.

        Returns:
            `{"index": ..., "relevance_score": ...}` for each kept document, best first. `index` is
            its position in `documents`, from 0.

        Raises:
            ConfigurationError: As for `compress_documents`.
            EngineError: As for `compress_documents`.
        """
        return _positions_and_scores(self._run(query, documents)["documents"])

    async def arerank(self, documents: Documents, query: str) -> list[dict[str, Any]]:
        """Async version of `rerank`."""
        return _positions_and_scores((await self._arun(query, documents))["documents"])

    def grade(self, query: str, text: DocumentLike | str) -> Judgment:
        """Judge one text or document, as a LangGraph document grader does.

        Args:
            query: The user's question.
            text: A text or a document.

        Returns:
            The judgment. `top_n` and `score_threshold` do not change its verdict, `relevant`: a
            bool, or None if the text was not judged. In the state of a graph keep `to_dict()`,
            which every checkpointer takes.

        Raises:
            ConfigurationError: As for `compress_documents`.
            EngineError: As for `compress_documents`.
        """
        return _only_judgment(self._grader()._run(query, [text]))

    async def agrade(self, query: str, text: DocumentLike | str) -> Judgment:
        """Async version of `grade`."""
        return _only_judgment(await self._grader()._arun(query, [text]))

    def as_runnable(self) -> Rank1Step:
        """Return this compressor as a step of a chain, from `{"query", "documents"}` to documents.

        It goes into `|`, and takes `with_retry`, `with_fallbacks` and `with_config` like any
        other step:

        ```python
        {"query": RunnablePassthrough(), "documents": retriever} | compressor.as_runnable()
        ```
        """
        return Rank1Step(self._run, self._arun, name=type(self).__name__)

    def _run(
        self, query: str, documents: Documents, config: RunnableConfig | None = None
    ) -> RerankOutputs:
        return self._runnable().invoke(self._inputs(query, documents), config)

    async def _arun(
        self, query: str, documents: Documents, config: RunnableConfig | None = None
    ) -> RerankOutputs:
        return await self._runnable().ainvoke(self._inputs(query, documents), config)

    def _inputs(self, query: str, documents: Documents) -> RerankInputs:
        return {
            "query": query,
            "documents": as_documents(documents),
            "selection": self._selection(),
        }

    def _runnable(self) -> RerankRunnable:
        return RerankRunnable(
            self._rank1,
            name=type(self).__name__,
            document_prompt=self.document_prompt,
            openinference=self.openinference,
        )

    def _grader(self) -> Self:
        # `relevant` changes at 0.5, so adaptive reasoning decides about that threshold.
        return self.model_copy(update={"top_n": None, "score_threshold": 0.5})


def _only_judgment(outputs: RerankOutputs) -> Judgment:
    (document,) = outputs["documents"] + outputs["dropped"]
    return Judgment.from_metadata(document.metadata)


def _positions_and_scores(documents: list[Document]) -> list[dict[str, Any]]:
    return [
        {
            "index": document.metadata["rank1"]["index"],
            "relevance_score": document.metadata["relevance_score"],
        }
        for document in documents
    ]
