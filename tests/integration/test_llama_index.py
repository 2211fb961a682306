"""The postprocessor in LlamaIndex's own engines and tools, over BM25 and a real vLLM server."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from llama_index.core import Document
from llama_index.core.agent.workflow import AgentOutput, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import Response
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import (
    AgentChatResponse,
    BaseChatEngine,
    StreamingAgentChatResponse,
)
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.objects import ObjectRetriever, SimpleObjectNodeMapping
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, MetadataMode, Node, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step

from rank1_integrations import Judgment, Rank1
from rank1_integrations.llama_index import Rank1EndEvent, Rank1Postprocessor
from tests.integration.conftest import SERVED_NAME
from tests.support.llama_index_app import (
    BEST,
    QUERY,
    TEXTS,
    Bm25Retriever,
    ask,
    bm25_retriever,
    engine,
    scores,
    searching_llm,
    texts,
)
from tests.support.tampering_proxy import Call, TamperingProxy
from tests.unit.llama_index.recording import recorded

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


@pytest.fixture
def retriever() -> Bm25Retriever:
    return bm25_retriever()


@FORMS
async def test_a_query_engine_keeps_relevant_nodes_with_reasoning(
    form: str, retriever: Bm25Retriever, server_url: str
) -> None:
    postprocessor = Rank1Postprocessor(
        base_url=server_url, max_reasoning_tokens=256, score_threshold=0.5
    )
    kept = await ask(form, engine(retriever, postprocessor))
    assert texts(kept)[0] == BEST
    assert len(kept) < len(retriever.retrieve(QUERY))
    assert all(score >= 0.5 for score in scores(kept))
    assert "the query asks for" in kept[0].metadata["relevance_reasoning"]
    assert kept[0].metadata["rank1"]["relevant"] is True
    await postprocessor.aclose()


@FORMS
async def test_without_a_selection_all_come_back_best_first(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    kept = await ask(form, engine(retriever, Rank1Postprocessor(rank1=server)))
    assert sorted(texts(kept)) == sorted(texts(retriever.retrieve(QUERY)))
    assert scores(kept) == sorted(scores(kept), reverse=True)
    assert all(type(score) is float and 0 <= score <= 1 for score in scores(kept))


@FORMS
async def test_top_n_keeps_the_best(form: str, retriever: Bm25Retriever, server: Rank1) -> None:
    kept = await ask(form, engine(retriever, Rank1Postprocessor(rank1=server, top_n=1)))
    assert texts(kept) == [BEST]


@FORMS
async def test_a_threshold_that_nothing_reaches_keeps_nothing(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    postprocessor = Rank1Postprocessor(rank1=server, score_threshold=1.0)
    assert await ask(form, engine(retriever, postprocessor)) == []


@FORMS
async def test_a_query_engine_shows_one_rerank_span_of_its_own_with_one_pair_of_events(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    with recorded() as recording:
        kept = await ask(form, engine(retriever, Rank1Postprocessor(rank1=server, top_n=1)))
    (span,) = recording.rerank_spans()
    start, end = recording.rerank_events()
    assert (span.parent_id or "").startswith("RetrieverQueryEngine.")
    assert start.span_id == end.span_id == span.id_
    assert isinstance(end, Rank1EndEvent)
    assert end.nodes == kept
    assert len(end.dropped) == 3


def test_a_query_engine_assigns_its_callback_manager(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    postprocessor = Rank1Postprocessor(rank1=server)
    query_engine = engine(retriever, postprocessor)
    assert postprocessor.callback_manager is query_engine.callback_manager


@FORMS
async def test_the_reasoning_is_absent_from_the_text_given_to_the_llm(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    query_engine = RetrieverQueryEngine.from_args(
        retriever,
        llm=MockLLM(),  # Answers with the prompt that it got.
        node_postprocessors=[Rank1Postprocessor(rank1=server, top_n=2, keep_retrieval_score=True)],
    )
    response = query_engine.query(QUERY) if form == "sync" else await query_engine.aquery(QUERY)
    prompt = cast(Response, response).response or ""
    assert BEST in prompt
    reasoning = response.source_nodes[0].metadata["relevance_reasoning"]
    for absent in (reasoning.strip(), "relevance_reasoning", "rank1", "retrieval_score"):
        assert absent not in prompt


@pytest.mark.parametrize("form", ["chat", "achat", "stream_chat", "astream_chat"])
@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
async def test_a_chat_engine_reranks_what_it_retrieves(
    kind: Any, form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    postprocessor = Rank1Postprocessor(rank1=server, top_n=1)
    chat_engine = kind.from_defaults(retriever, llm=MockLLM(), node_postprocessors=[postprocessor])
    assert texts((await chat(form, chat_engine, QUERY)).source_nodes) == [BEST]
    assert postprocessor.callback_manager is chat_engine.callback_manager


@pytest.mark.parametrize("form", ["chat", "achat"])
async def test_a_chat_engine_judges_against_the_condensed_question(
    form: str, retriever: Bm25Retriever, server_url: str
) -> None:
    queries: list[str] = []
    postprocessor = Rank1Postprocessor(
        base_url=server_url,
        thinking="none",
        on_judgments=lambda query, passages, judgments: queries.append(query),
    )
    chat_engine = CondensePlusContextChatEngine.from_defaults(
        retriever,
        llm=MockLLM(),  # Answers with the prompt that it got: history, then question.
        node_postprocessors=[postprocessor],
    )
    history = [ChatMessage("I keep honeybees.", role="user")]
    answer = await chat(form, chat_engine, "How do they tell where food is?", history)
    assert len(queries) == 1
    assert "I keep honeybees." in queries[0]
    assert "How do they tell where food is?" in queries[0]
    assert scores(answer.source_nodes) == sorted(scores(answer.source_nodes), reverse=True)
    await postprocessor.aclose()


@FORMS
async def test_a_citation_query_engine_cites_kept_nodes_and_not_the_reasoning(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    query_engine = CitationQueryEngine.from_args(
        cast(Any, None),
        llm=MockLLM(),
        retriever=retriever,
        node_postprocessors=[Rank1Postprocessor(rank1=server, top_n=1)],
    )
    response = query_engine.query(QUERY) if form == "sync" else await query_engine.aquery(QUERY)
    (cited,) = response.source_nodes
    prompt = cast(Response, response).response or ""
    assert cited.get_content(MetadataMode.NONE).strip() == f"Source 1:\n{BEST}"
    assert f"Source 1:\n{BEST}" in prompt
    assert cited.metadata["relevance_reasoning"].strip() not in prompt


@FORMS
async def test_an_engine_whose_every_node_is_dropped_has_nothing_to_answer_from(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    query_engine = RetrieverQueryEngine.from_args(
        retriever,
        llm=MockLLM(),
        node_postprocessors=[Rank1Postprocessor(rank1=server, score_threshold=1.0)],
    )
    response = query_engine.query(QUERY) if form == "sync" else await query_engine.aquery(QUERY)
    assert str(response) == "Empty Response"
    assert response.source_nodes == []


@FORMS
async def test_a_retriever_tools_odd_queries_are_judged_as_the_plain_one(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    tool = RetrieverTool(
        retriever,
        ToolMetadata("Looks things up.", name="manual"),
        [Rank1Postprocessor(rank1=server, top_n=1)],
    )
    # The tool makes "{QUERY}\n\n" of the one and "\ninput is {QUERY}\n" of the other.
    by_place = tool.call(QUERY) if form == "sync" else await tool.acall(QUERY)
    by_name = tool.call(input=QUERY) if form == "sync" else await tool.acall(input=QUERY)
    (plain,) = server.judge(QUERY, [BEST])
    (node,) = by_place.raw_output
    assert node.score == pytest.approx(plain.score, abs=1e-3)
    assert by_place.content == f"{BEST}\n\n"
    assert texts(by_name.raw_output) == [BEST]


def test_a_query_engine_tool_answers_from_what_was_kept(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    query_engine = engine(retriever, Rank1Postprocessor(rank1=server, top_n=1))
    tool = QueryEngineTool.from_defaults(query_engine, name="manual", description="Looks it up.")
    assert texts(tool.call(QUERY).raw_output.source_nodes) == [BEST]


async def test_a_query_engine_tool_in_an_agents_loop(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    query_engine = engine(retriever, Rank1Postprocessor(rank1=server, top_n=1))
    tool = QueryEngineTool.from_defaults(query_engine, name="manual", description="Looks it up.")
    answers = await asyncio.gather(*(tool.acall(input=QUERY) for _ in range(3)))
    assert [texts(answer.raw_output.source_nodes) for answer in answers] == [[BEST]] * 3


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_agent_reads_the_nodes_that_its_tool_kept(
    streaming: bool, retriever: Bm25Retriever, server: Rank1
) -> None:
    search = RetrieverTool.from_defaults(
        retriever,
        node_postprocessors=[Rank1Postprocessor(rank1=server, top_n=1)],
        name="manual",
        description="Looks things up.",
    )
    agent = FunctionAgent(tools=[search], llm=searching_llm(), streaming=streaming)
    output: AgentOutput = cast(Any, await agent.run(QUERY))
    assert (output.response.content or "").strip() == f"I have read: {BEST}"
    (call,) = cast(list[ToolCallResult], output.tool_calls)
    assert texts(call.tool_output.raw_output) == [BEST]


async def test_an_object_retriever_calls_the_sync_form_inside_the_running_loop(
    server: Rank1,
) -> None:
    mapping = SimpleObjectNodeMapping.from_objects(TEXTS)
    objects: ObjectRetriever[str] = ObjectRetriever(
        Bm25Retriever([mapping.to_node(text) for text in TEXTS]),
        mapping,
        [Rank1Postprocessor(rank1=server, top_n=2)],
    )
    assert (await objects.aretrieve(QUERY))[0] == BEST
    assert await objects.aretrieve(QUERY) == objects.retrieve(QUERY)


@pytest.mark.parametrize("form", ["evaluate", "aevaluate"])
def test_an_evaluator_calls_the_sync_form_inside_the_running_loop(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    evaluator = RetrieverEvaluator.from_metric_names(
        ["mrr"],
        retriever=retriever,
        node_postprocessors=[Rank1Postprocessor(rank1=server)],
    )
    expected = [f"id-{TEXTS.index(BEST)}"]
    if form == "evaluate":
        result = evaluator.evaluate(QUERY, expected_ids=expected)
    else:
        result = asyncio.run(evaluator.aevaluate(QUERY, expected_ids=expected))
    assert result.metric_vals_dict["mrr"] == 1.0


class Retrieved(Event):
    nodes: list[NodeWithScore]


class Reranked(Event):
    nodes: list[NodeWithScore]


class RerankingWorkflow(Workflow):
    """LlamaIndex's documented workflow: retrieve, rerank and answer are steps."""

    def __init__(self, form: str, retriever: BaseRetriever, rerank: Rank1Postprocessor) -> None:
        super().__init__(timeout=60)
        self._form, self._retriever, self._rerank = form, retriever, rerank

    @step
    async def retrieve(self, context: Context[Any], event: StartEvent) -> Retrieved:
        await context.store.set("query", event.query)
        return Retrieved(nodes=await self._retriever.aretrieve(event.query))

    @step
    async def rerank(self, context: Context[Any], event: Retrieved) -> Reranked:
        query = await context.store.get("query")
        if self._form == "sync":  # As in the documentation: it blocks the event loop.
            return Reranked(nodes=self._rerank.postprocess_nodes(event.nodes, query_str=query))
        nodes = await self._rerank.apostprocess_nodes(event.nodes, query_str=query)
        return Reranked(nodes=nodes)

    @step
    async def answer(self, event: Reranked) -> StopEvent:
        return StopEvent(result=event.nodes)


@FORMS
async def test_a_workflow_reranks_in_a_step(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    workflow = RerankingWorkflow(form, retriever, Rank1Postprocessor(rank1=server, top_n=1))
    with recorded() as recording:
        first, second = await asyncio.gather(workflow.run(query=QUERY), workflow.run(query=QUERY))
    assert texts(first) == texts(second) == [BEST]
    assert len(recording.rerank_spans()) == 2
    assert all(
        (span.parent_id or "").startswith("RerankingWorkflow") for span in recording.rerank_spans()
    )


async def test_a_second_rerank_scores_as_the_first(retriever: Bm25Retriever, server: Rank1) -> None:
    first, second = Rank1Postprocessor(rank1=server), Rank1Postprocessor(rank1=server)
    once = await ask("async", engine(retriever, first))
    twice = await ask("async", engine(retriever, first, second))
    assert texts(twice) == texts(once)
    assert scores(twice) == pytest.approx(scores(once), abs=1e-3)


async def test_the_retrievers_nodes_are_not_changed(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    postprocessor = Rank1Postprocessor(rank1=server, keep_retrieval_score=True)
    kept = await ask("async", engine(retriever, postprocessor))
    assert all(type(node.metadata["retrieval_score"]) is float for node in kept)
    assert all(node.metadata == {} for node in retriever.retrieve(QUERY))


@pytest.mark.parametrize(
    "copied",
    [
        lambda made: pickle.loads(pickle.dumps(made)),
        lambda made: Rank1Postprocessor.from_dict(made.to_dict()),
        lambda made: Rank1Postprocessor.from_json(made.to_json()),
        lambda made: made.model_copy(deep=True),
        copy.deepcopy,
    ],
    ids=["pickle", "dict", "json", "deep model copy", "deep copy"],
)
def test_a_copy_made_after_use_reranks_too(
    copied: Callable[[Rank1Postprocessor], Rank1Postprocessor],
    retriever: Bm25Retriever,
    server_url: str,
) -> None:
    used = Rank1Postprocessor(
        base_url=server_url, model=SERVED_NAME, max_reasoning_tokens=256, top_n=1
    )
    assert texts(engine(retriever, used).query(QUERY).source_nodes) == [BEST]
    again = copied(used)
    assert texts(engine(retriever, again).query(QUERY).source_nodes) == [BEST]
    again.close()
    used.close()


def test_ingested_nodes_are_not_changed(server: Rank1) -> None:
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter()],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.DUPLICATES_ONLY,
    )
    documents = [Document(text=text, id_=f"id-{i}") for i, text in enumerate(TEXTS)]
    nodes = pipeline.run(documents=documents)
    store, written = cast(SimpleDocumentStore, pipeline.docstore), [n.to_json() for n in nodes]
    stored = json.dumps(store.to_dict(), sort_keys=True)
    retriever = Bm25Retriever(cast(list[TextNode], nodes))
    postprocessor = Rank1Postprocessor(rank1=server, keep_retrieval_score=True)
    assert len(engine(retriever, postprocessor).query(QUERY).source_nodes) == 4
    assert [node.to_json() for node in nodes] == written
    assert json.dumps(store.to_dict(), sort_keys=True) == stored
    # The pipeline sees no change either.
    assert pipeline.run(documents=documents) == []


@FORMS
async def test_images_and_nodes_without_text_are_judged_among_the_others(
    form: str, server: Rank1
) -> None:
    nodes = [
        NodeWithScore(node=node)
        for node in (Node(), ImageNode(image_url="http://localhost/bee.png"), TextNode(text=BEST))
    ]
    postprocessor = Rank1Postprocessor(rank1=server)
    if form == "sync":
        kept = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    else:
        kept = await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)
    assert texts(kept)[0] == BEST
    assert {type(node.node) for node in kept} == {Node, ImageNode, TextNode}
    assert all(0 <= score <= 1 for score in scores(kept))


@FORMS
async def test_past_the_deadline_the_answer_is_made_from_the_retrievers_nodes(
    form: str, retriever: Bm25Retriever, proxy: TamperingProxy
) -> None:
    over = threading.Event()

    def hold(call: Call) -> None:
        if call.path == "/v1/completions":
            over.wait(60)

    proxy.refuse = hold
    postprocessor = Rank1Postprocessor(
        base_url=proxy.url, deadline=1.0, thinking="adaptive", top_n=3
    )
    with recorded() as recording:
        kept = await ask(form, engine(retriever, postprocessor))
    over.set()
    assert texts(kept) == texts(retriever.retrieve(QUERY))[:3]
    assert [node.score for node in kept] == [None] * 3
    assert all(node.metadata["rank1"]["finish_reason"] == "skipped" for node in kept)
    assert len(recording.rerank_events()) == 2
    await postprocessor.aclose()


@FORMS
async def test_the_dropped_are_explained_without_tracing(
    form: str, retriever: Bm25Retriever, server_url: str
) -> None:
    told: list[tuple[str, list[str], list[Judgment]]] = []
    postprocessor = Rank1Postprocessor(
        base_url=server_url,
        max_reasoning_tokens=256,
        top_n=1,
        on_judgments=lambda *all_judgments: told.append(all_judgments),
    )
    kept = await ask(form, engine(retriever, postprocessor))
    ((query, passages, judgments),) = told
    assert query == QUERY
    assert passages == texts(retriever.retrieve(QUERY))
    assert [passages[judgment.index] for judgment in judgments] == passages
    dropped = [j for j in judgments if passages[j.index] not in texts(kept)]
    assert len(dropped) == 3
    assert all(judgment.reasoning and judgment.score is not None for judgment in dropped)
    await postprocessor.aclose()


def test_threads_and_loops_share_one_postprocessor(retriever: Bm25Retriever, server: Rank1) -> None:
    query_engine = engine(retriever, Rank1Postprocessor(rank1=server, top_n=1))

    def answer(number: int) -> list[str]:
        form = "async" if number % 2 else "sync"
        return texts(asyncio.run(ask(form, query_engine)))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(answer, range(8))) == [[BEST]] * 8


async def chat(
    form: str, chat_engine: BaseChatEngine, message: str, history: list[ChatMessage] | None = None
) -> AgentChatResponse | StreamingAgentChatResponse:
    """Return the answer, read to its end."""
    match form:
        case "chat":
            return chat_engine.chat(message, history)
        case "achat":
            return await chat_engine.achat(message, history)
        case "stream_chat":
            stream = chat_engine.stream_chat(message, history)
            assert "".join(stream.response_gen)
            return stream
    stream = await chat_engine.astream_chat(message, history)
    assert [part async for part in stream.async_response_gen()]
    return stream


async def test_the_demonstration_model_keeps_the_passage_about_the_query(local: Rank1) -> None:
    postprocessor = Rank1Postprocessor(rank1=local, top_n=1)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    for kept in (
        postprocessor.postprocess_nodes(nodes, query_str=QUERY),
        await postprocessor.apostprocess_nodes(nodes, query_str=QUERY),
    ):
        assert texts(kept) == [BEST]
        assert kept[0].metadata["relevance_reasoning"]
