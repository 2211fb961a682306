"""What becomes of the nodes."""

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
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)

from rank1_integrations import EngineError, Judgment, Rank1
from rank1_integrations.llama_index import Rank1Postprocessor
from rank1_integrations.testing import ScriptedEngine, length_script
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


async def test_nodes_come_best_first_with_their_scores(rerank: Rerank, rank1: Rank1) -> None:
    kept = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(SHORT, LONG, MIDDLE))
    assert texts(kept) == [LONG, MIDDLE, SHORT]
    assert [node.node_id for node in kept] == ["id-1", "id-2", "id-0"]
    assert [node.score for node in kept] == pytest.approx([0.982, 0.5, 0.119], abs=0.001)


async def test_equals_keep_the_retrievers_order(rerank: Rerank, rank1: Rank1) -> None:
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


async def test_a_cut_changed_later_counts_and_is_checked(rerank: Rerank, rank1: Rank1) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1, top_n=2)
    postprocessor.top_n = 1
    assert texts(await rerank(postprocessor, some_nodes(SHORT, LONG))) == [LONG]
    postprocessor.top_n = 0
    with pytest.raises(ValueError, match="top_n must be at least 1"):
        await rerank(postprocessor, some_nodes(SHORT, LONG))


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
    asked = postprocessor.postprocess_nodes(nodes, QueryBundle(QUERY))
    assert asked == postprocessor.postprocess_nodes(nodes, query_str=QUERY)


async def test_white_space_around_the_query_makes_no_difference(
    rank1: Rank1, engine: ScriptedEngine
) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1)
    await postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=QUERY)
    await postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=f"\n {QUERY}\n\n")
    first, _, second, _ = (request.prompt for request in engine.requests)
    assert first == second


async def test_inputs_are_untouched(rerank: Rerank, rank1: Rank1) -> None:
    nodes = some_nodes(SHORT, LONG)
    before = [node.model_dump_json() for node in nodes]
    objects = [node.node for node in nodes]
    kept = await rerank(Rank1Postprocessor(rank1=rank1, keep_retrieval_score=True), nodes)
    kept[0].node.metadata["later"] = True
    kept[0].node.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id="x")
    assert [node.model_dump_json() for node in nodes] == before
    assert all(node.node is object_ for node, object_ in zip(nodes, objects, strict=True))


async def test_a_node_that_is_there_twice_is_judged_as_two(rerank: Rerank, rank1: Rank1) -> None:
    node = some_nodes(LONG)[0]
    first, second = await rerank(Rank1Postprocessor(rank1=rank1), [node, node])
    assert first.node is not second.node
    assert (first.metadata["rank1"]["index"], second.metadata["rank1"]["index"]) == (0, 1)


async def test_what_an_index_node_points_to_is_not_copied(rerank: Rerank, rank1: Rank1) -> None:
    query_engine = threading.Lock()  # As query engines do, it can't be copied.
    node = IndexNode(text=LONG, index_id="library", obj=query_engine)
    (kept,) = await rerank(Rank1Postprocessor(rank1=rank1), [NodeWithScore(node=node)])
    assert isinstance(kept.node, IndexNode)
    assert kept.node is not node
    assert kept.node.obj is query_engine


async def test_the_metadata_tell_the_whole_judgment(rerank: Rerank, rank1: Rank1) -> None:
    (kept,) = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes(LONG))
    (judgment,) = rank1.judge(QUERY, [LONG])
    assert kept.score == judgment.score
    assert {**kept.metadata["rank1"]} == {
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
async def test_the_metadata_mode_says_which_metadata_are_judged(
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


async def test_scores_are_pythons_own_floats_and_json_takes_all(
    rerank: Rerank, rank1: Rank1
) -> None:
    node = TextNode(text=LONG)
    given = NodeWithScore(node=node)
    given.score = np.float32(0.25)  # type: ignore[assignment]
    (kept,) = await rerank(Rank1Postprocessor(rank1=rank1, keep_retrieval_score=True), [given])
    assert type(kept.score) is float
    assert type(kept.metadata["retrieval_score"]) is float
    assert json.loads(kept.to_json())["score"] == kept.score
    assert json.loads(json.dumps(kept.metadata)) == kept.metadata


@pytest.mark.parametrize(
    ("score", "kept_score"),
    [(None, None), (0.0, 0.0), (12.5, 12.5), (math.nan, None), (-math.inf, None)],
)
async def test_the_retrieval_score_is_kept_if_asked_for_unless_it_is_no_number(
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


async def test_what_could_not_be_judged_is_kept_last_without_a_score(rerank: Rerank) -> None:
    rank1 = Rank1(ScriptedEngine(length_script), on_error="keep")
    postprocessor = Rank1Postprocessor(rank1=rank1, score_threshold=0.5)
    kept = await rerank(postprocessor, some_nodes("fail", SHORT, LONG))
    assert texts(kept) == [LONG, "fail"]
    assert kept[1].score is None
    assert kept[1].metadata["rank1"]["finish"] == "failed"
    assert "the script says so" in kept[1].metadata["rank1"]["error"]


async def test_what_could_not_be_judged_is_dropped(rerank: Rerank) -> None:
    rank1 = Rank1(ScriptedEngine(length_script), on_error="drop")
    kept = await rerank(Rank1Postprocessor(rank1=rank1), some_nodes("fail", SHORT, LONG))
    assert texts(kept) == [LONG, SHORT]


async def test_on_judgments_is_told_of_the_dropped_ones_too(rerank: Rerank) -> None:
    told: list[tuple[str, list[str], list[Judgment]]] = []
    rank1 = Rank1(ScriptedEngine(length_script), on_judgments=lambda *all_: told.append(all_))
    await rerank(Rank1Postprocessor(rank1=rank1, top_n=1), some_nodes(SHORT, LONG))
    ((_, passages, judgments),) = told
    assert passages == [SHORT, LONG]
    assert [judgment.relevant for judgment in judgments] == [False, True]


def test_the_synchronous_form_works_without_a_running_loop(rank1: Rank1) -> None:
    postprocessor = Rank1Postprocessor(rank1=rank1)
    assert texts(postprocessor.postprocess_nodes(some_nodes(LONG), query_str=QUERY)) == [LONG]


async def test_the_asynchronous_form_leaves_the_event_loop_free() -> None:
    postprocessor = Rank1Postprocessor(rank1=Rank1(ScriptedEngine(length_script, seconds=0.1)))
    work = asyncio.create_task(postprocessor.apostprocess_nodes(some_nodes(LONG), query_str=QUERY))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 5


async def test_many_calls_run_at_once_and_not_in_a_few_threads() -> None:
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


async def test_the_demonstration_model_finds_the_passage_about_the_query(
    rerank: Rerank, demo: Rank1
) -> None:
    about = "The longest river of Africa is the Nile."
    kept = await rerank(
        Rank1Postprocessor(rank1=demo, top_n=1), some_nodes("Bees dance for each other.", about)
    )
    assert len(kept) == 1
    assert 0 <= (kept[0].score or 0.0) <= 1
    assert kept[0].metadata["relevance_reasoning"]
