"""One rerank as one run, which callbacks, `astream_events` and tracers see."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, TypedDict

from langchain_core.documents import Document
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig

from rank1_integrations._adapter import SelectionArguments
from rank1_integrations.langchain.documents import format_document, with_judgment
from rank1_integrations.reranker import Rank1
from rank1_integrations.scoring.usage import Usage
from rank1_integrations.selection import RankResult


class RerankInputs(TypedDict):
    """The inputs that a run shows."""

    query: str
    documents: list[Document]
    selection: SelectionArguments


class RerankOutputs(TypedDict):
    """The outputs that a run shows: all documents with their judgments, and the query's `Usage`."""

    documents: list[Document]
    dropped: list[Document]
    usage: dict[str, int]


class RerankRunnable(Runnable[RerankInputs, RerankOutputs]):
    """Judge documents in a run: a compressor by itself has none.

    Args:
        rank1: The reranker.
        name: The run's name.
        document_prompt: Makes the judged text of a document; None for its `page_content`.
        openinference: Whether OpenInference shows the run as a reranker's.
    """

    def __init__(
        self,
        rank1: Rank1,
        *,
        name: str,
        document_prompt: BasePromptTemplate[str] | None,
        openinference: bool,
    ) -> None:
        self.name = name
        self._rank1 = rank1
        self._document_prompt = document_prompt
        self._openinference = openinference
        self._run_type = "reranker" if openinference else "chain"

    def invoke(
        self, input: RerankInputs, config: RunnableConfig | None = None, **kwargs: Any
    ) -> RerankOutputs:
        """Judge the documents. Without documents there is no run."""
        if not input["documents"]:
            return {"documents": [], "dropped": [], "usage": asdict(Usage())}
        return self._call_with_config(self._rank, input, config, run_type=self._run_type)

    async def ainvoke(
        self, input: RerankInputs, config: RunnableConfig | None = None, **kwargs: Any
    ) -> RerankOutputs:
        """Async version of `invoke`."""
        if not input["documents"]:
            return {"documents": [], "dropped": [], "usage": asdict(Usage())}
        return await self._acall_with_config(self._arank, input, config, run_type=self._run_type)

    def _rank(self, inputs: RerankInputs) -> RerankOutputs:
        passages = self._passages(inputs)
        result = self._rank1.rank(inputs["query"], passages, **inputs["selection"])
        return self._outputs(inputs, result)

    async def _arank(self, inputs: RerankInputs) -> RerankOutputs:
        passages = self._passages(inputs)
        result = await self._rank1.arank(inputs["query"], passages, **inputs["selection"])
        return self._outputs(inputs, result)

    def _passages(self, inputs: RerankInputs) -> list[str]:
        documents = inputs["documents"]
        if self._openinference:
            from rank1_integrations.langchain.openinference import show_inputs

            top_k = inputs["selection"]["top_n"] or len(documents)
            show_inputs(inputs["query"], documents, top_k=top_k)
        return [format_document(document, self._document_prompt) for document in documents]

    def _outputs(self, inputs: RerankInputs, result: RankResult) -> RerankOutputs:
        documents = inputs["documents"]
        kept = [with_judgment(documents[judgment.index], judgment) for judgment in result.kept]
        dropped = [
            with_judgment(documents[judgment.index], judgment) for judgment in result.dropped
        ]
        if self._openinference:
            from rank1_integrations.langchain.openinference import show_outputs

            show_outputs(kept, result.usage, model=self._rank1.model)
        return {"documents": kept, "dropped": dropped, "usage": asdict(result.usage)}
