"""`Rank1Postprocessor`, a node postprocessor for query engines, chat engines and tools."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsFloat

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from rank1_integrations._adapter import Rank1Settings
from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.judgment import Judgment
from rank1_integrations.selection import RankResult

dispatcher = get_dispatcher(__name__)


class Rank1EndEvent(ReRankEndEvent):
    """The end of a rerank, for event handlers.

    Attributes:
        nodes: The nodes that the postprocessor returns.
        dropped: The other nodes, with their judgments, in the retriever's order.
    """

    dropped: list[NodeWithScore]


class Rank1Postprocessor(Rank1Settings, BaseNodePostprocessor):
    """Keep the nodes that Rank1 finds relevant to the query, best first.

    Every kept node is a copy with the same id, and its `score` a float in [0, 1] (None if it was
    not judged). Its metadata gain `relevance_reasoning` and `rank1` (the rest of the judgment),
    plain JSON types that tracers show and that are excluded from the text given to LLMs and
    embedders. Event handlers get the dropped nodes too, as `Rank1EndEvent.dropped`.

    A copy has metadata and exclusion lists of its own, and shares everything else with the node
    that the retriever returned, such as relationships, embedding, and the values in the metadata.

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
    """Whether the retriever's score of a node is kept, in `metadata["retrieval_score"]`; None
    there if it had none, or NaN."""

    metadata_mode: Literal[MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE] = (
        MetadataMode.EMBED
    )
    """Which metadata the judged text begins with: those that embedders see, those that LLMs see,
    or none. Never all: a second rerank would judge the reasoning of the first."""

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serializes this class under."""
        return "Rank1Postprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Judge every node and return the best. Callers use `postprocess_nodes`.

        Args:
            nodes: In the retriever's order. They are not changed.
            query_bundle: The query.

        Returns:
            Copies of the kept nodes, best first: those with score >= `score_threshold`, at most
            `top_n`. Unscored nodes come last, unless `on_error` is "drop".

        Raises:
            ConfigurationError: The query is missing, or does not fit the model's context.
            EngineError: The engine failed, and `on_error` is "raise".
        """
        query, passages = self._query_and_passages(nodes, query_bundle)
        with self._reported(nodes, query) as outcome:
            result = self._rank1.rank(query.query_str, passages, **self._selection())
            self._fill(outcome, nodes, result)
        return outcome.kept

    # The base class opens a span around its abstract methods only, and this is none of them.
    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Async version of `_postprocess_nodes`."""
        query, passages = self._query_and_passages(nodes, query_bundle)
        with self._reported(nodes, query) as outcome:
            result = await self._rank1.arank(query.query_str, passages, **self._selection())
            self._fill(outcome, nodes, result)
        return outcome.kept

    def _query_and_passages(
        self, nodes: list[NodeWithScore], query: QueryBundle | None
    ) -> tuple[QueryBundle, list[str]]:
        if query is None or not query.query_str.strip():
            raise ConfigurationError(
                "Rank1 judges nodes against a query, and there is none: call "
                "postprocess_nodes(nodes, query_str='what the user asked')"
            )
        # Not .text, which raises on a node without text. Such a node is judged as an empty text.
        return query, [node.get_content(metadata_mode=self.metadata_mode) for node in nodes]

    @contextmanager
    def _reported(self, nodes: list[NodeWithScore], query: QueryBundle) -> Iterator[_Outcome]:
        """Report one rerank to event handlers and callbacks; the caller fills in its outcome."""
        outcome, top_n = _Outcome(), self.top_n or len(nodes)
        # The name that a server gives its model is known after the first call only.
        model = self._rank1.model or "Rank1"
        # OpenTelemetry refuses numpy's floats, which some retrievers return.
        nodes = [NodeWithScore(node=node.node, score=_plain(node.score)) for node in nodes]
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield outcome
            event.on_end(payload={EventPayload.NODES: outcome.kept})
        dispatcher.event(Rank1EndEvent(nodes=outcome.kept, dropped=outcome.dropped))

    def _fill(self, outcome: _Outcome, nodes: list[NodeWithScore], result: RankResult) -> None:
        outcome.kept = [self._judged(nodes[judgment.index], judgment) for judgment in result.kept]
        outcome.dropped = [
            self._judged(nodes[judgment.index], judgment) for judgment in result.dropped
        ]

    def _judged(self, node: NodeWithScore, judgment: Judgment) -> NodeWithScore:
        added = judgment.to_metadata()
        if self.keep_retrieval_score:
            added["retrieval_score"] = _plain(node.score)
        inner = node.node
        # A deep copy would fail or be slow: metadata may hold locks, cursors or generators, and
        # an IndexNode a whole query engine.
        copy = inner.model_copy(
            update={
                "metadata": {**inner.metadata, **added},
                "excluded_embed_metadata_keys": _union(inner.excluded_embed_metadata_keys, added),
                "excluded_llm_metadata_keys": _union(inner.excluded_llm_metadata_keys, added),
            }
        )
        return NodeWithScore(node=copy, score=judgment.score)


@dataclass
class _Outcome:
    kept: list[NodeWithScore] = field(default_factory=list)
    dropped: list[NodeWithScore] = field(default_factory=list)


def _plain(score: SupportsFloat | None) -> float | None:
    """Return a retriever's score as JSON can hold it: no numpy type, and no NaN or infinity."""
    return float(score) if score is not None and math.isfinite(score) else None


def _union(keys: list[str], added: dict[str, Any]) -> list[str]:
    return [*keys, *(key for key in added if key not in keys)]
