"""A rerank in spans, event handlers and callbacks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.schema import TextNode
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent

from rank1_integrations import EngineError, Rank1
from rank1_integrations.llama_index import Rank1EndEvent, Rank1Postprocessor
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script
from tests.unit.llama_index.conftest import (
    LONG,
    MIDDLE,
    QUERY,
    SHORT,
    Rerank,
    some_nodes,
    texts,
)
from tests.unit.llama_index.recording import recorded


async def test_a_rerank_is_exactly_one_span(rerank: Rerank, rank1: Rank1) -> None:
    with recorded() as recording:
        await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG, SHORT))
    assert len(recording.rerank_spans()) == len(recording.spans.completed_spans) == 1
    assert recording.spans.open_spans == {}


async def test_a_rerank_is_exactly_one_pair_of_events_in_its_span(
    rerank: Rerank, rank1: Rank1
) -> None:
    nodes = some_nodes(SHORT, LONG)
    with recorded() as recording:
        kept = await rerank(Rank1Postprocessor(rank1=rank1, top_n=1), nodes)
    start, end = recording.rerank_events()
    (span,) = recording.rerank_spans()
    assert isinstance(start, ReRankStartEvent)
    assert isinstance(end, ReRankEndEvent)
    assert start.span_id == end.span_id == span.id_
    assert str(start.query) == QUERY
    assert (start.nodes, start.top_n, start.model_name) == (nodes, 1, "scripted")
    assert end.nodes == kept


@pytest.mark.parametrize("texts", [[], [SHORT, LONG]])
async def test_without_top_n_the_start_event_has_the_number_of_nodes(
    texts: list[str], rerank: Rerank, rank1: Rank1
) -> None:
    with recorded() as recording:
        await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(*texts))
    start, end = recording.rerank_events()
    assert isinstance(start, ReRankStartEvent)
    assert start.top_n == len(texts)
    assert isinstance(end, ReRankEndEvent)


async def test_the_end_event_has_the_dropped_nodes_with_their_judgments(rerank: Rerank) -> None:
    rank1 = Rank1(ScriptedEngine(length_script), on_error="drop")
    postprocessor = Rank1Postprocessor(rank1=rank1, score_threshold=0.3, top_n=1)
    with recorded() as recording:
        await rerank(postprocessor, some_nodes(SHORT, "fail", MIDDLE, LONG))
    end = recording.rerank_events()[1]
    assert isinstance(end, Rank1EndEvent)
    assert texts(end.nodes) == [LONG]
    assert texts(end.dropped) == [SHORT, "fail", MIDDLE]
    assert [node.score for node in end.dropped] == [pytest.approx(0.119, abs=0.001), None, 0.5]
    assert end.dropped[0].metadata["relevance_reasoning"] == f"I have read: {SHORT}."
    assert "the script says so" in end.dropped[1].metadata["rank1"]["error"]


async def test_the_start_event_keeps_the_retrieved_nodes(rerank: Rerank, rank1: Rank1) -> None:
    with recorded() as recording:
        await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(SHORT, LONG))
    start = recording.rerank_events()[0]
    assert isinstance(start, ReRankStartEvent)
    assert [node.score for node in start.nodes] == [1.0, 0.99]
    assert [node.metadata for node in start.nodes] == [{}, {}]


async def test_a_failed_rerank_is_one_dropped_span_without_an_end(
    rerank: Rerank, rank1: Rank1
) -> None:
    with recorded() as recording, pytest.raises(EngineError):
        await rerank(Rank1Postprocessor(rank1=rank1), some_nodes("fail"))
    assert len(recording.rerank_spans()) == len(recording.spans.dropped_spans) == 1
    assert [event.class_name() for event in recording.rerank_events()] == ["ReRankStartEvent"]


async def test_a_cancelled_rerank_is_one_dropped_span_and_leaves_nothing_open() -> None:
    engine, debug = ScriptedEngine(length_script, seconds=60), quiet_debug_handler()
    postprocessor = Rank1Postprocessor(
        rank1=Rank1(engine), callback_manager=CallbackManager([debug])
    )
    with recorded() as recording:
        call = asyncio.create_task(
            postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=QUERY)
        )
        while not engine.requests:
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    assert call.cancelled()
    assert len(recording.rerank_spans()) == len(recording.spans.dropped_spans) == 1
    assert recording.spans.open_spans == {}
    assert [event.class_name() for event in recording.rerank_events()] == ["ReRankStartEvent"]
    ((_, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert end.payload is None


async def test_after_an_error_the_callbacks_event_ends_with_it(
    rerank: Rerank, rank1: Rank1
) -> None:
    debug = quiet_debug_handler()
    postprocessor = Rank1Postprocessor(rank1=rank1, callback_manager=CallbackManager([debug]))
    with pytest.raises(EngineError) as failure:
        await rerank(postprocessor, some_nodes("fail"))
    ((_, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert (end.payload or {})[EventPayload.EXCEPTION] is failure.value


@pytest.mark.parametrize("form", ["query", "aquery"])
async def test_an_error_inside_a_query_engine_drops_both_spans_and_no_other(
    form: str, rank1: Rank1
) -> None:
    nodes = [TextNode(text=LONG), TextNode(text="fail")]
    query_engine = RetrieverQueryEngine(
        SummaryIndex(nodes).as_retriever(),
        response_synthesizer=NoText(llm=MockLLM()),
        node_postprocessors=[Rank1Postprocessor(rank1=rank1)],
    )
    with recorded() as recording, pytest.raises(EngineError):
        if form == "query":
            query_engine.query(QUERY)
        else:
            await query_engine.aquery(QUERY)
    (span,) = recording.rerank_spans()
    (start,) = recording.rerank_events()
    assert start.span_id == span.id_
    assert span in recording.spans.dropped_spans
    dropped = {dropped.id_ for dropped in recording.spans.dropped_spans}
    assert {name.partition(".")[0] for name in dropped} == {
        "Rank1Postprocessor",
        "RetrieverQueryEngine",
    }
    assert span.parent_id in dropped
    assert recording.spans.open_spans == {}


async def test_spans_of_calls_at_the_same_time_do_not_mix() -> None:
    rank1 = Rank1(ScriptedEngine(length_script, seconds=0.01))
    calls = [[SHORT], [LONG, "fail"], [MIDDLE], [LONG]]
    with recorded() as recording:
        await asyncio.gather(
            *(
                Rank1Postprocessor(rank1=rank1).apostprocess_nodes(
                    some_nodes(*texts), query_str=QUERY
                )
                for texts in calls
            ),
            return_exceptions=True,
        )
    assert len(recording.spans.completed_spans) == 3
    assert len(recording.spans.dropped_spans) == 1
    for span in recording.rerank_spans():
        start, *ends = [e for e in recording.rerank_events() if e.span_id == span.id_]
        assert isinstance(start, ReRankStartEvent)
        assert len(ends) == (span not in recording.spans.dropped_spans)
        assert span.parent_id is None


def test_without_a_query_nothing_starts(rank1: Rank1) -> None:
    with recorded() as recording, pytest.raises(ValueError, match="there is none"):
        Rank1Postprocessor(rank1=rank1).postprocess_nodes(some_nodes(LONG))
    assert recording.rerank_events() == []


async def test_events_come_in_the_callers_own_thread_and_context(
    rerank: Rerank, rank1: Rank1
) -> None:
    request_id = contextvars.ContextVar("request_id", default="lost")
    seen: list[tuple[str, int]] = []

    class Handler(BaseEventHandler):
        def handle(self, event: BaseEvent, **_: Any) -> None:
            seen.append((request_id.get(), threading.get_ident()))

    handler, root = Handler(), get_dispatcher()
    root.add_event_handler(handler)
    try:
        request_id.set("request 7")
        await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG))
    finally:
        root.event_handlers.remove(handler)
    assert seen == [("request 7", threading.get_ident())] * 2


async def test_the_callback_manager_that_an_engine_assigns_sees_the_rerank(
    rerank: Rerank, rank1: Rank1
) -> None:
    debug = quiet_debug_handler()
    postprocessor = Rank1Postprocessor(rank1=rank1)
    postprocessor.callback_manager = CallbackManager([debug])
    kept = await rerank(postprocessor, some_nodes(SHORT, LONG))
    ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert (start.payload or {})[EventPayload.QUERY_STR] == QUERY
    assert (start.payload or {})[EventPayload.TOP_K] == 2
    assert (end.payload or {})[EventPayload.NODES] == kept


def quiet_debug_handler() -> LlamaDebugHandler:
    return LlamaDebugHandler(print_trace_on_end=False)
