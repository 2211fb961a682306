"""Corrective RAG in LangGraph: keep the relevant documents of a state, and branch on none left.

Nothing here needs LangGraph itself: a node is a Runnable, and a conditional edge takes a function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from rank1_integrations.exceptions import ConfigurationError
from rank1_integrations.langchain.compressor import Rank1Compressor
from rank1_integrations.langchain.documents import DocumentLike

Update = dict[str, list[Document]]


def grade_documents(
    compressor: Rank1Compressor,
    *,
    question: str | Callable[[Any], str] = "question",
    documents: str = "documents",
    into: str | None = None,
) -> Runnable[Any, Update]:
    """Return a node that keeps the relevant documents of the graph's state, sync and async.

    Args:
        compressor: Judges the documents. Without `score_threshold` or `top_n` it keeps all.
        question: The state's key of the question, or a function from the state to the question.
        documents: The state's key of the retrieved documents, or dicts of documents.
        into: The key for the kept documents, best first; None for the same key. Give another key
            if a reducer such as `operator.add` would add them to the retrieved ones.

    Returns:
        A node for `add_node`. The state may be a dict, a dataclass or a pydantic model.

    Raises:
        ConfigurationError: From the node, if the state lacks a key; or as for
            `compress_documents`.
        EngineError: From the node, as for `compress_documents`.

    Example:
        ```python
        graph.add_node("grade_documents", grade_documents(compressor))
        graph.add_conditional_edges(
            "grade_documents", route_by_documents("generate", otherwise="rewrite")
        )
        ```
    """

    def arguments(state: Any) -> tuple[list[DocumentLike], str]:
        query = question(state) if callable(question) else _value(state, question)
        return _value(state, documents) or [], query

    def node(state: Any) -> Update:
        return {into or documents: compressor.compress_documents(*arguments(state))}

    async def anode(state: Any) -> Update:
        return {into or documents: await compressor.acompress_documents(*arguments(state))}

    return RunnableLambda(node, anode, name="grade_documents")


def route_by_documents(
    then: str, *, otherwise: str, documents: str = "documents"
) -> Callable[[Any], str]:
    """Return the function of a conditional edge behind `grade_documents`.

    Args:
        then: The next node if documents are left.
        otherwise: The next node if none is left, such as one that rewrites the question.
        documents: The state's key of the kept documents.

    Returns:
        A function of the state for `add_conditional_edges`. Its annotation names both nodes.
    """

    def route(state: Any) -> str:
        return then if _value(state, documents) else otherwise

    # LangGraph draws and checks the edges by this.
    route.__annotations__["return"] = Literal[then, otherwise]
    return route


def _value(state: Any, key: str) -> Any:
    is_mapping = isinstance(state, Mapping)
    if not (key in state if is_mapping else hasattr(state, key)):
        raise ConfigurationError(
            f"the graph's state has no {key!r} (it has {sorted(map(str, _keys(state)))}): name the "
            "keys of your state, as in "
            "grade_documents(compressor, question='query', documents='context')"
        )
    return state[key] if is_mapping else getattr(state, key)


def _keys(state: Any) -> Iterable[object]:
    if isinstance(state, Mapping):
        return state
    if isinstance(state, BaseModel):
        return type(state).model_fields
    # With slots a dataclass has no `__dict__`.
    if dataclasses.is_dataclass(state):
        return (field.name for field in dataclasses.fields(state))
    return getattr(state, "__dict__", ())
