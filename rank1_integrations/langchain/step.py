"""A compressor as a step of a chain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.langchain.documents import Documents
from rank1_integrations.langchain.run import Answer

Run = Callable[[str, Documents, RunnableConfig | None], Answer]
ARun = Callable[[str, Documents, RunnableConfig | None], Awaitable[Answer]]


class Rank1Step(Runnable[Mapping[str, Any], list[Document]]):
    """From `{"query": ..., "documents": [...]}` to the documents that are kept, best first.

    `Rank1Compressor.as_runnable` makes one. It is no run of its own beside the rerank's: that one
    takes the name, tags and metadata that a config gives to this step.
    """

    def __init__(self, run: Run, arun: ARun, *, name: str) -> None:
        self.name = name
        self._run = run
        self._arun = arun

    def invoke(
        self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Judge the documents.

        Raises:
            ConfigurationError: `input` lacks a key, or as for `compress_documents`.
            EngineError: As for `compress_documents`.
        """
        return self._run(*_read(input), config)["documents"]

    async def ainvoke(
        self, input: Mapping[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """`invoke`, awaited."""
        return (await self._arun(*_read(input), config))["documents"]


def _read(given: Mapping[str, Any]) -> tuple[str, Documents]:
    if not isinstance(given, Mapping) or not {"query", "documents"} <= set(given):
        found = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ConfigurationError(
            "this step takes a dict with 'query' and 'documents', as "
            "{'query': RunnablePassthrough(), 'documents': retriever} | compressor.as_runnable() "
            f"gives it; it got {found}"
        )
    return given["query"], given["documents"]
