"""Nodes become passages, and judgments become nodes again."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsFloat

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from rank1_integrations._adapter import Rank1Settings
from rank1_integrations.config import check_cut
from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment

dispatcher = get_dispatcher(__name__)


class Rank1EndEvent(ReRankEndEvent):
    """The end of a rerank, for event handlers: what was kept, what was not, and why.

    Attributes:
        nodes: What the postprocessor returns.
        dropped: The other nodes, judged as well, in the retriever's order.
    """

    dropped: list[NodeWithScore]


class Rank1Postprocessor(Rank1Settings, BaseNodePostprocessor):
    """Keeps the nodes that Rank1 finds relevant to the query, best first.

    Every kept node is a copy with the same id, and its `score` a float in [0, 1] (None if it
    could not be judged and `on_error` is "keep"). Its metadata gains `relevance_reasoning` and
    `rank1` (the rest of the judgment), plain JSON types that tracers show and that stay out of
    the text given to LLMs and embedders. Event handlers get the dropped nodes too, as
    `Rank1EndEvent.dropped`.

    Example:
        ```python
        from rank1_integrations.llama_index import Rank1Postprocessor

        postprocessor = Rank1Postprocessor(base_url="http://localhost:8000/v1", top_n=3)
        query_engine = index.as_query_engine(
            similarity_top_k=20, node_postprocessors=[postprocessor]
        )
        response = query_engine.query("Do honeybees see red?")
        ```
    """

    keep_retrieval_score: bool = False
    """Whether the score that a node came with is kept, in `metadata["retrieval_score"]`; None
    there if it had none, or NaN."""

    metadata_mode: Literal[MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE] = (
        MetadataMode.EMBED
    )
    """Which metadata the judged text begins with: what embedders see, what LLMs see, or none.
    Never all: a node judged twice would then be judged by the reasoning about it."""

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes this class under."""
        return "Rank1Postprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Judge every node and return the best; `postprocess_nodes` is the way in.

        Args:
            nodes: As the retriever had them; they are left as they are.
            query_bundle: What is asked.

        Returns:
            Copies of the kept nodes, best first: those with score >= `score_threshold`, at most
            `top_n`. What could not be judged comes last, or is left out if `on_error` is "drop".

        Raises:
            ConfigurationError: The query is missing, or does not fit the model's context.
            EngineError: The engine failed, and `on_error` is "raise".
        """
        query, passages = self._question(nodes, query_bundle)
        with self._reported(nodes, query) as answer:
            judgments = self._rank1.judge(query.query_str, passages, **self._cut())
            self._fill(answer, nodes, judgments)
        return answer.kept

    # The base class opens a span around its abstract methods only, and this is none of them.
    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """`_postprocess_nodes`, awaited; the event loop stays free meanwhile."""
        query, passages = self._question(nodes, query_bundle)
        with self._reported(nodes, query) as answer:
            judgments = await self._rank1.ajudge(query.query_str, passages, **self._cut())
            self._fill(answer, nodes, judgments)
        return answer.kept

    def _question(
        self, nodes: list[NodeWithScore], query: QueryBundle | None
    ) -> tuple[QueryBundle, list[str]]:
        if query is None or not query.query_str.strip():
            raise ConfigurationError(
                "Rank1 judges nodes against a query, and there is none: call "
                "postprocess_nodes(nodes, query_str='what the user asked')"
            )
        check_cut(self.top_n, self.score_threshold)
        # Never .text: it raises on a node without text, which is judged as the empty text.
        return query, [node.get_content(metadata_mode=self.metadata_mode) for node in nodes]

    @contextmanager
    def _reported(self, nodes: list[NodeWithScore], query: QueryBundle) -> Iterator[_Answer]:
        """Tell event handlers and callbacks of one rerank, whose answer the caller fills in."""
        answer, top_n = _Answer(), self.top_n or len(nodes)
        # A server that was given no name tells its own with the first answer, which is too late.
        model = self._rank1.model or "Rank1"
        # OpenTelemetry refuses numpy's floats, which careless retrievers hand on.
        nodes = [NodeWithScore(node=given.node, score=_plain(given.score)) for given in nodes]
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield answer
            event.on_end(payload={EventPayload.NODES: answer.kept})
        dispatcher.event(Rank1EndEvent(nodes=answer.kept, dropped=answer.dropped))

    def _fill(self, answer: _Answer, nodes: list[NodeWithScore], judgments: list[Judgment]) -> None:
        kept = self._rank1.cut(judgments, **self._cut())
        places = {judgment.index for judgment in kept}
        dropped = [judgment for judgment in judgments if judgment.index not in places]
        answer.kept = [self._judged(nodes[judgment.index], judgment) for judgment in kept]
        answer.dropped = [self._judged(nodes[judgment.index], judgment) for judgment in dropped]

    def _cut(self) -> dict[str, Any]:
        return {"top_n": self.top_n, "score_threshold": self.score_threshold}

    def _judged(self, given: NodeWithScore, judgment: Judgment) -> NodeWithScore:
        metadata = judgment.to_metadata()
        if self.keep_retrieval_score:
            metadata["retrieval_score"] = _plain(given.score)
        node = _copy(given.node)
        node.metadata.update(metadata)
        for excluded in (node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys):
            excluded.extend(key for key in metadata if key not in excluded)
        return NodeWithScore(node=node, score=judgment.score)

    def __getstate__(self) -> dict[Any, Any]:
        """For pickling: the settings alone, without the key."""
        # LlamaIndex deletes from the object what it can't pickle: let that be from a copy.
        settings = self.model_copy()
        del settings._rank1
        return super(Rank1Postprocessor, settings).__getstate__()


@dataclass
class _Answer:
    kept: list[NodeWithScore] = field(default_factory=list)
    dropped: list[NodeWithScore] = field(default_factory=list)


def _plain(score: SupportsFloat | None) -> float | None:
    """A retriever's score as JSON can hold it: no numpy type, and no NaN or infinity."""
    return float(score) if score is not None and math.isfinite(score) else None


def _copy(node: BaseNode) -> BaseNode:
    """A node of one's own; what an IndexNode points to (perhaps a query engine) is shared."""
    target = getattr(node, "obj", None)
    return copy.deepcopy(node, {id(target): target})
