"""Complaints and wishes of users of LlamaIndex's rerankers, with the numbers of the issues.

The demonstration model judges on a real vLLM server, behind a proxy that counts requests.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from llama_index.core import SummaryIndex
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import NodeWithScore, TextNode

from rank1_integrations import Rank1
from rank1_integrations.llama_index import Rank1Postprocessor
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
    texts,
)
from tests.support.tampering_proxy import Call, TamperingProxy, is_about_passages
from tests.unit.llama_index.exporting import attributes, documents, exported

FORMS = pytest.mark.parametrize("form", ["sync", "async"])


@pytest.fixture
def retriever() -> Bm25Retriever:
    return bm25_retriever()


async def test_asynchronous_reranks_run_at_the_same_time(
    retriever: Bm25Retriever, proxy: TamperingProxy
) -> None:
    """#16911, #19379, #20973, #22596: the asynchronous form was a blocking one in a thread."""
    queries, passages = 4, 4
    gate = threading.Barrier(queries * passages, timeout=60)

    def hold_until_all_have_come(call: Call) -> None:
        if is_about_passages(call):
            gate.wait()

    proxy.refuse = hold_until_all_have_come
    async with Rank1.from_server(proxy.url, thinking="none") as rank1:
        query_engine = engine(retriever, Rank1Postprocessor(rank1=rank1, top_n=1))
        answers = await asyncio.gather(*(ask("async", query_engine) for _ in range(queries)))
    assert [len(kept) for kept in answers] == [1] * queries
    assert not gate.broken


def test_one_postprocessor_serves_any_number_of_event_loops(
    retriever: Bm25Retriever, server_url: str
) -> None:
    """#21150: a client was tied to the loop that it was made in."""

    async def make() -> Rank1Postprocessor:
        return Rank1Postprocessor(base_url=server_url, max_reasoning_tokens=256, top_n=1)

    query_engine = engine(retriever, asyncio.run(make()))
    for form in ("async", "sync", "async"):
        assert texts(asyncio.run(ask(form, query_engine))) == [BEST]


@FORMS
async def test_scores_are_floats_that_json_takes(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    """#10780, #16743: numpy's float32 broke `to_json` and FastAPI."""
    postprocessor = Rank1Postprocessor(rank1=server, keep_retrieval_score=True)
    for node in await ask(form, engine(retriever, postprocessor)):
        assert type(node.score) is float
        written = json.loads(node.to_json())
        assert written["score"] == node.score
        assert written["node"]["metadata"] == node.metadata
        assert type(node.metadata["retrieval_score"]) is float


@FORMS
@pytest.mark.parametrize("order", [1, -1])
async def test_every_node_has_its_own_score(form: str, order: int, server: Rank1) -> None:
    """#20597: scores that came sorted were given to the nodes in their old order."""
    nodes = [NodeWithScore(node=TextNode(text=text, id_=text)) for text in TEXTS[::order]]
    postprocessor = Rank1Postprocessor(rank1=server)
    if form == "sync":
        kept = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    else:
        kept = await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)
    alone = {text: server.judge(QUERY, [text])[0].score for text in TEXTS}
    assert {node.node_id: node.score for node in kept} == pytest.approx(alone, abs=1e-3)
    assert scores(kept) == sorted(scores(kept), reverse=True)


@FORMS
async def test_a_rerank_logs_to_arize(form: str, retriever: Bm25Retriever, server: Rank1) -> None:
    """#18216, #19386: Arize and Phoenix showed no reranker, or one without its documents."""
    with exported() as spans:
        kept = await ask(form, engine(retriever, Rank1Postprocessor(rank1=server, top_n=2)))
    (span,) = spans.rerankers()
    assert spans.parent_of(span).name.startswith("RetrieverQueryEngine.")
    shown = attributes(span)
    assert shown["reranker.query"] == QUERY
    assert shown["reranker.top_k"] == 2
    assert shown["reranker.model_name"] == SERVED_NAME
    retrieved = retriever.retrieve(QUERY)
    assert [d["content"] for d in documents(span, "input")] == texts(retrieved)
    assert [d["score"] for d in documents(span, "input")] == [float(s) for s in scores(retrieved)]
    output = documents(span, "output")
    assert [document["content"] for document in output] == texts(kept)
    assert [document["score"] for document in output] == scores(kept)
    for document in output:
        assert document["metadata"]["relevance_reasoning"]
        assert document["metadata"]["rank1"]["reasoning_tokens"] > 0
        assert document["metadata"]["rank1"]["prompt_tokens"] > 0


@FORMS
async def test_nodes_that_come_without_a_score_are_judged_like_any(
    form: str, server: Rank1
) -> None:
    """#12497, #11587: retrievers that give no scores lost their nodes in the next filter."""
    retriever = SummaryIndex([TextNode(text=text) for text in TEXTS]).as_retriever()
    assert [node.score for node in retriever.retrieve(QUERY)] == [None] * len(TEXTS)
    query_engine = engine(
        retriever,
        Rank1Postprocessor(rank1=server),
        SimilarityPostprocessor(similarity_cutoff=0.0),
    )
    kept = await ask(form, query_engine)
    assert sorted(texts(kept)) == sorted(TEXTS)
    assert texts(kept)[0] == BEST


@FORMS
async def test_a_threshold_on_the_score_says_what_is_relevant(
    form: str, retriever: Bm25Retriever, server: Rank1
) -> None:
    """#18518: a similarity cutoff did nothing sensible after a reranker. A probability does."""
    filters: list[list[Any]] = [
        [Rank1Postprocessor(rank1=server, score_threshold=0.5)],
        [Rank1Postprocessor(rank1=server), SimilarityPostprocessor(similarity_cutoff=0.5)],
    ]
    for postprocessors in filters:
        chat_engine = CondensePlusContextChatEngine.from_defaults(
            retriever, llm=MockLLM(), node_postprocessors=postprocessors
        )
        answer = chat_engine.chat(QUERY) if form == "sync" else await chat_engine.achat(QUERY)
        kept = answer.source_nodes
        assert texts(kept)[0] == BEST
        assert 0 < len(kept) < len(retriever.retrieve(QUERY))
        assert all(node.metadata["rank1"]["relevant"] for node in kept)


@FORMS
@pytest.mark.parametrize("query", ["great!", "Doc: 0, Relevance: 9", "Doc: -2, Relevance: high"])
async def test_no_answer_of_the_model_fails_to_parse(form: str, query: str, server: Rank1) -> None:
    """#11093, #17352, #22743: LLMRerank read document numbers from what the model wrote, and
    failed on small talk or took the wrong document."""
    passages = [*TEXTS, "Doc: 0, Relevance: 9", "Nothing here, as it were: no, none", "true", ""]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in passages]
    postprocessor = Rank1Postprocessor(rank1=server)
    if form == "sync":
        kept = postprocessor.postprocess_nodes(nodes, query_str=query)
    else:
        kept = await postprocessor.apostprocess_nodes(nodes, query_str=query)
    assert sorted(node.node_id for node in kept) == sorted(node.node_id for node in nodes)
    assert all(0 <= score <= 1 for score in scores(kept))
    for node in kept:
        assert node.get_content() == passages[node.metadata["rank1"]["index"]]


@pytest.mark.parametrize("path", ["/v1", "/v1/", ""])
def test_a_vllm_server_at_any_address_reranks(
    path: str, retriever: Bm25Retriever, proxy: TamperingProxy
) -> None:
    """#14643, #20238: how to rerank with vLLM, at a URL of one's own."""
    postprocessor = Rank1Postprocessor(
        base_url=proxy.url.removesuffix("/v1") + path, max_reasoning_tokens=256, top_n=1
    )
    assert texts(engine(retriever, postprocessor).query(QUERY).source_nodes) == [BEST]
    assert {call.path for call in proxy.calls} >= {"/v1/models", "/v1/completions"}
    postprocessor.close()


@FORMS
async def test_the_model_is_made_once_and_its_scores_are_its_own(
    form: str, retriever: Bm25Retriever, proxy: TamperingProxy
) -> None:
    """RankLLMRerank builds its model on every call and returns the retriever's scores."""
    postprocessor = Rank1Postprocessor(
        base_url=proxy.url, max_reasoning_tokens=256, keep_retrieval_score=True
    )
    query_engine = engine(retriever, postprocessor)
    first, second = await ask(form, query_engine), await ask(form, query_engine)
    assert [call.path for call in proxy.calls].count("/v1/models") == 1
    assert scores(first) == pytest.approx(scores(second), abs=1e-3)
    assert all(node.score != node.metadata["retrieval_score"] for node in first)
    await postprocessor.aclose()
