"""Shared by the tests of the postprocessor: its sync and async forms, and nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from rank1_integrations import Rank1
from rank1_integrations.llama_index import Rank1Postprocessor
from rank1_integrations.testing import ScriptedEngine
from tests.support.scripts import length_script

Rerank = Callable[[Rank1Postprocessor, list[NodeWithScore]], Awaitable[list[NodeWithScore]]]

QUERY = "which is the longest?"
SHORT, MIDDLE, LONG = "b" * 8, "c" * 10, "a" * 14


@pytest.fixture(params=["postprocess_nodes", "apostprocess_nodes"])
def rerank(request: pytest.FixtureRequest) -> Rerank:
    """Return either form, with a fixed query; the sync one is called inside a running loop."""

    async def rerank(
        postprocessor: Rank1Postprocessor, nodes: list[NodeWithScore]
    ) -> list[NodeWithScore]:
        if request.param == "postprocess_nodes":
            return postprocessor.postprocess_nodes(nodes, query_str=QUERY)
        return await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)

    return rerank


@pytest.fixture
def engine() -> ScriptedEngine:
    """Longer passages score higher: SHORT 0.12, MIDDLE 0.5, LONG 0.98."""
    return ScriptedEngine(length_script)


@pytest.fixture
def rank1(engine: ScriptedEngine) -> Rank1:
    return Rank1(engine)


def some_nodes(*texts: str) -> list[NodeWithScore]:
    """Return a node for each text, with its position in the id, and falling scores."""
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"id-{index}"), score=1 - index / 100)
        for index, text in enumerate(texts)
    ]


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.get_content(MetadataMode.NONE) for node in nodes]


def judged_texts(engine: ScriptedEngine) -> list[str]:
    """Return the passages of all requests for reasoning."""
    prompts = [str(request.prompt) for request in engine.requests if request.stop is not None]
    return [prompt.rpartition("\nPassage: ")[2].partition("\n<think>")[0] for prompt in prompts]
