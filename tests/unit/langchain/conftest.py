"""What the tests of the compressor share: both of its forms, and documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tracers.schemas import Run

from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.testing import ScriptedEngine, length_script

Compress = Callable[[Rank1Compressor, list[Document]], Awaitable[list[Document]]]

QUERY = "which is the longest?"
SHORT, MIDDLE, LONG = "b" * 8, "c" * 10, "a" * 14


class FixedRetriever(BaseRetriever):
    """Finds the same documents for every query."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.documents


@pytest.fixture(params=["compress_documents", "acompress_documents"])
def compress(request: pytest.FixtureRequest) -> Compress:
    """Either form, called with one fixed query; the synchronous one inside a running loop."""

    async def compress(compressor: Rank1Compressor, documents: list[Document]) -> list[Document]:
        if request.param == "compress_documents":
            return compressor.compress_documents(documents, QUERY)
        return await compressor.acompress_documents(documents, QUERY)

    return compress


@pytest.fixture
def engine() -> ScriptedEngine:
    """Finds the longer passage better: SHORT has a score of 0.12, MIDDLE 0.5, LONG 0.98."""
    return ScriptedEngine(length_script)


@pytest.fixture
def rank1(engine: ScriptedEngine) -> Rank1:
    return Rank1(engine)


def some_documents(*texts: str) -> list[Document]:
    """A document for each text, named by its place."""
    return [
        Document(page_content=text, id=f"id-{place}", metadata={"source": f"file-{place}"})
        for place, text in enumerate(texts)
    ]


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def descendants(run: Run) -> list[str]:
    """The names of all runs inside a run."""
    return [name for child in run.child_runs for name in (child.name, *descendants(child))]
