"""What the tests of the postprocessor share: both of its forms, and nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from rank1_integrations import Rank1
from rank1_integrations.llama_index import Rank1Postprocessor
from rank1_integrations.testing import ScriptedEngine, length_script

Rerank = Callable[[Rank1Postprocessor, list[NodeWithScore]], Awaitable[list[NodeWithScore]]]

QUERY = "which is the longest?"
SHORT, MIDDLE, LONG = "b" * 8, "c" * 10, "a" * 14


@pytest.fixture(params=["postprocess_nodes", "apostprocess_nodes"])
def rerank(request: pytest.FixtureRequest) -> Rerank:
    """Either form, called with one fixed query; the synchronous one inside a running loop."""

    async def rerank(
        postprocessor: Rank1Postprocessor, nodes: list[NodeWithScore]
    ) -> list[NodeWithScore]:
        if request.param == "postprocess_nodes":
            return postprocessor.postprocess_nodes(nodes, query_str=QUERY)
        return await postprocessor.apostprocess_nodes(nodes, query_str=QUERY)

    return rerank


@pytest.fixture
def engine() -> ScriptedEngine:
    """Finds the longer passage better: SHORT has a score of 0.12, MIDDLE 0.5, LONG 0.98."""
    return ScriptedEngine(length_script)


@pytest.fixture
def rank1(engine: ScriptedEngine) -> Rank1:
    return Rank1(engine)


def some_nodes(*texts: str) -> list[NodeWithScore]:
    """A node for each text, named by its place, as a retriever finds them: best first."""
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"id-{place}"), score=1 - place / 100)
        for place, text in enumerate(texts)
    ]


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.get_content(MetadataMode.NONE) for node in nodes]


def judged_texts(engine: ScriptedEngine) -> list[str]:
    """What the engine was asked to judge, once for each thought it was asked for."""
    prompts = [request.prompt for request in engine.requests if request.stop is not None]
    return [str(p).rpartition("\nPassage: ")[2].partition("\n<think>")[0] for p in prompts]
