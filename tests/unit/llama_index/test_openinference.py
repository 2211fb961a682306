"""The RERANKER span that OpenInference makes of a rerank."""

from __future__ import annotations

import asyncio
import json
import math

import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from rank1_integrations import EngineError, Judgment, Rank1
from rank1_integrations.llama_index import Rank1Postprocessor
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script
from tests.unit.llama_index.conftest import LONG, MIDDLE, QUERY, SHORT, Rerank, some_nodes
from tests.unit.llama_index.exporting import attributes, documents, exported


async def test_the_span_shows_query_top_k_model_and_documents(rerank: Rerank, rank1: Rank1) -> None:
    with exported() as spans:
        await rerank(Rank1Postprocessor(rank1=rank1, top_n=2), some_nodes(SHORT, LONG, MIDDLE))
    (span,) = spans.get_finished_spans()
    shown = attributes(span)
    assert span.status.status_code is StatusCode.OK
    assert shown["openinference.span.kind"] == "RERANKER"
    assert shown["reranker.query"] == QUERY
    assert shown["reranker.top_k"] == 2
    assert shown["reranker.model_name"] == "scripted"
    assert documents(span, "input") == [
        {"id": "id-0", "content": SHORT, "score": 1.0},
        {"id": "id-1", "content": LONG, "score": 0.99},
        {"id": "id-2", "content": MIDDLE, "score": 0.98},
    ]
    output = documents(span, "output")
    assert [document["content"] for document in output] == [LONG, MIDDLE]
    assert [document["score"] for document in output] == pytest.approx([0.982, 0.5], abs=0.001)


async def test_the_output_documents_show_reasoning_and_tokens(rerank: Rerank, rank1: Rank1) -> None:
    with exported() as spans:
        (kept,) = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG))
    (document,) = documents(spans.rerankers()[0], "output")
    assert document["metadata"] == kept.metadata
    assert document["metadata"]["relevance_reasoning"] == f"I have read: {LONG}."
    assert document["metadata"]["rank1"]["reasoning_tokens"] > 0
    assert document["metadata"]["rank1"]["prompt_tokens"] > 0


async def test_on_judgments_is_called_inside_the_span_and_can_add_the_dropped(
    rerank: Rerank, engine: ScriptedEngine
) -> None:
    def add_to_span(query: str, passages: list[str], judgments: list[Judgment]) -> None:
        scores = {passages[judgment.index]: judgment.score for judgment in judgments}
        trace.get_current_span().set_attribute("metadata", json.dumps(scores))

    rank1 = Rank1(engine, on_judgments=add_to_span)
    with exported() as spans:
        await rerank(Rank1Postprocessor(rank1=rank1, top_n=1), some_nodes(SHORT, LONG))
    (span,) = spans.rerankers()
    assert json.loads(attributes(span)["metadata"]).keys() == {SHORT, LONG}
    assert len(documents(span, "output")) == 1


async def test_an_empty_rerank_is_a_reranker_span_too(rerank: Rerank, rank1: Rank1) -> None:
    with exported() as spans:
        await rerank(Rank1Postprocessor(rank1=rank1, top_n=3), [])
    (span,) = spans.rerankers()
    assert attributes(span)["reranker.query"] == QUERY
    assert documents(span, "input") == documents(span, "output") == []


@pytest.mark.parametrize("score", [np.float32(0.25), math.nan, None])
async def test_any_score_of_a_retriever_can_be_exported(
    score: float | None,
    rerank: Rerank,
    rank1: Rank1,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = NodeWithScore.model_construct(node=TextNode(text=LONG), score=score)
    with exported() as spans:
        await rerank(Rank1Postprocessor(rank1=rank1), [node])
    (document,) = documents(spans.rerankers()[0], "input")
    # OpenInference shows a missing score as 0.
    assert document["score"] == (0.25 if score == 0.25 else 0.0)
    assert caplog.records == []


async def test_an_error_ends_the_span_as_an_error(rerank: Rerank, rank1: Rank1) -> None:
    with exported() as spans, pytest.raises(EngineError):
        await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG, "fail"))
    (span,) = spans.rerankers()
    assert span.status.status_code is StatusCode.ERROR
    assert "the script says so" in (span.status.description or "")
    assert len(documents(span, "input")) == 2
    assert documents(span, "output") == []


async def test_a_cancelled_call_ends_the_span_as_an_error() -> None:
    engine = ScriptedEngine(length_script, seconds=60)
    postprocessor = Rank1Postprocessor(rank1=Rank1(engine))
    with exported() as spans:
        call = asyncio.create_task(
            postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=QUERY)
        )
        while not engine.requests:
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    (span,) = spans.rerankers()
    assert span.status.status_code is StatusCode.ERROR
    assert "CancelledError" in (span.status.description or "")


async def test_before_the_servers_name_is_known_the_model_is_called_rank1(rerank: Rerank) -> None:
    engine = ScriptedEngine(length_script)
    engine.model = ""
    with exported() as spans:
        await rerank(Rank1Postprocessor(rank1=Rank1(engine)), some_nodes(LONG))
    assert attributes(spans.rerankers()[0])["reranker.model_name"] == "Rank1"
