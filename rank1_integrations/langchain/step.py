"""A compressor as a step of a chain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.langchain.documents import Documents
from rank1_integrations.langchain.run import RerankOutputs

Run = Callable[[str, Documents, RunnableConfig | None], RerankOutputs]
ARun = Callable[[str, Documents, RunnableConfig | None], Awaitable[RerankOutputs]]


class Rank1Step(Runnable[Mapping[str, Any], list[Document]]):
    """From `{"query": ..., "documents": [...]}` to the kept documents, best first.

    `Rank1Compressor.as_runnable` makes one. The rerank's run takes the name, tags and metadata
    that a config gives to this step, which adds no run of its own.
    """

    def __init__(self, run: Run, arun: ARun, *, name: str) -> None:
        self.name = name
        self._run = run
        self._arun = arun

    def invoke(
        self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Judge the documents and return the best.

        Raises:
            ConfigurationError: `input` lacks a key, or as for `compress_documents`.
            EngineError: As for `compress_documents`.
        """
        return self._run(*_query_and_documents(input), config)["documents"]

    async def ainvoke(
        self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Async version of `invoke`."""
        return (await self._arun(*_query_and_documents(input), config))["documents"]


def _query_and_documents(inputs: Mapping[str, Any]) -> tuple[str, Documents]:
    if not isinstance(inputs, Mapping) or not {"query", "documents"} <= set(inputs):
        is_mapping = isinstance(inputs, Mapping)
        description = sorted(map(str, inputs)) if is_mapping else type(inputs).__name__
        raise ConfigurationError(
            "this step takes a dict with 'query' and 'documents', as "
            "{'query': RunnablePassthrough(), 'documents': retriever} | compressor.as_runnable() "
            f"gives it; it got {description}"
        )
    return inputs["query"], inputs["documents"]
