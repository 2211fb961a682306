"""The compressor in LangChain's own chains, over a real retriever and a real vLLM server."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.tools import create_retriever_tool
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_text_splitters import CharacterTextSplitter
from pydantic import SecretStr

from rank1_integrations import EngineError, Rank1
from rank1_integrations.langchain import Rank1Compressor
from tests.integration.conftest import SERVED_NAME
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

KEY = "sk-very-secret-key"


@pytest.fixture
def retriever() -> Bm25Retriever:
    return sample_retriever()


def chain(
    retriever: Bm25Retriever, rank1: Rank1, **selection: Any
) -> ContextualCompressionRetriever:
    return ContextualCompressionRetriever(
        base_compressor=Rank1Compressor(rank1=rank1, **selection), base_retriever=retriever
    )


def over(proxy: TamperingProxy, **settings: Any) -> Rank1Compressor:
    return Rank1Compressor(base_url=proxy.url, max_reasoning_tokens=64, **settings)


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def scores(documents: list[Document]) -> list[float]:
    return [document.metadata["relevance_score"] for document in documents]


@pytest.mark.parametrize("form", ["invoke", "ainvoke", "batch", "abatch"])
async def test_a_retriever_keeps_relevant_documents_with_reasoning(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    filtered = chain(retriever, server, score_threshold=0.5)
    match form:
        case "invoke":
            kept = filtered.invoke(QUERY)
        case "ainvoke":
            kept = await filtered.ainvoke(QUERY)
        case "batch":
            (kept,) = filtered.batch([QUERY])
        case _:
            (kept,) = await filtered.abatch([QUERY])
    assert texts(kept)[0] == BEST
    assert not {POOR, WORST} & set(texts(kept))
    assert "the query asks for" in kept[0].metadata["relevance_reasoning"]
    assert kept[0].metadata["rank1"]["relevant"] is True


async def test_without_a_selection_all_come_back_best_first(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    kept = await chain(retriever, server).ainvoke(QUERY)
    assert sorted(texts(kept)) == sorted(texts(retriever.invoke(QUERY)))
    assert scores(kept) == sorted(scores(kept), reverse=True)
    assert all(0 <= score <= 1 for score in scores(kept))


async def test_the_threshold_comes_before_top_n(retriever: Bm25Retriever, server: Rank1) -> None:
    good, poor = (judgment.score or 0.0 for judgment in server.judge(QUERY, [GOOD, POOR]))
    threshold = (good + poor) / 2
    for top_n, expected in {None: [BEST, GOOD], 3: [BEST, GOOD], 1: [BEST]}.items():
        filtered = chain(retriever, server, score_threshold=threshold, top_n=top_n)
        assert texts(await filtered.ainvoke(QUERY)) == expected


async def test_in_a_pipeline_behind_a_splitter(server: Rank1) -> None:
    splitter = CharacterTextSplitter(separator="\n", chunk_size=100, chunk_overlap=0)
    pipeline = DocumentCompressorPipeline(
        transformers=[splitter, Rank1Compressor(rank1=server, top_n=1)]
    )
    page = Document(page_content="\n".join(TEXTS), metadata={"source": "manual"})
    for kept in (
        pipeline.compress_documents([page], QUERY),
        await pipeline.acompress_documents([page], QUERY),
    ):
        assert texts(list(kept)) == [BEST]
        assert kept[0].metadata["source"] == "manual"


def test_as_an_agents_tool(retriever: Bm25Retriever, server: Rank1) -> None:
    tool = create_retriever_tool(
        chain(retriever, server, top_n=1),
        "manual",
        "Search the manual.",
        response_format="content_and_artifact",
    )
    call = {"type": "tool_call", "id": "1", "name": "manual", "args": {"query": QUERY}}
    message = tool.invoke(call)
    assert message.content == BEST
    assert message.artifact[0].metadata["relevance_score"] > 0.5


async def test_streamed_events_show_kept_and_dropped_inside_the_retrievers_run(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    filtered = chain(retriever, server, top_n=1)
    events = [event async for event in filtered.astream_events(QUERY)]
    (end,) = (event for event in events if event["event"] == "on_chain_end")
    assert end["name"] == "Rank1Compressor"
    assert end["parent_ids"] == [events[0]["run_id"]]
    output = end["data"]["output"]
    assert texts(output["documents"]) == [BEST]
    assert set(texts(output["dropped"])) == {GOOD, POOR, WORST}
    assert all(document.metadata["relevance_reasoning"] for document in output["dropped"])


async def test_the_sync_form_works_inside_a_running_loop_and_in_many_threads(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    filtered = chain(retriever, server, top_n=2)
    assert texts(filtered.invoke(QUERY)) == [BEST, GOOD]
    with ThreadPoolExecutor(8) as threads:
        for kept in threads.map(filtered.invoke, [QUERY] * 8):
            assert texts(kept) == [BEST, GOOD]


async def test_many_async_calls_at_once(retriever: Bm25Retriever, server: Rank1) -> None:
    filtered = chain(retriever, server)
    first = await filtered.ainvoke(QUERY)
    for kept in await asyncio.gather(*(filtered.ainvoke(QUERY) for _ in range(8))):
        assert texts(kept) == texts(first)
        assert scores(kept) == pytest.approx(scores(first), abs=1e-2)


def test_every_event_loop_may_use_the_same_object(retriever: Bm25Retriever, server: Rank1) -> None:
    filtered = chain(retriever, server, top_n=1)
    for _ in range(2):
        assert texts(asyncio.run(filtered.ainvoke(QUERY))) == [BEST]


def test_in_process_the_same_model_gives_the_same_scores(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    documents = retriever.invoke(QUERY)
    served = Rank1Compressor(rank1=server).compress_documents(documents, QUERY)
    compressor = Rank1Compressor(backend="demo")
    here = compressor.compress_documents(documents, QUERY)
    compressor.close()
    assert texts(here) == texts(served)
    assert scores(here) == pytest.approx(scores(served), abs=1e-2)


def refuse_worst(call: Call) -> Answer | None:
    prompt = call.body.get("prompt")
    if isinstance(prompt, str) and WORST in prompt and "completions" in call.path:
        return Answer(500, {"error": {"message": "out of memory"}})
    return None


def test_a_failure_is_an_error(proxy: TamperingProxy, retriever: Bm25Retriever) -> None:
    proxy.refuse = refuse_worst
    with pytest.raises(EngineError, match="the server answered 500"):
        over(proxy, max_retries=0).compress_documents(retriever.documents, QUERY)


@pytest.mark.parametrize("on_error", ["keep", "drop"])
async def test_one_failure_does_not_cost_the_others(
    on_error: str, proxy: TamperingProxy, retriever: Bm25Retriever
) -> None:
    proxy.refuse = refuse_worst
    compressor = over(proxy, on_error=on_error, max_retries=0)
    documents = retriever.invoke(QUERY)
    kept = await compressor.acompress_documents(documents, QUERY)
    assert texts(kept)[:2] == [BEST, GOOD]
    if on_error == "drop":
        assert WORST not in texts(kept)
    else:
        assert kept[-1].page_content == WORST
        assert kept[-1].metadata["relevance_score"] is None
        assert "the server answered 500" in kept[-1].metadata["rank1"]["error"]


def test_the_key_reaches_the_server_and_no_trace(
    proxy: TamperingProxy, retriever: Bm25Retriever
) -> None:
    runs = RunCollectorCallbackHandler()
    compressor = over(proxy, api_key=SecretStr(KEY), max_retries=0)
    compressor.compress_documents(retriever.documents, QUERY, callbacks=[runs])
    assert {call.key for call in proxy.calls} == {KEY}
    proxy.refuse = refuse_worst
    with pytest.raises(EngineError):
        compressor.compress_documents(retriever.documents, QUERY, callbacks=[runs])
    assert len(runs.traced_runs) == 2
    for run in runs.traced_runs:
        assert KEY not in run.model_dump_json() + repr(run)


def test_a_pickled_compressor_works_again_with_the_key_of_the_environment(
    proxy: TamperingProxy, retriever: Bm25Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickle.dumps(over(proxy, model=SERVED_NAME, api_key=SecretStr(KEY), top_n=1))
    assert KEY.encode() not in pickled
    monkeypatch.setenv("RANK1_API_KEY", "sk-another")
    again: Rank1Compressor = pickle.loads(pickled)
    assert texts(again.compress_documents(retriever.documents, QUERY)) == [BEST]
    assert {call.key for call in proxy.calls} == {"sk-another"}
