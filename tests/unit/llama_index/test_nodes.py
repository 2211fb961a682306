"""Which nodes the postprocessor returns, in which order, and what it adds to them."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from rank1_integrations import EngineError, Judgment, Rank1
from rank1_integrations.llama_index import Rank1EndEvent, Rank1Postprocessor, flat_metadata
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script
from tests.unit.llama_index.conftest import (
    LONG,
    MIDDLE,
    QUERY,
    SHORT,
    Rerank,
    judged_texts,
    some_nodes,
    texts,
)
from tests.unit.llama_index.recording import recorded


async def test_nodes_come_best_first_with_their_scores(rerank: Rerank, rank1: Rank1) -> None:
    kept = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(SHORT, LONG, MIDDLE))
    assert texts(kept) == [LONG, MIDDLE, SHORT]
    assert [node.node_id for node in kept] == ["id-1", "id-2", "id-0"]
    assert [node.score for node in kept] == pytest.approx([0.982, 0.5, 0.119], abs=0.001)


async def test_ties_keep_the_retrievers_order(rerank: Rerank, rank1: Rank1) -> None:
    kept = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes("bb", "aa", "cc"))
    assert texts(kept) == ["bb", "aa", "cc"]


async def test_top_n_keeps_the_best(rerank: Rerank, rank1: Rank1) -> None:
    kept = await rerank(Rank1Postprocessor(rank1=rank1, top_n=1), some_nodes(SHORT, LONG))
    assert texts(kept) == [LONG]


async def test_a_top_n_larger_than_the_input_keeps_all(rerank: Rerank, rank1: Rank1) -> None:
    kept = await rerank(Rank1Postprocessor(rank1=rank1, top_n=9), some_nodes(SHORT, LONG))
    assert texts(kept) == [LONG, SHORT]


async def test_without_top_n_all_are_kept(rerank: Rerank, rank1: Rank1) -> None:
    assert len(await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(*["same"] * 30))) == 30


async def test_a_score_equal_to_the_threshold_is_kept(rerank: Rerank, rank1: Rank1) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1, score_threshold=0.5)
    assert texts(await rerank(postprocessor, some_nodes(SHORT, MIDDLE, LONG))) == [LONG, MIDDLE]


async def test_the_threshold_comes_before_top_n(rerank: Rerank, rank1: Rank1) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1, score_threshold=0.9, top_n=2)
    assert texts(await rerank(postprocessor, some_nodes(SHORT, MIDDLE, LONG))) == [LONG]


async def test_no_nodes_give_no_nodes(rerank: Rerank, rank1: Rank1, engine: ScriptedEngine) -> None:
    assert await rerank(Rank1Postprocessor(rank1=rank1), []) == []
    assert engine.requests == []


@pytest.mark.parametrize("query", [None, "", " \n"])
async def test_without_a_query_it_says_how_to_pass_one(query: str | None, rank1: Rank1) -> None:
    postprocessor, nodes = Rank1Postprocessor(rank1=rank1), some_nodes(LONG)
    with pytest.raises(ValueError, match="postprocess_nodes\\(nodes, query_str="):
        postprocessor.postprocess_nodes(nodes, query_str=query)
    with pytest.raises(ValueError, match="postprocess_nodes\\(nodes, query_str="):
        await postprocessor.apostprocess_nodes(nodes, query_str=query)


async def test_a_query_bundle_is_a_query(rank1: Rank1) -> None:
    postprocessor, nodes = Rank1Postprocessor(rank1=rank1), some_nodes(LONG)
    kept = postprocessor.postprocess_nodes(nodes, QueryBundle(QUERY))
    assert kept == postprocessor.postprocess_nodes(nodes, query_str=QUERY)


async def test_white_space_around_the_query_makes_no_difference(
    rank1: Rank1, engine: ScriptedEngine
) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1)
    await postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=QUERY)
    await postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=f"\n {QUERY}\n\n")
    first, _, second, _ = (request.prompt for request in engine.requests)
    assert first == second


async def test_inputs_are_not_changed(rerank: Rerank, rank1: Rank1) -> None:
    nodes = some_nodes(SHORT, LONG)
    before = [node.model_dump_json() for node in nodes]
    objects = [node.node for node in nodes]
    kept = await rerank(Rank1Postprocessor(rank1=rank1, keep_retrieval_score=True), nodes)
    kept[0].node.metadata["later"] = True
    kept[0].node.excluded_llm_metadata_keys.append("later")
    kept[0].node.excluded_embed_metadata_keys.append("later")
    assert [node.model_dump_json() for node in nodes] == before
    assert all(node.node is object_ for node, object_ in zip(nodes, objects, strict=True))


async def test_the_same_node_twice_is_returned_as_two_copies(rerank: Rerank, rank1: Rank1) -> None:
    node = some_nodes(LONG)[0]
    first, second = await rerank(Rank1Postprocessor(rank1=rank1), [node, node])
    assert first.node is not second.node
    assert (first.metadata["rank1"]["index"], second.metadata["rank1"]["index"]) == (0, 1)


async def test_the_same_passage_ten_times_is_judged_once_and_returned_ten_times(
    rerank: Rerank, rank1: Rank1, engine: ScriptedEngine
) -> None:
    await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG))
    requests_for_one = len(engine.requests)
    engine.requests.clear()
    kept = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(*[LONG] * 10))
    assert [node.node_id for node in kept] == [f"id-{index}" for index in range(10)]
    assert len({node.score for node in kept}) == 1
    assert len(engine.requests) == requests_for_one


async def test_only_metadata_and_exclusion_lists_are_copied(rerank: Rerank, rank1: Rank1) -> None:
    """Locks and generators can't be copied, and an embedding costs time on the caller's loop."""
    values = {"lock": threading.Lock(), "rows": (row for row in [1]), "authors": ["A"]}
    embedding = [0.5] * 1000
    kept_node = TextNode(text=LONG, metadata=dict(values), embedding=embedding)
    dropped_node = TextNode(text=SHORT, metadata=dict(values), embedding=embedding)
    nodes = [NodeWithScore(node=node) for node in (kept_node, dropped_node)]
    with recorded() as recording:
        (kept,) = await rerank(Rank1Postprocessor(rank1=rank1, top_n=1), nodes)
    (end,) = (event for event in recording.rerank_events() if isinstance(event, Rank1EndEvent))
    (dropped,) = end.dropped
    for copy, original in ((kept.node, kept_node), (dropped.node, dropped_node)):
        assert copy is not original
        assert all(copy.metadata[name] is value for name, value in values.items())
        assert copy.embedding is original.embedding
        assert "rank1" in copy.metadata
        assert original.metadata == values


async def test_flat_metadata_pass_llama_indexs_own_check(rerank: Rerank) -> None:
    """Its vector stores for Chroma, Pinecone and others make this check."""
    rank1 = Rank1(ScriptedEngine(length_script), on_error="keep")
    postprocessor = Rank1Postprocessor(rank1=rank1, keep_retrieval_score=True)
    for node in await rerank(postprocessor, some_nodes(LONG, "fail")):
        with pytest.raises(ValueError, match="must be one of"):
            node_to_metadata_dict(node.node, flat_metadata=True)
        judgment, text = node.metadata["rank1"], node.node.get_content(MetadataMode.EMBED)
        node.node.metadata = flat_metadata(node.metadata)
        stored = node_to_metadata_dict(node.node, flat_metadata=True)
        assert None not in stored.values()
        assert json.loads(stored["rank1"]) == judgment
        assert metadata_dict_to_node(stored).get_content(MetadataMode.EMBED) == text


async def test_the_object_of_an_index_node_is_shared(rerank: Rerank, rank1: Rank1) -> None:
    query_engine = threading.Lock()  # Like many query engines, it can't be copied.
    node = IndexNode(text=LONG, index_id="library", obj=query_engine)
    (kept,) = await rerank(Rank1Postprocessor(rank1=rank1), [NodeWithScore(node=node)])
    assert isinstance(kept.node, IndexNode)
    assert kept.node is not node
    assert kept.node.obj is query_engine


async def test_the_metadata_carry_the_judgment(rerank: Rerank, rank1: Rank1) -> None:
    (kept,) = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG))
    (judgment,) = rank1.judge(QUERY, [LONG])
    assert kept.score == judgment.score
    assert kept.metadata["rank1"] == {
        name: value
        for name, value in judgment.to_dict().items()
        if name not in ("score", "reasoning")
    }
    assert kept.metadata["relevance_reasoning"] == f"I have read: {LONG}."


async def test_the_judgment_is_absent_from_the_text_for_llms_and_embedders(
    rerank: Rerank, rank1: Rank1
) -> None:
    node = TextNode(text=LONG, metadata={"source": "file"}, excluded_embed_metadata_keys=["rank1"])
    postprocessor = Rank1Postprocessor(rank1=rank1, keep_retrieval_score=True)
    (kept,) = await rerank(postprocessor, [NodeWithScore(node=node, score=2.5)])
    assert kept.metadata["retrieval_score"] == 2.5
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert kept.get_content(mode) == node.get_content(mode) == f"source: file\n\n{LONG}"
    keys = ["rank1", "relevance_reasoning", "retrieval_score"]
    assert sorted(kept.node.excluded_embed_metadata_keys) == keys
    assert sorted(kept.node.excluded_llm_metadata_keys) == keys


@pytest.mark.parametrize("mode", [MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE])
async def test_a_second_rerank_judges_the_same_text(
    mode: Any, rerank: Rerank, rank1: Rank1, engine: ScriptedEngine
) -> None:
    node = TextNode(text=LONG, metadata={"source": "file"})
    postprocessor = Rank1Postprocessor(rank1=rank1, metadata_mode=mode, keep_retrieval_score=True)
    once = await rerank(postprocessor, [NodeWithScore(node=node, score=0.7)])
    twice = await rerank(postprocessor, once)
    first, second = judged_texts(engine)
    assert first == second
    assert twice[0].score == once[0].score
    assert len(twice[0].node.excluded_llm_metadata_keys) == 3


@pytest.mark.parametrize(
    ("mode", "judged"),
    [("embed", "for: all\nembedders: yes"), ("llm", "for: all\nllms: yes"), ("none", "")],
)
async def test_the_metadata_mode_selects_the_judged_metadata(
    mode: Any, judged: str, rank1: Rank1, engine: ScriptedEngine
) -> None:
    node = TextNode(
        text="The text.",
        metadata={"for": "all", "embedders": "yes", "llms": "yes"},
        excluded_embed_metadata_keys=["llms"],
        excluded_llm_metadata_keys=["embedders"],
    )
    postprocessor = Rank1Postprocessor(rank1=rank1, metadata_mode=mode)
    postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    assert judged_texts(engine)[0].startswith(judged)
    assert judged_texts(engine)[0].endswith("The text.")


@pytest.mark.parametrize(
    "node",
    [
        TextNode(),
        Node(),
        Node(image_resource=MediaResource(mimetype="image/png")),
        ImageNode(image_url="http://localhost/bee.png"),
    ],
    ids=["TextNode", "Node", "Node with image", "ImageNode"],
)
async def test_a_node_without_text_is_judged_like_any(
    node: BaseNode, rerank: Rerank, rank1: Rank1, engine: ScriptedEngine
) -> None:
    nodes = [NodeWithScore(node=node), *some_nodes(LONG)]
    kept = await rerank(Rank1Postprocessor(rank1=rank1), nodes)
    assert texts(kept) == [LONG, ""]
    assert type(kept[1].node) is type(node)
    assert kept[1].score is not None
    assert "" in judged_texts(engine)


async def test_scores_are_python_floats_and_all_is_json(rerank: Rerank, rank1: Rank1) -> None:
    node = TextNode(text=LONG)
    retrieved = NodeWithScore(node=node)
    retrieved.score = np.float32(0.25)  # type: ignore[assignment]
    (kept,) = await rerank(Rank1Postprocessor(rank1=rank1, keep_retrieval_score=True), [retrieved])
    assert type(kept.score) is float
    assert type(kept.metadata["retrieval_score"]) is float
    assert json.loads(kept.to_json())["score"] == kept.score
    assert json.loads(json.dumps(kept.metadata)) == kept.metadata


@pytest.mark.parametrize(
    ("score", "kept_score"),
    [(None, None), (0.0, 0.0), (12.5, 12.5), (math.nan, None), (-math.inf, None)],
)
async def test_the_retrieval_score_is_kept_on_request_unless_it_is_no_number(
    score: float | None, kept_score: float | None, rerank: Rerank, rank1: Rank1
) -> None:
    nodes = [NodeWithScore(node=TextNode(text=LONG), score=score)]
    (with_it,) = await rerank(Rank1Postprocessor(rank1=rank1, keep_retrieval_score=True), nodes)
    (without,) = await rerank(Rank1Postprocessor(rank1=rank1), nodes)
    assert with_it.metadata["retrieval_score"] == kept_score
    assert "retrieval_score" not in without.metadata


async def test_retrieval_scores_that_are_no_numbers_do_not_disturb_the_order(
    rerank: Rerank, rank1: Rank1
) -> None:
    nodes = some_nodes(SHORT, LONG, MIDDLE)
    for node, score in zip(nodes, [math.nan, None, 7.0], strict=True):
        node.score = score
    assert texts(await rerank(Rank1Postprocessor(rank1=rank1), nodes)) == [LONG, MIDDLE, SHORT]


async def test_an_engine_that_fails_is_an_error(rerank: Rerank, rank1: Rank1) -> None:
    with pytest.raises(EngineError, match="the script says so"):
        await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG, "fail"))


async def test_a_failed_node_is_kept_last_without_a_score(rerank: Rerank) -> None:
    rank1 = Rank1(ScriptedEngine(length_script), on_error="keep")
    postprocessor = Rank1Postprocessor(rank1=rank1, score_threshold=0.5)
    kept = await rerank(postprocessor, some_nodes("fail", SHORT, LONG))
    assert texts(kept) == [LONG, "fail"]
    assert kept[1].score is None
    assert kept[1].metadata["rank1"]["finish_reason"] == "failed"
    assert "the script says so" in kept[1].metadata["rank1"]["error"]


async def test_a_failed_node_is_dropped(rerank: Rerank) -> None:
    rank1 = Rank1(ScriptedEngine(length_script), on_error="drop")
    kept = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes("fail", SHORT, LONG))
    assert texts(kept) == [LONG, SHORT]


async def test_past_the_deadline_all_nodes_come_back_unscored(rerank: Rerank) -> None:
    rank1 = Rank1(ScriptedEngine(length_script, seconds=60), deadline=0.2)
    postprocessor = Rank1Postprocessor(rank1=rank1, score_threshold=0.5)
    kept = await rerank(postprocessor, some_nodes(SHORT, LONG))
    assert texts(kept) == [SHORT, LONG]
    assert [node.score for node in kept] == [None, None]
    assert {node.metadata["rank1"]["finish_reason"] for node in kept} == {"skipped"}


async def test_on_judgments_gets_the_dropped_judgments_too(rerank: Rerank) -> None:
    calls: list[tuple[str, list[str], list[Judgment]]] = []
    rank1 = Rank1(ScriptedEngine(length_script), on_judgments=lambda *call: calls.append(call))
    await rerank(Rank1Postprocessor(rank1=rank1, top_n=1), some_nodes(SHORT, LONG))
    ((_, passages, judgments),) = calls
    assert passages == [SHORT, LONG]
    assert [judgment.relevant for judgment in judgments] == [False, True]


def test_the_sync_form_works_without_a_running_loop(rank1: Rank1) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1)
    assert texts(postprocessor.postprocess_nodes(some_nodes(LONG), query_str=QUERY)) == [LONG]


async def test_the_async_form_does_not_block_the_event_loop() -> None:
    postprocessor = Rank1Postprocessor(rank1=Rank1(ScriptedEngine(length_script, seconds=0.1)))
    work = asyncio.create_task(postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=QUERY))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 5


async def test_more_calls_run_at_once_than_a_thread_pool_has_threads() -> None:
    engine = ScriptedEngine(length_script, seconds=60)
    postprocessor = Rank1Postprocessor(rank1=Rank1(engine))
    calls = asyncio.gather(
        *(postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=QUERY) for _ in range(64))
    )
    async with asyncio.timeout(30):
        while engine.running < 64:
            await asyncio.sleep(0.01)
    calls.cancel()
    await asyncio.wait([calls])
