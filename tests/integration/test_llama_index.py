"""The postprocessor in LlamaIndex's own engines and tools, over BM25 and a real vLLM server."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import bm25s
import pytest
from llama_index.core.base.response.schema import Response
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.llms import MockLLM
from llama_index.core.objects import ObjectRetriever, SimpleObjectNodeMapping
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata

from rank1_integrations import Rank1
from rank1_integrations.llama_index import Rank1EndEvent, Rank1Postprocessor
from tests.integration.conftest import SERVED_NAME
from tests.unit.llama_index.recording import recorded

QUERY = "How do honeybees tell each other where food is?"
BEST = "Honeybees tell each other where food is by a dance: the dance tells how far the food is."
OTHERS = [
    "Ants tell each other where food is by a trail of scent.",
    "Honeybees live in hives that they build of wax.",
    "Food is sold on the market of the town.",
    "Wax melts in warm water.",
    "The Nile is a river of Africa.",
]
TEXTS = [*OTHERS, BEST]

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


class Bm25Retriever(BaseRetriever):
    """The four nodes that BM25 finds best."""

    def __init__(self, nodes: list[TextNode]) -> None:
        super().__init__()
        self._nodes, self._index = nodes, bm25s.BM25()
        self._index.index(words([node.text for node in nodes]), show_progress=False)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found, scores = self._index.retrieve(
            words([query_bundle.query_str]), k=4, show_progress=False
        )
        # numpy's floats, as careless retrievers hand them on.
        return [
            NodeWithScore.model_construct(node=self._nodes[place], score=score)
            for place, score in zip(found[0], scores[0], strict=True)
        ]


def words(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, show_progress=False)


@pytest.fixture
def retriever() -> Bm25Retriever:
    return Bm25Retriever([TextNode(text=text, id_=f"id-{i}") for i, text in enumerate(TEXTS)])


def engine(retriever: BaseRetriever, *postprocessors: Rank1Postprocessor) -> RetrieverQueryEngine:
    """An engine that answers with the nodes alone: no language model, real or not, is asked."""
    return RetrieverQueryEngine(
        retriever,
        response_synthesizer=NoText(llm=MockLLM()),
        node_postprocessors=list(postprocessors),
    )


async def ask(form: str, query_engine: RetrieverQueryEngine) -> list[NodeWithScore]:
    response = query_engine.query(QUERY) if form == "sync" else await query_engine.aquery(QUERY)
    return response.source_nodes


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.get_content(MetadataMode.NONE) for node in nodes]


def scores(nodes: list[NodeWithScore]) -> list[float]:
    return [node.get_score(raise_error=True) for node in nodes]


@FORMS
async def test_a_query_engine_keeps_what_is_relevant_and_says_why(
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
async def test_without_a_cut_all_come_back_best_first(
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


@FORMS
async def test_a_chat_engine_reranks_what_it_retrieves(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    chat_engine = ContextChatEngine.from_defaults(
        retriever, llm=MockLLM(), node_postprocessors=[Rank1Postprocessor(rank1=server, top_n=1)]
    )
    answer = chat_engine.chat(QUERY) if form == "sync" else await chat_engine.achat(QUERY)
    assert texts(answer.source_nodes) == [BEST]


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


async def test_a_query_engine_tool_in_an_agents_loop(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    query_engine = engine(retriever, Rank1Postprocessor(rank1=server, top_n=1))
    tool = QueryEngineTool.from_defaults(query_engine, name="manual", description="Looks it up.")
    answers = await asyncio.gather(*(tool.acall(input=QUERY) for _ in range(3)))
    assert [texts(answer.raw_output.source_nodes) for answer in answers] == [[BEST]] * 3


async def test_an_object_retriever_calls_the_synchronous_form_inside_the_running_loop(
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


async def test_an_evaluator_calls_the_synchronous_form_inside_the_running_loop(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    evaluator = RetrieverEvaluator.from_metric_names(
        ["mrr"],
        retriever=retriever,
        node_postprocessors=[Rank1Postprocessor(rank1=server)],
    )
    result = await evaluator.aevaluate(QUERY, expected_ids=[f"id-{TEXTS.index(BEST)}"])
    assert result.metric_vals_dict["mrr"] == 1.0


async def test_a_second_rerank_scores_as_the_first(retriever: Bm25Retriever, server: Rank1) -> None:
    first, second = Rank1Postprocessor(rank1=server), Rank1Postprocessor(rank1=server)
    once = await ask("async", engine(retriever, first))
    twice = await ask("async", engine(retriever, first, second))
    assert texts(twice) == texts(once)
    assert scores(twice) == pytest.approx(scores(once), abs=1e-3)


async def test_what_the_retriever_holds_is_untouched(
    retriever: Bm25Retriever, server: Rank1
) -> None:
    postprocessor = Rank1Postprocessor(rank1=server, keep_retrieval_score=True)
    kept = await ask("async", engine(retriever, postprocessor))
    assert all(type(node.metadata["retrieval_score"]) is float for node in kept)
    assert all(node.metadata == {} for node in retriever.retrieve(QUERY))


async def test_the_answers_nodes_are_json(retriever: Bm25Retriever, server: Rank1) -> None:
    postprocessor = Rank1Postprocessor(rank1=server, keep_retrieval_score=True)
    for node in await ask("async", engine(retriever, postprocessor)):
        written = json.loads(node.to_json())
        assert written["score"] == node.score
        assert written["node"]["metadata"] == node.metadata


@pytest.mark.parametrize(
    "copied",
    [
        lambda made: pickle.loads(pickle.dumps(made)),
        lambda made: Rank1Postprocessor.from_dict(made.to_dict()),
        lambda made: Rank1Postprocessor.from_json(made.to_json()),
        lambda made: made.model_copy(deep=True),
    ],
    ids=["pickle", "dict", "json", "deep copy"],
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
    copy = copied(used)
    assert texts(engine(retriever, copy).query(QUERY).source_nodes) == [BEST]
    copy.close()
    used.close()


def test_threads_and_loops_share_one_postprocessor(retriever: Bm25Retriever, server: Rank1) -> None:
    query_engine = engine(retriever, Rank1Postprocessor(rank1=server, top_n=1))

    def answer(place: int) -> list[str]:
        form = "async" if place % 2 else "sync"
        return texts(asyncio.run(ask(form, query_engine)))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(answer, range(8))) == [[BEST]] * 8
