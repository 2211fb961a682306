"""The compressor as a step of a chain."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from rank1_integrations import ConfigurationError, EngineError, Rank1
from rank1_integrations.langchain import Rank1Compressor
from rank1_integrations.testing import ScriptedEngine
from tests.unit.langchain.conftest import (
    LONG,
    MIDDLE,
    QUERY,
    SHORT,
    FixedRetriever,
    descendants,
    some_documents,
    texts,
)

FORMS = pytest.mark.parametrize("form", ["invoke", "ainvoke"])
FOUND = some_documents(SHORT, MIDDLE, LONG)


@FORMS
async def test_behind_a_retriever_it_keeps_the_relevant_documents(form: str, rank1: Rank1) -> None:
    step = Rank1Compressor(rank1=rank1, score_threshold=0.5).as_runnable()
    retriever = FixedRetriever(documents=FOUND)
    chain = {"query": RunnablePassthrough(), "documents": retriever} | step
    assert texts(await run(form, chain, QUERY)) == [LONG, MIDDLE]


@FORMS
async def test_steps_follow_each_other(form: str, rank1: Rank1) -> None:
    good = Rank1Compressor(rank1=rank1, score_threshold=0.5).as_runnable()
    best = Rank1Compressor(rank1=rank1, top_n=1).as_runnable()
    chain = RunnablePassthrough.assign(documents=good) | best
    assert texts(await run(form, chain, {"query": QUERY, "documents": FOUND})) == [LONG]


@FORMS
async def test_a_failed_step_is_tried_again(form: str) -> None:
    failures = iter([EngineError("once")])
    rank1 = Rank1(ScriptedEngine(lambda passage: next(failures, 1.0)))
    step = Rank1Compressor(rank1=rank1).as_runnable()
    again = step.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    kept = await run(form, again, {"query": QUERY, "documents": some_documents(LONG)})
    assert texts(kept) == [LONG]


@FORMS
async def test_a_failed_step_falls_back(form: str, rank1: Rank1) -> None:
    unfiltered = RunnableLambda(lambda inputs: inputs["documents"])
    step = Rank1Compressor(rank1=rank1).as_runnable().with_fallbacks([unfiltered])
    documents = some_documents("fail", LONG)
    assert await run(form, step, {"query": QUERY, "documents": documents}) == documents


@FORMS
async def test_it_is_one_run_that_takes_the_configs_name_tags_and_metadata(
    form: str, rank1: Rank1
) -> None:
    runs = RunCollectorCallbackHandler()
    step = Rank1Compressor(rank1=rank1).as_runnable()
    named = step.with_config(run_name="filter", tags=["a"], metadata={"tenant": 7})
    config: RunnableConfig = {"callbacks": [runs]}
    await run(form, named, {"query": QUERY, "documents": FOUND}, config)
    (root,) = runs.traced_runs
    assert (root.name, root.tags, descendants(root)) == ("filter", ["a"], [])
    assert (root.extra or {})["metadata"]["tenant"] == 7
    assert len((root.outputs or {})["documents"]) == 3


async def test_questions_may_come_in_a_batch(rank1: Rank1) -> None:
    step = Rank1Compressor(rank1=rank1, top_n=1).as_runnable()
    questions: list[Mapping[str, Any]] = [
        {"query": QUERY, "documents": some_documents(text)} for text in (SHORT, LONG)
    ]
    for kept in (step.batch(questions), await step.abatch(questions)):
        assert [texts(documents) for documents in kept] == [[SHORT], [LONG]]


@FORMS
@pytest.mark.parametrize(
    ("inputs", "description"),
    [
        ({"question": QUERY, "documents": FOUND}, r"\['documents', 'question'\]"),
        ({"query": QUERY}, r"\['query'\]"),
        (FOUND, "list"),
    ],
)
async def test_another_input_is_an_error_that_says_what_to_do(
    form: str, inputs: Any, description: str, rank1: Rank1
) -> None:
    step = Rank1Compressor(rank1=rank1).as_runnable()
    with pytest.raises(ConfigurationError, match=f"'query' and 'documents'.*it got {description}"):
        await run(form, step, inputs)


def test_a_step_made_from_settings_is_pickled_without_the_key() -> None:
    compressor = Rank1Compressor(base_url="http://localhost:8000/v1", api_key="s3cret")
    pickled = pickle.dumps(compressor.as_runnable())
    assert b"s3cret" not in pickled
    assert pickle.loads(pickled).get_name() == "Rank1Compressor"


async def run(
    form: str,
    chain: Runnable[Any, list[Document]],
    inputs: Any,
    config: RunnableConfig | None = None,
) -> list[Document]:
    if form == "invoke":
        return chain.invoke(inputs, config)
    return await chain.ainvoke(inputs, config)
