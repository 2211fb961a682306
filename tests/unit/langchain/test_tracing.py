"""A rerank in callbacks, `astream_events` and LangSmith."""

from __future__ import annotations

import contextvars
from dataclasses import asdict
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.tracers.schemas import Run

from rank1_integrations import EngineError, Rank1
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script
from tests.unit.langchain.conftest import (
    LONG,
    MIDDLE,
    QUERY,
    SHORT,
    FixedRetriever,
    some_documents,
    texts,
)

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


@FORMS
async def test_a_rerank_is_one_run(form: str, rank1: Rank1) -> None:
    runs = RunCollectorCallbackHandler()
    await compress(form, Rank1Compressor(rank1=rank1), some_documents(LONG, SHORT), runs)
    (run,) = runs.traced_runs
    assert (run.name, run.run_type) == ("Rank1Compressor", "chain")
    assert run.child_runs == []


@FORMS
async def test_the_run_shows_kept_and_dropped_documents_with_their_judgments(
    form: str, rank1: Rank1
) -> None:
    runs = RunCollectorCallbackHandler()
    compressor = Rank1Compressor(rank1=rank1, score_threshold=0.3, top_n=1)
    documents = some_documents(SHORT, MIDDLE, LONG)
    kept = await compress(form, compressor, documents, runs)
    (run,) = runs.traced_runs
    assert run.inputs == {
        "query": QUERY,
        "documents": documents,
        "selection": {"top_n": 1, "score_threshold": 0.3},
    }
    outputs = run.outputs or {}
    assert outputs["documents"] == kept
    assert texts(outputs["dropped"]) == [SHORT, MIDDLE]
    assert outputs["dropped"][1].metadata["relevance_score"] == 0.5
    assert outputs["dropped"][1].metadata["relevance_reasoning"] == f"I have read: {MIDDLE}."


@FORMS
async def test_the_run_shows_the_querys_usage(form: str, engine: ScriptedEngine) -> None:
    runs, rank1 = RunCollectorCallbackHandler(), Rank1(engine)
    compressor = Rank1Compressor(rank1=rank1, top_n=1)
    await compress(form, compressor, some_documents(SHORT, MIDDLE, LONG), runs)
    usage = (runs.traced_runs[0].outputs or {})["usage"]
    assert usage == asdict(rank1.usage)
    assert usage["judgments"] == 3
    assert usage["prompt_tokens"] > usage["reasoning_tokens"] > 0


@FORMS
async def test_a_cached_judgment_costs_no_tokens(form: str, engine: ScriptedEngine) -> None:
    runs = RunCollectorCallbackHandler()
    compressor = Rank1Compressor(rank1=Rank1(engine, cache={}))
    for _ in range(2):
        await compress(form, compressor, some_documents(LONG), runs)
    first, second = ((run.outputs or {})["usage"] for run in runs.traced_runs)
    assert first["prompt_tokens"] > 0
    assert second == {**dict.fromkeys(second, 0), "judgments": 1, "cache_hits": 1}


@FORMS
async def test_the_run_shows_failed_documents(form: str) -> None:
    runs = RunCollectorCallbackHandler()
    rank1 = Rank1(ScriptedEngine(length_script), on_error="drop")
    await compress(form, Rank1Compressor(rank1=rank1), some_documents("fail", LONG), runs)
    (dropped,) = (runs.traced_runs[0].outputs or {})["dropped"]
    assert dropped.metadata["relevance_score"] is None
    assert "the script says so" in dropped.metadata["rank1"]["error"]


@FORMS
async def test_a_failed_rerank_is_a_failed_run(form: str, rank1: Rank1) -> None:
    runs = RunCollectorCallbackHandler()
    with pytest.raises(EngineError):
        await compress(form, Rank1Compressor(rank1=rank1), some_documents("fail"), runs)
    assert "the script says so" in (runs.traced_runs[0].error or "")


@FORMS
async def test_under_a_retriever_the_run_is_nested(form: str, rank1: Rank1) -> None:
    runs = RunCollectorCallbackHandler()
    retriever = retriever_with(rank1)
    config: RunnableConfig = {"callbacks": [runs]}
    if form == "sync":
        retriever.invoke(QUERY, config)
    else:
        await retriever.ainvoke(QUERY, config)
    (root,) = runs.traced_runs
    assert root.name == "ContextualCompressionRetriever"
    assert names(root.child_runs) == ["FixedRetriever", "Rank1Compressor"]


@FORMS
async def test_in_a_step_that_passes_no_callbacks_on_the_run_is_nested_all_the_same(
    form: str, rank1: Rank1
) -> None:
    compressor, documents = Rank1Compressor(rank1=rank1), some_documents(LONG)

    def step(query: str) -> list[Document]:
        return compressor.compress_documents(documents, query)

    async def astep(query: str) -> list[Document]:
        return await compressor.acompress_documents(documents, query)

    runs = RunCollectorCallbackHandler()
    chain, config = RunnableLambda(step, astep), RunnableConfig(callbacks=[runs])
    if form == "sync":
        chain.invoke(QUERY, config)
    else:
        await chain.ainvoke(QUERY, config)
    (root,) = runs.traced_runs
    assert names(root.child_runs) == ["Rank1Compressor"]


async def test_streamed_events_show_the_run_inside_the_retrievers(rank1: Rank1) -> None:
    retriever = retriever_with(rank1, score_threshold=0.9)
    events = [event async for event in retriever.astream_events(QUERY)]
    (start,) = (e for e in events if e["name"] == "Rank1Compressor" and "start" in e["event"])
    (end,) = (e for e in events if e["name"] == "Rank1Compressor" and "end" in e["event"])
    assert start["parent_ids"] == [events[0]["run_id"]]
    assert texts(end["data"]["output"]["documents"]) == [LONG]
    assert texts(end["data"]["output"]["dropped"]) == [SHORT]


@FORMS
async def test_an_empty_list_makes_no_run(form: str, rank1: Rank1) -> None:
    runs = RunCollectorCallbackHandler()
    await compress(form, Rank1Compressor(rank1=rank1), [], runs)
    assert runs.traced_runs == []


@FORMS
async def test_callbacks_are_called_in_the_callers_own_context(form: str, rank1: Rank1) -> None:
    request_id = contextvars.ContextVar("request_id", default="lost")
    seen = []

    class Handler(BaseCallbackHandler):
        run_inline = True

        def on_chain_start(self, *_: Any, **__: Any) -> None:
            seen.append(request_id.get())

        def on_chain_end(self, *_: Any, **__: Any) -> None:
            seen.append(request_id.get())

    request_id.set("request 7")
    await compress(form, Rank1Compressor(rank1=rank1), some_documents(LONG), Handler())
    assert seen == ["request 7", "request 7"]


async def compress(
    form: str,
    compressor: Rank1Compressor,
    documents: list[Document],
    handler: BaseCallbackHandler,
) -> list[Document]:
    if form == "sync":
        return compressor.compress_documents(documents, QUERY, callbacks=[handler])
    return await compressor.acompress_documents(documents, QUERY, callbacks=[handler])


def retriever_with(rank1: Rank1, **settings: Any) -> ContextualCompressionRetriever:
    return ContextualCompressionRetriever(
        base_compressor=Rank1Compressor(rank1=rank1, **settings),
        base_retriever=FixedRetriever(documents=some_documents(SHORT, LONG)),
    )


def names(runs: list[Run]) -> list[str]:
    return [run.name for run in runs]
