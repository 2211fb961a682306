"""The spans that OpenInference's instrumentation exports of a rerank."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rank1_integrations import EngineError, Rank1
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.testing import ScriptedEngine
from tests.unit.langchain.conftest import (
    LONG,
    MIDDLE,
    QUERY,
    SHORT,
    FixedRetriever,
    some_documents,
)

FORMS = pytest.mark.parametrize("form", ["invoke", "ainvoke"])
FOUND = some_documents(SHORT, MIDDLE, LONG)


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    LangChainInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    LangChainInstrumentor().uninstrument()


@FORMS
async def test_a_rerank_is_one_reranker_span_inside_the_retrievers(
    form: str, rank1: Rank1, exporter: InMemorySpanExporter
) -> None:
    await retrieve(form, Rank1Compressor(rank1=rank1, openinference=True))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert len(exporter.get_finished_spans()) == 3
    rerank, root = spans["Rank1Compressor"], spans["ContextualCompressionRetriever"]
    assert kind(rerank) == "RERANKER"
    assert rerank.parent is not None
    assert rerank.parent.span_id == root.context.span_id


@FORMS
async def test_the_span_shows_query_documents_and_usage(
    form: str, rank1: Rank1, exporter: InMemorySpanExporter
) -> None:
    compressor = Rank1Compressor(rank1=rank1, openinference=True, score_threshold=0.5, top_n=2)
    kept = await retrieve(form, compressor)
    shown = rerank_attributes(exporter)
    assert shown["reranker.query"] == QUERY
    assert shown["reranker.model_name"] == "scripted"
    assert shown["reranker.top_k"] == 2
    for name, documents in {"input_documents": FOUND, "output_documents": kept}.items():
        for index, document in enumerate(documents):
            prefix = f"reranker.{name}.{index}.document"
            assert shown[f"{prefix}.content"] == document.page_content
            assert shown[f"{prefix}.id"] == document.id
            assert json.loads(shown[f"{prefix}.metadata"]) == document.metadata
    assert shown["reranker.output_documents.1.document.score"] == 0.5
    assert "reranker.output_documents.2.document.content" not in shown
    usage = rank1.usage
    completion = usage.reasoning_tokens + usage.answer_tokens
    assert usage.prompt_tokens > 0
    assert shown["llm.token_count.prompt"] == usage.prompt_tokens
    assert shown["llm.token_count.completion"] == completion
    assert shown["llm.token_count.total"] == usage.prompt_tokens + completion


@FORMS
async def test_the_span_of_a_failed_rerank_shows_its_inputs(
    form: str, rank1: Rank1, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(EngineError):
        await retrieve(
            form, Rank1Compressor(rank1=rank1, openinference=True), [Document(page_content="fail")]
        )
    (span,) = (s for s in exporter.get_finished_spans() if s.name == "Rank1Compressor")
    assert not span.status.is_ok
    shown = rerank_attributes(exporter)
    assert shown["reranker.input_documents.0.document.content"] == "fail"
    assert "reranker.output_documents.0.document.content" not in shown


@FORMS
async def test_unscored_documents_have_no_score(
    form: str, engine: ScriptedEngine, exporter: InMemorySpanExporter
) -> None:
    keeping = Rank1(engine, on_error="keep")
    compressor = Rank1Compressor(rank1=keeping, openinference=True)
    await retrieve(form, compressor, [Document(page_content="fail")])
    shown = rerank_attributes(exporter)
    assert shown["reranker.output_documents.0.document.content"] == "fail"
    assert "reranker.output_documents.0.document.score" not in shown
    assert "reranker.output_documents.0.document.id" not in shown


@FORMS
async def test_by_default_it_is_a_plain_chain(
    form: str, rank1: Rank1, exporter: InMemorySpanExporter
) -> None:
    await retrieve(form, Rank1Compressor(rank1=rank1))
    (span,) = (s for s in exporter.get_finished_spans() if s.name == "Rank1Compressor")
    assert kind(span) == "CHAIN"
    assert not [name for name in span.attributes or {} if name.startswith("reranker")]


@FORMS
async def test_in_an_application_that_is_not_instrumented_nothing_is_printed(
    form: str, rank1: Rank1, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await retrieve(form, Rank1Compressor(rank1=rank1, openinference=True))
    assert capsys.readouterr().out == ""


def test_without_the_library_the_compressor_names_the_extra() -> None:
    code = """
import sys
sys.modules["openinference"] = None
from rank1_integrations.exceptions import MissingExtraError
from rank1_integrations.langchain import Rank1Compressor
settings = {"base_url": "http://localhost:8000/v1"}
Rank1Compressor(**settings)
try:
    Rank1Compressor(**settings, openinference=True)
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == (
        "openinference-instrumentation-langchain is not installed: "
        "pip install 'rank1-integrations[langchain-openinference]'\n"
    ), done.stderr


async def retrieve(
    form: str, compressor: Rank1Compressor, documents: list[Document] = FOUND
) -> list[Document]:
    retriever = ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=FixedRetriever(documents=documents)
    )
    if form == "invoke":
        return retriever.invoke(QUERY)
    return await retriever.ainvoke(QUERY)


def kind(span: ReadableSpan) -> Any:
    return (span.attributes or {})["openinference.span.kind"]


def rerank_attributes(exporter: InMemorySpanExporter) -> dict[str, Any]:
    (span,) = (s for s in exporter.get_finished_spans() if s.name == "Rank1Compressor")
    return dict(span.attributes or {})
