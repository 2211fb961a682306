"""Shared by the tests of the compressor: its sync and async forms, documents, a retriever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tracers.schemas import Run

from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script

Compress = Callable[[Rank1Compressor, list[Document]], Awaitable[list[Document]]]

QUERY = "which is the longest?"
SHORT, MIDDLE, LONG = "b" * 8, "c" * 10, "a" * 14


class FixedRetriever(BaseRetriever):
    """Return the same documents for every query."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.documents


@pytest.fixture(params=["compress_documents", "acompress_documents"])
def compress(request: pytest.FixtureRequest) -> Compress:
    """Return either form, with a fixed query; the sync one is called inside a running loop."""

    async def compress(compressor: Rank1Compressor, documents: list[Document]) -> list[Document]:
        if request.param == "compress_documents":
            return compressor.compress_documents(documents, QUERY)
        return await compressor.acompress_documents(documents, QUERY)

    return compress


@pytest.fixture
def engine() -> ScriptedEngine:
    """Longer passages score higher: SHORT 0.12, MIDDLE 0.5, LONG 0.98."""
    return ScriptedEngine(length_script)


@pytest.fixture
def rank1(engine: ScriptedEngine) -> Rank1:
    return Rank1(engine)


def some_documents(*texts: str) -> list[Document]:
    """Return a document for each text, with its position in id and source."""
    return [
        Document(page_content=text, id=f"id-{index}", metadata={"source": f"file-{index}"})
        for index, text in enumerate(texts)
    ]


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def descendants(run: Run) -> list[str]:
    """Return the names of all runs inside a run."""
    return [name for child in run.child_runs for name in (child.name, *descendants(child))]


def judged_passages(engine: ScriptedEngine) -> list[str]:
    """Return the passages of all requests for reasoning."""
    prompts = [str(request.prompt) for request in engine.requests if request.stop is not None]
    return [prompt.rpartition("\nPassage: ")[2].partition("\n<think>")[0] for prompt in prompts]
