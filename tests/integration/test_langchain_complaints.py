"""Complaints of users of other rerankers in LangChain, one test for each.

The demonstration model judges on a real vLLM server, behind a proxy that counts, delays or refuses
requests. A scripted engine forces an exact score in one test.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypedDict

import pytest
from langchain_classic.output_parsers.boolean import BooleanOutputParser
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.runnables import RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph

from rank1_integrations import Rank1
from rank1_integrations.langchain import Rank1Compressor, grade_documents
from rank1_integrations.testing import ScriptedEngine
from tests.support.sample_corpus import (
    BEST,
    GOOD,
    POOR,
    QUERY,
    TEXTS,
    WORST,
    Bm25Retriever,
    sample_retriever,
)
from tests.support.tampering_proxy import Answer, Call, TamperingProxy

AT_ONCE = 48
"""More calls than the threads that LangChain would run a synchronous compressor in."""

PATIENCE = 60.0
"""Seconds after which a test gives up waiting."""


@pytest.fixture
def retriever() -> Bm25Retriever:
    return sample_retriever()


@pytest.fixture
def documents(retriever: Bm25Retriever) -> list[Document]:
    """Documents with ids and sources, in no good order."""
    return retriever.documents


async def test_a_sync_reranker_blocks_the_event_loop(
    proxy: TamperingProxy, documents: list[Document]
) -> None:
    """https://github.com/open-webui/open-webui/issues/19900"""
    loop_went_on = threading.Event()
    waited = []

    def answer_when_the_loop_went_on(call: Call) -> None:
        waited.append(loop_went_on.wait(PATIENCE))

    proxy.refuse = answer_when_the_loop_went_on
    reranking = asyncio.create_task(over(proxy).acompress_documents(documents, QUERY))
    while not proxy.calls:
        await asyncio.sleep(0.01)
    loop_went_on.set()
    assert texts(await reranking)[0] == BEST
    assert all(waited)


async def test_there_is_no_async(proxy: TamperingProxy) -> None:
    """https://github.com/langchain-ai/langchain-cohere/pull/134"""
    all_arrived = threading.Barrier(AT_ONCE)

    def answer_when_all_arrived(call: Call) -> None:
        if call.path == "/v1/completions":
            all_arrived.wait(PATIENCE)

    compressor = over(proxy, thinking="none")
    await compressor.acompress_documents([Document(page_content=GOOD)], QUERY)
    proxy.refuse = answer_when_all_arrived
    judged = await asyncio.gather(
        *(
            compressor.acompress_documents([Document(page_content=f"{number} {BEST}")], QUERY)
            for number in range(AT_ONCE)
        )
    )
    assert [kept[0].page_content for kept in judged] == [f"{n} {BEST}" for n in range(AT_ONCE)]
    assert not all_arrived.broken


async def test_ids_are_lost(server: Rank1, documents: list[Document]) -> None:
    """https://github.com/langchain-ai/langchain-cohere/issues/131"""
    ids = {document.page_content: document.id for document in documents}
    for kept in await both_forms(Rank1Compressor(rank1=server), documents):
        assert {document.page_content: document.id for document in kept} == ids


async def test_metadata_is_overwritten_by_a_second_rerank(
    server: Rank1, documents: list[Document]
) -> None:
    """https://github.com/langchain-ai/langchain-nvidia/issues/343"""
    before = [document.model_copy(deep=True) for document in documents]
    compressor = Rank1Compressor(rank1=server)
    first = await compressor.acompress_documents(documents, QUERY)
    kept_first = [document.model_copy(deep=True) for document in first]
    second = await compressor.acompress_documents(first, "Which function opens a socket?")
    assert documents == before
    assert first == kept_first
    scores = {document.id: document.metadata["relevance_score"] for document in second}
    assert scores["id-3"] < first[0].metadata["relevance_score"]
    assert {document.metadata["source"] for document in second} == {
        document.metadata["source"] for document in documents
    }


async def test_there_is_no_score_threshold(server: Rank1, documents: list[Document]) -> None:
    """https://github.com/langchain-ai/langchain-cohere/pull/137"""
    for kept in await both_forms(Rank1Compressor(rank1=server, score_threshold=0.5), documents):
        assert BEST in texts(kept)
        assert not {POOR, WORST} & set(texts(kept))


async def test_a_score_equal_to_the_threshold_is_dropped() -> None:
    """https://github.com/langchain-ai/langchain/issues/24016"""
    rank1 = Rank1(ScriptedEngine(lambda passage: 0.0 if passage == "even" else -0.25))
    compressor = Rank1Compressor(rank1=rank1, score_threshold=0.5)
    documents = [Document(page_content="even"), Document(page_content="odds against")]
    for kept in await both_forms(compressor, documents):
        assert texts(kept) == ["even"]


async def test_an_empty_list_crashes(proxy: TamperingProxy) -> None:
    """https://github.com/langchain-ai/langchain/issues/31192 and 5304"""
    compressor = over(proxy)
    for kept in await both_forms(compressor, []):
        assert kept == []
    assert compressor.rerank([], QUERY) == await compressor.arerank([], QUERY) == []
    assert proxy.calls == []


async def test_the_parser_fails_when_the_model_explains_itself(server: Rank1) -> None:
    """https://github.com/langchain-ai/langchain/issues/11408"""
    (kept,) = await Rank1Compressor(rank1=server).acompress_documents(
        [Document(page_content=POOR)], QUERY
    )
    explanation = kept.metadata["relevance_reasoning"]
    with pytest.raises(ValueError, match="Ambiguous"):
        BooleanOutputParser().parse(explanation)
    assert kept.metadata["rank1"]["relevant"] is False


async def test_the_base_url_is_fixed(proxy: TamperingProxy, documents: list[Document]) -> None:
    """https://github.com/langchain-ai/langchain-community/issues/78"""
    for kept in await both_forms(over(proxy, top_n=1), documents):
        assert texts(kept) == [BEST]
    assert {call.path for call in proxy.calls} >= {"/v1/models", "/v1/completions"}


async def test_it_was_released_untested_against_a_live_api(
    retriever: Bm25Retriever, server_url: str
) -> None:
    """https://github.com/langchain-ai/langchain/issues/39732"""
    compressor = Rank1Compressor(base_url=server_url, score_threshold=0.5)
    filtered = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
    for kept in (filtered.invoke(QUERY), await filtered.ainvoke(QUERY)):
        assert texts(kept)[0] == BEST
        assert "the query asks for" in kept[0].metadata["relevance_reasoning"]
    await compressor.aclose()


async def test_numpy_scores_break_checkpoints(server: Rank1, documents: list[Document]) -> None:
    """https://github.com/langchain-ai/langgraph/issues/8705"""

    class State(TypedDict):
        question: str
        documents: list[Document]

    graph = StateGraph(State)
    graph.add_node("grade", grade_documents(Rank1Compressor(rank1=server)))
    graph.add_edge(START, "grade")
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    checkpointed = graph.compile(checkpointer=saver)
    thread: Any = {"configurable": {"thread_id": "1"}}
    state = await checkpointed.ainvoke({"question": QUERY, "documents": documents}, thread)
    assert (await checkpointed.aget_state(thread)).values == state
    assert [type(one.metadata["relevance_score"]) for one in state["documents"]] == [float] * 6


async def test_one_429_fails_the_whole_recall(
    proxy: TamperingProxy, documents: list[Document]
) -> None:
    """https://github.com/vectorize-io/hindsight/issues/4134"""
    refused = []

    def refuse_everything_once(call: Call) -> Answer | None:
        if call.path == "/v1/completions" and call.body not in refused:
            refused.append(call.body)
            return Answer(429, {"error": {"message": "too many requests"}})
        return None

    proxy.refuse = refuse_everything_once
    kept = await over(proxy).acompress_documents(documents, QUERY)
    assert len(refused) > len(TEXTS)
    assert texts(kept)[0] == BEST
    assert len(kept) == len(TEXTS)
    assert None not in [document.metadata["relevance_score"] for document in kept]


async def test_compressors_can_not_be_piped(server: Rank1, retriever: Bm25Retriever) -> None:
    """https://github.com/langchain-ai/langchain/pull/26889"""
    good = Rank1Compressor(rank1=server, score_threshold=0.5)
    best = Rank1Compressor(rank1=server, top_n=1)
    chain = (
        {"query": RunnablePassthrough(), "documents": retriever}
        | RunnablePassthrough.assign(documents=good.as_runnable())
        | best.as_runnable()
    )
    for kept in (chain.invoke(QUERY), await chain.ainvoke(QUERY)):
        assert texts(kept) == [BEST]


async def both_forms(
    compressor: Rank1Compressor, documents: list[Document]
) -> list[list[Document]]:
    return [
        compressor.compress_documents(documents, QUERY),
        await compressor.acompress_documents(documents, QUERY),
    ]


def over(proxy: TamperingProxy, **settings: Any) -> Rank1Compressor:
    return Rank1Compressor(base_url=proxy.url, max_reasoning_tokens=64, **settings)


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]
