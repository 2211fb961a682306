"""Corrective RAG: the documents left in a graph's state, and the next node."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from rank1_integrations import ConfigurationError, Rank1
from rank1_integrations.langchain import Rank1Compressor, grade_documents, route_by_documents
from tests.unit.langchain.conftest import (
    LONG,
    MIDDLE,
    QUERY,
    SHORT,
    descendants,
    some_documents,
    texts,
)
from tests.unit.langchain.test_documents import assert_plain

FORMS = pytest.mark.parametrize("form", ["invoke", "ainvoke"])
FOUND = some_documents(SHORT, MIDDLE, LONG)


class DictState(TypedDict, total=False):
    question: str
    documents: list[Document]
    rewritten: bool


@dataclass
class DataclassState:
    question: str
    documents: list[Document] = field(default_factory=list)
    rewritten: bool = False


@dataclass(slots=True)
class SlotsState:
    question: str
    documents: list[Document] = field(default_factory=list)
    rewritten: bool = False


class ModelState(BaseModel):
    question: str
    documents: list[Document] = []
    rewritten: bool = False


@pytest.fixture
def compressor(rank1: Rank1) -> Rank1Compressor:
    """Leaves SHORT out."""
    return Rank1Compressor(rank1=rank1, score_threshold=0.5)


@FORMS
@pytest.mark.parametrize("schema", [DictState, DataclassState, SlotsState, ModelState])
async def test_the_relevant_documents_stay_best_first(
    form: str, schema: type[Any], compressor: Rank1Compressor
) -> None:
    state = await run(form, corrective(compressor, schema), documents=FOUND)
    assert texts(state["documents"]) == [LONG, MIDDLE]
    assert state["documents"][0].metadata["relevance_reasoning"] == f"I have read: {LONG}."
    assert not state.get("rewritten")


@FORMS
@pytest.mark.parametrize("schema", [DictState, DataclassState, SlotsState, ModelState])
@pytest.mark.parametrize("found", [some_documents(SHORT), []])
async def test_without_documents_the_graph_takes_the_other_edge(
    form: str, schema: type[Any], found: list[Document], compressor: Rank1Compressor
) -> None:
    state = await run(form, corrective(compressor, schema), documents=found)
    assert state["rewritten"]


async def test_keys_may_have_other_names(compressor: Rank1Compressor) -> None:
    class State(TypedDict, total=False):
        query: str
        context: list[Document]
        rewritten: bool

    graph = StateGraph(State)
    graph.add_node("grade", grade_documents(compressor, question="query", documents="context"))
    graph.add_node("rewrite", lambda state: {"rewritten": True})
    graph.add_edge(START, "grade")
    graph.add_conditional_edges(
        "grade", route_by_documents(END, otherwise="rewrite", documents="context")
    )
    state = await graph.compile().ainvoke({"query": QUERY, "context": FOUND})
    assert texts(state["context"]) == [LONG, MIDDLE]
    assert "rewritten" not in state


async def test_the_question_may_come_from_a_function(compressor: Rank1Compressor) -> None:
    class State(TypedDict):
        messages: list[AnyMessage]
        documents: list[Document]

    node = grade_documents(compressor, question=lambda state: state["messages"][-1].text)
    graph = StateGraph(State).add_node("grade", node).add_edge(START, "grade").compile()
    state = await graph.ainvoke({"messages": [HumanMessage(QUERY)], "documents": FOUND})
    assert texts(state["documents"]) == [LONG, MIDDLE]


async def test_with_a_reducer_that_adds_the_kept_documents_go_to_another_key(
    compressor: Rank1Compressor,
) -> None:
    class State(TypedDict):
        question: str
        found: Annotated[list[Document], operator.add]
        documents: list[Document]

    node = grade_documents(compressor, documents="found", into="documents")
    graph = StateGraph(State).add_node("grade", node).add_edge(START, "grade").compile()
    state = await graph.ainvoke({"question": QUERY, "found": FOUND, "documents": []})
    assert state["found"] == FOUND
    assert texts(state["documents"]) == [LONG, MIDDLE]


@FORMS
@pytest.mark.parametrize("schema", [DictState, DataclassState, SlotsState, ModelState])
async def test_a_missing_key_is_an_error_that_names_the_keys(
    form: str, schema: type[Any], compressor: Rank1Compressor
) -> None:
    graph = StateGraph(schema)
    graph.add_node("grade", grade_documents(compressor, question="query", documents="context"))
    graph.add_edge(START, "grade")
    with pytest.raises(ConfigurationError, match=r"no 'query' \(it has \[.*'question'.*\]\)"):
        await run(form, graph.compile(), documents=FOUND)


async def test_a_text_instead_of_documents_is_refused(compressor: Rank1Compressor) -> None:
    with pytest.raises(ConfigurationError, match="documents must be a list"):
        await grade_documents(compressor).ainvoke({"question": QUERY, "documents": LONG})


async def test_the_state_survives_a_strict_checkpoint(compressor: Rank1Compressor) -> None:
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    graph = corrective(compressor, DictState, checkpointer=saver)
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    before = await graph.ainvoke({"question": QUERY, "documents": FOUND}, config)
    after = (await graph.aget_state(config)).values
    assert after == before
    for document in after["documents"]:
        assert_plain(document.metadata)


def test_the_graph_is_drawn_with_both_edges(compressor: Rank1Compressor) -> None:
    edges = corrective(compressor, DictState).get_graph().edges
    assert {edge.target for edge in edges if edge.source == "grade"} == {"generate", "rewrite"}


@FORMS
async def test_the_rerank_is_a_run_inside_the_nodes(form: str, compressor: Rank1Compressor) -> None:
    runs = RunCollectorCallbackHandler()
    graph = corrective(compressor, DictState)
    await run(form, graph, documents=FOUND, config={"callbacks": [runs]})
    (root,) = runs.traced_runs
    (node,) = (child for child in root.child_runs if child.name == "grade")
    assert descendants(node).count("Rank1Compressor") == 1


def corrective(
    compressor: Rank1Compressor, schema: type[Any], **compiled: Any
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph that grades, and then generates or rewrites."""

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(schema)
    graph.add_node("grade", grade_documents(compressor))
    graph.add_node("generate", lambda state: {})
    graph.add_node("rewrite", lambda state: {"rewritten": True})
    graph.add_edge(START, "grade")
    graph.add_conditional_edges("grade", route_by_documents("generate", otherwise="rewrite"))
    return graph.compile(**compiled)


async def run(
    form: str,
    graph: CompiledStateGraph[Any, Any, Any, Any],
    config: RunnableConfig | None = None,
    **state: Any,
) -> dict[str, Any]:
    inputs = {"question": QUERY, **state}
    if form == "invoke":
        return graph.invoke(inputs, config)
    return await graph.ainvoke(inputs, config)
